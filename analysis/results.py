"""All results: the comparisons that each is made from, and its tables and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from analysis import table4
from analysis.accuracy.document import document as accuracy
from analysis.accuracy.layouts import LAYOUTS
from analysis.audit.document import document as audit
from analysis.figures.catalog import FIGURES, Spec
from analysis.figures.pass_at_k import Counts, load_counts
from analysis.run import Runs, make_command
from analysis.runs import load_runs
from analysis.style import plain, save
from analysis.supply.document import document as supply
from analysis.supply.study import COMPARISONS as SUPPLY
from analysis.tables import Document, csv_text, write
from analysis.wording import numbered
from upge.common.errors import UpgeError

#: What a result is made from.
Source = Runs | Counts


@dataclass(frozen=True)
class Result:
    """A table with its figures, or a figure.

    Args:
        comparisons: names of the folders that it is made from.
        document: makes the table.
        figures: names of its figures.
        load: loads a folder.
    """

    comparisons: Sequence[str] = ()
    document: Callable[..., Document] | None = None
    figures: Sequence[str] = ()
    load: Callable[[Path], Source] = load_runs

    def sources(self, records: Path) -> list[Source]:
        """What there is of its comparisons below a folder.

        Raises:
            UpgeError: nothing that is finished, or damaged runs.
        """
        folders = [records / name for name in self.comparisons]
        present = [f for f in folders if f.is_dir()] or folders[:1]
        sources = [self.load(folder) for folder in present]
        if sources and not any(source.methods for source in sources):
            names = ", ".join(map(str, folders))
            raise UpgeError(f"{names}: no finished run; make some with `{sources[0].command}`")
        return sources


RESULTS: dict[str, Result] = {
    "table2": Result(
        ("table2",),
        partial(accuracy, LAYOUTS["table2"]),
        ("table2/learning_curves", "table2/offline_ratio", "table2/seeds"),
    ),
    **{
        name: Result(LAYOUTS[name].comparisons, partial(accuracy, LAYOUTS[name]))
        for name in ("table3", "table5", "table6")
    },
    "table4": Result(("table2",), table4.document),
    "audit": Result(("audit",), audit, ("audit",)),
    "supply": Result(SUPPLY, supply, ("supply",)),
    "figure1": Result(figures=("figure1",)),
    "figure2": Result(("pass_at_k",), figures=("figure2",), load=load_counts),
    "figure3": Result(("figure3",), figures=("figure3",)),
    "figure4": Result(("figure3",), figures=("figure4",)),
    "figure5": Result(("table2",), figures=("figure5",)),
    "figure6": Result(("table2", "table3-weak", "table3-small"), figures=("figure6",)),
    "figure7": Result(("table2",), figures=("figure7",)),
    "figure8": Result(("table6",), figures=("figure8",)),
}


def series_csv(numbers: pd.DataFrame) -> str:
    """The numbers of a figure as CSV, six digits each."""
    rows = (
        ["" if pd.isna(x) else f"{x:.6g}" if isinstance(x, float) else x for x in row]
        for row in numbers.itertuples(index=False)
    )
    return csv_text(list(numbers.columns), rows)


def made_from(sources: Sequence[Source]) -> list[str]:
    """What a figure is made from, with commits and seeds."""
    return [
        f"{source.comparison}, {source.profile} profile: commits {source.commits}; "
        f"{numbered(source.all_seeds, 'seed')}"
        for source in sources
    ] or ["upge.algorithms.REGISTRY"]


def figure_json(spec: Spec, numbers: pd.DataFrame, sources: Sequence[Source]) -> str:
    """Caption and origin of a figure as JSON."""
    record = {"caption": spec.caption_of(numbers), "made_from": made_from(sources)}
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def figure_texts(spec: Spec, sources: Sequence[Source]) -> dict[str, str]:
    """The text files beside a figure, by suffix; none if there is nothing to show."""
    numbers = spec.numbers(*sources)
    if not len(numbers):
        return {}
    return {".csv": series_csv(numbers), ".json": figure_json(spec, numbers, sources)}


def write_figure(name: str, sources: Sequence[Source], folder: Path, *, stamp: bool) -> list[Path]:
    """Write a figure (.pdf, .png), its numbers (.csv), and its caption and origin (.json).

    Args:
        name: in the catalog.
        sources: what it is made from.
        folder: where its files go; nothing is written if there is nothing to show.
        stamp: whether caption and origin are drawn too.
    """
    spec, path = FIGURES[name], folder / name
    numbers = spec.numbers(*sources)
    if not len(numbers):
        return []
    texts = [
        write(path.with_suffix(".csv"), series_csv(numbers)),
        write(path.with_suffix(".json"), figure_json(spec, numbers, sources)),
    ]
    stamped = f"{spec.caption_of(numbers)}\n{'. '.join(made_from(sources))}." if stamp else ""
    return [*save(spec.draw(numbers), path, plain(stamped)), *texts]


def missing_of(result: Result, sources: Sequence[Source]) -> list[str]:
    """Comparisons that don't exist, and methods that a figure lacks, with what makes them."""
    present = {source.comparison for source in sources}
    gaps = [
        f"{name}: no comparison; `{make_command(name)}` makes it"
        for name in result.comparisons
        if name not in present
    ]
    shows = {method for name in result.figures for method in FIGURES[name].shows}
    gaps += [
        f"{source.comparison}: no finished run of {method}; `{source.command}` makes it"
        for source in sources
        for method in shows
        if method not in source.methods
    ]
    return gaps
