"""Table 2: ``python -m analysis.table2 RUNS`` makes it, and its figures, from a folder of runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis import learning_curves, offline_ratio
from analysis.methods import BASE, METHODS, ordered, title
from analysis.reported import Reported, reported
from analysis.runs import Runs, load_runs
from analysis.statistics import (
    AVERAGE,
    Estimate,
    cells,
    comparisons,
    estimates,
    verdict,
    within,
)
from analysis.tables import NONE, Section, csv_text, latex, markdown, write
from upge.errors import UpgeError
from upge.tasks.synthetic import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION

IN, OUT = "in distribution", "out of distribution"
SUITES = dict.fromkeys(IN_DISTRIBUTION, IN) | dict.fromkeys(OUT_OF_DISTRIBUTION, OUT)
COLUMNS = (*((s, p) for p in (IN, OUT) for s in [*(n for n in SUITES if SUITES[n] == p), AVERAGE]),)

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


@dataclass(frozen=True)
class Table2:
    """What the table shows.

    Args:
        runs: where it comes from.
        estimates: of every method on every suite and average.
        pairs: comparisons of methods.
        costs: a row a method: what its training took, means over seeds.
        samples: responses a test problem.
        paper: the published table.
    """

    runs: Runs
    estimates: Mapping[tuple[str, ...], Estimate]
    pairs: pd.DataFrame
    costs: pd.DataFrame
    samples: Sequence[int]
    paper: Reported

    @property
    def methods(self) -> list[str]:
        """The table's rows."""
        return self.runs.methods

    @property
    def base(self) -> str:
        """The model trained."""
        return str(self.runs.finished[0].config["model"]) if self.runs.finished else NONE

    @property
    def expected_seeds(self) -> list[int]:
        """Seeds that any run has."""
        return self.runs.expected_seeds


def make(runs: Runs) -> Table2:
    """Everything the table shows, from runs.

    Raises:
        UpgeError: damaged runs, or runs evaluated on different problems.
    """
    problems = runs.problems()
    there = set(problems["suite"]) if len(problems) else set()
    found = estimates(problems, {s: p for s, p in SUITES.items() if s in there}) if there else {}
    samples = sorted(problems["samples"].unique().tolist()) if there else []
    return Table2(runs, found, comparisons(found), _costs(runs), samples, reported("table2"))


_COSTS = ("demonstrations", "tokens_computed", "tokens_sampled", "flops", "cpu_seconds")


def _costs(runs: Runs) -> pd.DataFrame:
    metrics = runs.metrics()
    if not len(metrics):
        return pd.DataFrame()
    metrics = metrics.reindex(columns=["method", "seed", "step", *_COSTS])
    each = metrics.groupby(["method", "seed"])
    totals = each[list(_COSTS)].sum(min_count=1).assign(steps=each["step"].max())
    return totals.groupby("method").mean()


# ------------------------------------------------------------------------------------------ the CSV


def to_csv(table: Table2) -> str:
    """One line a cell, per cent: ours with their intervals, then the published ones."""
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
    return csv_text(CSV_COLUMNS, rows)


def _ordered(table: Table2) -> pd.DataFrame:
    frame = cells(table.estimates)
    place = {method: i for i, method in enumerate(table.methods)}
    column = {key: i for i, key in enumerate(COLUMNS)}
    keys = [(place[r.method], column[r.suite, r.split]) for r in frame.itertuples()]
    return frame.iloc[sorted(range(len(frame)), key=lambda i: keys[i])]


def comparisons_csv(table: Table2) -> str:
    """Every pair of methods, differences per cent."""
    rows = []
    for row in table.pairs.itertuples():
        numbers = (f"{100 * x:.4f}" for x in (row.difference, row.low, row.high))
        p_values = (f"{x:.4g}" for x in (row.p, row.p_holm))
        same = "yes" if row.distinguishable else "no"
        rows.append((row.suite, row.split, row.method, row.other, *numbers, *p_values, same))
    return csv_text(tuple(table.pairs.columns), rows)


