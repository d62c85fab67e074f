"""The files of a table of accuracy, and the command that writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from analysis.accuracy.document import document, heading, missing
from analysis.accuracy.numbers import comparisons_csv, to_csv
from analysis.accuracy.table import Layout, Table, parts
from analysis.runs import Runs, load_runs, make_command
from analysis.tables import latex, markdown, write
from upge.common.errors import UpgeError


def texts(layout: Layout, given: Sequence[Runs]) -> dict[str, str]:
    """The text of each of a table's files, by name.

    Args:
        layout: the table.
        given: the runs of its comparisons.

    Raises:
        UpgeError: damaged runs, or runs of a comparison that the table doesn't show.
    """
    return table_texts(parts(layout, given))


def table_texts(tables: Sequence[Table]) -> dict[str, str]:
    """The text of each file of a table that is made, by name."""
    name, found = tables[0].layout.name, document(tables)
    return {
        f"{name}.md": markdown(heading(tables), found),
        f"{name}.tex": latex(heading(tables), found),
        f"{name}.csv": to_csv(tables),
        **{table.pairs_file: comparisons_csv(table) for table in tables},
    }


def load(layout: Layout, folders: Sequence[Path]) -> list[Runs]:
    """The runs in those folders that are there: what is missing of a table is named in it.

    Raises:
        UpgeError: nothing that is finished, or damaged runs.
    """
    given = [load_runs(f) for f in [f for f in folders if f.is_dir()] or folders[:1]]
    if not any(runs.finished for runs in given):
        names = ", ".join(map(str, folders))
        command = make_command(layout.name)
        raise UpgeError(f"{names}: holds no finished run; make some with `{command}`")
    return given


def write_table(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write a table as Markdown, LaTeX and CSV, and its comparisons of methods as CSV."""
    return [write(folder / name, text) for name, text in table_texts(tables).items()]


def report(written: Sequence[Path], tables: Sequence[Table]) -> None:
    """Print what was written, and what is missing with the command that makes it."""
    print(*written, sep="\n")
    for table in tables:
        if lacking := missing(table):
            print(f"missing ({table.runs.command} makes it):", *lacking, sep="\n  ")


def command(layout: Layout) -> Callable[..., None]:
    """The command line of a table."""

    def main(
        runs: Annotated[list[Path], typer.Argument(help="Runs of its comparisons, or records.")],
        out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
    ) -> None:
        try:
            tables = parts(layout, load(layout, runs))
            report(write_table(tables, out), tables)
        except UpgeError as error:
            sys.exit(f"error: {error}")

    main.__doc__ = (
        f"Make {layout.heading}, of the runs that are finished; what is missing is named."
    )
    return main
