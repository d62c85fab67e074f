"""The audit as a document and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.accuracy.rates import learning_rates
from analysis.accuracy.table import IN, OUT
from analysis.audit.orderings import (
    HOLDS,
    REVERSED,
    Order,
    ReportedAverages,
    Setting,
    contested,
    general,
    outcome,
    paragraph,
    reported_averages,
    reported_orders,
)
from analysis.audit.results import EQUAL_COMPUTE, ROWS, Audit
from analysis.budgets import ALIKE, Reading
from analysis.methods import title
from analysis.statistics import Estimate, within
from analysis.tables import NONE, Section, csv_text, latex, markdown
from analysis.wording import INTERVALS, millions, p_value, percent, points, scientific, whole

CSV_COLUMNS = (
    "part",
    "setting",
    "method",
    "other",
    *("value", "low", "high", "p", "p_holm", "verdict"),
    *("seeds", "flops", "source"),
)

_SPLITS = (IN, OUT)


def heading(audit: Audit) -> str:
    """The document's title."""
    return f"The audit of SFT→RL, {audit.runs.profile} profile"


def sections(audit: Audit) -> list[Section]:
    """The tables and what belongs to them."""
    found = [
        _answer(audit),
        _steps(audit),
        _compute(audit),
        _faults(audit),
        *(_claims(audit, split) for split in _SPLITS),
        learning_rates(audit.runs, audit.methods, title),
        *(_published(paper) for paper in reported_averages()),
        _missing(audit),
        _origin(audit),
    ]
    return [section for section in found if section is not None]


def _answer(audit: Audit) -> Section:
    """What became of both orderings in each setting: at a glance, then in sentences."""
    question = "Which of the two papers' orderings appears?"
    if not audit.settings:
        before = "There is nothing to compare yet: an ordering needs two seeds of two methods."
        return Section(question, before=before)
    orders = reported_orders()
    claims = "; ".join(f"{order.source}: {order.text}" for order in orders)
    before = (
        f"The papers claim: {claims}. An ordering appears where each of its comparisons is "
        "distinguishable in its direction; it is contradicted where one is in the other direction. "
        "Not distinguishable is not to say equal. The last columns are the comparisons on which "
        "the two contradict each other, in points, **bold** where distinguishable. At equal "
        "compute SFT and SFT→GRPO are their longer trainings. Both papers' orderings are those of "
        "averages in distribution; out of distribution they are looked for all the same."
    )
    pairs = contested(orders)
    header = ["setting", "tests", *(order.source for order in orders)]
    header += [f"{title(high)} less {title(low)}" for high, low in pairs]
    lines = [_glance(setting, claims, orders, pairs) for setting, claims in audit.settings]
    notes = [" ".join(paragraph(*judged)) for judged in audit.settings]
    notes.append(_CORRECTED)
    if audit.runs.profile == "smoke":
        notes.append("The smoke profile shows that everything runs; its numbers order nothing.")
    return Section(question, header, lines, before, notes)


_CORRECTED = (
    "Each comparison is below, under the papers' claims, and corrected (Holm) for those of its "
    "setting alone, which are few; Table 2 corrects for all pairs of its methods. The same "
    "difference can so be distinguishable here and not there, which is what the correction is for."
)


def _glance(
    setting: Setting,
    claims: pd.DataFrame,
    orders: Sequence[Order],
    pairs: Sequence[tuple[str, str]],
) -> list[str]:
    """A setting: what became of the orderings, and the contested differences."""
    of = {source: own["verdict"].tolist() for source, own in claims.groupby("source")}
    outcomes = [outcome(of[order.source]) if order.source in of else NONE for order in orders]
    rows = {(row["above"], row["below"]): row for row in claims.to_dict("records")}
    return [setting.where, setting.split, *outcomes, *(_contest(rows.get(pair)) for pair in pairs)]


def _contest(row: Mapping[str, Any] | None) -> str:
    if row is None or pd.isna(row["difference"]):
        return NONE
    text = points(row["difference"])
    return f"**{text}**" if row["verdict"] in (HOLDS, REVERSED) else text


def _steps(audit: Audit) -> Section | None:
    lines = []
    for method in (m for m in audit.methods if m not in EQUAL_COMPUTE):
        lines.append([*_who(audit, method), *_accuracy(audit, method), *_took(audit, method)])
    header = ["method", "seeds", "learning rate", IN, OUT, *_TOOK]
    notes = [
        f"Per cent right in tests: mean over seeds and problems {INTERVALS}.",
        "FLOPs are of sampling and training, 2 forward and 4 backward a parameter and token, of "
        "one training, mean over seeds. Tokens trained on went forward and backward.",
    ]
    return Section("At equal steps", header, lines, notes=notes) if lines else None