# ------------------------------------------------------------------------------------- the document


def sections(table: Table2) -> list[Section]:
    """The table and what belongs to it."""
    found = [_ours(table), *_differences(table), _took(table), _rates(table), _published(table)]
    return [s for s in [*found, _missing(table), _origin(table)] if s is not None]


def heading(table: Table2) -> str:
    """The document's title."""
    return f"Table 2: HPT and its baselines, {table.runs.profile} profile"


def _ours(table: Table2) -> Section:
    marks = {column: _marks(table, *column) for column in COLUMNS}
    lines = []
    for method in table.methods:
        shown = [_cell(table, method, column, marks[column]) for column in COLUMNS]
        lines.append([title(method), str(len(table.runs.seeds(method))), *shown])
    header = ["method", "seeds", *(_short(*column) for column in COLUMNS)]
    notes = [
        "Per cent right: mean over seeds and problems ± half of its 95 % interval.",
        "**Bold**: the highest of a column, where it is distinguishable from every other method.",
        "°: not distinguishable from the highest of its column; no mark where none is "
        "distinguishable.",
    ]
    if table.runs.profile == "smoke":
        notes.append("The smoke profile shows that everything runs; its numbers order nothing.")
    return Section(f"Reproduced: base model `{table.base}`", header, lines, notes=notes)


def _short(suite: str, split: str) -> str:
    return suite if suite != AVERAGE else "average" if split == IN else "o.o.d. average"


def _marks(table: Table2, suite: str, split: str) -> dict[str, str]:
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


def _cell(table: Table2, method: str, column: tuple[str, str], marks: Mapping[str, str]) -> str:
    estimate = table.estimates.get((method, *column))
    if estimate is None:
        return NONE
    mark = marks.get(method, "")
    text = _with_interval(estimate)
    return f"**{text}**" if mark == "**" else text + mark


def _with_interval(estimate: Estimate) -> str:
    low, high = within(estimate.interval)
    return f"{100 * estimate.mean:.1f} ± {50 * (high - low):.1f}"


