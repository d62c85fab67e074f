"""A table of accuracy as a document: results, how sure they are, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from analysis.accuracy.costs import gradients, took
from analysis.accuracy.numbers import comparisons_csv, to_csv
from analysis.accuracy.power import power
from analysis.accuracy.rates import learning_rates
from analysis.accuracy.table import IN, OUT, Layout, Table, parts, suites_of
from analysis.methods import SUITES, suite_title
from analysis.run import Runs
from analysis.sections import (
    INTERVALS_NOTE,
    SMOKE,
    missing_runs,
    missing_section,
    provenance_section,
    published,
    unfinished_runs,
)
from analysis.statistics import AVERAGE, MIDDLE, verdict
from analysis.tables import NONE, Document, Section, code, escape
from analysis.wording import INTERVALS, listed, percent, points, span

#: Facts of :mod:`upge.algorithms` and of ``experiments/recipes/base.yaml``.
_VARIANTS = {
    "hpt": "the paper's formulas, each loss with its own normalizer: RL sums over tokens, SFT "
    "averages over them, and both average over questions; ratios are clipped, and advantages "
    "divided by their standard deviation",
    "hpt_official": "the paper's code: RL divides its token sum by the maximum length, SFT "
    "averages over the tokens of all gated demonstrations; no clipping and no division by the "
    "standard deviation; with the code's entropy bonus and skipped steps",
    "hpt_global_token": "this package's choice: both losses are token sums divided by the token "
    "count of both; ratios are clipped, advantages not divided by their standard deviation",
    "hpt_sequence_mean": "one token count, but each loss is the mean over sequences of their token "
    "means",
    "hpt_wiener": "one token count, but soft weights, chosen to estimate the gradient best, "
    "replace the gate: every question trains on its demonstration too",
}


def document(layout: Layout, *comparisons: Runs) -> Document:
    """The table from the runs of its comparisons.

    Raises:
        UpgeError: damaged runs, or runs of a comparison that the table doesn't show.
    """
    tables = parts(layout, comparisons)
    shown = [_named(table, s, len(tables) > 1) for table in tables for s in sections(table)]
    csv = {f"{layout.name}.csv": to_csv(tables)}
    csv |= {table.pairs_file: comparisons_csv(table) for table in tables}
    heading = f"{layout.heading}, {escape(tables[0].runs.profile)} profile"
    gaps = [note for table in tables for note in missing(table)]
    return Document(layout.name, heading, shown, csv, gaps, tables[0].runs.command)


def _named(table: Table, section: Section, several: bool) -> Section:
    """With the model in the heading, where the document has several."""
    name = table.base if table.runs.finished else table.comparison
    if not several or any(base in section.heading for base in (name, table.paper.base)):
        return section
    return replace(section, heading=f"{section.heading}: {code(name)}")


def sections(table: Table) -> Iterator[Section]:
    """The table and what belongs to it."""
    yield _ours(table)
    yield from _differences(table)
    yield from power(table.estimates, table.pairs, table.layout.focus, table.layout.title)
    for section in (took, gradients, learning_rates):
        yield from section(table.runs, table.methods, table.layout.title)
    yield _published(table)
    yield from missing_section(missing(table), table.runs.command)
    yield _provenance(table)


def missing(table: Table) -> list[str]:
    """What the table lacks: methods, seeds, and unfinished runs."""
    methods = dict.fromkeys([*table.layout.rows, *table.methods])
    return missing_runs(table.runs, methods) + unfinished_runs(table.runs)


def _ours(table: Table) -> Section:
    marks = {column: _marks(table, *column) for column in table.columns}
    lines = []
    for method in table.methods:
        cells = [_cell(table, method, column, marks[column]) for column in table.columns]
        lines.append([escape(table.layout.title(method)), str(_seeds(table, method)), *cells])
    header = ["method", "seeds", *(_short(*column) for column in table.columns)]
    notes = [
        f"Accuracy in percent: mean over seeds and problems {INTERVALS}.",
        "**Bold**: the column's highest mean, if it is distinguishable from all others.",
        "°: not distinguishable from the column's highest mean. Columns where that is true of all "
        "methods have no marks.",
        "IQM: interquartile mean. Each training's mean over the middle half of the suites in "
        "distribution, averaged over seeds.",
        *_legend(table),
        *([table.layout.note] if table.layout.note else []),
        *([SMOKE] if table.runs.profile == "smoke" else []),
    ]
    heading = f"Reproduced: base model {code(table.base)}"
    return Section(heading, header, lines, notes=notes, in_latex=bool(lines))


def _seeds(table: Table, method: str) -> int:
    return len(table.runs.seeds(method))


_SHORT = {(AVERAGE, OUT): "o.o.d. average", (MIDDLE, IN): "IQM"}


def _short(suite: str, split: str) -> str:
    return _SHORT.get((suite, split), escape(suite_title(suite)))


def _marks(table: Table, suite: str, split: str) -> dict[str, str]:
    """``**`` for a highest mean that stands alone, ``°`` for all that chance may have ordered."""
    means = {key[0]: e.mean for key, e in table.estimates.items() if key[1:] == (suite, split)}
    if len(means) < 2:
        return {}
    best = max(means, key=lambda method: means[method])
    pairs = table.pairs[(table.pairs["suite"] == suite) & (table.pairs["split"] == split)]
    others = [method for method in means if method != best]
    ties = [method for method in others if verdict(pairs, best, method) != "better"]
    if not ties:
        return {best: "**"}
    return {} if ties == others else dict.fromkeys([best, *ties], "°")


def _cell(table: Table, method: str, column: tuple[str, str], marks: Mapping[str, str]) -> str:
    estimate = table.estimates.get((method, *column))
    mark = marks.get(method, "") if estimate else ""
    text = percent(estimate)
    return f"**{text}**" if mark == "**" else text + mark


def _legend(table: Table) -> Iterator[str]:
    """What the variants of HPT are, unless the table names them itself, and the suites."""
    for method in table.methods:
        if method in _VARIANTS and method not in table.layout.titles:
            yield f"{table.layout.title(method)}: {_VARIANTS[method]}."
    inside, outside = (
        ", ".join(
            f"{SUITES[suite].title} ({code(suite)}: {SUITES[suite].task})"
            for suite, split in table.columns
            if split == wanted and suite in SUITES
        )
        for wanted in (IN, OUT)
    )
    if inside:
        yield (
            f"Suites compute digit by digit, modulo 10, on three digits: {inside}. Out of "
            f"distribution: {outside}."
        )


# ------------------------------------------------------------------------ comparisons of averages


def _differences(table: Table) -> Iterator[Section]:
    averages = table.pairs[table.pairs["suite"] == AVERAGE]
    if len(averages) and averages["p"].isna().all():
        before = "No two methods have two seeds each: nothing is compared, and no order claimed."
        yield Section("More than chance?", before=before)
    elif len(averages):
        for split, pairs in averages.groupby("split"):
            yield _difference(table, pairs, str(split))


def _difference(table: Table, pairs: pd.DataFrame, split: str) -> Section:
    """Every method minus every other, on a split's average."""
    title = table.layout.title
    estimates = {m: table.estimates.get((m, AVERAGE, split)) for m in table.methods}
    means = {method: e.mean for method, e in estimates.items() if e is not None}
    lines = [
        [f"{i} {escape(title(method))}", *(_minus(pairs, means, method, m) for m in means)]
        for i, method in enumerate(means, 1)
    ]
    tests = int(pairs["p"].notna().sum())
    before = (
        "Row minus column, in points. **Bold**: distinguishable at the 5% level, paired on the "
        f"same problems, after Holm's correction for all {tests} pairs. Other pairs are not "
        f"distinguishable, which doesn't make them equal. {code(table.pairs_file)} has intervals "
        "and all suites."
    )
    if tests < len(pairs):
        before += " Methods with one seed are not compared: a single training says too little."
    best = max(means, key=lambda method: means[method])
    named = dict.fromkeys([best, *(method for method in table.layout.focus if method in means)])
    notes = [_standing(pairs, method, list(means), title) for method in named]
    header = ["", *map(str, range(1, len(means) + 1))]
    return Section(f"More than chance? The average {split}", header, lines, before, notes)


