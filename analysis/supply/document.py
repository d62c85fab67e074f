"""The study as a document and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.accuracy.table import IN, OUT
from analysis.methods import title
from analysis.runs import Runs
from analysis.statistics import Estimate, within
from analysis.supply.columns import COMPARISONS, FREE, METHODS, Column, short
from analysis.supply.phases import AN_OCTAVE, PANELS, VALIDATION
from analysis.supply.study import PASS, Study, Supplied
from analysis.tables import NONE, Section, csv_text, latex, markdown
from analysis.wording import INTERVALS, listed, p_value, percent, points, scientific, whole

CSV_COLUMNS = (
    *("supply", "demonstrations", "method", "measure"),
    *("mean", "low", "high", "seeds", "steps", "flops"),
)

#: Budgets of the document's tables: every so many of the figure's.
_EVERY = AN_OCTAVE


def heading(study: Study) -> str:
    """The document's title."""
    profile = study.given[0].profile
    return f"Which method for how many demonstrations and how much compute? {profile} profile"


def sections(study: Study, frame: pd.DataFrame) -> list[Section]:
    """The tables and what belongs to them.

    Args:
        study: what was reached.
        frame: the best methods, as :func:`analysis.supply.phases.phases` gives them.
    """
    best = [_best(study, frame, panel) for panel in PANELS if panel in set(frame["panel"])]
    reached = [_reached(study, own) for own in study.supplied]
    found = [_answers(study, frame), *best, *reached, _missing(study), _origin(study)]
    return [section for section in found if section is not None]


def measures(study: Study) -> dict[str, str]:
    """What panels and tests are called."""
    return {
        VALIDATION: f"in distribution (validations, avg@{study.validation_samples})",
        IN: f"in distribution, avg@{study.samples}",
        OUT: f"out of distribution, avg@{study.samples}",
        PASS: f"in distribution, pass@{study.samples}",
    }


# ------------------------------------------------------------------------------ what a reader takes


def _answers(study: Study, frame: pd.DataFrame) -> Section:
    notes = [_answer(study, frame, own) for own in study.supplied]
    before = (
        "The method with the highest mean at the most compute; the tables below have less of it. "
        "It is distinguishable where each other method is behind it at the 5 % level."
    )
    if study.given[0].profile == "smoke":
        before = "The smoke profile shows that everything runs; its numbers order nothing."
    return Section("Which method?", before=before, notes=notes)


def _answer(study: Study, frame: pd.DataFrame, own: Supplied) -> str:
    """With all compute, by each measure."""
    rows = frame[frame["supply"] == own.label]
    ends = [
        f"{measures(study)[str(panel)]} {_end(of.iloc[-1].to_dict())}"
        for panel, of in rows.groupby("panel", sort=False)
    ]
    return f"**{supply(own.column)}**: {'; '.join(ends)}."


def supply(column: Column) -> str:
    """A supply in words."""
    number = f"{column.demonstrations} of {column.problems} problems"
    if not column.demonstrations:
        return "No demonstrations"
    return f"Demonstrations of {number}" + ("" if column.whole else f" ({column.label})")


def _end(row: Mapping[str, Any]) -> str:
    """What is best at the most compute, by how much, and how surely."""
    half = 50 * (row["high"] - row["low"])
    text = f"{short(row['best'])} ({100 * row['mean']:.1f} ± {half:.1f})"
    if not row["runner_up"]:
        return f"{text}, alone"
    ahead = f"{points(row['lead'], '')} points ahead of {short(row['runner_up'])}"
    if row["distinguishable"]:
        return f"{text}, {ahead} (p = {p_value(row['p'])})"
    if pd.isna(row["p"]):
        return f"{text}, {ahead} (one seed: not compared)"
    ties = listed([short(method) for method in row["ties"].split()])
    return f"{text}, {ahead} (not distinguishable from {ties})"


# --------------------------------------------------------------------------------------- the tables


def _best(study: Study, frame: pd.DataFrame, panel: str) -> Section:
    """Supplies by budgets: the best method and its lead over the runner-up."""
    own = frame[frame["panel"] == panel]
    budgets = sorted(own["budget"].unique())[::-_EVERY][::-1]
    cells = {(row["supply"], row["budget"]): _cell(row) for row in own.to_dict("records")}
    labels = [supplied.label for supplied in study.supplied]
    lines = [
        [scientific(budget), *(cells.get((label, budget), NONE) for label in labels)]
        for budget in budgets
    ]
    notes = [_how(panel)]
    return Section(
        f"The best {measures(study)[panel]}", ["FLOPs at most", *labels], lines, notes=notes
    )


def _how(panel: str) -> str:
    if panel == VALIDATION:
        return (
            "The best method, its lead in points and the runner-up; **bold** where it is "
            "distinguishable from each other method, by the least sure of the paired comparisons. "
            "The figure's CSV has every budget, with intervals, p and all ties. Validations are "
            "interpolated between steps: with a constant learning rate the beginning of a training "
            "is the shorter training. Not so of a pipeline, whose stages have fixed lengths: "
            "SFT→GRPO counts from its full compute on. The base model was not validated; its "
            "accuracy is that of the tests, on problems of the same kinds. Intervals and "
            "comparisons are over seeds alone."
        )
    return "As above, but tests are of whole trainings: each counts from its full compute on."


