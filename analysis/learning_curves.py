"""Figure: validation accuracy against steps and against compute."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.curves import (
    caption,
    draw,
    label,
    label_ends,
    look_of,
    over_seeds,
    seed_count,
    write_series,
)
from analysis.methods import grouped, ordered
from analysis.runs import Runs
from analysis.style import PAGE, Look, style

#: What panels show of the methods of other panels.
_CONTEXT = "#D0D0D0"

_X = {"step": "step", "flops": "compute (FLOPs)"}


def numbers(runs: Runs) -> pd.DataFrame:
    """``method, step, flops, mean, low, high, seeds`` at each validation.

    ``flops`` are those of sampling and training up to the step, mean over seeds.
    """
    metrics = runs.metrics()
    if "validation" not in metrics:
        return over_seeds(pd.DataFrame({"method": [], "seed": [], "step": []}), "validation")
    metrics = metrics.sort_values(["method", "seed", "step"])
    metrics["flops"] = metrics.groupby(["method", "seed"])["flops"].cumsum()
    validated = metrics.dropna(subset="validation")
    parts = [validated[validated["method"] == m] for m in ordered(validated["method"])]
    return over_seeds(pd.concat(parts), "validation", "flops")


def figure(frame: pd.DataFrame) -> Figure:
    """A column of panels a group of methods, all others behind them in grey."""
    panels_of = grouped(frame["method"])
    with style():
        drawn, panels = plt.subplots(
            2, len(panels_of), figsize=(PAGE, 3.7), sharey=True, sharex="row", squeeze=False
        )
        for column, (name, methods) in enumerate(panels_of.items()):
            panels[0, column].set_title(name, loc="left")
            for axes, x in zip(panels[:, column], _X, strict=True):
                _panel(axes, frame, methods, x)
        for axes, x in zip(panels[:, 0], _X, strict=True):
            axes.set_ylabel("validation accuracy")
            if x == "flops":
                axes.set_xscale("log")
                axes.xaxis.set_minor_locator(NullLocator())
        # By the lines: the band of a method with few or unlike seeds may leave the frame.
        panels[0, 0].set_ylim(max(frame["mean"].min() - 0.05, 0), min(frame["mean"].max() + 0.1, 1))
        for column, methods in enumerate(panels_of.values()):
            _label(panels[0, column], frame, methods)
        caption(drawn, _text(frame))
    return drawn


def _panel(axes: Axes, frame: pd.DataFrame, methods: list[str], x: str) -> None:
    for method, own in frame.groupby("method", sort=False):
        if method not in methods:
            axes.plot(own[x], own["mean"], color=_CONTEXT, linewidth=0.7, zorder=1)
    for i, method in enumerate(methods):
        draw(axes, frame[frame["method"] == method], x, look_of(method, i))
    axes.set_xlabel(_X[x])


def _label(axes: Axes, frame: pd.DataFrame, methods: list[str]) -> None:
    ends: list[tuple[str, float, Look]] = []
    for i, method in enumerate(methods):
        last = float(frame.loc[frame["method"] == method, "mean"].iloc[-1])
        ends.append((label(method), last, look_of(method, i)))
    label_ends(axes, ends, gap=0.1)


def _text(frame: pd.DataFrame) -> str:
    return (
        f"Lines: means over {seed_count(frame)}; bands: 95 % intervals over seeds (none for one "
        "seed), cut at the frame. Grey: the methods of\nthe other panels. FLOPs: of sampling and "
        "training up to the step, mean over seeds."
    )


def write_figure(runs: Runs, folder: Path) -> list[Path]:
    """Write ``learning_curves`` (.pdf, .png, .csv); nothing if no run was validated."""
    frame = numbers(runs)
    drawn = figure(frame) if len(frame) else None
    return write_series(drawn, frame, runs, folder / "learning_curves")
