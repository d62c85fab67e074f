"""Table 4: problems that HPT, GRPO or LUFFY solves alone, in the runs of Table 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from analysis.exclusive import ALL, COLUMNS, exclusive, with_tests
from analysis.methods import title
from analysis.reported import published
from analysis.run import Runs
from analysis.sections import missing_runs, missing_section, provenance_section, unfinished_runs
from analysis.statistics import SIGNIFICANCE
from analysis.tables import NONE, Document, Section, csv_text, escape
from analysis.wording import csv_p, span
from upge.tasks.synthetic import IN_DISTRIBUTION

#: HPT as this package runs it, and as published; each against what the paper compares it with.
ROWS = ("hpt_global_token", "hpt")
OTHERS = ("grpo", "luffy")

_HEADER = ("level", "problems", "HPT alone", "% of level", "other alone", "% of level")

_NOTES = (
    "A problem counts as solved if more than half of its samples are correct. All suites in "
    "distribution together.",
    "Methods are compared seed by seed. Counts: mean over seeds (least–greatest).",
    "p: McNemar's exact test, two-sided, least–greatest over seeds; Holm's correction covers the "
    "levels of a pair and seed, and not the test of all levels. It tells whether two trainings "
    "differ on such problems, not whether two methods do: for that see Table 2's comparisons.",
)


def document(runs: Runs) -> Document:
    """The table, in words and numbers.

    Raises:
        UpgeError: damaged runs, or runs tested on different problems.
    """
    solves = exclusive_solves(runs)
    paper = published("table4")
    gaps = [*missing_runs(runs, (*ROWS, *OTHERS)), *unfinished_runs(runs)]
    sections = [
        *_reproduced(solves),
        *_published(paper),
        *missing_section(gaps, runs.command),
        provenance_section(runs, sorted(solves["seed"].unique()), _NOTES),
    ]
    heading = f"Table 4: problems that one method solves alone, {escape(runs.profile)} profile"
    csv = {"table4.csv": _csv(runs, solves, paper)}
    return Document("table4", heading, sections, csv, gaps, runs.command)


def exclusive_solves(runs: Runs) -> pd.DataFrame:
    """Exclusive solves in distribution, a row a pair of methods, seed and level."""
    answers = runs.answers()
    if len(answers):
        answers = answers[answers["suite"].isin(IN_DISTRIBUTION)]
    return exclusive(answers, product(ROWS, OTHERS))


def _reproduced(solves: pd.DataFrame) -> Iterator[Section]:
    for (method, other), pair in solves.groupby(["method", "other"], sort=False):
        lines = []
        for level, rows in pair.groupby("level", sort=False):
            problems = int(rows["problems"].iloc[0])
            p_values = rows["p" if level == ALL else "p_holm"]
            ahead = [_ahead(row) for row in rows.to_dict("records")]
            lines.append(
                [
                    str(level),
                    str(problems),
                    *_counts(rows["alone"].tolist(), problems),
                    *_counts(rows["other_alone"].tolist(), problems),
                    span(p_values.tolist(), ".2g"),
                    f"{ahead.count(1)} / {ahead.count(-1)} of {len(rows)}",
                ]
            )
        heading = f"Reproduced: {title(str(method))} against {title(str(other))}"
        header = (*_HEADER, "p, Holm", "seeds with p < .05: HPT / other ahead")
        yield Section(heading, header, lines, in_latex=True)


def _counts(values: Sequence[int], problems: int) -> list[str]:
    """The mean over seeds, with its range, and in percent of the level's problems."""
    mean = sum(values) / len(values)
    count = str(values[0]) if len(values) == 1 else f"{mean:.1f} ({span(values)})"
    return [count, f"{100 * mean / problems:.1f}"]


def _published(paper: Mapping[str, Any]) -> Iterator[Section]:
    for other in paper["rows"]:
        lines = [
            [
                str(level),
                str(problems),
                *(text for n in counts for text in _counts([n], problems)),
                f"{p if level == ALL else holm:.2g}",
            ]
            for level, problems, *counts, p, holm in _published_rows(paper, other)
        ]
        against = f"{paper['base']}, HPT against {title(other)}"
        yield Section(
            f"Reported, {paper['source']}, {paper['title']}: {against}",
            [*_HEADER, "p, Holm (ours)"],
            lines,
            before="Another model and other problems than above. The counts are the paper's, for "
            "one training per method; the tests of these counts are ours.",
            notes=[paper["note"]] if other == list(paper["rows"])[-1] else [],
        )


def _published_rows(
    paper: Mapping[str, Any], other: str
) -> list[tuple[object, int, int, int, float, float]]:
    counts = zip(paper["problems"], *paper["rows"][other], strict=True)
    return with_tests(dict(zip(paper["levels"], counts, strict=True)))


def _ahead(row: Mapping[str, Any]) -> int:
    """1 if the method solves more alone, −1 if the other does, 0 if that may be chance."""
    if row["p" if row["level"] == ALL else "p_holm"] >= SIGNIFICANCE:
        return 0
    return 1 if row["alone"] > row["other_alone"] else -1


def _csv(runs: Runs, solves: pd.DataFrame, paper: Mapping[str, Any]) -> str:
    """One line a pair, seed and level: ours, then the published ones, which have no seed."""
    base = str(runs.finished[0].config["model"]) if runs.finished else NONE
    rows = [(base, *row, "no") for row in solves.itertuples(index=False)]
    for other in paper["rows"]:
        reported = _published_rows(paper, other)
        rows += [(paper["base"], "hpt", other, "", *row, "yes") for row in reported]
    header = ("base", *COLUMNS, "reported")
    named = (dict(zip(header, row, strict=True)) for row in rows)
    return csv_text((*header, "ahead"), map(_csv_row, named))


def _csv_row(row: dict[str, Any]) -> list[object]:
    ahead = {1: row["method"], 0: "", -1: row["other"]}[_ahead(row)]
    return [*(row | {name: csv_p(row[name]) for name in ("p", "p_holm")}).values(), ahead]
