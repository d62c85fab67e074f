"""The phase diagram: the best method over the supply of demonstrations and compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from analysis.accuracy.table import OUT
from analysis.budgets import family
from analysis.curves import look_of, write_series
from analysis.style import PAGE, style
from analysis.supply.columns import METHODS, short
from analysis.supply.phases import AN_OCTAVE, PANELS, VALIDATION
from analysis.supply.study import PASS, Study

#: How far colours are moved to white where the best is not distinguishable.
_PALE = 0.7

#: Gap before supplies of some levels or families, in columns.
_GAP = 0.15


class Block(NamedTuple):
    """Neighbouring budgets of one supply with the same outcome.

    Attributes:
        best: the best method.
        rival: the highest of those that are not distinguishable from the best; empty without.
        distinguishable: whether the best is, from each other; not if it is alone.
        low, high: budgets at its edges.
    """

    best: str
    rival: str
    distinguishable: bool
    low: float
    high: float


def blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """The blocks of one panel and supply, from few FLOPs to many."""
    edge = 2 ** (1 / (2 * AN_OCTAVE))
    rivals = [ties.partition(" ")[0] for ties in frame["ties"]]
    outcome = frame[["best", "distinguishable"]].assign(rival=rivals)
    number = (outcome != outcome.shift()).any(axis=1).cumsum()
    for _, own in outcome.assign(budget=frame["budget"]).groupby(number):
        best, sure, rival = own.iloc[0][["best", "distinguishable", "rival"]]
        low, high = own["budget"].min() / edge, own["budget"].max() * edge
        yield Block(best, rival, bool(sure), low, high)


def figure(study: Study, frame: pd.DataFrame) -> Figure:
    """A panel for each thing that methods are compared by."""
    labels = [own.label for own in study.supplied]
    places = _places(study)
    names = _titles(study)
    shown = [panel for panel in PANELS if panel in set(frame["panel"])]
    with style(), mpl.rc_context({"hatch.linewidth": 1.1, "axes.grid": False}):
        drawn, panels = plt.subplots(
            len(shown), 1, figsize=(PAGE, 0.9 + 1.75 * len(shown)), sharex=True, squeeze=False
        )
        for axes, panel in zip(panels[:, 0], shown, strict=True):
            own = frame[frame["panel"] == panel]
            for label, place in zip(labels, places, strict=True):
                for block in blocks(own[own["supply"] == label]):
                    _draw(axes, place, block)
            axes.set_title(names[panel], loc="left")
            axes.set(yscale="log", ylabel="compute (FLOPs)")
            axes.set_xlim(-0.5, places[-1] + 0.5)
            axes.set_ylim(*_limits(frame))
            axes.set_xticks(places, labels)
            axes.tick_params(axis="x", length=0)
        problems = ", ".join(sorted({str(own.column.problems) for own in study.supplied}))
        panels[-1, 0].set_xlabel(
            f"supply of demonstrations: of {problems} problems, how many have one, or which"
        )
        _legend(drawn, frame)
        drawn.supxlabel(_caption(study), fontsize=5.5, color="#444444")
    return drawn


def _places(study: Study) -> list[float]:
    """Where columns stand: in a row, those of a part a little aside."""
    return [i + (0 if own.column.whole else _GAP) for i, own in enumerate(study.supplied)]


def _limits(frame: pd.DataFrame) -> tuple[float, float]:
    edge = 2 ** (1 / (2 * AN_OCTAVE))
    return frame["budget"].min() / edge, frame["budget"].max() * edge


def _titles(study: Study) -> dict[str, str]:
    k, on_the_way = study.samples, study.validation_samples
    return {
        VALIDATION: f"in distribution, avg@{on_the_way} of validations on the way",
        OUT: f"out of distribution, avg@{k} of tests at the end of trainings",
        PASS: f"in distribution, pass@{k} of tests at the end of trainings",
    }


def _draw(axes: Axes, place: float, block: Block) -> None:
    color = look_of(block.best, 0).color
    corner, size = (place - 0.46, block.low), (0.92, block.high - block.low)
    face = color if block.distinguishable else _lighter(color)
    axes.add_patch(Rectangle(corner, *size, facecolor=face, linewidth=0))
    if block.rival:
        stripes = _lighter(look_of(block.rival, 0).color, 0.45)
        axes.add_patch(Rectangle(corner, *size, fill=False, hatch="///", edgecolor=stripes, lw=0))
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=0.8))
    name = short(block.best)
    text = f"{name} ≈ {short(block.rival)}" if block.rival else name
    box = {"facecolor": face, "edgecolor": "none", "pad": 0.6} if block.rival else None
    axes.text(
        place,
        (block.low * block.high) ** 0.5,
        text,
        fontsize=5,
        ha="center",
        va="center",
        color="black" if block.rival or _is_light(face) else "white",
        bbox=box,
    )


def _lighter(color: str, by: float = _PALE) -> tuple[float, float, float]:
    red, green, blue = to_rgb(color)
    return (red + (1 - red) * by, green + (1 - green) * by, blue + (1 - blue) * by)


def _is_light(color: str | tuple[float, float, float]) -> bool:
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.55


def _legend(drawn: Figure, frame: pd.DataFrame) -> None:
    there = {*frame["best"], *" ".join(frame["ties"]).split()}
    methods = [m for m in dict.fromkeys(map(family, METHODS)) if m in there]
    patches = [Patch(facecolor=look_of(m, 0).color, label=short(m)) for m in methods]
    pale = Patch(facecolor="#E0E0E0", edgecolor="#888888", hatch="///", lw=0)
    pale.set_label("≈: not distinguishable from the stripes")
    drawn.legend(handles=[*patches, pale], loc="outside upper left", ncols=len(patches) + 1)


def _caption(study: Study) -> str:
    return (
        "Colour: the method with the highest mean of those known at the budget; pale where some "
        "other, the stripes, is not distinguishable from it (paired comparison, 5 % level),\nor, "
        "without stripes, where there is no other. Validations are interpolated between steps: the "
        "beginning of a training at a constant rate is the shorter training.\nNot so of a "
        "pipeline: SFT→GRPO counts from its full compute on, and tests count from that of their "
        f"training. Means over {study.seeds} seeds.\nFLOPs: of sampling and training."
    )


def write_figure(study: Study, frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write ``supply`` (.pdf, .png, .csv); nothing if there is nothing to compare."""
    if not len(frame):
        return []
    return write_series(figure(study, frame), frame, study.runs, folder / "supply")
