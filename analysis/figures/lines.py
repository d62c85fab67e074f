"""Figures of lines: panels, axes and labels declared, drawn by one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from analysis.methods import grouped, title
from analysis.style import Look, look_of, plain, style
from analysis.style import panels as style_panels

Panels = Callable[[pd.DataFrame], Mapping[str, pd.DataFrame]]

#: What a line is of: the values of those of these columns that a frame has.
_KEYS = ("base", "gate", "method")

#: What panels show of the lines of other panels.
CONTEXT = "#D0D0D0"


def one_panel(frame: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """All lines in one panel."""
    return {"": frame}


def by(column: str) -> Panels:
    """A panel for each value of a column."""
    return lambda frame: {str(v): rows for v, rows in frame.groupby(column, sort=False)}


def by_group(frame: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """A panel for each group of methods."""
    groups = grouped(frame["method"])
    return {g: frame[frame["method"].isin(members)] for g, members in groups.items()}


def method_look(line: Mapping[str, Any], index: int) -> Look:
    """The look of a line's method."""
    return look_of(str(line["method"]), index)


@dataclass(frozen=True)
class Lines:
    """A figure of lines, with a column ``mean`` over others and intervals from ``low`` to ``high``.

    Args:
        size: width and height in inches.
        y: the y axis by panel; that of ``""`` is every other panel's.
        x: a row of panels for each of these columns, with its axis.
        panels: the lines of each panel, by name.
        panel_title: a panel's title, from its name.
        label: a line's name, from the values that it has in columns for method, gate and base.
        look: a line's look, from these values and its number.
        interval: as a band, or as a bar beside the end of the lines.
        labels: beside the ends of lines, or in a legend above the panels.
        log: columns whose axis is logarithmic, with the base.
        shared: whether all panels share the y axis.
        from_zero: whether it starts at 0 rather than below the lowest line.
        context: whether a panel shows the lines of other panels in gray.
        constant: name and value of a line across the panel.
    """

    size: tuple[float, float]
    y: Mapping[str, str]
    x: Mapping[str, str] = field(default_factory=lambda: {"step": "step"})
    panels: Panels = one_panel
    panel_title: Callable[[str], str] = lambda name: ""
    label: Callable[[Mapping[str, Any]], str] = lambda line: title(line["method"])
    look: Callable[[Mapping[str, Any], int], Look] = method_look
    interval: Literal["band", "bar"] = "band"
    labels: Literal["ends", "legend"] = "ends"
    log: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    from_zero: bool = True
    context: bool = False
    constant: Callable[[], tuple[str, float]] | None = None

    def __call__(self, frame: pd.DataFrame) -> Figure:
        """Draw the numbers."""
        lines = self.panels(frame)
        with style():
            figure, grid = style_panels(
                len(self.x), len(lines), self.size, sharex="row", sharey=self.shared
            )
            for axes_row, x in zip(grid, self.x, strict=True):
                for axes, (name, rows) in zip(axes_row, lines.items(), strict=True):
                    self._axes(axes, x, self.y.get(name, self.y.get("")))
                    self._lines(axes, frame, rows, x)
                for axes in axes_row[1:] if self.shared else ():
                    axes.set_ylabel("")
            for axes, name in zip(grid[0], lines, strict=True):
                axes.set_title(plain(self.panel_title(name)), loc="left")
            self._limits(grid.flat, frame)
            self._labels(figure, grid[0], lines)
        return figure

    def _axes(self, axes: Axes, x: str, y: str | None) -> None:
        axes.set(xlabel=self.x[x], ylabel=y)
        if x in self.log:
            axes.set_xscale("log", base=self.log[x])
            axes.xaxis.set_minor_locator(NullLocator())

    def _lines(self, axes: Axes, frame: pd.DataFrame, rows: pd.DataFrame, x: str) -> None:
        if self.context:
            others = frame[~frame["method"].isin(rows["method"])]
            for _, line in others.groupby("method", sort=False):
                axes.plot(line[x], line["mean"], color=CONTEXT, linewidth=0.7, zorder=1)
        lines = _split(rows)
        for i, (key, line) in enumerate(lines):
            look = self.look(key, i)
            marks: dict[str, Any] = {"markevery": max(len(line) // 8, 1), "markeredgewidth": 0}
            axes.plot(line[x], line["mean"], label=plain(self.label(key)), **look.line, **marks)
            if self.interval == "band":
                low, high = line["low"], line["high"]
                axes.fill_between(line[x], low, high, color=look.color, alpha=0.15, linewidth=0)
            else:
                _bar(axes, line, x, i, look)
        if self.interval == "bar":
            axes.xaxis.set_major_locator(FixedLocator(sorted(rows[x].unique())[::2]))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xlim(rows[x].min(), rows[x].max() * _beside(len(lines)))
        if self.constant:
            gray = look_of("base", 0)
            axes.axhline(self.constant()[1], color=gray.color, linestyle=gray.dash, linewidth=0.8)

    def _limits(self, panels: Sequence[Axes], frame: pd.DataFrame) -> None:
        for axes in panels:
            if not self.context and self.interval == "band":
                axes.margins(x=0)
            if self.from_zero:
                axes.set_ylim(0, None)
            else:  # by the lines: the band of a method with few or unlike seeds may leave the frame
                low, high = frame["mean"].min() - 0.05, frame["mean"].max() + 0.1
                axes.set_ylim(max(low, 0), min(high, 1))

    def _labels(
        self, figure: Figure, panels: Sequence[Axes], lines: Mapping[str, pd.DataFrame]
    ) -> None:
        if self.labels == "legend":
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(handles, names, ncols=len(names), loc="outside upper center")
            return
        for axes, rows in zip(panels, lines.values(), strict=True):
            x = next(iter(self.x))
            ends = [
                End(self.label(key), line[x].iloc[-1], line["mean"].iloc[-1], self.look(key, i))
                for i, (key, line) in enumerate(_split(rows))
            ]
            if self.constant:
                name, value = self.constant()
                ends.append(End(name, axes.get_xlim()[1], value, look_of("base", 0)))
            label_ends(axes, ends)


def _split(frame: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The lines of a frame, with what each is of."""
    keys = [key for key in _KEYS if key in frame]
    groups = frame.groupby(keys, sort=False)
    return [(dict(zip(keys, values, strict=True)), rows) for values, rows in groups]


def _beside(index: int) -> float:
    """Where the bar of a line stands on a logarithmic axis, as a factor on the lines' end."""
    return float(2 ** (0.7 + 0.36 * index))


def _bar(axes: Axes, line: pd.DataFrame, x: str, index: int, look: Look) -> None:
    """The interval of the last point, at the right of all lines, each line's in its place."""
    last = line.iloc[-1]
    place = last[x] * _beside(index)
    axes.plot([place] * 2, [last["low"], last["high"]], color=look.color, linewidth=1)
    axes.plot(place, last["mean"], look.marker, color=look.color, markersize=2.8)


# ------------------------------------------------------------------------------ labels beside lines


@dataclass(frozen=True)
class End:
    """The last point of a line, and its name."""

    name: str
    x: float
    y: float
    look: Look


def label_ends(axes: Axes, ends: Sequence[End], *, gap: float = 0.09, reach: float = 0.08) -> None:
    """Names at the right of the panel, at the height where lines end, with leaders to the ends.

    Args:
        axes: the panel, its limits set.
        ends: the last point of each line.
        gap: smallest distance of two names, as a share of the panel's height.
        reach: distance of the names from the panel, as a share of its width.
    """
    low, high = axes.get_ylim()
    in_order = sorted(ends, key=lambda end: end.y)
    places = spread([(end.y - low) / (high - low) for end in in_order], gap)
    for end, place in zip(in_order, places, strict=True):
        axes.annotate(
            plain(end.name),
            xy=(end.x, end.y),
            xytext=(1 + reach, place),
            textcoords="axes fraction",
            color=end.look.color,
            fontsize=6,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": end.look.color,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 2,
            },
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as it takes to be ``gap`` apart, around their middle."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _top(clusters[-2], gap) + gap > _bottom(clusters[-1], gap):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_bottom(cluster, gap) + i * gap for cluster in clusters for i in range(len(cluster))]


def _bottom(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def _top(cluster: Sequence[float], gap: float) -> float:
    return _bottom(cluster, gap) + gap * (len(cluster) - 1)
