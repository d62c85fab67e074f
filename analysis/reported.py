"""Published numbers, from ``reported.yaml``; they are shown beside ours and never mixed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upge.common.config import read_yaml

_FILE = Path(__file__).with_name("reported.yaml")


@dataclass(frozen=True)
class Reported:
    """A published table of accuracies, percent.

    Args:
        title: its number there.
        base: the model trained.
        suites: by split, the average last.
        rows: by method, a value for each suite of each split; None where none is published.
        source: where it is published.
        note: the table's footnote.
    """

    title: str
    base: str
    suites: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[float | None]]
    source: str
    note: str = ""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Suite and split of each value of a row."""
        return [(suite, split) for split, suites in self.suites.items() for suite in suites]


@dataclass(frozen=True)
class ReportedExclusive:
    """Published counts of problems that HPT or another method solves alone.

    Args:
        title: its number there.
        base: the problems.
        levels: their levels.
        problems: how many each level has.
        rows: by the other method, counts by level: of HPT alone, of the other alone.
        source: where it is published.
        note: what a reader should know.
    """

    title: str
    base: str
    levels: Sequence[int]
    problems: Sequence[int]
    rows: Mapping[str, Sequence[Sequence[int]]]
    source: str
    note: str


@dataclass(frozen=True)
class ReportedRatio:
    """A published constant share of offline samples.

    Args:
        title: the figure's number there.
        method: the method's name.
        ratio: offline samples of all samples of a step.
        source: where it is published.
    """

    title: str
    method: str
    ratio: float
    source: str


def reported(name: str) -> Reported:
    """The published table ``name``, as ``table2``."""
    return Reported(**_read(name))


def reported_exclusive() -> ReportedExclusive:
    """The published Table 4."""
    return ReportedExclusive(**_read("table4"))


def reported_offline_ratio() -> ReportedRatio:
    """The constant in the published Figure 6."""
    return ReportedRatio(**_read("figure6"))


def _read(name: str) -> dict[str, Any]:
    published = read_yaml(_FILE)
    return {**published[name], "source": published["source"]}
