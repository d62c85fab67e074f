"""The command line of the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.report.page import Places, page
from analysis.tables import write
from upge.common.errors import UpgeError


def main(
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    tables: Annotated[Path, typer.Option(help="Folder of tables.")] = Places.tables,
    figures: Annotated[Path, typer.Option(help="Folder of figures.")] = Places.figures,
    records: Annotated[Path, typer.Option(help="Folder of records, or of runs.")] = Places.records,
) -> None:
    """Write all tables, figures and where they come from as one page that works offline."""
    try:
        path = write(out, page(Places(tables, figures, records)))
    except UpgeError as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    typer.run(main)
