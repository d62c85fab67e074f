"""Results as a command prints them: a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich import box
from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

Names = Annotated[
    list[str] | None, typer.Option("--algorithm", "-a", help="Only this algorithm; repeatable.")
]


class Format(StrEnum):
    """How results are printed; ``auto`` is a table in a terminal and JSON in a pipe."""

    AUTO = "auto"
    JSON = "json"
    CSV = "csv"
    TABLE = "table"


class By(StrEnum):
    """What a row of the results is, within its suite."""

    SUITE = "suite"
    FAMILY = "family"
    LEVEL = "level"


def show(
    rows: Sequence[Row],
    about: Mapping[str, Any],
    form: Format,
    short: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows,
    legend: str = "",
) -> None:
    """Print rows as JSON (with what they are about), CSV or a table.

    A table that is wider than the terminal is printed row by row instead.

    Args:
        rows: of values by name; CSV leaves empty what a row lacks.
        about: what JSON says besides.
        form: auto is a table in a terminal and JSON in a pipe.
        short: what of the rows the table shows, each with the same names.
        legend: what the table says below.
    """
    console = Console()
    if form is Format.CSV:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(map(_csv_cell, names))
        writer.writerows([_csv_cell(row.get(name)) for name in names] for row in rows)
    elif form is Format.JSON or (form is Format.AUTO and not console.is_terminal):
        text = json.dumps({**about, "rows": rows}, ensure_ascii=False)
        print("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))
    else:
        _show_table(console, short(rows))
        console.print(plain(legend), end="\n" if legend else "", highlight=False, markup=False)


def plain(text: str) -> str:
    """The text with what terminals obey, as colors and moves of the cursor, as escapes."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _csv_cell(value: Any) -> Any:
    """A value that spreadsheets don't take for a formula, and terminals show as it is."""
    if not isinstance(value, str):
        return value
    return plain(f"'{value}" if value.startswith(tuple("=+-@\t\r\n")) else value)


#: Longer cells are folded, and so are their columns where there is no room.
_WHOLE = 24


def _show_table(console: Console, rows: Sequence[Row]) -> None:
    cells = [{plain(name): _cell(value) for name, value in row.items()} for row in rows]
    widths = {name: max(cell_len(row[name]) for row in [{name: name}, *cells]) for name in cells[0]}
    if sum(min(width, _WHOLE) + 2 for width in widths.values()) - 2 > console.width:
        _show_blocks(console, cells)
        return
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True
    )
    for name, value in zip(cells[0], rows[0].values(), strict=True):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = widths[name] <= _WHOLE
        table.add_column(
            Text(name), overflow="fold", no_wrap=whole, justify="right" if number else "left"
        )
    for row in cells:
        table.add_row(*map(Text, row.values()))
    console.print(table)


def _show_blocks(console: Console, rows: Sequence[Mapping[str, str]]) -> None:
    """Each row as its first value, and the others with their names below, as many as fit a line."""
    for row in rows:
        (_, title), *others = row.items()
        console.print(title, highlight=False, markup=False, soft_wrap=True)
        items = Columns(
            [Text(f"{name} {value}", overflow="fold") for name, value in others], padding=(0, 2)
        )
        console.print(Padding(items, (0, 0, 0, 2)))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else plain(str(value))
