"""The cases of the study ``mixing``: questions of all success rates, demonstrators, and gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from experiments.bias_variance.common import check_numbers, graded, table_problem, tilted
from upge.common.errors import UpgeError
from upge.exact.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree
from upge.feedback import Feedback, Linear, Sigmoid, Switch

#: f and g at P = 0, 1/n … 1.
Shape = tuple[Tensor, Tensor]

#: The target ∇log E[r]; the others are called by their μ.
LOG = "log"


@dataclass(frozen=True)
class Cases:
    """Problems, groups, priors and demonstrations; every combination is a case.

    Args:
        policy: a table of logits tilted to each success rate, or a network (shared parameters)
            whose rewards are chosen for each.
        vocab: tokens, eos included.
        horizon: longest trajectory.
        seeds: one random problem each; the i-th has the i-th prior, round and round.
        group_sizes: n.
        priors: (a, b) of the Beta(a, b) that success rates come from.
        demo_success: success rates of π_β.
        demo_distance: 0 where π_β's successes are distributed like π_θ's, 1 like those of another,
            sharp policy.
    """

    policy: Literal["table", "network"]
    vocab: int
    horizon: int
    seeds: tuple[int, ...]
    group_sizes: tuple[int, ...]
    priors: tuple[tuple[float, ...], ...]
    demo_success: tuple[float, ...]
    demo_distance: tuple[float, ...]


@dataclass(frozen=True)
class Recipe:
    """The cases that the gate was made on, those that it was not, and finite steps.

    Cases are all combinations of problem, group size and demonstrator; a ``demo_distance`` of 0
    has π_β's successes distributed like π_θ's, 1 like those of another, sharp policy.

    Args:
        vocab: tokens, eos included. These are the cases, of tables of logits that are tilted to
            each success rate, on which the Wiener gate's defaults were chosen.
        horizon: longest trajectory.
        seeds: one random problem each; the i-th has the i-th prior, round and round.
        group_sizes: n.
        priors: (a, b) of the Beta(a, b) that success rates come from.
        demo_success: success rates of π_β.
        demo_distance: how far its successes are from π_θ's.
        held_out_vocab: as above, for cases that had no part in it, of networks (shared parameters)
            whose rewards are chosen for each success rate; and so on.
        success_rates: points of the grid over p.
        mus: μ of the targets ∇J_μ.
        gammas: thresholds of the switch.
        weights_at: the group size at which weights are recorded.
        step_horizon: longest trajectory where steps are taken.
        step_seeds: one random problem each.
        step_prior: of the questions' success rates.
        step_demonstrations: pairs of demo_success and demo_distance.
        questions: success rates, quantiles of the prior.
        repeats: groups of every question, and runs of training.
        step_mus: μ of the Wiener gates.
        step_gammas: thresholds of the switch.
        factors: of β.
        norms: lengths of a single step.
        training_norm: length of the first step in training.
        training: numbers of steps after which E[r] is taken.
    """

    vocab: int
    horizon: int
    seeds: tuple[int, ...]
    group_sizes: tuple[int, ...]
    priors: tuple[tuple[float, ...], ...]
    demo_success: tuple[float, ...]
    demo_distance: tuple[float, ...]
    held_out_vocab: int
    held_out_horizon: int
    held_out_seeds: tuple[int, ...]
    held_out_group_sizes: tuple[int, ...]
    held_out_priors: tuple[tuple[float, ...], ...]
    held_out_demo_success: tuple[float, ...]
    held_out_demo_distance: tuple[float, ...]
    success_rates: int
    mus: tuple[float, ...]
    gammas: tuple[float, ...]
    weights_at: int
    step_horizon: int
    step_seeds: tuple[int, ...]
    step_prior: tuple[float, ...]
    step_demonstrations: tuple[tuple[float, ...], ...]
    questions: int
    repeats: int
    step_mus: tuple[float, ...]
    step_gammas: tuple[float, ...]
    factors: tuple[float, ...]
    norms: tuple[float, ...]
    training_norm: float
    training: tuple[int, ...]

    def __post_init__(self) -> None:
        for kind in ("", "held_out_"):
            check_numbers(self, 2, 10, f"{kind}vocab")
            check_numbers(self, 1, 10, f"{kind}horizon")
            check_numbers(self, 0, math.inf, f"{kind}seeds")
            check_numbers(self, 2, 64, f"{kind}group_sizes")
            check_numbers(self, 1e-9, 1 - 1e-9, f"{kind}demo_success")
            check_numbers(self, 0, 1, f"{kind}demo_distance")
            _check_priors(f"{kind}priors", getattr(self, f"{kind}priors"))
        check_numbers(self, 0, math.inf, "step_seeds")
        check_numbers(self, 1, 10, "step_horizon")
        check_numbers(self, 2, 1000, "success_rates")
        check_numbers(self, 2, 100_000, "repeats")
        check_numbers(self, 0, 1000, "mus", "step_mus")
        check_numbers(self, 0, 1, "gammas", "step_gammas")
        check_numbers(self, 2, 64, "weights_at")
        check_numbers(self, 1, 10_000, "questions", "training")
        check_numbers(self, 0, 1000, "factors", "norms", "training_norm", strict=True)
        _check_priors("step_prior", (self.step_prior,))
        _check_demonstrators("step_demonstrations", self.step_demonstrations)

    @property
    def parts(self) -> dict[str, Cases]:
        """Both sets of cases by name."""
        names = [field.name for field in fields(Cases) if field.name != "policy"]
        held_out = {name: getattr(self, f"held_out_{name}") for name in names}
        return {
            "development": Cases("table", **{name: getattr(self, name) for name in names}),
            "held out": Cases("network", **held_out),
        }

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names in the rows."""
        return (*(f"mu {mu:g}" for mu in self.mus), LOG)


