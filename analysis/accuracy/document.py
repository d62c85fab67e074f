"""A table of accuracy as a document: what came out, how sure that is, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from analysis.accuracy.costs import gradients, took
from analysis.accuracy.legend import legend
from analysis.accuracy.power import power
from analysis.accuracy.rates import learning_rates
from analysis.accuracy.table import IN, OUT, Table
from analysis.statistics import AVERAGE, MIDDLE, verdict
from analysis.tables import NONE, Section
from analysis.wording import INTERVALS, listed, percent, points


def heading(tables: Sequence[Table]) -> str:
    """The document's title."""
    return f"{tables[0].layout.heading}, {tables[0].runs.profile} profile"


def document(tables: Sequence[Table]) -> list[Section]:
    """All sections; where there are several models, each heading names its own."""
    if len(tables) == 1:
        return sections(tables[0])
    return [_named(table, section) for table in tables for section in sections(table)]


def _named(table: Table, section: Section) -> Section:
    told = any(base in section.heading for base in (table.base, table.paper.base))
    name = table.base if table.runs.finished else table.comparison
    return section if told else replace(section, heading=f"{section.heading}: `{name}`")


def sections(table: Table) -> list[Section]:
    """The table and what belongs to it."""
    runs, rows, title = table.runs, table.methods, table.layout.title
    found = [
        _ours(table),
        *_differences(table),
        power(table.estimates, table.pairs, table.layout.focus, title),
        took(runs, rows, title),
        gradients(runs, rows, title),
        learning_rates(runs, rows, title),
        _published(table),
        _missing(table),
        _origin(table),
    ]
    return [section for section in found if section is not None]


def _ours(table: Table) -> Section:
    marks = {column: _marks(table, *column) for column in table.columns}
    lines = []
    for method in table.methods:
        shown = [_cell(table, method, column, marks[column]) for column in table.columns]
        lines.append([table.layout.title(method), str(len(table.runs.seeds(method))), *shown])
    header = ["method", "seeds", *(_short(*column) for column in table.columns)]
    notes = [
        f"Per cent right: mean over seeds and problems {INTERVALS}.",
        "**Bold**: the highest of a column, where it is distinguishable from every other method.",
        "°: not distinguishable from the highest of its column; no mark where none is "
        "distinguishable.",
        "IQM: interquartile mean, that of the middle half of each training's suites in "
        "distribution; mean over seeds.",
    ]
    notes += legend(table)
    notes += [table.layout.note] if table.layout.note else []
    if table.runs.profile == "smoke":
        notes.append("The smoke profile shows that everything runs; its numbers order nothing.")
    return Section(f"Reproduced: base model `{table.base}`", header, lines, notes=notes)


_SHORT = {(AVERAGE, OUT): "o.o.d. average", (MIDDLE, IN): "IQM"}


def _short(suite: str, split: str) -> str:
    return _SHORT.get((suite, split), suite)


def _marks(table: Table, suite: str, split: str) -> dict[str, str]:
    """``**`` for a highest that stands alone, ``°`` for those that chance alone may have beaten."""
    means = {key[0]: e.mean for key, e in table.estimates.items() if key[1:] == (suite, split)}
    if len(means) < 2:
        return {}
    best = max(means, key=lambda method: means[method])
    own = table.pairs[(table.pairs["suite"] == suite) & (table.pairs["split"] == split)]
    verdicts = {method: verdict(own, best, method) for method in means if method != best}
    ties = [method for method, found in verdicts.items() if found != "better"]
    if not ties:
        return {best: "**"}
    return {} if len(ties) == len(verdicts) else dict.fromkeys([best, *ties], "°")


def _cell(table: Table, method: str, column: tuple[str, str], marks: Mapping[str, str]) -> str:
    estimate = table.estimates.get((method, *column))
    if estimate is None:
        return NONE
    mark = marks.get(method, "")
    text = percent(estimate)
    return f"**{text}**" if mark == "**" else text + mark


def _differences(table: Table) -> list[Section]:
    averages = table.pairs[table.pairs["suite"] == AVERAGE]
    if not len(averages):
        return []
    if averages["p"].isna().all():
        before = "No two methods have two seeds: nothing is compared, and no order claimed."
        return [Section("More than chance?", before=before)]
    return [_difference(table, own, str(split)) for split, own in averages.groupby("split")]


