"""The command line of the study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.runs import load_runs, make_command
from analysis.supply.columns import COMPARISONS
from analysis.supply.document import missing, texts
from analysis.supply.figure import write_figure
from analysis.supply.phases import phases
from analysis.supply.study import make
from analysis.tables import write
from upge.common.errors import UpgeError


def main(
    runs: Annotated[list[Path], typer.Argument(help="The comparisons, or their records.")],
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
    figures: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Make the table and phase diagram of the runs that are finished; what is missing is named."""
    try:
        there = [load_runs(folder) for folder in runs if folder.is_dir()]
        if not any(given.finished for given in there):
            raise UpgeError(
                f"{', '.join(map(str, runs))}: no finished run; make some with "
                f"`{make_command(COMPARISONS[0])}`"
            )
        study = make(there)
        frame = phases(study)
        written = [write(out / name, text) for name, text in texts(study, frame).items()]
        written += write_figure(study, frame, figures)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)
    if lacking := missing(study):
        print("missing:", *lacking, sep="\n  ")


if __name__ == "__main__":
    typer.run(main)
