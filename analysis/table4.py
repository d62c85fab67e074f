"""Table 4: ``python -m analysis.table4 RUNS`` makes it, from a folder of runs or their records."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis.exclusive import ALL, COLUMNS, exclusive, with_tests
from analysis.methods import title
from analysis.reported import ReportedExclusive, reported_exclusive
from analysis.runs import Runs, load_runs
from analysis.statistics import SIGNIFICANCE
from analysis.tables import NONE, Section, csv_text, latex, markdown, write
from upge.common.errors import UpgeError
from upge.tasks.synthetic import IN_DISTRIBUTION

#: HPT as this package runs it, and as published; each against what the paper compares it with.
ROWS = ("hpt_global_token", "hpt")
OTHERS = ("grpo", "luffy")


@dataclass(frozen=True)
class Table4:
    """What the table shows.

    Args:
        runs: where it comes from.
        exclusive: exclusive solves, a row a pair of methods, seed and level.
        paper: the published table.
    """

    runs: Runs
    exclusive: pd.DataFrame
    paper: ReportedExclusive


def make(runs: Runs) -> Table4:
    """Everything the table shows.

    Raises:
        UpgeError: damaged runs, or runs tested on different problems.
    """
    answers = runs.answers()
    if len(answers):
        answers = answers[answers["suite"].isin(IN_DISTRIBUTION)]
    return Table4(runs, exclusive(answers, product(ROWS, OTHERS)), reported_exclusive())


# ------------------------------------------------------------------------------------------ the CSV


def to_csv(table: Table4) -> str:
    """One line a pair, seed and level: ours, then the published ones, which have no seed."""
    base = str(table.runs.finished[0].config["model"]) if table.runs.finished else NONE
    rows = [(base, *row, "no") for row in table.exclusive.itertuples(index=False)]
    for other in table.paper.rows:
        rows += [
            (table.paper.base, "hpt", other, "", *row, "yes")
            for row in _published_rows(table, other)
        ]
    header = ("base", *COLUMNS, "reported")
    named = (dict(zip(header, row, strict=True)) for row in rows)
    return csv_text((*header, "ahead"), map(_csv_row, named))


def _csv_row(row: Mapping[str, Any]) -> list[object]:
    p_values = {name: _p(row[name]) for name in ("p", "p_holm")}
    ahead = {1: row["method"], 0: "", -1: row["other"]}[_ahead(row)]
    return [*(row | p_values).values(), ahead]


def _ahead(row: Mapping[str, Any]) -> int:
    """1 where the method solves more alone, −1 where the other does, 0 where chance alone may."""
    if row["p" if row["level"] == ALL else "p_holm"] >= SIGNIFICANCE:
        return 0
    return 1 if row["alone"] > row["other_alone"] else -1


def _p(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"


def _published_rows(table: Table4, other: str) -> list[tuple[object, int, int, int, float, float]]:
    paper = table.paper
    counts = zip(paper.problems, *paper.rows[other], strict=True)
    return with_tests(dict(zip(paper.levels, counts, strict=True)))


# ------------------------------------------------------------------------------------- the document


def heading(table: Table4) -> str:
    """The document's title."""
    return f"Table 4: problems that one method solves alone, {table.runs.profile} profile"


def sections(table: Table4) -> list[Section]:
    """The table and what belongs to it."""
    groups = table.exclusive.groupby(["method", "other"], sort=False)
    ours = [_pair(str(method), str(other), own) for (method, other), own in groups]
    theirs = [_published(table, other) for other in table.paper.rows]
    parts = [*ours, *theirs, _missing(table), _origin(table)]
    return [part for part in parts if part is not None]


