"""Figure 8: ``python -m analysis.figure8 RUNS``: reward and offline data ratio for three gates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curves import (
    WINDOW,
    caption,
    draw,
    label_ends,
    over_seeds,
    seed_count,
    smoothed,
    tell,
    write_series,
)
from analysis.gates import gate_label
from analysis.runs import Runs, load_runs
from analysis.style import PAGE, look, style
from upge.common.errors import UpgeError

#: HPT as this package runs it, at the paper's gates: γ = 0, 1/8 and 2/8.
METHODS = ("hpt_global_token", "hpt_gamma_1", "hpt_gamma_2")

_PANELS = {"reward": "training reward", "offline_ratio": "offline samples / all samples"}

_COLUMNS = ("quantity", "method", "gate", "step", "mean", "low", "high", "seeds")


def numbers(runs: Runs) -> pd.DataFrame:
    """``quantity, method, gate, step, mean, low, high, seeds``: of moving means."""
    gates = {method: gate_label(runs.of(method)[0]) for method in METHODS if runs.of(method)}
    metrics = runs.metrics()
    if not gates or not {"method", *_PANELS} <= set(metrics):
        return pd.DataFrame(columns=list(_COLUMNS))
    own = pd.concat([metrics[metrics["method"] == method] for method in gates])
    parts = [
        over_seeds(smoothed(own, quantity), quantity).assign(quantity=quantity)
        for quantity in _PANELS
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(gate=frame["method"].map(gates))[list(_COLUMNS)]


def figure(frame: pd.DataFrame) -> Figure:
    """A panel a quantity, side by side."""
    with style():
        drawn, panels = plt.subplots(1, len(_PANELS), figsize=(PAGE, 2.4))
        for axes, (quantity, name) in zip(panels, _PANELS.items(), strict=True):
            _panel(axes, frame[frame["quantity"] == quantity])
            axes.set_ylabel(name)
        text = (
            f"Moving means over {WINDOW} steps, mean of {seed_count(frame)}; bands: 95 % intervals "
            "over seeds.\nγ: right rollouts of a question up to which its demonstration is learned "
            "instead."
        )
        caption(drawn, text)
    return drawn


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    ends = []
    for (method, gate), own in frame.groupby(["method", "gate"], sort=False):
        line = look(str(method))
        draw(axes, own, "step", line, every=max(len(own) // 8, 1))
        ends.append((str(gate), float(own["mean"].iloc[-1]), line))
    axes.set_xlabel("step")
    axes.margins(x=0)
    axes.set_ylim(0, None)
    label_ends(axes, ends, gap=0.09)


def write_figure(runs: Runs, folder: Path) -> list[Path]:
    """Write ``figure8`` (.pdf, .png, .csv); nothing if none of :data:`METHODS` was run."""
    frame = numbers(runs)
    return write_series(figure(frame) if len(frame) else None, frame, runs, folder / "figure8")


def main(
    runs: Annotated[Path, typer.Argument(help="The comparison table6, or its records.")],
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Draw Figure 8 of the runs that are finished."""
    try:
        loaded = load_runs(runs)
        tell(write_figure(loaded, out), [(loaded, METHODS)])
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
