"""Panels of series over replicates: the median as a line, the range of all replicates as a band.

The numbers are exact: a band is no sampling error, but how much random problems differ.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.style import Look
from experiments.bias_variance.common import Rows

#: Ticks of an axis from 0 to 1 with both ends drawn out.
_LOGIT = (0.01, 0.1, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Series:
    """A line of medians, with or without the band of the range.

    Args:
        rows: of the study.
        x, y: their columns.
        look: of the line.
        label: its name in a legend.
        band: whether it has one.
        hollow: whether markers are.
    """

    rows: Rows
    x: str
    y: str
    look: Look
    label: str = ""
    band: bool = True
    hollow: bool = False


@dataclass(frozen=True)
class Panel:
    """A panel of series.

    Args:
        title: above it.
        series: its lines.
        axes: keywords of ``Axes.set``.
        ticks: in plain numbers, by ``x`` and ``y``.
        legend: keywords of ``Axes.legend``; None for no legend.
        zero: whether a line marks y = 0.
        headroom: room above the lines, as a share of their height.
    """

    title: str
    series: Sequence[Series]
    axes: Mapping[str, Any]
    ticks: Mapping[str, Sequence[float]] = field(default_factory=dict)
    legend: Mapping[str, Any] | None = None
    zero: bool = False
    headroom: float = 0.0


def draw(axes: Axes, panel: Panel) -> None:
    """Draw a panel."""
    for series in panel.series:
        places, line, low, high = summary(series.rows, series.x, series.y)
        fill: Any = "none" if series.hollow else "full"
        axes.plot(places, line, label=series.label, fillstyle=fill, **series.look.line)
        if series.band:
            axes.fill_between(places, low, high, color=series.look.color, alpha=0.1, linewidth=0)
    axes.set(title=panel.title, **panel.axes)
    if panel.axes.get("yscale") == "log":
        axes.set_yscale("log", nonpositive="mask")
    ticks = dict(panel.ticks)
    if panel.axes.get("xscale") == "logit":
        left, right = axes.get_xlim()
        ticks["x"] = [p for p in _LOGIT if left <= p <= right]
    for name, values in ticks.items():
        axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
        axis.set_major_locator(FixedLocator(values))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    if panel.zero:
        axes.axhline(0, color="#7F7F7F", linewidth=0.6)
    if panel.headroom:
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top + panel.headroom * (top - bottom))
    if panel.legend is not None:
        axes.legend(**panel.legend)


def summary(rows: Rows, x: str, y: str) -> tuple[list[float], ...]:
    """x, and the median, lowest and highest y of its rows; x is rounded to be grouped by."""
    groups = defaultdict[float, list[float]](list)
    for row in rows:
        if math.isfinite(value := float(row[y])):
            groups[float(f"{float(row[x]):.6g}")].append(value)
    places = sorted(groups)
    return (places, *([f(groups[place]) for place in places] for f in (median, min, max)))


def legend_above(figure: Figure, axes: Axes, columns: int, title: str | None = None) -> None:
    """One legend for the whole figure, above it, from the entries of one panel."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, title=title)


def letter(axes: Iterable[Axes]) -> None:
    """(a), (b), … before the panels' titles."""
    for i, panel in enumerate(axes):
        panel.set_title(f"({chr(ord('a') + i)}) {panel.get_title()}", loc="left")
        panel.set_title("")


def replicates(rows: Rows) -> int:
    """How many random problems there are."""
    return len({row["seed"] for row in rows})
