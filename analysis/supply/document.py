"""The study as a document and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.accuracy.costs import FLOPS_NOTE, cost_cells
from analysis.accuracy.table import IN, OUT
from analysis.methods import title
from analysis.run import Runs
from analysis.sections import (
    INTERVALS_NOTE,
    SMOKE,
    missing_runs,
    missing_section,
    provenance_section,
    unfinished_runs,
)
from analysis.supply.phases import PANELS, PER_OCTAVE, VALIDATION, phases
from analysis.supply.study import (
    COMPARISONS,
    FREE,
    METHODS,
    PASS,
    Study,
    Supply,
    make,
    short,
)
from analysis.tables import NONE, Document, Section, code, csv_text, escape
from analysis.wording import INTERVALS, csv_estimate, listed, p_value, percent, points, scientific

CSV_COLUMNS = (
    *("supply", "demonstrations", "method", "measure"),
    *("mean", "low", "high", "seeds", "steps", "flops"),
)

#: The document has every so many of the figure's budgets.
_EVERY = PER_OCTAVE


def document(*comparisons: Runs) -> Document:
    """The study of its comparisons, those that exist.

    Raises:
        UpgeError: damaged runs, runs tested on different problems, or comparisons with the same
            supply.
    """
    study = make(comparisons)
    frame = phases(study)
    gaps = missing(study)
    command = max((runs.command for runs in study.comparisons), key=len)
    sections = [
        _answers(study, frame),
        *(_best(study, frame, panel) for panel in PANELS if panel in set(frame["panel"])),
        *(_reached(study, supply) for supply in study.supplies),
        *missing_section(gaps, command),
        provenance_section(study.runs, study.runs.all_seeds, _NOTES),
    ]
    profile = escape(study.runs.profile)
    heading = f"Which method for how many demonstrations and how much compute? {profile} profile"
    csv = {"supply.csv": csv_text(CSV_COLUMNS, _rows(study))}
    return Document("supply", heading, sections, csv, gaps, command)


_NOTES = (
    "All methods train on the same problems; supplies differ in which of these have a "
    "demonstration. GRPO and the base model use none: their runs are the same at every supply. "
    "Learning rates are those chosen at the full supply.",
    f"{INTERVALS_NOTE} {FLOPS_NOTE} Means over seeds.",
    "Reported: the paper has no such study.",
)


def _measures(study: Study) -> dict[str, str]:
    """What panels and tests are called."""
    return {
        VALIDATION: f"in distribution (validations, avg@{study.validation_samples})",
        IN: f"in distribution, avg@{study.samples}",
        OUT: f"out of distribution, avg@{study.samples}",
        PASS: f"in distribution, pass@{study.samples}",
    }


def _answers(study: Study, frame: pd.DataFrame) -> Section:
    """The best method with all compute, at each supply and by each measure."""
    notes = []
    for supply in study.supplies:
        rows = frame[frame["supply"] == supply.label]
        ends = [
            f"{_measures(study)[str(panel)]} {_end(of.iloc[-1].to_dict())}"
            for panel, of in rows.groupby("panel", sort=False)
        ]
        notes.append(f"**{_words(supply)}**: {'; '.join(ends)}.")
    before = (
        "The method with the highest mean at the largest budget; the tables below have smaller "
        "ones. It is distinguishable if each other method is behind it at the 5% level."
    )
    if study.runs.profile == "smoke":
        before = SMOKE
    return Section("Which method?", before=before, notes=notes)


def _words(supply: Supply) -> str:
    """A supply in words."""
    if not supply.demonstrations:
        return "No demonstrations"
    number = f"{supply.demonstrations} of {supply.problems} problems"
    return f"Demonstrations of {number}" + ("" if supply.whole else f" ({supply.title})")


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


def _best(study: Study, frame: pd.DataFrame, panel: str) -> Section:
    """Supplies by budgets: the best method and its lead over the runner-up."""
    rows = frame[frame["panel"] == panel]
    budgets = sorted(rows["budget"].unique())[::-_EVERY][::-1]
    cells = {(row["supply"], row["budget"]): _cell(row) for row in rows.to_dict("records")}
    lines = [
        [scientific(budget), *(cells.get((s.label, budget), NONE) for s in study.supplies)]
        for budget in budgets
    ]
    header = ("FLOPs at most", *(supply.title for supply in study.supplies))
    heading = f"The best {_measures(study)[panel]}"
    return Section(heading, header, lines, notes=[_how(panel)], in_latex=True)


def _how(panel: str) -> str:
    if panel == VALIDATION:
        return (
            "The best method, its lead in points and the runner-up; **bold** if it is "
            "distinguishable from each other method, by the least sure of the paired comparisons. "
            "The figure's CSV file has every budget, with intervals, p and all ties. Validation "
            "accuracy is interpolated between steps: at a constant learning rate, the beginning of "
            "a training is the shorter training. A pipeline's stages have fixed lengths: SFT→GRPO "
            "counts from its full compute. The base model was not validated; its accuracy is that "
            "of tests on problems of the same kinds. Intervals and comparisons are over seeds "
            "alone."
        )
    return "As above, but by tests of whole trainings: each counts from its full compute."


def _cell(row: Mapping[str, Any]) -> str:
    if not row["runner_up"]:
        return short(row["best"])
    best = f"**{short(row['best'])}**" if row["distinguishable"] else short(row["best"])
    return f"{best} {points(row['lead'])} over {short(row['runner_up'])}"


def _reached(study: Study, supply: Supply) -> Section:
    lines = []
    for method in _methods(supply):
        runs = supply.runs
        who = [title(method), str(len(runs.of(method))), runs.rates(method) or NONE]
        took = cost_cells(supply.costs, method, ("steps", "flops"))
        tests = [percent(supply.tests[what].get(method)) for what in (IN, OUT, PASS)]
        lines.append([*who, *took, *tests])
    names = [_measures(study)[what] for what in (IN, OUT, PASS)]
    header = ["method", "seeds", "learning rate", "steps", "FLOPs", *names]
    notes = [
        f"Percent: mean over seeds and problems {INTERVALS}. pass@k is the unbiased estimate from "
        f"all {study.samples} samples of a problem.",
    ]
    return Section(f"Tests: {_words(supply).lower()}", header, lines, notes=notes)


def _methods(supply: Supply) -> list[str]:
    return [method for method in METHODS if method in supply.runs.methods]


def missing(study: Study) -> list[str]:
    """What the study lacks: comparisons, methods, seeds, and unfinished runs."""
    by_name = {runs.comparison: runs for runs in study.comparisons}
    gaps = [f"`{name}`: no comparison" for name in COMPARISONS if name not in by_name]
    made = {method for runs in study.comparisons for method in runs.methods}
    for name, runs in by_name.items():
        # Runs without demonstrations in one comparison serve all.
        free = [method for method in FREE if not runs.seeds(method) and method in made]
        wanted = [method for method in METHODS if method not in free]
        notes = [*missing_runs(runs, wanted), *unfinished_runs(runs)]
        gaps += [f"{code(name)}, {note}" for note in notes]
    return gaps


def _rows(study: Study) -> Iterator[Sequence[object]]:
    """One line a supply, method and measure of tests; percent."""
    for supply in study.supplies:
        costs = supply.costs.to_dict("index")
        for method in _methods(supply):
            spent = costs.get(method, {"steps": 0, "flops": 0})
            took = [f"{spent[name]:.6g}" for name in ("steps", "flops")]
            for what in (IN, OUT, PASS):
                if estimate := supply.tests[what].get(method):
                    cell = (*csv_estimate(estimate), estimate.seeds)
                    name = _measures(study)[what]
                    yield (supply.label, supply.demonstrations, method, name, *cell, *took)
