"""What each method reached with each supply of demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch

from analysis.accuracy.costs import costs
from analysis.accuracy.table import IN, OUT, averages
from analysis.budgets import Curve, Point, points, validations
from analysis.methods import BASE
from analysis.run import Runs
from analysis.statistics import Estimate
from analysis.supply.columns import FREE, Column, columns
from upge.evaluation.metrics import pass_at_k_of_counts
from upge.tasks.synthetic import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION

#: What tests measure besides avg@k in and out of distribution: pass@k in distribution.
PASS = "pass"

Tests = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Supplied:
    """A supply, and what was reached with it.

    Args:
        column: the supply.
        costs: what each method's training took.
        curves: validations over compute.
        tests: by :data:`IN`, :data:`OUT` and :data:`PASS`, by method.
    """

    column: Column
    costs: pd.DataFrame
    curves: Sequence[Curve]
    tests: Tests

    @property
    def validated(self) -> list[Curve | Point]:
        """Validations over compute; the base model, which is not validated, by its tests."""
        base = {method: e for method, e in self.tests[IN].items() if method == BASE}
        return [*points(base, self.costs), *self.curves]

    def tested(self, what: str) -> list[Curve | Point]:
        """Tests of whole trainings, at their compute."""
        return [*points(self.tests[what], self.costs)]


@dataclass(frozen=True)
class Study:
    """The study.

    Args:
        comparisons: those that exist.
        supplied: what was reached, by supply.
        samples: of each test problem; k of avg@k and pass@k.
    """

    comparisons: Sequence[Runs]
    supplied: Sequence[Supplied]
    samples: int

    @property
    def runs(self) -> Runs:
        """The finished runs of all comparisons, for their provenance."""
        finished = [run for runs in self.comparisons for run in runs.finished]
        return replace(self.comparisons[0], finished=finished)

    @property
    def validation_samples(self) -> int:
        """Samples of each validation problem."""
        evaluations = [s.column.runs.finished[0].config["evaluation"] for s in self.supplied]
        return min(int(evaluation["validation_samples"]) for evaluation in evaluations)


def make(comparisons: Sequence[Runs]) -> Study:
    """The study of comparisons, in whatever order.

    Raises:
        UpgeError: damaged runs, runs tested on different problems, or comparisons with the same
            supply.
    """
    comparisons = sorted(comparisons, key=lambda runs: runs.comparison)
    supplies = columns(comparisons)
    answers = _answers(supplies)
    samples = int(answers["samples"].min()) if len(answers) else 0
    tests = {
        IN: _averages(answers, IN_DISTRIBUTION, k=1),
        OUT: _averages(answers, OUT_OF_DISTRIBUTION, k=1),
        PASS: _averages(answers, IN_DISTRIBUTION, k=samples),
    }
    supplied = [
        Supplied(column, costs(column.runs.metrics()), validations(column.runs), _of(column, tests))
        for column in supplies
    ]
    return Study(comparisons, supplied, samples)


def _of(column: Column, tests: Tests) -> dict[str, dict[str, Estimate]]:
    names = {_name(column, method): method for method in column.runs.methods}
    return {
        what: {method: found[name] for name, method in names.items() if name in found}
        for what, found in tests.items()
    }


def _name(column: Column, method: str) -> str:
    """A method's name among those of all supplies; without demonstrations one name serves all."""
    return method if method in FREE else f"{method} at {column.label}"


def _answers(supplies: Sequence[Column]) -> pd.DataFrame:
    """Of all supplies, so that one bootstrap of the problems serves all."""
    parts: dict[str, pd.DataFrame] = {}
    for column in supplies:
        answers = column.runs.answers()
        for method, rows in answers.groupby("method", sort=False) if len(answers) else ():
            name = _name(column, str(method))
            parts.setdefault(name, rows.assign(method=name))
    return pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame()


def _averages(answers: pd.DataFrame, suites: Iterable[str], k: int) -> dict[str, Estimate]:
    """pass@k averaged over suites, by method; k = 1 is the share of correct answers."""
    splits = dict.fromkeys(suites, "")
    rows = answers[answers["suite"].isin(list(splits))] if len(answers) else answers
    if not len(rows):
        return {}
    return averages(rows.assign(accuracy=_passes(rows, k)), splits)[""]


def _passes(answers: pd.DataFrame, k: int) -> list[float]:
    """pass@k of each problem, from its counts."""
    counts = list(zip(answers["right"], answers["samples"], strict=True))
    table = {
        (right, n): pass_at_k_of_counts(torch.tensor([right]), n, [k]).item()
        for right, n in set(counts)
    }
    return [table[count] for count in counts]
