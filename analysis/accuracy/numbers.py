"""The numbers of a table of accuracy as CSV: cells, and comparisons of methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.accuracy.table import Table
from analysis.statistics import cells
from analysis.tables import csv_text
from analysis.wording import csv_p, csv_points

CSV_COLUMNS = (
    *("method", "base", "suite", "split"),
    *("mean", "low", "high", "seeds", "problems", "reported"),
)


def to_csv(tables: Sequence[Table]) -> str:
    """One line a cell, percent: ours with their intervals, then the published ones."""
    return csv_text(CSV_COLUMNS, [row for table in tables for row in _rows(table)])


def _rows(table: Table) -> Iterator[Sequence[object]]:
    found = {row[:3]: row[3:] for row in cells(table.estimates).itertuples(index=False, name=None)}
    for method in table.methods:
        for column in table.columns:
            if (method, *column) in found:
                *accuracy, seeds, problems = found[method, *column]
                numbers = (f"{100 * x:.4f}" for x in accuracy)
                yield (method, table.base, *column, *numbers, seeds, problems, "")
    for method, values in table.paper.rows.items():
        for column, value in zip(table.paper.columns, values, strict=True):
            yield (method, table.paper.base, *column, *[""] * 5, value)


def comparisons_csv(table: Table) -> str:
    """Every pair of methods; differences and detectable ones in points."""
    rows = []
    for row in table.pairs.itertuples():
        numbers = map(csv_points, (row.difference, row.low, row.high))
        known = "" if pd.isna(row.p) else "yes" if row.distinguishable else "no"
        tested = (csv_p(row.p), csv_p(row.p_holm), known, csv_points(row.detectable))
        rows.append((row.suite, row.split, row.method, row.other, *numbers, *tested))
    return csv_text(tuple(table.pairs.columns), rows)