def readme_table(table: Table2) -> str:
    """The averages beside those that the paper reports for its own models and problems."""
    averages = [column for column in COLUMNS if column[0] == AVERAGE]
    header = ["method", "in distribution", "out of distribution", "paper: in", "paper: out"]
    lines = [header, ["---"] * len(header)]
    published = table.paper
    for method in table.methods:
        own = [table.estimates.get((method, *column)) for column in averages]
        values = published.rows.get(method, ())
        reported_ = dict(zip(published.columns, values, strict=False))
        theirs = [reported_.get(column) for column in averages]
        lines.append(
            [
                title(method),
                *(NONE if e is None else _with_interval(e) for e in own),
                *(NONE if x is None else f"{x:.1f}" for x in theirs),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _differences(table: Table2) -> list[Section]:
    averages = table.pairs[table.pairs["suite"] == AVERAGE]
    if not len(averages):
        return []
    if averages["p"].isna().all():
        before = "No two methods have two seeds: nothing is compared, and no order claimed."
        return [Section("More than chance?", before=before)]
    return [_difference(table, own, str(split)) for split, own in averages.groupby("split")]


def _difference(table: Table2, own: pd.DataFrame, split: str) -> Section:
    """Every method less every other, on a split's average."""
    present = [m for m in table.methods if (m, AVERAGE, split) in table.estimates]
    lines = []
    for number, method in enumerate(present, 1):
        line = [_less(table, own, method, other, split) for other in present]
        lines.append([f"{number} {title(method)}", *line])
    tests = int(own["p"].notna().sum())
    before = (
        "The row's method less the column's, in points. **Bold**: distinguishable, paired on the "
        f"same problems, at the 5 % level after Holm's correction for all {tests} pairs. All other "
        "pairs are not distinguishable, which is not to say equal. Intervals, and all suites, are "
        "in `table2_comparisons.csv`."
    )
    if tests < len(own):
        before += " A method with one seed is not compared: a single training says too little."
    header = ["", *map(str, range(1, len(present) + 1))]
    return Section(f"More than chance? The average {split}", header, lines, before=before)


def _less(table: Table2, own: pd.DataFrame, method: str, other: str, split: str) -> str:
    if method == other:
        return ""
    means = [table.estimates[m, AVERAGE, split].mean for m in (method, other)]
    points = round(100 * (means[0] - means[1]), 1) + 0.0  # no −0.0
    text = f"{points:+.1f}".replace("-", "−")
    return f"**{text}**" if verdict(own, method, other) in ("better", "worse") else text


def _took(table: Table2) -> Section | None:
    if not len(table.costs):
        return None
    lines = []
    for method in (m for m in table.methods if m in table.costs.index):
        costs = table.costs.loc[method].to_dict()
        lines.append(
            [
                title(method),
                _used_rates(table, method),
                *(_amount(costs[name]) for name in ("steps", "demonstrations")),
                *(_million(costs[name]) for name in ("tokens_sampled", "tokens_computed")),
                _scientific(costs["flops"]),
                _amount(costs["cpu_seconds"]),
            ]
        )
    header = [
        "method",
        "learning rate",
        "steps",
        "demonstrations seen",
        "tokens sampled, M",
        "tokens trained on, M",
        "FLOPs",
        "CPU seconds",
    ]
    notes = [
        "Of one training, mean over seeds; for a pipeline of all its stages. Tokens trained on are "
        "those of prompts and responses that went forward and backward.",
        "FLOPs are of sampling and training, counted as 2 forward and 4 backward a parameter and "
        "token. CPU seconds include validations; tests are in neither.",
    ]
    return Section("What it took", header, lines, notes=notes)


def _used_rates(table: Table2, method: str) -> str:
    stages = table.runs.of(method)[0].config["stages"]
    return " → ".join(f"{stage['lr']:g}" for stage in stages)


def _amount(value: float) -> str:
    return NONE if pd.isna(value) else f"{value:,.0f}"


def _million(value: float) -> str:
    return NONE if pd.isna(value) else f"{value / 1e6:.3g}"


def _scientific(value: float) -> str:
    return NONE if pd.isna(value) else f"{value:.2g}".replace("e+", "e")


def _rates(table: Table2) -> Section | None:
    """The grid of learning rates, the chosen ones in bold."""
    chosen = table.runs.selection
    trained = [m for m in table.methods if m != BASE]
    notes = [f"`{m}`: how its rate was chosen is not recorded." for m in trained if m not in chosen]
    notes += [text for m in trained if m in chosen and (text := _other_rate(table, m))]
    rates = sorted({rate for entry in chosen.values() for rate in entry["grid"]}, key=float)
    lines = [_grid_line(m, chosen[m], rates) for m in trained if m in chosen]
    if not lines:
        return Section("Learning rates", notes=notes) if notes else None
    terms = table.runs.trial
    told = f" of {terms['steps']} steps, seed {terms['seed']}" if terms else ""
    before = f"Validation accuracy, per cent, at the end of a trial{told}; the chosen rate in bold."
    return Section("Learning rates", ["method", *rates], lines, before=before, notes=notes)


def _grid_line(method: str, entry: Mapping[str, Any], rates: Sequence[str]) -> list[str]:
    line = [title(method)]
    for rate in rates:
        value = entry["grid"].get(rate)
        chosen = float(rate) == entry["lr"]
        text = NONE if value is None else f"{100 * value:.1f}"
        text = "taken without a trial" if value is None and chosen else text
        line.append(f"**{text}**" if chosen else text)
    return line


def _other_rate(table: Table2, method: str) -> str:
    used = table.runs.of(method)[0].config["stages"][-1]["lr"]
    chosen = table.runs.selection[method]["lr"]
    if used == chosen:
        return ""
    return f"`{method}` was trained at {used:g}, though `selection.json` chose {chosen:g}."


def _published(table: Table2) -> Section:
    paper = table.paper
    header = ["method", *(_short(*column) for column in paper.columns)]
    lines = [[title(m), *(f"{x:.1f}" for x in values)] for m, values in paper.rows.items()]
    return Section(
        f"Reported, {paper.source}, {paper.title}: {paper.base}",
        header,
        lines,
        before="Another model, other problems and other compute than above: compare orders, not "
        "numbers. The paper gives no intervals and no number of seeds.",
        notes=[paper.note] if paper.note else [],
    )


def missing(table: Table2) -> list[str]:
    """What the table lacks: methods, seeds, and folders of runs that are not finished."""
    found = []
    for method in ordered([*METHODS, *table.methods]):
        there = table.runs.seeds(method)
        lacking = [seed for seed in table.expected_seeds if seed not in there]
        if not there:
            found.append(f"`{method}`: no finished run")
        elif lacking:
            found.append(f"`{method}`: {_seeds(lacking)}")
    return found + [f"`{name}` is not finished, and not used" for name in table.runs.unfinished]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def command(table: Table2) -> str:
    """The command that makes what is missing."""
    return table.runs.command


def _missing(table: Table2) -> Section | None:
    notes = missing(table)
    before = f"`{command(table)}` makes it, and leaves what is there."
    return Section("Missing", before=before, notes=notes) if notes else None


def _origin(table: Table2) -> Section:
    origin = table.runs.provenance()
    counts = {len(table.runs.seeds(method)) for method in table.methods}
    notes = [
        f"Seeds: {', '.join(map(str, table.expected_seeds)) or NONE}. A seed is a training; the "
        "base model's are seeds of sampling.",
        *([_tests(table)] if table.estimates else []),
        "Intervals: 95 %, bootstrap over seeds and, within each level, over problems, widened for "
        "the small number of seeds (Student); `analysis/statistics.py` has the formula. They say "
        "what other seeds and other problems of these kinds would give.",
    ]
    if 1 in counts:
        notes.append("Where there is one seed, the interval is over problems alone: too narrow.")
    notes += [f"{name}: {value}" for name, value in origin.items()]
    return Section("Where this comes from", notes=notes)


def _tests(table: Table2) -> str:
    sizes = {e.problems for key, e in table.estimates.items() if key[1] != AVERAGE}
    evaluation = table.runs.finished[0].config["evaluation"]
    return (
        f"Tests: {_range(sizes)} problems a suite, {_range(table.samples)} samples each, "
        f"temperature {evaluation['temperature']:g}, top-p {evaluation['top_p']:g}; disjoint from "
        "training and validation problems."
    )


def _range(values: Sequence[int] | set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


# ------------------------------------------------------------------------------------------- output


def texts(runs: Runs) -> dict[str, str]:
    """The text of each of the table's files, from runs."""
    return _texts(make(runs))


def _texts(table: Table2) -> dict[str, str]:
    parts = sections(table)
    return {
        "table2.md": markdown(heading(table), parts),
        "table2.tex": latex(heading(table), parts),
        "table2.csv": to_csv(table),
        "table2_comparisons.csv": comparisons_csv(table),
    }


def write_table(table: Table2, folder: Path) -> list[Path]:
    """Write the table as Markdown, LaTeX and CSV, and the comparisons as CSV."""
    return [write(folder / name, text) for name, text in _texts(table).items()]


def main(
    runs: Annotated[Path, typer.Argument(help="The runs of a profile, or their records.")],
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path("paper_tables"),
    figures: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("figures/table2"),
) -> None:
    """Make Table 2 and its figures of the runs that are finished; what is missing is named."""
    try:
        loaded = load_runs(runs)
        if not loaded.finished:
            raise UpgeError(
                f"{runs}: holds no finished run; make some with `make reproduce-table2`"
            )
        table = make(loaded)
        written = write_table(table, out)
        for draw in (learning_curves.write_figure, offline_ratio.write_figure):
            written += draw(loaded, figures)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)
    if lacking := missing(table):
        print(f"missing ({command(table)} makes it):", *lacking, sep="\n  ")


if __name__ == "__main__":
    typer.run(main)