def _pair(method: str, other: str, own: pd.DataFrame) -> Section:
    lines = []
    for level, rows in own.groupby("level", sort=False):
        problems = int(rows["problems"].iloc[0])
        p_values = rows["p" if level == ALL else "p_holm"]
        ahead = [_ahead(row) for row in rows.to_dict("records")]
        lines.append(
            [
                str(level),
                str(problems),
                *_counts(rows["alone"].tolist(), problems),
                *_counts(rows["other_alone"].tolist(), problems),
                _range(p_values.tolist(), ".2g"),
                f"{ahead.count(1)} + / {ahead.count(-1)} − of {len(rows)}",
            ]
        )
    header = [
        *_header(method, other),
        "p, Holm",
        f"seeds with p < .05: + `{method}` ahead, − `{other}`",
    ]
    return Section(
        f"Reproduced: {title(method)} (`{method}`) against {title(other)}", header, lines
    )


def _header(method: str, other: str) -> list[str]:
    columns = [[f"`{name}` alone", "% of level"] for name in (method, other)]
    return ["level", "problems", *columns[0], *columns[1]]


def _counts(values: Sequence[int], problems: int) -> list[str]:
    """The mean over seeds, with its range, and in per cent of the level's problems."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return [str(values[0]), f"{100 * mean / problems:.1f}"]
    return [f"{mean:.1f} ({_range(values, 'd')})", f"{100 * mean / problems:.1f}"]


def _range(values: Sequence[float], digits: str) -> str:
    low, high = (format(value, digits) for value in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def _published(table: Table4, other: str) -> Section:
    lines = [
        [
            str(level),
            str(problems),
            *(text for n in counts for text in _counts([n], problems)),
            f"{p if level == ALL else holm:.2g}",
        ]
        for level, problems, *counts, p, holm in _published_rows(table, other)
    ]
    paper = table.paper
    return Section(
        f"Reported, {paper.source}, {paper.title}: {paper.base}, HPT against {title(other)}",
        [*_header("hpt", other), "p, Holm (ours)"],
        lines,
        before="Another model and other problems than above. The counts are the paper's, of one "
        "training a method; the tests are made here, of these counts.",
        notes=[paper.note] if other == list(paper.rows)[-1] else [],
    )


def missing(table: Table4) -> list[str]:
    """What the table lacks: methods and seeds."""
    runs = table.runs
    found = []
    for method in (*ROWS, *OTHERS):
        lacking = [seed for seed in runs.expected_seeds if seed not in runs.seeds(method)]
        if lacking:
            found.append(f"`{method}`: no finished run of seed {', '.join(map(str, lacking))}")
        elif not runs.seeds(method):
            found.append(f"`{method}`: no finished run")
    return found


def _missing(table: Table4) -> Section | None:
    notes = missing(table)
    before = f"`{table.runs.command}` makes it, and leaves what is there."
    return Section("Missing", before=before, notes=notes) if notes else None


def _origin(table: Table4) -> Section:
    seeds = sorted(table.exclusive["seed"].unique())
    notes = [
        "A problem counts as solved where more than half of its samples are right. In distribution "
        "suites only, all of them together.",
        f"Seeds: {', '.join(map(str, seeds)) or NONE}, compared seed by seed. Counts: mean over "
        "seeds (least–greatest).",
        "p: McNemar's exact test, two-sided, least–greatest over seeds, with Holm's correction for "
        "the levels of a pair and seed; of all levels together without. It says of two trainings "
        "whether they differ on such problems, not of two methods: for that see Table 2's "
        "comparisons.",
        *(f"{name}: {value}" for name, value in table.runs.provenance().items()),
    ]
    return Section("Where this comes from", notes=notes)


# ------------------------------------------------------------------------------------------- output


def texts(runs: Runs) -> dict[str, str]:
    """The text of each of the table's files."""
    table = make(runs)
    parts = sections(table)
    return {
        "table4.md": markdown(heading(table), parts),
        "table4.tex": latex(heading(table), parts),
        "table4.csv": to_csv(table),
    }


def main(
    runs: Annotated[Path, typer.Argument(help="The runs of a profile, or their records.")],
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
) -> None:
    """Make Table 4 of the runs that are finished; what is missing is named."""
    try:
        for name, text in texts(load_runs(runs)).items():
            print(write(out / name, text))
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
