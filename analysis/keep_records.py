"""``python -m analysis.keep_records COMPARISON…``: write the records of comparisons."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.records import write_records
from analysis.runs import load_runs
from upge.errors import UpgeError


def main(
    comparisons: Annotated[list[Path], typer.Argument(help="Comparisons, as runs/cpu/table2.")],
    out: Annotated[
        Path, typer.Option(help="Where they go, below the profile's and the comparison's name.")
    ] = Path("paper_tables/records"),
) -> None:
    """Write what tables and figures need of runs, small enough to be committed."""
    try:
        for folder in comparisons:
            for path in _keep(folder, out):
                print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")
    except UpgeError as error:
        sys.exit(f"error: {error}")


def _keep(folder: Path, out: Path) -> list[Path]:
    runs = load_runs(folder)
    if not runs.finished:
        raise UpgeError(f"{folder}: holds no finished run; make some with `{runs.command}`")
    return write_records(runs, out / runs.profile / runs.comparison)


if __name__ == "__main__":
    typer.run(main)
