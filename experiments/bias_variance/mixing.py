"""Which weights should RL and SFT have, given how many of a question's rollouts succeed?

A question's success rate p is drawn from a prior; a gate sees P = k/n. For every k the weights
(α*, β*) that estimate a target gradient best are computed, and beside them what gates realise: pure
SFT and RL, a fixed mix, the paper's switch, soft gates, and :class:`upge.feedback.Wiener`. Every
gate has two factors, one a term, at their best values for the case, so that gates differ by shape
alone. Shares are of the optimum's gain over no step at all (:mod:`upge.exact.mixture`).

Targets: ∇J_μ, the paper's common objective, where μ is the reward that one nat of KL(π_β ‖ π_θ) is
worth (μ = 0: ∇E[r]); and ∇log E[r], in which questions count by the factor that they improve by.
What finite steps do to E[r] itself is tried in :mod:`experiments.bias_variance.mixing_steps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from statistics import mean, median
from typing import Any

from torch import Tensor

from experiments.bias_variance.common import (
    Progress,
    Row,
    Rows,
    chosen,
    silent,
    watched,
)
from experiments.bias_variance.mixing_cases import (
    LOG,
    Question,
    Recipe,
    Shape,
    demonstrator,
    questions,
    shapes,
)
from experiments.bias_variance.mixing_steps import Walk, walk, walks
from upge.exact.instance import Setting
from upge.exact.mixture import RL, SFT, Given, Quadratic, given_successes, pooled
from upge.exact.objective import Objective
from upge.wiener import Wiener


def study(recipe: Recipe, progress: Progress = silent) -> list[Row]:
    """Optimal weights, what gates realise of their gain, and what steps do to E[r]."""
    problems = [(part, i) for part, cases in recipe.parts.items() for i in range(len(cases.seeds))]
    jobs: list[tuple[str, int] | Walk] = [*problems, *walks(recipe)]
    rows: list[Row] = []
    for job in watched(jobs, progress):
        found = walk(recipe, job) if isinstance(job, Walk) else _problem(recipe, *job)
        rows += [_row(row) for row in found]
    return rows


def _row(values: Row) -> Row:
    """A number, to five digits, with what it is of; all rows have the same columns."""
    numbers = ("seed", "n", "demo_success", "demo_distance", "x", "value", "error")
    words: Row = dict.fromkeys(("measure", "part", "target", "gate"), "")
    rounded: Row = {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
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
                both = pooled(each)
                yield from (shared | row for row in _compare(target, n, both, recipe.gammas))
                first, usual = (success, distance) == next(iter(taught)), n == recipe.weights_at
                if part == "development" and (first or usual):
                    yield from (shared | row for row in _weights(target, n, both, first and usual))
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


def wiener(target: str) -> Wiener:
    """The gate made for a target.

    ∇log E[r] is the direction of ∇J_μ as μ → ∞ where demonstrations are the policy's own successes,
    so that imitating them is no end in itself: novelty is 0.
    """
    return Wiener(1e6, novelty=0.0) if target == LOG else Wiener(float(target.removeprefix("mu ")))


def _shapes(target: str, n: int, gammas: tuple[float, ...]) -> dict[tuple[str, float], Shape]:
    """F and g of all gates; the Wiener gate made for the target, and as it comes."""
    return shapes(n, {"wiener": wiener(target), "wiener as it comes": Wiener()}, gammas)


def _compare(target: str, n: int, quadratic: Quadratic, gammas: tuple[float, ...]) -> Iterator[Row]:
    """What every gate realises of the optimum's gain."""
    none = quadratic.nothing
    best = none - quadratic.mse(*quadratic.optimum())
    yield {"measure": "gain", "gate": "optimum", "value": best / none}
    for (gate, gamma), (f, g) in _shapes(target, n, gammas).items():
        share = (none - quadratic.tuned(f, g).mse) / best
        yield {"gate": gate, "x": gamma, "measure": "share", "value": share}


