"""The audit as a document and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.accuracy.costs import COSTS, FLOPS_NOTE, cost_cells
from analysis.accuracy.rates import learning_rates
from analysis.accuracy.table import IN, OUT
from analysis.audit.orderings import (
    HOLDS,
    REVERSED,
    Order,
    Setting,
    contested,
    count_claims,
    general,
    outcome,
    reported_averages,
    reported_orders,
)
from analysis.audit.results import EQUAL_COMPUTE, ROWS, Audit, make
from analysis.budgets import ALIKE, Reading
from analysis.methods import title
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
from analysis.statistics import Estimate
from analysis.tables import NONE, Document, Section, csv_text, escape
from analysis.wording import (
    INTERVALS,
    csv_estimate,
    csv_p,
    csv_points,
    p_value,
    percent,
    points,
    scientific,
)

CSV_COLUMNS = (
    *("part", "setting", "method", "other"),
    *("value", "low", "high", "p", "p_holm", "verdict"),
    *("seeds", "flops", "source"),
)

_SPLITS = (IN, OUT)

_FAULTS_NOTE = (
    "Faults: 'last micro-batch only' drops the gradients of all other micro-batches of an SFT "
    "step; 'mean of means' averages the means of micro-batches. In SFT→GRPO the SFT stage has them."
)


def document(runs: Runs) -> Document:
    """The audit of a comparison's runs.

    Raises:
        UpgeError: damaged runs, or runs tested on different problems.
    """
    audit = make(runs)
    missing = [*missing_runs(runs, ROWS), *unfinished_runs(runs)]
    found = [
        _answer(audit),
        *_steps(audit),
        *_compute(audit),
        *_faults(audit),
        *(section for split in _SPLITS for section in _claims(audit, split)),
        *learning_rates(runs, audit.methods, title),
        *(
            published(paper, _SPLITS, {general(m): values for m, values in paper.rows.items()})
            for paper in reported_averages()
        ),
        *missing_section(missing, runs.command),
        provenance_section(runs, runs.all_seeds, [INTERVALS_NOTE, _FAULTS_NOTE]),
    ]
    csv = {"audit.csv": csv_text(CSV_COLUMNS, _rows(audit))}
    heading = f"The audit of SFT→RL, {escape(runs.profile)} profile"
    return Document("audit", heading, found, csv, missing, runs.command)


# -------------------------------------------------------------------------------------- the answer


def _answer(audit: Audit) -> Section:
    """What became of both orderings in each setting: a table, then sentences."""
    question = "Which of the two papers' orderings appears?"
    if not audit.settings:
        before = "Nothing can be compared yet: an ordering needs two seeds of two methods."
        return Section(question, before=before)
    orders = reported_orders()
    claims = "; ".join(f"{order.source}: {order.text}" for order in orders)
    before = (
        f"The papers claim: {claims}. An ordering appears if each of its comparisons is "
        "distinguishable in its direction, and is contradicted if one is in the other direction. "
        "Not distinguishable doesn't mean equal. The last columns are the comparisons on which the "
        "two contradict each other, in points, **bold** if distinguishable. At equal compute, SFT "
        "and SFT→GRPO are their longer trainings. Both papers order averages in distribution; the "
        "orderings are looked for out of distribution too."
    )
    pairs = contested(orders)
    header = ["setting", "tests", *(order.source for order in orders)]
    header += [f"{title(high)} minus {title(low)}" for high, low in pairs]
    lines = [_glance(setting, claims, orders, pairs) for setting, claims in audit.settings]
    notes = [
        f"{setting.where.capitalize()}, {setting.split}: "
        + "; ".join(count_claims(order.source, claims) for order in setting.orders)
        + "."
        for setting, claims in audit.settings
    ]
    notes.append(
        "The comparisons are listed below, under the papers' claims. Holm's correction covers the "
        "few of each setting; Table 2 corrects for all pairs of its methods. A difference may "
        "therefore be distinguishable here and not there."
    )
    notes += [SMOKE] if audit.runs.profile == "smoke" else []
    return Section(question, header, lines, before, notes, in_latex=True)


def _glance(
    setting: Setting,
    claims: pd.DataFrame,
    orders: Sequence[Order],
    pairs: Sequence[tuple[str, str]],
) -> list[str]:
    """What became of the orderings in a setting, and the contested differences."""
    of = {source: rows["verdict"].tolist() for source, rows in claims.groupby("source")}
    outcomes = [outcome(of[order.source]) if order.source in of else NONE for order in orders]
    rows = {(row["above"], row["below"]): row for row in claims.to_dict("records")}
    differences = (_bold(points(r["difference"]), r) if r else NONE for r in map(rows.get, pairs))
    return [setting.where, setting.split, *outcomes, *differences]


def _bold(text: str, claim: Mapping[str, Any]) -> str:
    if pd.isna(claim["difference"]):
        return NONE
    return f"**{text}**" if claim["verdict"] in (HOLDS, REVERSED) else text


# ----------------------------------------------------------------------------------- its evidence


def _steps(audit: Audit) -> Iterator[Section]:
    names = ("steps", "demonstrations", "flops", "tokens_sampled", "tokens_computed")
    lines = [
        [
            *_who(audit, method),
            *(percent(audit.tests.get(split, {}).get(method)) for split in _SPLITS),
            *cost_cells(audit.costs, method, names),
        ]
        for method in audit.methods
        if method not in EQUAL_COMPUTE
    ]
    header = ["method", "seeds", "learning rate", *_SPLITS, *(COSTS[name][0] for name in names)]
    notes = [
        f"Test accuracy in percent: mean over seeds and problems {INTERVALS}.",
        f"{FLOPS_NOTE} Costs are those of one training, mean over seeds.",
    ]
    if lines:
        yield Section("At equal steps", header, lines, notes=notes)


def _who(audit: Audit, method: str) -> list[str]:
    return [title(method), str(len(audit.runs.seeds(method))), audit.runs.rates(method) or NONE]


def _compute(audit: Audit) -> Iterator[Section]:
    inside, outside = (audit.tested(split) for split in _SPLITS)
    readings = {**audit.validated, **outside, **inside}
    names = ("steps", "demonstrations")
    lines = [
        [
            *_who(audit, readings[method].method),
            *cost_cells(audit.costs, readings[method].method, names),
            *(_reading(tests.get(method)) for tests in (inside, outside)),
            _flops(inside.get(method)),
            _reading(audit.validated.get(method)),
            _flops(audit.validated.get(method)),
        ]
        for method in ROWS
        if method in readings
    ]
    header = ["method", "seeds", "learning rate", *(COSTS[name][0] for name in names), *_SPLITS]
    header += ["FLOPs", f"validation, {IN}", "FLOPs there"]
    before = (
        "The budget is the compute of HPT's most expensive variant, "
        f"{scientific(audit.budget)} FLOPs. Tests are of whole trainings that took about as much "
        f"(within a factor of {ALIKE:.3g}). Validation accuracy is read off at the budget where a "
        "training passes it: at a constant learning rate, its beginning is the shorter training. "
        "Of a pipeline only the end counts."
    )
    notes = [
        "Steps and demonstrations seen are of the whole training.",
        "Validation: accuracy in percent, with intervals over seeds alone.",
    ]
    if lines:
        yield Section("At equal compute", header, lines, before, notes)


def _reading(reading: Reading | None) -> str:
    return percent(reading and reading.estimate)


def _flops(reading: Reading | None) -> str:
    return NONE if reading is None else scientific(reading.flops)


def _faults(audit: Audit) -> Iterator[Section]:
    lines = [
        [
            title(row["method"]),
            title(row["faulty"]),
            row["split"],
            points(row["difference"]),
            f"{points(row['low'])} to {points(row['high'])}",
            p_value(row["p"]),
            p_value(row["p_holm"]),
            f"**{_verdict(row)}**" if row["distinguishable"] else _verdict(row),
        ]
        for row in audit.faults.to_dict("records")
    ]
    before = "The correct training minus the faulty one, paired on the same problems."
    notes = ["Holm's correction covers all pairs of the same tests."]
    header = ["correct", "faulty", "tests", "points", "95% interval", "p", "p, Holm", ""]
    if lines:
        yield Section("What the faults cost", header, lines, before, notes)


def _verdict(row: Mapping[str, Any]) -> str:
    if pd.isna(row["p"]):
        return "not compared"
    return "distinguishable" if row["distinguishable"] else "not distinguishable"


def _claims(audit: Audit, split: str) -> Iterator[Section]:
    """A line a claim, a column a setting."""
    settings = [(setting, claims) for setting, claims in audit.settings if setting.split == split]
    cells: dict[tuple[str, str, str], list[str]] = {}
    for column, (_, claims) in enumerate(settings):
        for row in claims.to_dict("records"):
            claim = row["source"], row["above"], row["below"]
            difference, low, high = (points(row[name]) for name in ("difference", "low", "high"))
            text = f"{difference} ({low} to {high}), p = {p_value(row['p_holm'])}"
            cells.setdefault(claim, [NONE] * len(settings))[column] = _bold(text, row)
    lines = [
        [source, f"{title(above)} > {title(below)}", *line]
        for (source, above, below), line in cells.items()
    ]
    before = (
        "The method claimed to be above minus the other: points (95% interval), paired on the same "
        "test problems, and p after Holm's correction for all comparisons of the column. "
        "**Bold**: distinguishable. A minus sign: the reverse of the claim. Intervals of "
        "validations are over seeds alone."
    )
    header = ["source", "claim", *(setting.where for setting, _ in settings)]
    if lines:
        yield Section(f"The papers' claims, {split}", header, lines, before=before)


# --------------------------------------------------------------------------------------------- CSV


def _rows(audit: Audit) -> Iterator[Sequence[object]]:
    """One line an accuracy, a difference or a published number; percent and points."""
    flops = audit.costs["flops"].to_dict()
    for split, tests in audit.tests.items():
        for method in (m for m in ROWS if m in tests):
            yield ("test", split, method, "", *_cell(tests[method], flops.get(method, 0.0)))
    for reading in audit.validated.values():
        cell = _cell(reading.estimate, reading.flops)
        yield ("validation at equal compute", IN, reading.method, "", *cell)
    for row in audit.faults.to_dict("records"):
        pair = row["method"], row["faulty"]
        yield ("fault", row["split"], *pair, *_compared(row), _verdict(row), "", "", "")
    for setting, claims in audit.settings:
        for row in claims.to_dict("records"):
            where, pair = f"{setting.where}, {setting.split}", (row["above"], row["below"])
            yield ("claim", where, *pair, *_compared(row), row["verdict"], "", "", row["source"])
    for paper in reported_averages():
        for method, values in paper.rows.items():
            for split, value in zip(_SPLITS, values, strict=True):
                if value is not None:
                    where = f"{paper.base}, {split}"
                    yield ("reported", where, method, "", value, *[""] * 7, paper.source)


def _cell(estimate: Estimate, flops: float) -> tuple[object, ...]:
    return (*csv_estimate(estimate), "", "", "", estimate.seeds, f"{flops:.6g}", "")


def _compared(row: Mapping[str, Any]) -> list[str]:
    differences = [csv_points(row[name]) for name in ("difference", "low", "high")]
    return differences + [csv_p(row[name]) for name in ("p", "p_holm")]
