"""Results as a command prints them: a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.moments_cli import Format

Row = Mapping[str, Any]


def show(
    rows: Sequence[Row],
    about: Mapping[str, Any],
    form: Format,
    short: Callable[[Row], Row] = lambda row: row,
) -> None:
    """Print rows as JSON (with what they are about), CSV or a table.

    Args:
        rows: of values by name; CSV leaves empty what a row lacks.
        about: what JSON says besides.
        form: auto is a table in a terminal and JSON in a pipe.
        short: what of a row the table shows, each of them the same names.
    """
    console = Console()
    if form is Format.CSV:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif form is Format.JSON or (form is Format.AUTO and not console.is_terminal):
        print(json.dumps({**about, "rows": rows}, ensure_ascii=False))
    else:
        console.print(_table([short(row) for row in rows]))


def _table(rows: Sequence[Row]) -> Table:
    table = Table()
    for name, value in rows[0].items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name, overflow="fold", justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))
