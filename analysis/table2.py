"""Table 2: ``python -m analysis.table2 RUNS`` makes it, and its figures, from runs or records."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis import learning_curves, offline_ratio
from analysis.accuracy import output, table
from analysis.accuracy.table import COLUMNS, Layout, Table
from analysis.methods import METHODS
from analysis.runs import Runs
from analysis.statistics import AVERAGE
from analysis.tables import NONE
from analysis.wording import percent
from upge.common.errors import UpgeError

LAYOUT = Layout(
    name="table2",
    heading="Table 2: HPT and its baselines",
    comparisons=("table2",),
    rows=METHODS,
    focus=("hpt", "hpt_global_token"),
)


def make(runs: Runs) -> Table:
    """Everything the table shows; see :func:`analysis.accuracy.table.make`."""
    return table.make(LAYOUT, LAYOUT.name, runs)


def texts(runs: Runs) -> dict[str, str]:
    """The text of each of the table's files; see :func:`analysis.accuracy.output.texts`."""
    return output.texts(LAYOUT, [runs])


def readme_table(made: Table) -> str:
    """The averages beside those that the paper reports for its own models and problems."""
    averages = [column for column in COLUMNS if column[0] == AVERAGE]
    header = ["method", "in distribution", "out of distribution", "paper: in", "paper: out"]
    lines = [header, ["---"] * len(header)]
    for method in made.methods:
        own = [percent(made.estimates.get((method, *column))) for column in averages]
        values = made.paper.rows.get(method, ())
        published = dict(zip(made.paper.columns, values, strict=False))
        theirs = [f"{published[c]:.1f}" if c in published else NONE for c in averages]
        lines.append([LAYOUT.title(method), *own, *theirs])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(
    runs: Annotated[Path, typer.Argument(help="The runs of a comparison, or their records.")],
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
    figures: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("figures/table2"),
) -> None:
    """Make Table 2 and its figures of the runs that are finished; what is missing is named."""
    try:
        (loaded,) = output.load(LAYOUT, [runs])
        made = [make(loaded)]
        written = output.write_table(made, out)
        for draw in (learning_curves.write_figure, offline_ratio.write_figure):
            written += draw(loaded, figures)
        output.report(written, made)
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