_TOOK = ("steps", "demonstrations seen", "FLOPs", "tokens sampled, M", "tokens trained on, M")


def _who(audit: Audit, method: str) -> list[str]:
    rates = " → ".join(f"{stage['lr']:g}" for stage in audit.runs.of(method)[0].config["stages"])
    return [title(method), str(len(audit.runs.seeds(method))), rates or NONE]


def _accuracy(audit: Audit, method: str) -> list[str]:
    return [percent(audit.tests.get(split, {}).get(method)) for split in _SPLITS]


def _took(audit: Audit, method: str) -> list[str]:
    if method not in audit.costs.index:
        return [NONE] * len(_TOOK)
    costs = audit.costs.loc[method]
    return [
        whole(costs["steps"]),
        whole(costs["demonstrations"]),
        scientific(costs["flops"]),
        millions(costs["tokens_sampled"]),
        millions(costs["tokens_computed"]),
    ]


def _compute(audit: Audit) -> Section | None:
    tested = [audit.tested(split) for split in _SPLITS]
    readings = {**audit.validated, **tested[1], **tested[0]}
    lines = [
        [
            *_who(audit, readings[method].method),
            *map(whole, audit.costs.loc[readings[method].method, ["steps", "demonstrations"]]),
            *(_reading(own.get(method)) for own in tested),
            _flops(tested[0].get(method)),
            _reading(audit.validated.get(method)),
            _flops(audit.validated.get(method)),
        ]
        for method in ROWS
        if method in readings
    ]
    if not lines:
        return None
    header = ["method", "seeds", "learning rate", *_TOOK[:2], *_SPLITS, "FLOPs"]
    header += [f"validation, {IN}", "FLOPs there"]
    before = (
        f"The budget is what the dearest form of HPT takes, {scientific(audit.budget)} FLOPs. "
        "Tests are of whole trainings that took about as much (at most "
        f"{ALIKE:.3g} times more or less). Validations are read off at the budget where a "
        "training passes it: with a constant learning rate its beginning is the shorter training. "
        "Those of a pipeline are not, so that only its end counts."
    )
    notes = [
        "Steps and demonstrations seen are of the whole training.",
        "Validation: per cent right; its intervals are over seeds alone.",
    ]
    return Section("At equal compute", header, lines, before, notes)


def _reading(reading: Reading | None) -> str:
    return percent(reading and reading.estimate)


def _flops(reading: Reading | None) -> str:
    return NONE if reading is None else scientific(reading.flops)


def _faults(audit: Audit) -> Section | None:
    lines = []
    for row in audit.faults.to_dict("records"):
        verdict = _verdict(row["p"], row["distinguishable"])
        names = [title(row["method"]), title(row["faulty"]), row["split"]]
        lines.append([*names, *_difference(row), verdict])
    before = "The correct training less the faulty one, paired on the same problems."
    notes = ["Holm's correction is for all pairs of the same tests."]
    header = ["correct", "faulty", "tests", *_DIFFERENCE, ""]
    return Section("What the faults cost", header, lines, before, notes) if lines else None


_DIFFERENCE = ("points", "95 % interval", "p", "p, Holm")


def _difference(row: Mapping[str, Any]) -> list[str]:
    if pd.isna(row["difference"]):
        return [NONE] * len(_DIFFERENCE)
    interval = f"{points(row['low'])} to {points(row['high'])}"
    return [points(row["difference"]), interval, p_value(row["p"]), p_value(row["p_holm"])]


def _verdict(p: float, distinguishable: bool) -> str:
    if pd.isna(p):
        return "not compared"
    return "**distinguishable**" if distinguishable else "not distinguishable"


def _claims(audit: Audit, split: str) -> Section | None:
    """A line a claim, a column a setting."""
    settings = [(setting, claims) for setting, claims in audit.settings if setting.split == split]
    if not settings:
        return None
    cells: dict[tuple[str, str, str], list[str]] = {}
    for column, (_, claims) in enumerate(settings):
        for row in claims.to_dict("records"):
            claim = row["source"], row["above"], row["below"]
            cells.setdefault(claim, [NONE] * len(settings))[column] = _claim(row)
    lines = [
        [source, f"{title(above)} > {title(below)}", *line]
        for (source, above, below), line in cells.items()
    ]
    before = (
        "Points (95 % interval), p: the method that is claimed to be above less the other, paired "
        "on the same problems in tests. p is Holm's, corrected for all comparisons of the column. "
        "**Bold**: distinguishable. A minus: the claim's reverse. Validations: over seeds alone."
    )
    header = ["source", "claim", *(setting.where for setting, _ in settings)]
    return Section(f"The papers' claims, {split}", header, lines, before=before)


