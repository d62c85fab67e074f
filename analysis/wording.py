"""How numbers are written in sentences and cells."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.statistics import Estimate, within
from analysis.tables import NONE


def percent(estimate: Estimate | None) -> str:
    """An accuracy, per cent, ± half of its 95 % interval."""
    if estimate is None:
        return NONE
    low, high = within(estimate.interval)
    return f"{100 * estimate.mean:.1f} ± {50 * (high - low):.1f}"


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
