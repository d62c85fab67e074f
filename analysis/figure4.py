"""Figure 4: ``python -m analysis.figure4 RUNS``: HPT's lead over SFT→GRPO on each question."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

from analysis import figure3
from analysis.curves import seed_count, tell, write_series
from analysis.heatmaps import Level, Scale, cells, heatmaps, levels, stacked
from analysis.methods import title
from analysis.runs import Runs, load_runs
from analysis.style import look
from upge.common.errors import UpgeError

#: HPT as this package runs it.
METHOD = "hpt_global_token"


def numbers(runs: Runs) -> pd.DataFrame:
    """``level, row, question, epoch, mean, low, high, seeds``: differences, in Figure 3's order.

    Rows of ``mean`` as the question have the mean over a level's questions, with its interval.

    Raises:
        UpgeError: methods that were trained on different questions.
    """
    before = {own.number: own for own in levels(runs, figure3.METHOD)}
    ours = [own for own in levels(runs, METHOD) if own.number in before]
    return stacked([_lead(own, before[own.number], runs) for own in ours])


def _lead(own: Level, other: Level, runs: Runs) -> pd.DataFrame:
    if not own.questions.equals(other.questions):
        raise UpgeError(
            f"{runs.folder}: {own.method} and {other.method} were trained on different questions; "
            f"delete the runs of one and make them again with `{runs.command}`"
        )
    epochs = min(own.accuracy.shape[2], other.accuracy.shape[2])
    lead = own.accuracy.mean(0)[:, :epochs] - other.accuracy.mean(0)[:, :epochs]
    means = [a - b for a, b in zip(own.means, other.means, strict=False)]
    return cells(own, lead, means, other.order)


def figure(frame: pd.DataFrame) -> Figure:
    """A heatmap a level."""
    names = f"{title(METHOD)}, minus {title(figure3.METHOD)}"
    text = (
        f"Share of right rollouts, {names} at the same epoch of rollouts; {seed_count(frame)}. "
        "Rows as in Figure 3.\nAbove: mean over the level's questions, with 95 % interval over "
        "questions (and seeds, where there are several)."
    )
    return heatmaps(frame, Scale(-1, 1, "PRGn_r", "difference in accuracy"), look(METHOD), text)


def write_figure(runs: Runs, folder: Path) -> list[Path]:
    """Write ``figure4`` (.pdf, .png, .csv); nothing if one of the methods has no whole epoch."""
    frame = numbers(runs)
    return write_series(figure(frame) if len(frame) else None, frame, runs, folder / "figure4")


def main(
    runs: Annotated[Path, typer.Argument(help="The comparison figure3, or its records.")],
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Draw Figure 4 of the runs that are finished."""
    try:
        loaded = load_runs(runs)
        tell(write_figure(loaded, out), [(loaded, [METHOD, figure3.METHOD])])
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