def _check_priors(name: str, priors: tuple[tuple[float, ...], ...]) -> None:
    if not priors or any(len(prior) != 2 or not 0 < min(prior) < math.inf for prior in priors):
        raise UpgeError(f"{name}: got {priors}, wanted pairs of numbers > 0")


def _check_demonstrators(name: str, pairs: tuple[tuple[float, ...], ...]) -> None:
    """Success rates between 0 and 1, since at the ends no policy can be tilted, and distances."""
    for pair in pairs:
        if len(pair) != 2 or not 0 < pair[0] < 1 or not 0 <= pair[1] <= 1:
            raise UpgeError(f"{name}: got {pair}, wanted a success rate and a distance")


class Question(NamedTuple):
    """One question of a problem: its policy, rewards, and weight under the prior."""

    policy: Policy
    reward: Tensor
    weight: float

    @property
    def success(self) -> float:
        """P."""
        return (self.policy.logp().exp() @ self.reward).item()


def grid(points: int, prior: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """Success rates evenly spaced in log odds from −6 to 6, and their weights under Beta(a, b)."""
    p = torch.linspace(-6, 6, points, dtype=torch.float64).sigmoid()
    density = prior[0] * p.log() + prior[1] * (1 - p).log()  # dp = p (1 − p) d log-odds
    return p.tolist(), density.softmax(0).tolist()


def questions(cases: Cases, index: int, points: int) -> list[Question]:
    """Questions of the ``index``-th problem over the grid of success rates."""
    seed, prior = cases.seeds[index], cases.priors[index % len(cases.priors)]
    rates = list(zip(*grid(points, prior), strict=True))
    if cases.policy == "table":
        base = table_problem(cases.vocab, cases.horizon, 0.3, seed)
        return [
            Question(tilted(base.policy, base.reward, p), base.reward, weight)
            for p, weight in rates
        ]
    network = NetworkPolicy(Tree(cases.vocab, 0, cases.horizon), 6, seed=seed)
    return [
        Question(network, graded(network, p, 1000 * seed + i), weight)
        for i, (p, weight) in enumerate(rates)
    ]


def demonstrator(
    policy: Policy, reward: Tensor, success: float, distance: float, seed: int
) -> TabularPolicy:
    """π_β: mixed in logits with a sharp random policy, then tilted to its success rate."""
    other = TabularPolicy.random(policy.tree, seed + 3_000_000, scale=3.0)
    logits = (1 - distance) * policy.log_probs() + distance * other.log_probs()
    return tilted(TabularPolicy(policy.tree, logits.log_softmax(-1)), reward, success)


def shapes(
    n: int, gates: Mapping[str, Feedback], gammas: tuple[float, ...] = (0.0,)
) -> dict[tuple[str, float], Shape]:
    """F and g of gates for groups of n, by name and, for the switch, γ.

    Beside the ``gates`` given: pure RL and SFT, a fixed mix, the switch, the linear and a sigmoid
    gate, and one that keeps RL: (1, 1 − P).
    """
    p = torch.arange(n + 1, dtype=torch.float64) / n
    one, zero = torch.ones_like(p), torch.zeros_like(p)
    fixed = {"rl": (one, zero), "sft": (zero, one), "fixed": (one, one), "keep rl": (one, 1 - p)}
    known = {"linear": Linear(), "sigmoid": Sigmoid(0.25)} | dict(gates)
    soft = {name: (gate.f(p, n), gate.g(p, n)) for name, gate in known.items()}
    hard = {("switch", c): (Switch(c).f(p), Switch(c).g(p)) for c in gammas}
    return {(name, math.nan): shape for name, shape in (fixed | soft).items()} | hard
