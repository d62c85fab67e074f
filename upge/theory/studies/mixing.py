"""Which weights should RL and SFT have, given how many of a question's rollouts succeed?

A question's success rate p is drawn from a prior; a gate sees P = k/n. For every k the weights
(α*, β*) that estimate a target gradient best are computed, and beside them what gates realise: pure
SFT and RL, a fixed mix, the paper's switch, soft gates, and :class:`upge.feedback.Wiener`. Every
gate has two factors, one a term, at their best values for the case, so that gates differ by shape
alone. Shares are of the optimum's gain over no step at all (:mod:`upge.theory.mixture`).

Targets: ∇J_μ, the paper's common objective, where μ is the reward that one nat of KL(π_β ‖ π_θ) is
worth (μ = 0: ∇E[r]); and ∇log E[r], in which questions count by the factor that they improve by.
What finite steps do to E[r] itself is tried in :mod:`upge.theory.studies.mixing_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product

from torch import Tensor

from upge.errors import UpgeError
from upge.feedback import Wiener
from upge.objective import Objective
from upge.theory.instance import Setting
from upge.theory.mixture import RL, SFT, Given, Quadratic, given_successes, pooled
from upge.theory.studies.common import (
    Progress,
    Row,
    Rows,
    check_numbers,
    chosen,
    silent,
    watched,
)
from upge.theory.studies.mixing_cases import Cases, Question, demonstrator, questions, shapes
from upge.theory.studies.mixing_steps import Steps, Walk, walk, walks

#: The target ∇log E[r]; the others are called by their μ.
LOG = "log"

#: The Wiener gate's μ for the target ∇log E[r]: that of ∇J_μ as μ → ∞ where demonstrations are
#: the policy's own successes.
LARGE = 1e6


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
            _check_pairs(f"{kind}priors", getattr(self, f"{kind}priors"))
        check_numbers(self, 0, math.inf, "step_seeds")
        check_numbers(self, 1, 10, "step_horizon")
        check_numbers(self, 2, 1000, "success_rates", "repeats")
        check_numbers(self, 0, 1000, "mus", "step_mus")
        check_numbers(self, 0, 1, "gammas")
        check_numbers(self, 2, 64, "weights_at")
        check_numbers(self, 1, 10_000, "questions", "training")
        check_numbers(self, 0, 1000, "factors", "norms", "training_norm", strict=True)
        _check_pairs("step_prior", (self.step_prior,))
        _check_pairs("step_demonstrations", self.step_demonstrations, 1.0)

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
    def steps(self) -> Steps:
        """What :mod:`mixing_steps` does."""
        return Steps(
            vocab=self.vocab,
            horizon=self.step_horizon,
            seeds=self.step_seeds,
            group_size=self.weights_at,
            prior=self.step_prior,
            demonstrations=self.step_demonstrations,
            questions=self.questions,
            repeats=self.repeats,
            mus=self.step_mus,
            factors=self.factors,
            norms=self.norms,
            norm=self.training_norm,
            training=self.training,
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names in the rows."""
        return (*(f"mu {mu:g}" for mu in self.mus), LOG)


def _check_pairs(name: str, pairs: tuple[tuple[float, ...], ...], high: float = math.inf) -> None:
    if not pairs or any(
        len(pair) != 2 or not 0 <= min(pair) <= max(pair) <= high for pair in pairs
    ):
        raise UpgeError(f"{name}: got {pairs}, wanted pairs of numbers from 0 to {high:g}")


def study(recipe: Recipe, progress: Progress = silent) -> list[Row]:
    """Optimal weights, what gates realise of their gain, and what steps do to E[r]."""
    problems = [(part, i) for part, cases in recipe.parts.items() for i in range(len(cases.seeds))]
    jobs: list[tuple[str, int] | Walk] = [*problems, *walks(recipe.steps)]
    rows: list[Row] = []
    for job in watched(jobs, progress):
        found = walk(recipe.steps, job) if isinstance(job, Walk) else _problem(recipe, *job)
        rows += [_row(row) for row in found]
    return rows


def _row(values: Row) -> Row:
    """A number, to six digits, with what it is of; all rows have the same columns."""
    numbers = ("seed", "n", "demo_success", "demo_distance", "x", "value", "error")
    words: Row = dict.fromkeys(("measure", "part", "target", "gate"), "")
    rounded: Row = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    return words | dict.fromkeys(numbers, math.nan) | rounded


