"""Figures 5 and 7: ``python -m analysis.training_curves RUNS`` makes them, from runs or records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import learning_curves
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
from analysis.methods import title
from analysis.runs import Runs, load_runs
from analysis.style import COLUMN, PAGE, style
from upge.common.errors import UpgeError, unknown

#: The paper's Figure 7, and HPT as this package runs it.
METHODS = ("grpo", "luffy", "hpt", "hpt_global_token")

#: Figure 5 has their validation accuracy, beside what else learns from both kinds of data.
VALIDATED = ("grpo", "sft_grpo", "luffy", "srft", "hpt", "hpt_global_token")

#: What Figure 7 shows of rollouts.
_PANELS = {"entropy": "entropy (nats)", "response_length": "tokens a response"}

#: Steps from one point of Figure 7 to the next: moving means change little in fewer.
_EVERY = 5


def figure5_numbers(runs: Runs) -> pd.DataFrame:
    """Those of :func:`analysis.learning_curves.numbers`, of :data:`VALIDATED`."""
    frame = learning_curves.numbers(runs)
    return frame[frame["method"].isin(VALIDATED)].reset_index(drop=True)


def figure7_numbers(runs: Runs) -> pd.DataFrame:
    """``quantity, method, step, mean, low, high, seeds``: of moving means over ``WINDOW`` steps."""
    metrics = runs.metrics()
    parts = []
    for quantity in (name for name in _PANELS if name in metrics):
        own = pd.concat([metrics[metrics["method"] == method] for method in METHODS])
        if own[quantity].notna().any():
            means = smoothed(own, quantity).dropna(subset=quantity)
            points = over_seeds(means[means["step"] % _EVERY == 0], quantity)
            parts.append(points.assign(quantity=quantity))
    names = ["quantity", "method", "step", "mean", "low", "high", "seeds"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


def figure5(frame: pd.DataFrame) -> Figure:
    """One panel of a column's width."""
    with style():
        drawn, axes = plt.subplots(figsize=(COLUMN, 2.4))
        _panel(axes, frame)
        axes.set_ylabel("validation accuracy")
        caption(drawn, f"Means of {seed_count(frame)}; bands: 95 % intervals over seeds.")
    return drawn


def figure7(frame: pd.DataFrame) -> Figure:
    """A panel a quantity, side by side."""
    quantities = frame["quantity"].unique()
    with style():
        drawn, panels = plt.subplots(1, len(quantities), figsize=(PAGE, 2.4), squeeze=False)
        for axes, quantity in zip(panels[0], quantities, strict=True):
            _panel(axes, frame[frame["quantity"] == quantity])
            axes.set_ylabel(_PANELS[quantity])
        text = (
            f"Moving means over {WINDOW} steps, mean of {seed_count(frame)}; bands: 95 % intervals "
            "over seeds.\nEntropy is the mean of −log π over the tokens of all rollouts."
        )
        caption(drawn, text)
    return drawn


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    ends = []
    for i, (method, own) in enumerate(frame.groupby("method", sort=False)):
        look = look_of(str(method), i)
        draw(axes, own, "step", look, every=max(len(own) // 8, 1))
        ends.append((title(str(method)), float(own["mean"].iloc[-1]), look))
    axes.set_xlabel("step")
    axes.margins(x=0)
    axes.set_ylim(0, None)
    label_ends(axes, ends, gap=0.09)


def write_figure5(runs: Runs, folder: Path) -> list[Path]:
    """Write ``figure5`` (.pdf, .png, .csv); nothing if no run was validated."""
    frame = figure5_numbers(runs)
    return write_series(figure5(frame) if len(frame) else None, frame, runs, folder / "figure5")


def write_figure7(runs: Runs, folder: Path) -> list[Path]:
    """Write ``figure7`` (.pdf, .png, .csv); nothing if none of :data:`METHODS` was run."""
    frame = figure7_numbers(runs)
    return write_series(figure7(frame) if len(frame) else None, frame, runs, folder / "figure7")


_WRITERS = {5: write_figure5, 7: write_figure7}


def main(
    runs: Annotated[Path, typer.Argument(help="The runs of a profile, or their records.")],
    out: Annotated[Path, typer.Option(help="Where figures go.")] = Path("figures"),
    only: Annotated[list[int] | None, typer.Option(help="5 or 7; both if not given.")] = None,
) -> None:
    """Draw Figures 5 and 7 of the runs that are finished."""
    try:
        loaded = load_runs(runs)
        for number in only or _WRITERS:
            if number not in _WRITERS:
                raise unknown("figure", number, map(str, _WRITERS))
            for path in _WRITERS[number](loaded, out):
                print(path)
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