def _difference(table: Table, own: pd.DataFrame, split: str) -> Section:
    """Every method less every other, on a split's average."""
    title = table.layout.title
    means = {m: table.estimates.get((m, AVERAGE, split)) for m in table.methods}
    there = {method: e.mean for method, e in means.items() if e is not None}
    lines = []
    for number, method in enumerate(there, 1):
        line = [_less(own, there, method, other) for other in there]
        lines.append([f"{number} {title(method)}", *line])
    tests = int(own["p"].notna().sum())
    before = (
        "The row's method less the column's, in points. **Bold**: distinguishable, paired on the "
        f"same problems, at the 5 % level after Holm's correction for all {tests} pairs. All other "
        "pairs are not distinguishable, which is not to say equal. Intervals, and all suites, are "
        f"in `{table.pairs_file}`."
    )
    if tests < len(own):
        before += " A method with one seed is not compared: a single training says too little."
    best = max(there, key=lambda method: there[method])
    named = dict.fromkeys([best, *(method for method in table.layout.focus if method in there)])
    notes = [_standing(own, method, list(there), title) for method in named]
    header = ["", *map(str, range(1, len(there) + 1))]
    return Section(f"More than chance? The average {split}", header, lines, before, notes)


def _less(own: pd.DataFrame, means: Mapping[str, float], method: str, other: str) -> str:
    if method == other:
        return ""
    text = points(means[method] - means[other])
    return f"**{text}**" if verdict(own, method, other) in ("better", "worse") else text


#: A verdict's words before the other method's name.
_STANDINGS = {
    "better": "better than",
    "worse": "worse than",
    "not distinguishable": "not distinguishable from",
    "not compared": "not compared with",
}


def _standing(
    own: pd.DataFrame, method: str, present: Sequence[str], title: Callable[[str], str]
) -> str:
    """A method among all others, as a sentence; names without commas of their own."""
    found: dict[str, list[str]] = {kind: [] for kind in _STANDINGS}
    for other in present:
        if other != method:
            found[verdict(own, method, other)].append(title(other).replace(",", ""))
    told = [
        f"{words} {'any other' if len(found[kind]) == len(present) - 1 else listed(found[kind])}"
        for kind, words in _STANDINGS.items()
        if found[kind]
    ]
    return f"{title(method)}: {'; '.join(told)}."


def _published(table: Table) -> Section:
    paper = table.paper
    header = ["method", *(_short(*column) for column in paper.columns)]
    lines = [
        [table.layout.title(m), *(f"{x:.1f}" for x in values)] for m, values in paper.rows.items()
    ]
    return Section(
        f"Reported, {paper.source}, {paper.title}: {paper.base}",
        header,
        lines,
        before="Another model, other problems and other compute than above: compare orders, not "
        "numbers. The paper gives no intervals and no number of seeds.",
        notes=[paper.note] if paper.note else [],
    )


def missing(table: Table) -> list[str]:
    """What the table lacks: methods, seeds, and folders of runs that are not finished."""
    found = []
    for method in dict.fromkeys([*table.layout.rows, *table.methods]):
        there = table.runs.seeds(method)
        lacking = [seed for seed in table.runs.expected_seeds if seed not in there]
        if not there:
            found.append(f"`{method}`: no finished run")
        elif lacking:
            found.append(f"`{method}`: {_seeds(lacking)}")
    return found + [f"`{name}` is not finished, and not used" for name in table.runs.unfinished]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _missing(table: Table) -> Section | None:
    notes = missing(table)
    before = f"`{table.runs.command}` makes it, and leaves what is there."
    return Section("Missing", before=before, notes=notes) if notes else None


def _origin(table: Table) -> Section:
    counts = {len(table.runs.seeds(method)) for method in table.methods}
    notes = [
        f"Seeds: {', '.join(map(str, table.runs.expected_seeds)) or NONE}. A seed is a training; "
        "the base model's are seeds of sampling.",
        *([_tests(table)] if table.estimates else []),
        "Intervals: 95 %, bootstrap over seeds and, within each level, over problems, widened for "
        "the small number of seeds (Student); `analysis/statistics.py` has the formula. They say "
        "what other seeds and other problems of these kinds would give.",
    ]
    if 1 in counts:
        notes.append("Where there is one seed, the interval is over problems alone: too narrow.")
    notes += [f"{name}: {value}" for name, value in table.runs.provenance().items()]
    return Section("Where this comes from", notes=notes)


def _tests(table: Table) -> str:
    sizes = {e.problems for key, e in table.estimates.items() if key[1] not in (AVERAGE, MIDDLE)}
    evaluation = table.runs.finished[0].config["evaluation"]
    return (
        f"Tests: {_range(sizes)} problems a suite, {_range(table.samples)} samples each, "
        f"temperature {evaluation['temperature']:g}, top-p {evaluation['top_p']:g}; disjoint from "
        "training and validation problems."
    )


def _range(values: Sequence[int] | set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"
