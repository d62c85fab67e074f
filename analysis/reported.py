"""Numbers as published, from ``reported.yaml``; they are shown beside ours and never mixed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upge.common.config import read_yaml

_FILE = Path(__file__).with_name("reported.yaml")


@dataclass(frozen=True)
class Reported:
    """A published table of accuracies, per cent.

    Args:
        title: its number there.
        base: the model trained.
        suites: by split, the average last.
        rows: by method, a value for each suite of each split.
        source: where it is published.
        note: the table's own footnote.
    """

    title: str
    base: str
    suites: Mapping[str, Sequence[str]]
    rows: Mapping[str, Sequence[float]]
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


def reported_exclusive() -> ReportedExclusive:
    """The published Table 4."""
    given = read_yaml(_FILE)
    return ReportedExclusive(**given["table4"], source=given["source"])


def reported(name: str) -> Reported:
    """The published table ``name``, as ``table2``."""
    given = read_yaml(_FILE)
    return Reported(**given[name], source=given["source"])


@dataclass(frozen=True)
class ReportedRatio:
    """A published constant share of offline samples.

    Args:
        title: the figure's number there.
        method: whose.
        ratio: offline samples of all samples of a step.
        source: where it is published.
    """

    title: str
    method: str
    ratio: float
    source: str


def reported_offline_ratio() -> ReportedRatio:
    """The constant in the published Figure 6."""
    given = read_yaml(_FILE)
    return ReportedRatio(**given["figure6"], source=given["source"])
