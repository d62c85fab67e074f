"""The command line of the audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.audit.document import texts
from analysis.audit.figure import write_figure
from analysis.audit.results import make
from analysis.runs import load_runs
from analysis.tables import write
from upge.common.errors import UpgeError


def main(
    runs: Annotated[Path, typer.Argument(help="The comparison, or its records.")],
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
    figures: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Make the audit's table and figure of the runs that are finished; what is missing is named."""
    try:
        audit = make(load_runs(runs))
        written = [write(out / name, text) for name, text in texts(audit).items()]
        written += write_figure(audit, figures)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    typer.run(main)