def _problem(recipe: Recipe, part: str, index: int) -> Iterator[Row]:
    cases = recipe.parts[part]
    seed, asked = cases.seeds[index], questions(cases, index, recipe.success_rates)
    goals = [Objective(q.reward).gradient(q.policy) for q in asked]
    taught = {
        pair: [demonstrated(q, *pair, seed) for q in asked]
        for pair in product(cases.demo_success, cases.demo_distance)
    }
    for n in cases.group_sizes:
        rolled = [given_successes(RL, Setting(q.policy, Objective(q.reward), n)) for q in asked]
        for (success, distance), shown in taught.items():
            for target in recipe.targets:
                each = [
                    Quadratic.of(rl, sft, target_of(target, goal, q.success, sft), q.weight)
                    for q, goal, rl, sft in zip(asked, goals, rolled, shown, strict=True)
                ]
                shared: Row = {
                    "part": part,
                    "target": target,
                    "seed": seed,
                    "n": n,
                    "demo_success": success,
                    "demo_distance": distance,
                }
                drawn = n == recipe.weights_at and (success, distance) == next(iter(taught))
                yield from (
                    shared | row for row in _compare(target, n, pooled(each), recipe.gammas, drawn)
                )
                level = crossing([q.success for q in asked], each)
                yield shared | {"measure": "crossing", "value": level}


def demonstrated(question: Question, success: float, distance: float, seed: int) -> Given:
    """The moments of one demonstration's score."""
    demo = demonstrator(question.policy, question.reward, success, distance, seed)
    setting = Setting(question.policy, Objective(question.reward, demo=demo), 1)
    return given_successes(SFT, setting)


def target_of(name: str, goal: Tensor, success: float, sft: Given) -> Tensor:
    """∇J_μ = ∇E[r] + μ E s*, or ∇log E[r] = ∇E[r]/p; ``goal`` is ∇E[r]."""
    if name == LOG:
        return goal / success
    return goal + float(name.removeprefix("mu ")) * (sft.probability @ sft.mean)


def _compare(
    target: str, n: int, quadratic: Quadratic, gammas: tuple[float, ...], by_k: bool
) -> Iterator[Row]:
    alpha, beta = quadratic.optimum()
    none = quadratic.nothing
    best = none - quadratic.mse(alpha, beta)
    yield {"measure": "gain", "gate": "optimum", "value": best / none}
    mu = LARGE if target == LOG else float(target.removeprefix("mu "))
    gates = {"wiener": Wiener(mu), "wiener as it comes": Wiener()}
    for (gate, gamma), (f, g) in shapes(n, gates, gammas).items():
        tuned, scaled = quadratic.tuned(f, g), quadratic.scaled(f, g)
        where: Row = {"gate": gate, "x": gamma}
        yield where | {"measure": "share", "value": (none - tuned.mse) / best}
        yield where | {"measure": "share, one factor", "value": (none - scaled) / best}
        if by_k and not gamma > 0:
            yield from _by_k(gate, tuned.x * f, tuned.y * g)
    yield from _by_k("optimum", alpha, beta)


def _by_k(gate: str, alpha: Tensor, beta: Tensor) -> Iterator[Row]:
    n = len(alpha) - 1
    for measure, weights in (("alpha", alpha), ("beta", beta)):
        for k, value in enumerate(weights.tolist()):
            yield {"measure": measure, "gate": gate, "x": k / n, "value": value}


def crossing(rates: list[float], quadratics: list[Quadratic]) -> float:
    """The p above which RL alone gains more on a question than its demonstration alone.

    Each has its best factor for that question; interpolated in log odds. NaN if one of the two is
    ahead at every p.
    """
    odds = [math.log(p / (1 - p)) for p in rates]
    ahead = [_log(quadratic.alone("rl")) - _log(quadratic.alone("sft")) for quadratic in quadratics]
    for i in range(len(odds) - 1):
        before, after = ahead[i : i + 2]
        if before < 0 <= after:
            x = odds[i] + (odds[i + 1] - odds[i]) * before / (before - after)
            return 1 / (1 + math.exp(-x))
    return math.nan


def _log(gain: float) -> float:
    return math.log(max(gain, 1e-300))


def headlines(rows: Rows) -> dict[str, float]:
    """Mean and range of every gate's share by part and target; and where RL overtakes SFT."""
    numbers: dict[str, float] = {}
    shares = chosen(rows, measure="share")
    for part, target, gate in sorted({(r["part"], r["target"], r["gate"]) for r in shares}):
        own = [
            float(row["value"])
            for row in chosen(shares, part=part, target=target, gate=gate)
            if gate != "switch" or row["x"] == 0
        ]
        name = f"share {part}, {target}, {gate}"
        numbers |= {name: sum(own) / len(own), f"{name}, lowest": min(own)}
    return numbers
