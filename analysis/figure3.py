"""Figure 3: ``python -m analysis.figure3 RUNS``: accuracy of each question in GRPO after SFT."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

from analysis.curves import seed_count, tell, write_series
from analysis.heatmaps import Scale, cells, heatmaps, levels, stacked
from analysis.runs import Runs, load_runs
from analysis.style import look
from upge.common.errors import UpgeError

#: The pipeline that the paper shows, in its second stage.
METHOD = "sft_grpo"


def numbers(runs: Runs) -> pd.DataFrame:
    """``level, row, question, epoch, mean, low, high, seeds``, the most often solved first.

    Rows of ``mean`` as the question have the mean over a level's questions, with its interval.
    """
    found = levels(runs, METHOD)
    frame = stacked([cells(own, own.accuracy.mean(0), own.means, own.order) for own in found])
    frame[["low", "high"]] = frame[["low", "high"]].clip(0, 1)
    return frame


def figure(frame: pd.DataFrame) -> Figure:
    """A heatmap a level."""
    text = (
        "Share of right rollouts to each training question in GRPO, after SFT; "
        f"{seed_count(frame)}. Questions: the most often solved at the top.\nAbove: mean over the "
        "level's questions, with 95 % interval over questions (and seeds, where there are several)."
    )
    return heatmaps(frame, Scale(0, 1, "cividis", "rollout accuracy"), look(METHOD), text)


def write_figure(runs: Runs, folder: Path) -> list[Path]:
    """Write ``figure3`` (.pdf, .png, .csv); nothing if no run has a whole epoch."""
    frame = numbers(runs)
    return write_series(figure(frame) if len(frame) else None, frame, runs, folder / "figure3")


def main(
    runs: Annotated[Path, typer.Argument(help="The comparison figure3, or its records.")],
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Draw Figure 3 of the runs that are finished."""
    try:
        loaded = load_runs(runs)
        tell(write_figure(loaded, out), [(loaded, [METHOD])])
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
