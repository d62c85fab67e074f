"""The best method for each supply of demonstrations and budget of compute, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.accuracy.table import OUT
from analysis.budgets import Curve, Reading, budgets, within
from analysis.run import Runs
from analysis.statistics import SIGNIFICANCE, Estimate
from analysis.statistics import within as possible
from analysis.supply.study import PASS, Study, Supply, make

#: Budgets to a doubling of compute.
PER_OCTAVE = 2

VALIDATION = "validation"

#: What methods are compared by, in order.
PANELS: Mapping[str, Callable[[Supply], list[Curve]]] = {
    VALIDATION: lambda supply: supply.validated,
    OUT: lambda supply: supply.tested(OUT),
    PASS: lambda supply: supply.tested(PASS),
}

COLUMNS = (
    *("panel", "supply", "demonstrations", "budget", "best", "run", "flops"),
    *("mean", "low", "high", "seeds", "runner_up", "lead", "lead_low", "lead_high", "p"),
    *("distinguishable", "ties"),
)


@dataclass(frozen=True)
class Choice:
    """The best of some methods.

    Args:
        best: the one with the highest mean.
        reading: what it reached.
        runner_up: the one with the second highest mean; None if there is no other.
        lead: of the best over it.
        p: of the lead over whichever other method is least surely behind; NaN where nothing was
            compared.
        ties: the methods that are not distinguishable from the best, the highest first.
    """

    best: str
    reading: Reading
    runner_up: str | None
    lead: Estimate | None
    p: float
    ties: tuple[str, ...]

    @property
    def distinguishable(self) -> bool:
        """Whether there are other methods and the best is distinguishable from each."""
        return self.runner_up is not None and not self.ties


def choose(readings: Mapping[str, Reading]) -> Choice:
    """The best method, and those that chance alone may have put behind it.

    That the best is better than *each* other is claimed only where every single comparison is
    significant: the least sure one decides, which needs no correction for their number
    (intersection-union test; Berger, Technometrics 24, 1982).

    Args:
        readings: by method, at least one.
    """
    best, *others = sorted(readings, key=lambda method: -readings[method].estimate.mean)
    leads = {m: readings[best].estimate - readings[m].estimate for m in others}
    p_values = {method: lead.p_value for method, lead in leads.items()}
    ties = tuple(method for method, p in p_values.items() if not p < SIGNIFICANCE)
    known = [p for p in p_values.values() if not pd.isna(p)]
    return Choice(
        best,
        readings[best],
        others[0] if others else None,
        leads[others[0]] if others else None,
        max(known) if known else float("nan"),
        ties,
    )


def numbers(*comparisons: Runs) -> pd.DataFrame:
    """See :func:`phases`, of the study of these comparisons."""
    return phases(make(comparisons))


def phases(study: Study) -> pd.DataFrame:
    """:data:`COLUMNS`, a row a panel, supply and budget with a result.

    Accuracies and leads are from 0 to 1. ``run`` is the training that was read at the budget, and
    ``flops`` what it had taken by then.
    """
    curves = [(panel, s, of(s)) for panel, of in PANELS.items() for s in study.supplies]
    grid = budgets([curve for *_, members in curves for curve in members], PER_OCTAVE)
    rows = [
        (panel, supply.label, supply.demonstrations, budget, *choice)
        for panel, supply, members in curves
        for budget, choice in _choices(members, grid)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _choices(
    curves: Sequence[Curve], grid: Sequence[float]
) -> Iterator[tuple[float, tuple[object, ...]]]:
    """At each budget; the same as before where no method reached more."""
    before: dict[str, tuple[str, float]] = {}
    choice: tuple[object, ...] = ()
    for budget in grid:
        readings = within(curves, budget)
        now = {name: (reading.method, reading.flops) for name, reading in readings.items()}
        if now != before:
            before, choice = now, _row(choose(readings))
        if readings:
            yield budget, choice


def _row(choice: Choice) -> tuple[object, ...]:
    reading, lead = choice.reading, choice.lead
    accuracy = (reading.estimate.mean, *possible(reading.estimate.interval))
    ahead = (lead.mean, *lead.interval) if lead else [float("nan")] * 3
    return (
        choice.best,
        reading.method,
        reading.flops,
        *accuracy,
        reading.estimate.seeds,
        choice.runner_up or "",
        *ahead,
        choice.p,
        choice.distinguishable,
        " ".join(choice.ties),
    )
