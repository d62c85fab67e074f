"""``python -m analysis NAME…``: make tables and figures from records or runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.results import RESULTS, missing_of, write_figure
from analysis.tables import write
from upge.common.errors import UpgeError, unknown


def main(
    names: Annotated[list[str], typer.Argument(help=f"Of {', '.join(RESULTS)}.")],
    records: Annotated[
        Path, typer.Option(help="Folder of comparisons: their records, or their runs.")
    ] = Path("paper_tables/records/cpu"),
    out: Annotated[Path, typer.Option(help="Where tables go.")] = Path("paper_tables"),
    figures: Annotated[Path, typer.Option(help="Where figures go.")] = Path("figures"),
    stamp: Annotated[
        bool, typer.Option("--stamp", help="Draw caption, commits and seeds into figures.")
    ] = False,
) -> None:
    """Make tables and figures from the runs that are finished; say what is missing."""
    try:
        for name in names:
            if name not in RESULTS:
                raise unknown("result", name, RESULTS)
        for name in names:
            _make(name, records, out, figures, stamp)
    except UpgeError as error:
        sys.exit(f"error: {error}")


def _make(name: str, records: Path, out: Path, figures: Path, stamp: bool) -> None:
    result = RESULTS[name]
    sources = result.sources(records)
    written, missing = [], missing_of(result, sources)
    if result.document:
        document = result.document(*sources)
        written += [write(out / file, text) for file, text in document.texts.items()]
        missing = [f"{note} (`{document.command}` makes it)" for note in document.missing]
    for figure in result.figures:
        written += write_figure(figure, sources, figures, stamp=stamp)
    print(*written, sep="\n")
    if not written:
        print(f"{name}: nothing was drawn: the runs hold none of its measurements")
    if missing:
        print("missing:", *missing, sep="\n  ")


if __name__ == "__main__":
    typer.run(main)