def _minus(pairs: pd.DataFrame, means: Mapping[str, float], method: str, other: str) -> str:
    if method == other:
        return ""
    text = points(means[method] - means[other])
    return f"**{text}**" if verdict(pairs, method, other) in ("better", "worse") else text


#: A verdict's words before the other method's name.
_STANDINGS = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
    "not compared": "not compared with",
}


def _standing(
    pairs: pd.DataFrame, method: str, methods: Sequence[str], title: Callable[[str], str]
) -> str:
    """A method among all others, as a sentence; names without commas of their own."""
    found: dict[str, list[str]] = {kind: [] for kind in _STANDINGS}
    for other in methods:
        if other != method:
            found[verdict(pairs, method, other)].append(escape(title(other).replace(",", "")))
    clauses = [
        f"{words} {'any other' if len(found[kind]) == len(methods) - 1 else listed(found[kind])}"
        for kind, words in _STANDINGS.items()
        if found[kind]
    ]
    return f"{escape(title(method))}: {'; '.join(clauses)}."


# ------------------------------------------------------------------------------ paper and sources


def _published(table: Table) -> Section:
    columns = [_short(*column) for column in table.paper.columns]
    rows = {table.layout.title(m): values for m, values in table.paper.rows.items()}
    return published(table.paper, columns, rows)


def _provenance(table: Table) -> Section:
    notes = [INTERVALS_NOTE]
    suites = suites_of(table.runs)
    if table.estimates:
        sizes = [e.problems for key, e in table.estimates.items() if key[1] in suites]
        evaluation = table.runs.finished[0].config["evaluation"]
        notes.insert(
            0,
            f"Tests: {span(sizes)} problems per suite, {span(table.samples)} samples per problem, "
            f"temperature {evaluation['temperature']:g}, top-p {evaluation['top_p']:g}; disjoint "
            "from training and validation problems.",
        )
    if 1 in {_seeds(table, method) for method in table.methods}:
        notes.append("With one seed, an interval covers problems alone and is too narrow.")
    return provenance_section(table.runs, table.runs.expected_seeds, notes)


def readme_table(table: Table) -> str:
    """The averages beside those that the paper reports for its own models and problems."""
    averages = [column for column in table.columns if column[0] == AVERAGE]
    header = ["method", "in distribution", "out of distribution", "paper: in", "paper: out"]
    lines = [header, ["---"] * len(header)]
    for method in table.methods:
        ours = [percent(table.estimates.get((method, *column))) for column in averages]
        values = table.paper.rows.get(method, ())
        reported = dict(zip(table.paper.columns, values, strict=False))
        theirs = [f"{reported[c]:.1f}" if c in reported else NONE for c in averages]
        lines.append([table.layout.title(method), *ours, *theirs])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
