"""Series over replicates: the median as a line, the range of all replicates as a band.

The numbers are exact: a band is no sampling error, but how much random problems differ.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.style import Look
from experiments.bias_variance.common import Rows


def summary(rows: Rows, x: str, y: str) -> tuple[list[float], ...]:
    """x, and the median, lowest and highest y of its rows; x is rounded to be grouped by."""
    groups = defaultdict[float, list[float]](list)
    for row in rows:
        if math.isfinite(value := float(row[y])):
            groups[float(f"{float(row[x]):.6g}")].append(value)
    places = sorted(groups)
    return (places, *([f(groups[place]) for place in places] for f in (median, min, max)))


def draw_series(
    axes: Axes, rows: Rows, x: str, y: str, look: Look, label: str = "", *, band: bool = True
) -> None:
    """A line of medians and, unless told not to, the band of the range."""
    places, line, low, high = summary(rows, x, y)
    axes.plot(places, line, label=label, **look.line)
    if band:
        axes.fill_between(places, low, high, color=look.color, alpha=0.1, linewidth=0)


def legend_above(figure: Figure, axes: Axes, columns: int, title: str = "") -> None:
    """One legend for the whole figure, above it, from the entries of one panel."""
    handles, labels = axes.get_legend_handles_labels()
    options: dict[str, Any] = {"title_fontsize": 7} if title else {}
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, title=title or None, **options
    )


def caption(figure: Figure, text: str) -> None:
    """A line under the figure on what is shown."""
    figure.supxlabel(text, fontsize=6, color="#444444")


def letter(axes: Iterable[Axes]) -> None:
    """(a), (b), … before the panels' titles."""
    for i, panel in enumerate(axes):
        panel.set_title(f"({chr(ord('a') + i)}) {panel.get_title()}", loc="left")
        panel.set_title("")


def logit_axis(axes: Axes) -> None:
    """The x axis from 0 to 1 with both ends drawn out, in plain numbers."""
    axes.set_xscale("logit")
    low, high = axes.get_xlim()
    ticks = [p for p in (0.01, 0.1, 0.5, 0.9, 0.99) if low <= p <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{p:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
