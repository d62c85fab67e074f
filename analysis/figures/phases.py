"""The phase diagram: the best method over the supply of demonstrations and compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.accuracy.table import OUT
from analysis.methods import SUITES
from analysis.style import PAGE, look_of, panels, plain, style
from analysis.supply.phases import PANELS, PER_OCTAVE, VALIDATION, numbers
from analysis.supply.study import PASS, short

__all__ = ["blocks", "figure", "numbers"]

#: How far colors are moved to white where the best is not distinguishable.
_PALE = 0.7

#: Panels, and their heights.
_TITLES: Mapping[str, tuple[str, float]] = {
    VALIDATION: ("In distribution: validation accuracy during training", 1.7),
    OUT: ("Out of distribution: test accuracy after training", 1.0),
    PASS: ("In distribution: pass@k in tests after training", 1.0),
}


class Block(NamedTuple):
    """Neighboring budgets of one supply with the same outcome.

    Attributes:
        best: the best method.
        rival: the highest of those that are not distinguishable from the best; empty if none.
        distinguishable: whether the best is, from each other; false if it is alone.
        low, high: budgets at its edges.
    """

    best: str
    rival: str
    distinguishable: bool
    low: float
    high: float


def blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """The blocks of one panel and supply, from few FLOPs to many."""
    edge = 2 ** (1 / (2 * PER_OCTAVE))
    rivals = [ties.partition(" ")[0] for ties in frame["ties"]]
    outcome = frame[["best", "distinguishable"]].assign(rival=rivals)
    number = (outcome != outcome.shift()).any(axis=1).cumsum()
    for _, rows in outcome.assign(budget=frame["budget"]).groupby(number):
        best, sure, rival = rows.iloc[0][["best", "distinguishable", "rival"]]
        low, high = rows["budget"].min() / edge, rows["budget"].max() * edge
        yield Block(best, rival, bool(sure), low, high)


def figure(frame: pd.DataFrame) -> Figure:
    """A panel for each thing that methods are compared by, a column for each supply."""
    supplies = list(dict.fromkeys(frame["supply"]))
    shown = [panel for panel in PANELS if panel in set(frame["panel"])]
    heights = [_TITLES[panel][1] for panel in shown]
    edge = 2 ** (1 / (2 * PER_OCTAVE))
    limits = (frame["budget"].min() / edge, frame["budget"].max() * edge)
    with style(), mpl.rc_context({"axes.grid": False}):
        size = (PAGE, 0.5 + 1.55 * sum(heights))
        drawn, grid = panels(len(shown), 1, size, sharex=True, height_ratios=heights)
        for axes, panel in zip(grid[:, 0], shown, strict=True):
            rows = frame[frame["panel"] == panel]
            for place, supply in enumerate(supplies):
                for block in blocks(rows[rows["supply"] == supply]):
                    _draw(axes, place, block)
            axes.set_title(_TITLES[panel][0], loc="left")
            axes.set(yscale="log", ylabel="compute (FLOPs)", ylim=limits)
            axes.set_xlim(-0.5, len(supplies) - 0.5)
            axes.set_xticks(range(len(supplies)), [plain(_name(supply)) for supply in supplies])
            axes.tick_params(axis="x", length=0)
        grid[-1, 0].set_xlabel("problems with a demonstration: how many, or which")
    return drawn


def _name(supply: str) -> str:
    """A supply's label with the names that readers know suites by, a line each."""
    parts = supply.replace("; ", ", ").split(", ")
    return "\n".join(SUITES[part].title if part in SUITES else part for part in parts)


def _draw(axes: Axes, place: float, block: Block) -> None:
    color = look_of(block.best, 0).color
    face = to_rgb(color) if block.distinguishable else _lighter(color)
    corner, size = (place - 0.47, block.low), (0.94, block.high - block.low)
    axes.add_patch(Rectangle(corner, *size, facecolor=face, edgecolor="white", linewidth=0.8))
    name = short(block.best) + (f" ≈ {short(block.rival)}" if block.rival else "")
    axes.text(
        place,
        (block.low * block.high) ** 0.5,
        plain(name),
        fontsize=5.5,
        ha="center",
        va="center",
        color="white" if block.distinguishable else "black",
    )


def _lighter(color: str) -> tuple[float, float, float]:
    red, green, blue = (x + (1 - x) * _PALE for x in to_rgb(color))
    return red, green, blue
