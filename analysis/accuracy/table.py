"""What a table of accuracy shows of a comparison: estimates of every method on every suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis import methods
from analysis.reported import Reported, reported
from analysis.runs import Runs
from analysis.statistics import AVERAGE, MIDDLE, Estimate, comparisons, estimates
from analysis.tables import NONE
from upge.common.errors import unknown
from upge.tasks.benchmarks import UNSEEN
from upge.tasks.synthetic import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION

IN, OUT = "in distribution", "out of distribution"
SUITES = dict.fromkeys(IN_DISTRIBUTION, IN) | dict.fromkeys(OUT_OF_DISTRIBUTION, OUT)


def suites_of(runs: Runs) -> dict[str, str]:
    """The split of each suite that these runs are tested on; the synthetic ones without any."""
    data = runs.finished[0].config["data"] if runs.finished else {}
    if data.get("kind") != "benchmarks":
        return SUITES
    return {Path(name).stem: OUT if name in UNSEEN else IN for name in data["test_sets"]}


def columns_of(suites: Mapping[str, str]) -> list[tuple[str, str]]:
    """Suite and split of each column, those of means included."""
    inside, outside = ([s for s, own in suites.items() if own == split] for split in (IN, OUT))
    return [
        *((suite, IN) for suite in (*inside, AVERAGE, MIDDLE)),
        *((suite, OUT) for suite in (*outside, AVERAGE)),
    ]


COLUMNS = columns_of(SUITES)


@dataclass(frozen=True)
class Layout:
    """What is particular to one of the paper's tables.

    Args:
        name: of its files.
        heading: its title.
        comparisons: whose runs it shows, each beside the published table of the same name.
        rows: the methods it should have, in order.
        focus: methods whose standing among all others is put into words.
        titles: of rows that it calls otherwise than other tables do.
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
        """A row's name; that of a row which the paper takes from another paper has a star."""
        known = method.removesuffix("*")
        return self.titles.get(known, methods.title(known)) + method[len(known) :]


@dataclass(frozen=True)
class Table:
    """One comparison as a table shows it.

    Args:
        layout: the table.
        comparison: its name.
        runs: where it comes from.
        estimates: of every method on every suite and average.
        pairs: comparisons of methods.
        samples: responses a test problem.
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
        """Suite and split of each column."""
        return columns_of(suites_of(self.runs))

    @property
    def methods(self) -> list[str]:
        """The rows: the layout's, then all others."""
        there = self.runs.methods
        return [m for m in dict.fromkeys([*self.layout.rows, *there]) if m in there]

    @property
    def base(self) -> str:
        """The model trained."""
        return str(self.runs.finished[0].config["model"]) if self.runs.finished else NONE

    @property
    def pairs_file(self) -> str:
        """The file that the comparisons of methods go to."""
        return f"{self.comparison}_comparisons.csv"


def make(layout: Layout, comparison: str, runs: Runs) -> Table:
    """Everything that a table shows of one of its comparisons.

    Raises:
        UpgeError: damaged runs, or runs evaluated on different problems.
    """
    problems = runs.problems()
    there = set(problems["suite"]) if len(problems) else set()
    suites = {suite: split for suite, split in suites_of(runs).items() if suite in there}
    found = estimates(problems, suites) if there else {}
    samples = sorted(problems["samples"].unique().tolist()) if there else []
    pairs = comparisons(found)
    return Table(layout, comparison, runs, found, pairs, samples, reported(comparison))


def parts(layout: Layout, given: Sequence[Runs]) -> list[Table]:
    """What the table shows of each of its comparisons; of one that was not given, no runs.

    Raises:
        UpgeError: see :func:`make`; or runs of a comparison that the table doesn't show.
    """
    if len(layout.comparisons) == len(given) == 1:
        return [make(layout, layout.comparisons[0], given[0])]
    own = {runs.comparison: runs for runs in given}
    for name in own:
        if name not in layout.comparisons:
            raise unknown(f"comparison for {layout.name}", name, layout.comparisons)
    folder = given[0].folder.resolve()
    nothing = {name: Runs((), {}, {}, (), folder.with_name(name)) for name in layout.comparisons}
    return [make(layout, name, runs) for name, runs in (nothing | own).items()]
