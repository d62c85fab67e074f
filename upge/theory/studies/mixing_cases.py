"""The cases of the study ``mixing``: questions of all success rates, demonstrators, and gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from upge.feedback import Feedback, Linear, Sigmoid, Switch
from upge.theory.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree
from upge.theory.studies.common import graded, table_problem, tilted

#: f and g at P = 0, 1/n … 1.
Shape = tuple[Tensor, Tensor]


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
