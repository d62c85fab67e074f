"""What a table of accuracy shows of a comparison: estimates of every method on every suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis import methods
from analysis.reported import Reported, reported
from analysis.run import Runs, no_runs
from analysis.statistics import AVERAGE, MIDDLE, Estimate, comparisons, estimates
from analysis.tables import NONE
from upge.common.errors import unknown
from upge.tasks.benchmarks import UNSEEN
from upge.tasks.synthetic import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION

IN, OUT = "in distribution", "out of distribution"
SUITES = dict.fromkeys(IN_DISTRIBUTION, IN) | dict.fromkeys(OUT_OF_DISTRIBUTION, OUT)


def suites_of(runs: Runs) -> dict[str, str]:
    """The split of each suite that these runs were to be tested on."""
    data = runs.finished[0].config["data"] if runs.finished else {}
    if data.get("kind") != "benchmarks":
        return SUITES
    return {Path(name).stem: OUT if name in UNSEEN else IN for name in data["test_sets"]}


def tested_suites(runs: Runs, problems: pd.DataFrame) -> dict[str, str]:
    """The split of each suite that has test problems."""
    tested = set(problems["suite"]) if len(problems) else set()
    return {suite: split for suite, split in suites_of(runs).items() if suite in tested}


def averages(problems: pd.DataFrame, suites: Mapping[str, str]) -> dict[str, dict[str, Estimate]]:
    """Each method's average over the suites of a split, by split and method."""
    found: dict[str, dict[str, Estimate]] = {}
    if suites:
        for (method, suite, split), estimate in estimates(problems, suites).items():
            if suite == AVERAGE:
                found.setdefault(split, {})[method] = estimate
    return found


@dataclass(frozen=True)
class Layout:
    """What is particular to one of the paper's tables.

    Args:
        name: of its files.
        heading: its title.
        comparisons: whose runs it shows, each beside the published table of the same name.
        rows: the methods it should have, in order.
        focus: methods whose standing among all others is put into words.
        titles: names of rows that differ from those in other tables.
        note: what a reader should know of its rows.
    """

    name: str
    heading: str
    comparisons: Sequence[str]
    rows: Sequence[str]
    focus: Sequence[str]
    titles: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def title(self, method: str) -> str:
        """A row's name; one that the paper takes from another paper keeps its star."""
        known = method.removesuffix("*")
        return self.titles.get(known, methods.title(known)) + method[len(known) :]


@dataclass(frozen=True)
class Table:
    """One comparison as a table shows it.

    Args:
        layout: the table.
        comparison: its name.
        runs: the runs it is made from.
        estimates: of every method on every suite and average.
        pairs: comparisons of methods.
        samples: responses per test problem.
        paper: the published table.
    """

    layout: Layout
    comparison: str
    runs: Runs
    estimates: Mapping[tuple[str, ...], Estimate]
    pairs: pd.DataFrame
    samples: Sequence[int]
    paper: Reported

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Suite and split of each column, averages included."""
        splits = suites_of(self.runs)
        inside, outside = ([s for s in splits if splits[s] == split] for split in (IN, OUT))
        return [
            *((suite, IN) for suite in (*inside, AVERAGE, MIDDLE)),
            *((suite, OUT) for suite in (*outside, AVERAGE)),
        ]

    @property
    def methods(self) -> list[str]:
        """The rows: the layout's, then all others."""
        names = self.runs.methods
        return [m for m in dict.fromkeys([*self.layout.rows, *names]) if m in names]

    @property
    def base(self) -> str:
        """The model trained."""
        return str(self.runs.finished[0].config["model"]) if self.runs.finished else NONE

    @property
    def pairs_file(self) -> str:
        """The CSV file of the comparisons of methods."""
        return f"{self.comparison}_comparisons.csv"


def make(layout: Layout, comparison: str, runs: Runs) -> Table:
    """Everything that a table shows of one of its comparisons.

    Raises:
        UpgeError: damaged runs, or runs evaluated on different problems.
    """
    problems = runs.problems()
    suites = tested_suites(runs, problems)
    found = estimates(problems, suites) if suites else {}
    samples = sorted(problems["samples"].unique().tolist()) if len(problems) else []
    pairs = comparisons(found)
    return Table(layout, comparison, runs, found, pairs, samples, reported(comparison))


def parts(layout: Layout, comparisons: Sequence[Runs]) -> list[Table]:
    """What the table shows of each of its comparisons, with no runs for one that is missing.

    Raises:
        UpgeError: see :func:`make`; or runs of a comparison that the table doesn't show.
    """
    if len(layout.comparisons) == len(comparisons) == 1:
        return [make(layout, layout.comparisons[0], comparisons[0])]
    by_name = {runs.comparison: runs for runs in comparisons}
    for name in by_name:
        if name not in layout.comparisons:
            raise unknown(f"comparison for {layout.name}", name, layout.comparisons)
    folder = comparisons[0].folder.resolve()
    return [
        make(layout, name, by_name.get(name, no_runs(folder.with_name(name))))
        for name in layout.comparisons
    ]
