"""How numbers are written in sentences and cells."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.statistics import Estimate, within
from analysis.tables import NONE

#: What :func:`percent` shows behind a mean.
INTERVALS = "± half of its 95 % interval; where 0 or 100 cuts that off, its bounds in brackets"


def percent(estimate: Estimate | None) -> str:
    """An accuracy, per cent, with :data:`INTERVALS`."""
    if estimate is None:
        return NONE
    mean, (low, high) = estimate.mean, estimate.interval
    half = (high - low) / 2
    if _cut_off(low, high) or _cut_off(mean - half, mean + half):
        low, high = within((low, high))
        return f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def _cut_off(low: float, high: float) -> bool:
    """Whether an interval of accuracies loses, at 0 or 1, what one digit would show."""
    return any(abs(a - b) > 0.0005 for a, b in zip((low, high), within((low, high)), strict=True))


def points(difference: float, sign: str = "+") -> str:
    """A difference of accuracies in percentage points; ``sign=""`` leaves a plus out."""
    rounded = round(100 * difference, 1) + 0.0  # no −0.0
    return f"{rounded:{sign}.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Two digits; a dash where there is none."""
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
