"""What each method reached with each supply of demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch

from analysis.accuracy.costs import costs
from analysis.accuracy.table import IN, OUT
from analysis.budgets import Curve, Point, points, validations
from analysis.methods import BASE
from analysis.runs import Runs
from analysis.statistics import AVERAGE, Estimate, estimates
from analysis.supply.columns import FREE, Column, columns
from upge.evaluation.metrics import pass_at_k
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
        tests: what was measured, by :data:`IN`, :data:`OUT` and :data:`PASS`, by method.
    """

    column: Column
    costs: pd.DataFrame
    curves: Sequence[Curve]
    tests: Tests

    @property
    def label(self) -> str:
        """The supply's."""
        return self.column.label

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
        given: its comparisons, as many as there are.
        supplied: what was reached, by supply.
        samples: of each test problem; k of avg@k and pass@k.
    """

    given: Sequence[Runs]
    supplied: Sequence[Supplied]
    samples: int

    @property
    def runs(self) -> Runs:
        """The finished runs of all comparisons, for what is said of their origin."""
        finished = [run for runs in self.given for run in runs.finished]
        return replace(self.given[0], finished=finished)

    @property
    def seeds(self) -> str:
        """How many seeds methods have."""
        all_runs = [own.column.runs for own in self.supplied]
        counts = {len(runs.seeds(method)) for runs in all_runs for method in runs.methods}
        return " or ".join(map(str, sorted(counts)))

    @property
    def validation_samples(self) -> int:
        """Samples of each validation problem."""
        evaluations = [own.column.runs.finished[0].config["evaluation"] for own in self.supplied]
        return min(int(evaluation["validation_samples"]) for evaluation in evaluations)


def make(given: Sequence[Runs]) -> Study:
    """The study of comparisons, in whatever order.

    Raises:
        UpgeError: damaged runs, runs tested on different problems, or comparisons that supply the
            same.
    """
    given = sorted(given, key=lambda runs: runs.comparison)
    found = columns(given)
    answers = _answers(found)
    samples = int(answers["samples"].min()) if len(answers) else 0
    tests = {
        IN: _averages(answers, IN_DISTRIBUTION, k=1),
        OUT: _averages(answers, OUT_OF_DISTRIBUTION, k=1),
        PASS: _averages(answers, IN_DISTRIBUTION, k=samples),
    }
    supplied = [
        Supplied(column, costs(column.runs.metrics()), validations(column.runs), _of(column, tests))
        for column in found
    ]
    return Study(given, supplied, samples)


def _of(column: Column, tests: Tests) -> dict[str, dict[str, Estimate]]:
    names = {_name(column, method): method for method in column.runs.methods}
    return {
        what: {method: found[name] for name, method in names.items() if name in found}
        for what, found in tests.items()
    }


def _name(column: Column, method: str) -> str:
    """A method among those of all supplies; what needs no demonstrations is one of all of them."""
    return method if method in FREE else f"{method} at {column.label}"


def _answers(given: Sequence[Column]) -> pd.DataFrame:
    """Of all supplies, so that one bootstrap of the problems serves all."""
    parts: dict[str, pd.DataFrame] = {}
    for column in given:
        answers = column.runs.answers()
        for method, own in answers.groupby("method", sort=False) if len(answers) else ():
            name = _name(column, str(method))
            parts.setdefault(name, own.assign(method=name))
    return pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame()


def _averages(answers: pd.DataFrame, suites: Iterable[str], k: int) -> dict[str, Estimate]:
    """pass@k averaged over suites, by method; k = 1 is the share of right answers."""
    names = dict.fromkeys(suites, "")
    own = answers[answers["suite"].isin(list(names))] if len(answers) else answers
    if not len(own):
        return {}
    found = estimates(own.assign(accuracy=_passes(own, k)), names)
    return {method: e for (method, suite, _), e in found.items() if suite == AVERAGE}


def _passes(answers: pd.DataFrame, k: int) -> list[float]:
    """pass@k of each problem, from its counts."""
    counts = list(zip(answers["right"], answers["samples"], strict=True))
    table = {
        (right, n): pass_at_k((torch.arange(n) < right).float()[None], [k]).item()
        for right, n in set(counts)
    }
    return [table[count] for count in counts]