def _claim(row: Mapping[str, Any]) -> str:
    if pd.isna(row["difference"]):
        return NONE
    difference, low, high = (points(row[name]) for name in ("difference", "low", "high"))
    text = f"{difference} ({low} to {high}), p = {p_value(row['p_holm'])}"
    return f"**{text}**" if row["verdict"] in (HOLDS, REVERSED) else text


def _published(paper: ReportedAverages) -> Section:
    lines = [
        [general(method), *(NONE if value is None else f"{value:.1f}" for value in values)]
        for method, values in paper.rows.items()
    ]
    return Section(
        f"Reported, {paper.source}, {paper.title}: {paper.base}",
        ["method", *_SPLITS],
        lines,
        before="Another model and other problems than above: compare orders, not numbers. No "
        "intervals and no number of seeds are given.",
    )


def missing(audit: Audit) -> list[str]:
    """What the audit lacks: methods, seeds, and folders of runs that are not finished."""
    runs = audit.runs
    found = []
    for method in ROWS:
        lacking = [seed for seed in runs.expected_seeds if seed not in runs.seeds(method)]
        if not runs.seeds(method):
            found.append(f"`{method}`: no finished run")
        elif lacking:
            found.append(f"`{method}`: no finished run of seed {', '.join(map(str, lacking))}")
    return found + [f"`{name}` is not finished, and not used" for name in runs.unfinished]


def _missing(audit: Audit) -> Section | None:
    notes = missing(audit)
    before = f"`{audit.runs.command}` makes it, and leaves what is there."
    return Section("Missing", before=before, notes=notes) if notes else None


def _origin(audit: Audit) -> Section:
    seeds = ", ".join(map(str, audit.runs.all_seeds)) or NONE
    notes = [
        f"Seeds: {seeds}. A seed is a training; the base model's are seeds of sampling.",
        "Intervals: 95 %, bootstrap over seeds and, in tests, within each level over problems; "
        "widened for the small number of seeds (Student); `analysis/statistics.py` has the "
        "formula.",
        "Faults: 'last micro-batch only' drops the gradients of all other micro-batches of a step "
        "of SFT; 'mean of means' averages the micro-batches' means. In SFT→GRPO the stage of SFT "
        "has them.",
        *(f"{name}: {value}" for name, value in audit.runs.provenance().items()),
    ]
    return Section("Where this comes from", notes=notes)


# ------------------------------------------------------------------------------------------ the CSV


def texts(audit: Audit) -> dict[str, str]:
    """The text of each of the table's files."""
    parts = sections(audit)
    return {
        "audit.md": markdown(heading(audit), parts),
        "audit.tex": latex(heading(audit), parts),
        "audit.csv": to_csv(audit),
    }


def to_csv(audit: Audit) -> str:
    """One line an accuracy, a difference or a published number; per cent and points."""
    return csv_text(CSV_COLUMNS, _rows(audit))


def _rows(audit: Audit) -> Iterator[Sequence[object]]:
    flops = audit.costs["flops"].to_dict()
    for split, tests in audit.tests.items():
        for method in (m for m in ROWS if m in tests):
            spent = _number(flops.get(method, 0.0))
            yield ("test", split, method, "", *_cell(tests[method]), spent, "")
    for reading in audit.validated.values():
        cell, spent = _cell(reading.estimate), _number(reading.flops)
        yield ("validation at equal compute", IN, reading.method, "", *cell, spent, "")
    for row in audit.faults.to_dict("records"):
        verdict = _verdict(row["p"], row["distinguishable"]).strip("*")
        pair = row["method"], row["faulty"]
        yield ("fault", row["split"], *pair, *_compared(row), verdict, "", "", "")
    for setting, claims in audit.settings:
        for row in claims.to_dict("records"):
            pair, source = (row["above"], row["below"]), row["source"]
            setting_name = f"{setting.where}, {setting.split}"
            yield ("claim", setting_name, *pair, *_compared(row), row["verdict"], "", "", source)
    for paper in reported_averages():
        for method, values in paper.rows.items():
            for split, value in zip(_SPLITS, values, strict=True):
                if value is not None:
                    where = f"{paper.base}, {split}"
                    yield ("reported", where, method, "", value, *[""] * 7, paper.source)


def _cell(estimate: Estimate) -> tuple[object, ...]:
    numbers = (estimate.mean, *within(estimate.interval))
    return (*(f"{100 * x:.4f}" for x in numbers), "", "", "", estimate.seeds)


def _compared(row: Mapping[str, Any]) -> list[str]:
    points = [
        "" if pd.isna(row[n]) else f"{100 * row[n]:.4f}" for n in ("difference", "low", "high")
    ]
    return points + ["" if pd.isna(row[n]) else f"{row[n]:.4g}" for n in ("p", "p_holm")]


def _number(value: float) -> str:
    return f"{value:.6g}"