def _cell(row: Mapping[str, Any]) -> str:
    if not row["runner_up"]:
        return short(row["best"])
    best = f"**{short(row['best'])}**" if row["distinguishable"] else short(row["best"])
    return f"{best} {points(row['lead'])} over {short(row['runner_up'])}"


def _reached(study: Study, own: Supplied) -> Section:
    lines = []
    for method in (m for m in METHODS if m in own.column.runs.methods):
        tests = [percent(own.tests[what].get(method)) for what in (IN, OUT, PASS)]
        lines.append([*_who(own, method), *tests])
    names = [measures(study)[what] for what in (IN, OUT, PASS)]
    header = ["method", "seeds", "learning rate", "steps", "FLOPs", *names]
    notes = [
        f"Per cent: mean over seeds and problems {INTERVALS}. pass@k is unbiased, "
        f"from all {study.samples} samples of a problem.",
    ]
    return Section(f"Tests: {supply(own.column).lower()}", header, lines, notes=notes)


def _who(own: Supplied, method: str) -> list[str]:
    runs = own.column.runs.of(method)
    rates = " → ".join(f"{stage['lr']:g}" for stage in runs[0].config["stages"])
    spent = own.costs.reindex([method]).iloc[0]
    took = [whole(spent["steps"]), scientific(spent["flops"])]
    return [title(method), str(len(runs)), rates or NONE, *took]


# -------------------------------------------------------------------------------- gaps and origins


def missing(study: Study) -> list[str]:
    """What the study lacks: comparisons, methods, seeds, and folders that are not finished."""
    there = {runs.comparison: runs for runs in study.given}
    found = [f"`{name}`: no comparison" for name in COMPARISONS if name not in there]
    anywhere = {method for runs in there.values() for method in runs.methods}
    for name, runs in there.items():
        for method in METHODS:
            lacking = [seed for seed in runs.expected_seeds if seed not in runs.seeds(method)]
            if method in FREE and not runs.seeds(method) and method in anywhere:
                continue
            if not runs.seeds(method):
                found.append(f"`{name}`, `{method}`: no finished run")
            elif lacking:
                seeds = ", ".join(map(str, lacking))
                found.append(f"`{name}`, `{method}`: no finished run of seed {seeds}")
        found += [f"`{name}`: `{run}` is not finished, and not used" for run in runs.unfinished]
    return found


def _missing(study: Study) -> Section | None:
    notes = missing(study)
    before = f"`{command(study.given)}` makes it, and leaves what is there."
    return Section("Missing", before=before, notes=notes) if notes else None


def command(given: Sequence[Runs]) -> str:
    """The command that makes what is missing."""
    return max((runs.command for runs in given), key=len)


def _origin(study: Study) -> Section:
    runs = study.runs
    notes = [
        f"Seeds: {', '.join(map(str, runs.all_seeds)) or NONE}. A seed is a training; the base "
        "model's are seeds of sampling.",
        "All methods train on the same problems; supplies differ in which of these have a "
        "demonstration. GRPO and the base model read none: their runs are the same at every "
        "supply. Learning rates are those that the full supply chose.",
        "Intervals: 95 %, bootstrap over seeds and, in tests, within each level over problems; "
        "widened for the small number of seeds (Student); `analysis/statistics.py` has the "
        "formula. FLOPs: of sampling and training, mean over seeds.",
        "Reported: the paper has no such study.",
        *(f"{name}: {value}" for name, value in runs.provenance().items()),
    ]
    return Section("Where this comes from", notes=notes)


# ------------------------------------------------------------------------------------------- output


def texts(study: Study, frame: pd.DataFrame) -> dict[str, str]:
    """The text of each of the table's files."""
    parts = sections(study, frame)
    return {
        "supply.md": markdown(heading(study), parts),
        "supply.tex": latex(heading(study), parts),
        "supply.csv": to_csv(study),
    }


def to_csv(study: Study) -> str:
    """One line a supply, method and measure of tests; per cent."""
    return csv_text(CSV_COLUMNS, _rows(study))


def _rows(study: Study) -> Iterator[Sequence[object]]:
    for own in study.supplied:
        costs = own.costs.to_dict("index")
        for method in (m for m in METHODS if m in own.column.runs.methods):
            spent = costs.get(method, {"steps": 0, "flops": 0})
            took = [f"{spent[name]:.6g}" for name in ("steps", "flops")]
            for what, name in ((w, measures(study)[w]) for w in (IN, OUT, PASS)):
                if method in own.tests[what]:
                    cell = _numbers(own.tests[what][method])
                    yield (own.label, own.column.demonstrations, method, name, *cell, *took)


def _numbers(estimate: Estimate) -> tuple[object, ...]:
    numbers = (estimate.mean, *within(estimate.interval))
    return (*(f"{100 * x:.4f}" for x in numbers), estimate.seeds)
