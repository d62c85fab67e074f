"""``python -m analysis.keep_records RUNS``: write the records of a profile's runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.records import write_records
from analysis.runs import load_runs
from upge.errors import UpgeError


def main(
    runs: Annotated[Path, typer.Argument(help="The runs of a profile, as runs/cpu.")],
    out: Annotated[Path, typer.Option(help="Where they go, below the profile's name.")] = Path(
        "paper_tables/records"
    ),
) -> None:
    """Write what tables and figures need of runs, small enough to be committed."""
    try:
        loaded = load_runs(runs)
        if not loaded.finished:
            raise UpgeError(f"{runs}: holds no finished run; make some with `{loaded.command}`")
        written = write_records(loaded, out / loaded.profile)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    typer.run(main)
