"""Figure 6: ``python -m analysis.figure6 RUNS RUNS…``: HPT's offline data ratio, model by model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import offline_ratio
from analysis.curves import WINDOW, caption, draw, label_ends, seed_count, tell, write_series
from analysis.gates import gate_label
from analysis.methods import title
from analysis.reported import reported_offline_ratio
from analysis.runs import Runs, load_runs, make_command
from analysis.style import COLUMN, DASHES, MARKERS, Look, look, style
from upge.common.errors import UpgeError

#: HPT as this package runs it, and the constant that the paper compares it with.
METHOD, CONSTANT = "hpt_global_token", "luffy"

_COLUMNS = ("base", "gate", "method", "step", "mean", "low", "high", "seeds")


def numbers(*comparisons: Runs) -> pd.DataFrame:
    """``base, gate, method, step, mean, low, high, seeds``: of moving means over ``WINDOW`` steps.

    HPT of each comparison; LUFFY, which is the same everywhere, of the first.
    """
    parts = []
    for runs in comparisons:
        frame = offline_ratio.numbers(runs)
        for method in (METHOD, CONSTANT) if runs is comparisons[0] else (METHOD,):
            if len(own := frame[frame["method"] == method]):
                run = runs.of(method)[0]
                gate = gate_label(run) if method == METHOD else ""
                parts.append(own.assign(base=run.config["model"], gate=gate)[list(_COLUMNS)])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_COLUMNS))


def figure(frame: pd.DataFrame) -> Figure:
    """One panel of a column's width."""
    with style():
        drawn, axes = plt.subplots(figsize=(1.25 * COLUMN, 2.4))
        ends = []
        for i, ((base, gate, method), own) in enumerate(
            frame.groupby(["base", "gate", "method"], sort=False)
        ):
            line = (
                look(method)._replace(dash=DASHES[i], marker=MARKERS[i]) if gate else look(method)
            )
            draw(axes, own, "step", line, every=max(len(own) // 8, 1))
            name = f"HPT, {base}, {gate}" if gate else title(method)
            ends.append((name, float(own["mean"].iloc[-1]), line))
        ends.append(_reported(axes))
        axes.set(xlabel="step", ylabel="offline samples / all samples")
        axes.set_ylim(0, None)
        axes.margins(x=0)
        label_ends(axes, ends, gap=0.09)
        caption(drawn, _text(frame))
    return drawn


def _reported(axes: Axes) -> tuple[str, float, Look]:
    paper = reported_offline_ratio()
    line = look("base")
    axes.axhline(paper.ratio, color=line.color, linestyle=line.dash, linewidth=0.8, zorder=1)
    return f"{title(paper.method)}, reported", paper.ratio, line


def _text(frame: pd.DataFrame) -> str:
    paper = reported_offline_ratio()
    return (
        f"Moving means over {WINDOW} steps, mean of {seed_count(frame)}; bands: 95 % intervals "
        f"over seeds.\nReported: {paper.title} of {paper.source}, other models and problems."
    )


def write_figure(comparisons: Sequence[Runs], folder: Path) -> list[Path]:
    """Write ``figure6`` (.pdf, .png, .csv); nothing if neither HPT nor LUFFY was run."""
    frame = numbers(*comparisons)
    drawn = figure(frame) if len(frame) else None
    first, *others = comparisons
    return write_series(drawn, frame, first, folder / "figure6", *others)


def main(
    runs: Annotated[
        list[Path], typer.Argument(help="Comparisons, or their records, a model each.")
    ],
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Draw Figure 6 of the runs that are finished; a model that is missing is named."""
    there = [folder for folder in runs if folder.is_dir()] or runs
    try:
        loaded = [load_runs(folder) for folder in there]
        needed = [(loaded[0], [CONSTANT]), *((own, [METHOD]) for own in loaded)]
        tell(write_figure(loaded, out), needed)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    for folder in runs:
        if folder not in there:
            print(f"missing: {folder}; `{make_command(folder.name)}` makes it")


if __name__ == "__main__":
    typer.run(main)
