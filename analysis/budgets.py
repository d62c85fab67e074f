"""What methods reach within a budget of compute, from validation curves and whole trainings.

With a constant learning rate the beginning of a run is the shorter run, so that a validation curve
tells what every smaller budget buys. A pipeline's stages have fixed lengths: only its end counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Curve:
    """Results of trainings of one method over the compute that they took.

    Args:
        method: the runs' name.
        flops: (K,) of sampling and training, ascending; means over seeds.
        by_seed: (S, K) accuracies.
    """

    method: str
    flops: Array
    by_seed: Array

    @property
    def start(self) -> float:
        """The least compute with a result."""
        return float(self.flops[0])

    @property
    def end(self) -> float:
        """The compute of the whole training."""
        return float(self.flops[-1])

    def at(self, flops: float) -> Estimate:
        """Interpolated in compute, seed by seed; the last result beyond the end."""
        values = np.array([np.interp(flops, self.flops, row) for row in self.by_seed])
        return Scores(values, np.zeros(DRAWS), 0).estimate(self.method)


@dataclass(frozen=True)
class Point:
    """The result of whole trainings.

    Args:
        method: the runs' name.
        end: FLOPs of sampling and training, mean over seeds.
        estimate: what was measured.
    """

    method: str
    end: float
    estimate: Estimate

    @property
    def start(self) -> float:
        """The same as the end."""
        return self.end

    def at(self, flops: float) -> Estimate:
        """The result, whatever the budget."""
        return self.estimate


class Reading(NamedTuple):
    """A result, the run it is of, and the compute that it took."""

    method: str
    flops: float
    estimate: Estimate


def within(curves: Iterable[Curve | Point], budget: float) -> dict[str, Reading]:
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


def near(curves: Iterable[Curve | Point], budget: float) -> dict[str, Reading]:
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


def _factor(curve: Curve | Point, budget: float) -> float:
    """By which factor its end and the budget differ; infinite for what took no compute."""
    return max(curve.end / budget, budget / curve.end) if curve.end else math.inf


def _families(curves: Iterable[Curve | Point]) -> dict[str, list[Curve | Point]]:
    families: dict[str, list[Curve | Point]] = {}
    for curve in sorted(curves, key=lambda curve: curve.end):
        families.setdefault(family(curve.method), []).append(curve)
    return families


def _read(curve: Curve | Point, budget: float) -> Reading:
    return Reading(curve.method, min(budget, curve.end), curve.at(budget))


def validations(runs: Runs) -> list[Curve]:
    """The validation curve of every method; for a pipeline its end alone."""
    metrics = runs.metrics()
    if not {"validation", "flops"} <= set(metrics):
        return []
    metrics = metrics.sort_values(["method", "seed", "step"])
    metrics["spent"] = metrics.groupby(["method", "seed"])["flops"].cumsum()
    validated = metrics.dropna(subset=["validation", "spent"])
    return [
        _curve(str(method), rows, _is_pipeline(runs, str(method)))
        for method, rows in validated.groupby("method", sort=False)
    ]


def _is_pipeline(runs: Runs, method: str) -> bool:
    return any(len(run.config["stages"]) > 1 for run in runs.of(method))


def _curve(method: str, rows: pd.DataFrame, pipeline: bool) -> Curve:
    """Over the steps that all seeds have."""
    values = rows.pivot(index="seed", columns="step", values="validation").dropna(axis=1)
    spent = rows.pivot(index="seed", columns="step", values="spent")[values.columns].mean()
    first = -1 if pipeline else 0
    return Curve(method, spent.to_numpy()[first:], values.to_numpy()[:, first:])


def points(estimates: Mapping[str, Estimate], spent: pd.DataFrame) -> list[Point]:
    """Results of whole trainings; one without steps took no compute.

    Args:
        estimates: by method.
        spent: costs of training, from :func:`analysis.accuracy.costs.costs`.
    """
    flops: Mapping[str, float] = spent["flops"].to_dict()
    return [Point(method, flops.get(method, 0.0), e) for method, e in estimates.items()]


def budgets(curves: Sequence[Curve | Point], per_octave: int) -> list[float]:
    """Budgets that span curves at powers of 2, ``per_octave`` of them to a doubling.

    From the least with a result of a training to the first that is enough for all.
    """
    starts = [curve.start for curve in curves if curve.start > 0]
    if not starts:
        return []
    low = math.ceil(per_octave * math.log2(min(starts)))
    high = math.ceil(per_octave * math.log2(max(curve.end for curve in curves)))
    return [2 ** (i / per_octave) for i in range(low, high + 1)]
