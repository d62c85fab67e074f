"""How numbers are written in sentences and cells."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.statistics import Estimate, within
from analysis.tables import NONE

#: What :func:`percent` shows after a mean.
INTERVALS = "± half its 95% interval, or the interval in parentheses where 0 or 100 bounds it"


def percent(estimate: Estimate | None) -> str:
    """An accuracy in percent, with :data:`INTERVALS`."""
    if estimate is None:
        return NONE
    mean, (low, high) = estimate.mean, estimate.interval
    half = (high - low) / 2
    if _out_of_bounds(low, high) or _out_of_bounds(mean - half, mean + half):
        low, high = within((low, high))
        return f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def _out_of_bounds(low: float, high: float) -> bool:
    """Whether an interval leaves 0 to 1 by what one digit of a percentage would show."""
    return any(abs(a - b) > 0.0005 for a, b in zip((low, high), within((low, high)), strict=True))


def points(difference: float, sign: str = "+") -> str:
    """A difference of accuracies in percentage points; ``sign=""`` leaves a plus out."""
    rounded = round(100 * difference, 1) + 0.0  # no −0.0
    return f"{rounded:{sign}.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Two digits; a dash for NaN."""
    return NONE if pd.isna(p) else f"{p:.2g}"


def scientific(value: float) -> str:
    """Two digits, as ``1.3e12``."""
    return NONE if pd.isna(value) else f"{value:.2g}".replace("e+", "e")


def whole(value: float) -> str:
    """A count."""
    return NONE if pd.isna(value) else f"{value:,.0f}"


def millions(value: float) -> str:
    """A count in millions, three digits."""
    return NONE if pd.isna(value) else f"{value / 1e6:.3g}"


def listed(texts: Sequence[str]) -> str:
    """As a list within a sentence."""
    *before, last = texts
    return f"{', '.join(before)} and {last}" if before else last


def numbered(numbers: Sequence[int], noun: str) -> str:
    """As ``seed 1`` or ``seeds 0, 2``."""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def span(values: Sequence[float], digits: str = "d") -> str:
    """From the least to the greatest, as ``3–8``; one number where both are the same."""
    low, high = (format(value, digits) for value in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def csv_points(value: float) -> str:
    """Percent or points in CSV, four digits; empty for NaN."""
    return "" if pd.isna(value) else f"{round(100 * value, 4) + 0.0:.4f}"  # no −0


def csv_estimate(estimate: Estimate) -> list[str]:
    """Mean and interval in CSV, percent, the interval within 0 and 100."""
    return [f"{100 * x:.4f}" for x in (estimate.mean, *within(estimate.interval))]


def csv_p(p: float) -> str:
    """A p-value in CSV, four digits; empty for NaN."""
    return "" if pd.isna(p) else f"{p:.4g}"
