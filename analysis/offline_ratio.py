"""Figure: the share of demonstrations among the samples that a step learns from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.curves import (
    WINDOW,
    caption,
    draw,
    label_ends,
    look_of,
    over_seeds,
    seed_count,
    smoothed,
    write_series,
)
from analysis.methods import GROUPS, title
from analysis.runs import Runs
from analysis.style import COLUMN, style

#: Whose ratio changes in training, and the constant that the paper compares it with.
METHODS = (*GROUPS["HPT"], "luffy")


def numbers(runs: Runs) -> pd.DataFrame:
    """``method, step, mean, low, high, seeds``: of moving means over :data:`WINDOW` steps."""
    metrics = runs.metrics()
    if "offline_ratio" not in metrics:
        return over_seeds(pd.DataFrame({"method": [], "seed": [], "step": []}), "offline_ratio")
    own = pd.concat([metrics[metrics["method"] == method] for method in METHODS])
    return over_seeds(smoothed(own, "offline_ratio") if len(own) else own, "offline_ratio")


def figure(frame: pd.DataFrame) -> Figure:
    """One panel of a column's width."""
    with style():
        drawn, axes = plt.subplots(figsize=(1.15 * COLUMN, 2.3))
        ends = []
        for i, (method, own) in enumerate(frame.groupby("method", sort=False)):
            look = look_of(str(method), i)
            draw(axes, own, "step", look, every=max(len(own) // 8, 1))
            ends.append((title(str(method)), float(own["mean"].iloc[-1]), look))
        axes.set(xlabel="step", ylabel="offline samples / all samples")
        axes.set_ylim(0, None)
        axes.margins(x=0)
        label_ends(axes, ends, gap=0.09)
        text = (
            f"Moving means over {WINDOW} steps, mean of {seed_count(frame)};\n"
            "bands: 95 % intervals over seeds."
        )
        caption(drawn, text)
    return drawn


def write_figure(runs: Runs, folder: Path) -> list[Path]:
    """Write ``offline_ratio`` (.pdf, .png, .csv); nothing if none of :data:`METHODS` was run."""
    frame = numbers(runs)
    drawn = figure(frame) if len(frame) else None
    return write_series(drawn, frame, runs, folder / "offline_ratio")