def _weights(target: str, n: int, quadratic: Quadratic, gates: bool) -> Iterator[Row]:
    """The optimal α and β by P, and those of all ``gates`` with their factors."""
    yield from _by_k("optimum", *quadratic.optimum())
    for (gate, _), (f, g) in _shapes(target, n, (0.0,)).items() if gates else ():
        tuned = quadratic.tuned(f, g)
        yield from _by_k(gate, tuned.x * f, tuned.y * g)


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
    """Shares by part, target and gate, where γ belongs, and what steps achieve."""
    return _shares(rows) | _thresholds(rows) | _steps(rows)


def _shares(rows: Rows) -> dict[str, float]:
    """Every gate's mean share; of some the lowest, and the part of what a fixed mix leaves.

    ``beyond fixed`` is 0 for the best fixed mix and 1 for the optimum, over all cases together.
    """
    numbers: dict[str, float] = {}
    shares = [row for row in chosen(rows, measure="share") if not float(row["x"]) > 0]
    for part, target in _distinct(shares, "part", "target"):
        own = {
            gate: _values(shares, part=part, target=target, gate=gate)
            for (gate,) in _distinct(shares, "gate")
        }
        where = f"{part}, {target}"
        numbers |= {f"share, {where}, {gate}": mean(values) for gate, values in own.items()}
        for gate in ("wiener", "switch", "fixed"):
            numbers[f"lowest share, {where}, {gate}"] = min(own[gate])
        for gate in ("wiener", "switch"):
            left, at_first = 1 - mean(own[gate]), 1 - mean(own["fixed"])
            numbers[f"beyond fixed, {where}, {gate}"] = 1 - left / at_first
        ahead = [a > b for a, b in zip(own["wiener"], own["switch"], strict=True)]
        numbers[f"wiener ahead of switch, {where}"] = mean(ahead)
    return numbers


def _thresholds(rows: Rows) -> dict[str, float]:
    """The γ of the highest mean share; and (n + 1) p where RL overtakes the demonstration."""
    numbers: dict[str, float] = {}
    switches = chosen(rows, measure="share", gate="switch")
    for part, target in _distinct(switches, "part", "target"):
        own = chosen(switches, part=part, target=target)
        gammas = [float(gamma) for (gamma,) in _distinct(own, "x")]
        best = max(gammas, key=lambda gamma: mean(_values(own, x=gamma)))
        numbers[f"best γ, {part}, {target}"] = best
    found = chosen(rows, measure="crossing", part="development")
    found = [row for row in found if row["target"] != LOG]  # on one question, that of μ = 0
    for target, success, distance in _distinct(found, "target", "demo_success", "demo_distance"):
        own = chosen(found, target=target, demo_success=success, demo_distance=distance)
        places = [float(row["value"]) * (float(row["n"]) + 1) for row in own]
        there = [place for place in places if not math.isnan(place)]
        name = f"{target}, {success:g} right at {distance:g}"
        numbers[f"RL overtakes, {name}"] = len(there) / len(places)
        if there:
            numbers[f"(n + 1) p, {name}"] = median(there)
    return numbers


def _steps(rows: Rows) -> dict[str, float]:
    """Every gate's gain over the best gate's, one step of each length; and E[r] in the end."""
    numbers: dict[str, float] = {}
    for norm, gate in _distinct(chosen(rows, measure="step"), "x", "gate"):
        parts = []
        for own in chosen(rows, measure="step", x=norm, gate=gate):
            rivals = chosen(rows, **{key: own[key] for key in (*_CASE, "measure", "x")})
            parts.append(float(own["value"]) / max(float(row["value"]) for row in rivals))
        numbers[f"step of {norm:g}, {gate}"] = mean(parts)
    trained = chosen(rows, measure="training")
    last = max(float(row["x"]) for row in trained)
    for (gate,) in _distinct(trained, "gate"):
        numbers[f"E[r] after {last:g}, {gate}"] = mean(_values(trained, x=last, gate=gate))
    return numbers


#: What tells the cases of one part and target apart.
_CASE = ("seed", "n", "demo_success", "demo_distance")


def _distinct(rows: Rows, *columns: str) -> list[tuple[Any, ...]]:
    """The combinations of values that occur, in order of appearance."""
    return list(dict.fromkeys(tuple(row[column] for column in columns) for row in rows))


def _values(rows: Rows, **where: float | str) -> list[float]:
    return [float(row["value"]) for row in chosen(rows, **where)]
