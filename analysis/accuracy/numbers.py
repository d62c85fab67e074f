"""The numbers of a table of accuracy as CSV: cells, and comparisons of methods."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.accuracy.table import Table
from analysis.statistics import cells
from analysis.tables import csv_text

CSV_COLUMNS = (
    "method",
    "base",
    "suite",
    "split",
    "mean",
    "low",
    "high",
    "seeds",
    "problems",
    "reported",
)


def to_csv(tables: Sequence[Table]) -> str:
    """One line a cell, per cent: ours with their intervals, then the published ones."""
    return csv_text(CSV_COLUMNS, [row for table in tables for row in _csv_rows(table)])


def _csv_rows(table: Table) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for row in _ordered(table).itertuples():
        numbers = (f"{100 * x:.4f}" for x in (row.mean, row.low, row.high))
        rows.append(
            (row.method, table.base, row.suite, row.split, *numbers, row.seeds, row.problems, "")
        )
    paper = table.paper
    for method, values in paper.rows.items():
        for (suite, split), value in zip(paper.columns, values, strict=True):
            rows.append((method, paper.base, suite, split, *[""] * 5, value))
    return rows


def _ordered(table: Table) -> pd.DataFrame:
    frame = cells(table.estimates)
    place = {method: i for i, method in enumerate(table.methods)}
    column = {key: i for i, key in enumerate(table.columns)}
    keys = [(place[r.method], column[r.suite, r.split]) for r in frame.itertuples()]
    return frame.iloc[sorted(range(len(frame)), key=lambda i: keys[i])]


def comparisons_csv(table: Table) -> str:
    """Every pair of methods, differences and what was detectable per cent."""
    rows = []
    for row in table.pairs.itertuples():
        numbers = map(_points, (row.difference, row.low, row.high))
        p_values = ("" if pd.isna(x) else f"{x:.4g}" for x in (row.p, row.p_holm))
        told = "" if pd.isna(row.p) else "yes" if row.distinguishable else "no"
        least = _points(row.detectable)
        rows.append((row.suite, row.split, row.method, row.other, *numbers, *p_values, told, least))
    return csv_text(tuple(table.pairs.columns), rows)


def _points(value: float) -> str:
    """Per cent; nothing where nothing was compared."""
    return "" if pd.isna(value) else f"{round(100 * value, 4) + 0.0:.4f}"  # no −0
