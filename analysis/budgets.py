"""What methods reach within a budget of compute, from validation curves and whole trainings.

With a constant learning rate the beginning of a run is the shorter run, so that a validation curve
tells what every smaller budget buys. A pipeline's stages have fixed lengths: only its end counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.run import Runs
from analysis.statistics import DRAWS, Array, Estimate, Scores

#: Ends the name of a longer training of the method that the rest names.
LONGER = "_long"

#: Two trainings are at equal compute if neither takes more than this factor times the other's.
ALIKE = 4 / 3


def family(method: str) -> str:
    """The method that a longer or ordinary training is one of."""
    return method.removesuffix(LONGER)


class Curve(NamedTuple):
    """Results of trainings of one method over the compute that they took.

    Attributes:
        method: the runs' name.
        start: the least FLOPs, of sampling and training, with a result.
        end: FLOPs of the whole training, mean over seeds.
        at: the result at a budget.
    """

    method: str
    start: float
    end: float
    at: Callable[[float], Estimate]


class Reading(NamedTuple):
    """A result, the run it is of, and the compute that it took."""

    method: str
    flops: float
    estimate: Estimate


def within(curves: Iterable[Curve], budget: float) -> dict[str, Reading]:
    """What each method reaches with at most ``budget`` FLOPs, by :func:`family`.

    It is read off the shortest training that the budget doesn't exceed, or is the end of the
    longest. Methods without a result at so small a budget are left out.
    """
    readings = {}
    for name, members in _families(curves).items():
        started = [curve for curve in members if curve.start <= budget]
        if started:
            curve = next((c for c in started if c.end >= budget), started[-1])
            readings[name] = _read(curve, budget)
    return readings


def near(curves: Iterable[Curve], budget: float) -> dict[str, Reading]:
    """What each method reaches with ``budget`` FLOPs, or about as many, by :func:`family`.

    It is read off a training that passes the budget, or is the end of the one that ends nearest to
    it, if that is within :data:`ALIKE`. Other methods are left out.
    """
    readings = {}
    for name, members in _families(curves).items():
        passing = [curve for curve in members if curve.start <= budget <= curve.end]
        nearest = min(members, key=lambda curve: _factor(curve, budget))
        if passing:
            readings[name] = _read(passing[0], budget)
        elif _factor(nearest, budget) <= ALIKE:
            readings[name] = _read(nearest, nearest.end)
    return readings


def _factor(curve: Curve, budget: float) -> float:
    """By which factor its end and the budget differ; infinite for what took no compute."""
    return max(curve.end / budget, budget / curve.end) if curve.end else math.inf


def _families(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    families: dict[str, list[Curve]] = {}
    for curve in sorted(curves, key=lambda curve: curve.end):
        families.setdefault(family(curve.method), []).append(curve)
    return families


def _read(curve: Curve, budget: float) -> Reading:
    return Reading(curve.method, min(budget, curve.end), curve.at(budget))


def interpolated(method: str, flops: Array, by_seed: Array) -> Curve:
    """Accuracies (S, K) over FLOPs (K,), interpolated seed by seed; the last one beyond the end."""

    def at(budget: float) -> Estimate:
        values = np.array([np.interp(budget, flops, row) for row in by_seed])
        return Scores(values, np.zeros(DRAWS), 0).estimate(method)

    return Curve(method, float(flops[0]), float(flops[-1]), at)


def validations(runs: Runs) -> list[Curve]:
    """The validation curve of every method; for a pipeline its end alone."""
    metrics = runs.metrics()
    if not {"validation", "flops"} <= set(metrics):
        return []
    metrics = metrics.sort_values(["method", "seed", "step"])
    metrics["spent"] = metrics.groupby(["method", "seed"])["flops"].cumsum()
    validated = metrics.dropna(subset=["validation", "spent"])
    curves = []
    for method, rows in validated.groupby("method", sort=False):
        values = rows.pivot(index="seed", columns="step", values="validation").dropna(axis=1)
        spent = rows.pivot(index="seed", columns="step", values="spent")[values.columns].mean()
        pipeline = any(len(run.config["stages"]) > 1 for run in runs.of(str(method)))
        kept = slice(-1 if pipeline else 0, None)
        curves.append(interpolated(str(method), spent.to_numpy()[kept], values.to_numpy()[:, kept]))
    return curves


def points(estimates: Mapping[str, Estimate], spent: pd.DataFrame) -> list[Curve]:
    """Results of whole trainings, at their compute alone; one without steps took none.

    Args:
        estimates: by method.
        spent: costs of training, from :func:`analysis.accuracy.costs.costs`.
    """
    flops: Mapping[str, float] = spent["flops"].to_dict()
    ends = {method: flops.get(method, 0.0) for method in estimates}
    return [Curve(m, ends[m], ends[m], lambda _, e=e: e) for m, e in estimates.items()]  # type: ignore[misc]


def budgets(curves: Sequence[Curve], per_octave: int) -> list[float]:
    """Budgets that span curves at powers of 2, ``per_octave`` of them to a doubling.

    From the least with a result of a training to the first that is enough for all.
    """
    starts = [curve.start for curve in curves if curve.start > 0]
    if not starts:
        return []
    low = math.ceil(per_octave * math.log2(min(starts)))
    high = math.ceil(per_octave * math.log2(max(curve.end for curve in curves)))
    return [2 ** (i / per_octave) for i in range(low, high + 1)]
