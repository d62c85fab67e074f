"""``python -m analysis.keep_records COMPARISON…``: write the records of comparisons."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.records import read_records, write_records
from analysis.runs import load_runs
from upge.common.errors import UpgeError


def main(
    comparisons: Annotated[list[Path], typer.Argument(help="Comparisons, as runs/cpu/table2.")],
    out: Annotated[
        Path, typer.Option(help="Folder for records; they go to PROFILE/COMPARISON in it.")
    ] = Path("paper_tables/records"),
    fewer: Annotated[
        bool, typer.Option("--fewer", help="Replace records even if they hold more runs.")
    ] = False,
) -> None:
    """Write what tables and figures need of runs, small enough to be committed."""
    try:
        for folder in comparisons:
            for path in _keep(folder, out, fewer=fewer):
                print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")
    except UpgeError as error:
        sys.exit(f"error: {error}")


def _keep(folder: Path, out: Path, *, fewer: bool) -> list[Path]:
    runs = load_runs(folder)
    if not runs.finished:
        raise UpgeError(f"{folder}: holds no finished run; make some with `{runs.command}`")
    kept = out / runs.profile / runs.comparison
    made = {(run.method, run.seed) for run in runs.finished}
    if (lost := _recorded(kept) - made) and not fewer:
        method, seed = min(lost)
        raise UpgeError(
            f"{kept}: holds {len(lost)} runs that {folder} lacks, as {method} of seed {seed}; make "
            "the comparison with all seeds, or drop them with --fewer"
        )
    return write_records(runs, kept)


def _recorded(folder: Path) -> set[tuple[str, int]]:
    """Methods and seeds of the finished runs that are recorded; none where records are damaged."""
    try:
        return {(run.method, run.seed) for run in read_records(folder).finished}
    except UpgeError:
        return set()


if __name__ == "__main__":
    typer.run(main)
