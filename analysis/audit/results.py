"""What the audit compares, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.accuracy.costs import costs
from analysis.accuracy.table import IN, averages, tested_suites
from analysis.audit.orderings import VARIANTS, Setting, judged, reported_orders, without
from analysis.budgets import Curve, Reading, near, points, validations
from analysis.methods import BASE
from analysis.run import Runs
from analysis.statistics import SIGNIFICANCE, Estimate, corrected

#: SFT and SFT→GRPO, each with the trainings that have one fault or both.
FAULTY = {
    method: tuple(f"{method}_{fault}" for fault in ("last", "means", "both"))
    for method in ("sft", "sft_grpo")
}

#: Trainings of equal steps, and those of as much compute as HPT's.
EQUAL_STEPS = (
    BASE,
    *(name for method, faulty in FAULTY.items() for name in (method, *faulty)),
    *("luffy", "srft", "hpt", "hpt_global_token"),
)
EQUAL_COMPUTE = ("sft_long", "sft_grpo_long")
ROWS = (*EQUAL_STEPS, *EQUAL_COMPUTE)


@dataclass(frozen=True)
class Audit:
    """The audit's results.

    Args:
        runs: the runs it is made from.
        tests: averages over the suites of a split, by split and method.
        costs: what each method's training took.
        curves: validations over compute.
    """

    runs: Runs
    tests: Mapping[str, Mapping[str, Estimate]]
    costs: pd.DataFrame
    curves: Sequence[Curve]

    @property
    def methods(self) -> list[str]:
        """The methods with runs, in order."""
        return [method for method in ROWS if method in self.runs.methods]

    @cached_property
    def budget(self) -> float:
        """FLOPs that count as equal compute: of HPT's most expensive variant; NaN without one."""
        return float(self.costs["flops"].reindex(list(VARIANTS["hpt"])).max())

    @cached_property
    def validated(self) -> dict[str, Reading]:
        """Validations at equal compute."""
        return self._near(self.curves)

    def tested(self, split: str) -> dict[str, Reading]:
        """Tests of trainings that ended at about equal compute."""
        return self._near(points(self.tests.get(split, {}), self.costs))

    def _near(self, curves: Sequence[Curve]) -> dict[str, Reading]:
        return near(curves, self.budget) if self.budget > 0 else {}

    @cached_property
    def settings(self) -> list[tuple[Setting, pd.DataFrame]]:
        """Where orderings are looked for, with their claims as judged there."""
        settings = [(setting, judged(setting)) for setting in _settings(self)]
        return [(setting, claims) for setting, claims in settings if claims["p"].notna().any()]

    @cached_property
    def faults(self) -> pd.DataFrame:
        """``split, method, faulty, difference, low, high, p, p_holm, distinguishable``.

        What the faults cost; Holm's correction covers those of a split.
        """
        parts = [_faults(split, tests) for split, tests in self.tests.items()]
        return pd.concat(parts, ignore_index=True) if parts else _faults(IN, {})


def make(runs: Runs) -> Audit:
    """The audit of a comparison's runs.

    Raises:
        UpgeError: damaged runs, or runs tested on different problems.
    """
    problems = runs.problems()
    tests = averages(problems, tested_suites(runs, problems))
    return Audit(runs, tests, costs(runs.metrics()), validations(runs))


def _settings(audit: Audit) -> Iterator[Setting]:
    orders = reported_orders()
    faulty = [name for names in FAULTY.values() for name in names]
    faultless = [without(order, faulty) for order in orders]
    for split, tests in audit.tests.items():
        steps = {method: e for method, e in tests.items() if method in EQUAL_STEPS}
        yield Setting("at equal steps", split, steps, orders)
        tested = {method: reading.estimate for method, reading in audit.tested(split).items()}
        yield Setting("at equal compute", split, tested, faultless)
        if split == IN:
            validated = {method: r.estimate for method, r in audit.validated.items()}
            yield Setting("at equal compute, by validations", split, validated, faultless)
            if with_both := _with_both_faults(steps):
                where = "at equal steps with faulty baselines"
                yield Setting(where, split, with_both, orders[:1])


def _with_both_faults(tests: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """With both faults in SFT and SFT→GRPO; empty if there are no such runs."""
    both = {method: tests[names[-1]] for method, names in FAULTY.items() if names[-1] in tests}
    others = {method: e for method, e in tests.items() if method not in FAULTY}
    return others | both if both else {}


def _faults(split: str, tests: Mapping[str, Estimate]) -> pd.DataFrame:
    pairs = [
        (method, faulty)
        for method, names in FAULTY.items()
        for faulty in names
        if {method, faulty} <= tests.keys()
    ]
    differences = [tests[method] - tests[faulty] for method, faulty in pairs]
    p_values = [difference.p_value for difference in differences]
    rows = [
        (split, *pair, d.mean, *d.interval, p, holm, holm < SIGNIFICANCE)
        for pair, d, p, holm in zip(pairs, differences, p_values, corrected(p_values), strict=True)
    ]
    names = ["split", "method", "faulty", "difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*names, "distinguishable"])
