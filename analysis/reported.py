"""Published numbers, from ``reported.yaml``; they are shown beside ours and never mixed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        rows: by method, a value for each suite of each split; None where none is published.
        source: where it is published.
        suites: by split, the average last.
        note: the table's footnote.
    """

    title: str
    base: str
    rows: Mapping[str, Sequence[float | None]]
    source: str
    suites: Mapping[str, Sequence[str]] = field(default_factory=dict)
    note: str = ""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Suite and split of each value of a row."""
        return [(suite, split) for split, suites in self.suites.items() for suite in suites]


def reported(name: str) -> Reported:
    """The published table ``name``, as ``table2``."""
    return Reported(**published(name))


def published(name: str) -> dict[str, Any]:
    """An entry of ``reported.yaml``, as ``table4`` or ``figure6``, with its source."""
    entries = read_yaml(_FILE)
    return {**entries[name], "source": entries["source"]}
