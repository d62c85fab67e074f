"""Supplies of demonstrations, from the comparisons of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from analysis.methods import BASE, short_title, suite_title
from analysis.run import Run, Runs
from upge.common.errors import UpgeError
from upge.tasks.synthetic import IN_DISTRIBUTION, LEVELS

#: The comparisons of the study.
COMPARISONS = tuple(f"supply-{name}" for name in (30, 100, 300, 900, "levels", "families"))

#: Methods without demonstrations, whose runs in one comparison serve all supplies.
FREE = (BASE, "grpo")

#: The methods of the study.
METHODS = (*FREE, "sft", "sft_long", "sft_grpo", "luffy", "hpt_global_token")


def short(method: str) -> str:
    """A method's name where room is scarce: the study has one variant of each."""
    return "base" if method == BASE else short_title(method)


@dataclass(frozen=True)
class Column:
    """A supply of demonstrations.

    Args:
        label: its short name in CSV.
        title: its short name for readers.
        demonstrations: how many problems have one.
        problems: how many problems are trained on.
        whole: whether demonstrations cover all families and levels that are trained on.
        runs: with this supply, and those that need none.
    """

    label: str
    title: str
    demonstrations: int
    problems: int
    whole: bool
    runs: Runs


def columns(comparisons: Sequence[Runs]) -> list[Column]:
    """No demonstration, then ever more, then those of some levels or families.

    Args:
        comparisons: those of the study that exist.

    Raises:
        UpgeError: comparisons with the same supply.
    """
    made = [runs for runs in comparisons if runs.finished]
    free = [run for method in FREE for run in _first(made, method)]
    supplied = sorted(
        (_column(runs, free) for runs in made),
        key=lambda column: (not column.whole, column.demonstrations, column.label),
    )
    for a, b in pairwise(supplied):
        if a.label == b.label:
            raise UpgeError(
                f"{a.runs.folder} and {b.runs.folder}: both supply {a.label} demonstrations; name "
                "one of them"
            )
    if all(run.method == BASE for run in free):
        return supplied
    nothing = replace(supplied[0].runs, finished=free, unfinished={})
    return [Column("0", "0", 0, supplied[0].problems, True, nothing), *supplied]


def _first(comparisons: Sequence[Runs], method: str) -> list[Run]:
    """The method's runs in the first comparison that has some."""
    return next((found for runs in comparisons if (found := runs.of(method))), [])


def _column(runs: Runs, free: Sequence[Run]) -> Column:
    supply = runs.finished[0].config["data"]["supply"]
    whole = not _part(supply, str)
    number = _demonstrations(supply)
    label, title = (str(number) if whole else _part(supply, name) for name in (str, suite_title))
    bound = [run for run in runs.finished if run.method in METHODS and run.method not in FREE]
    return Column(
        label, title, number, supply["problems"], whole, replace(runs, finished=[*free, *bound])
    )


def _demonstrations(supply: Mapping[str, Any]) -> int:
    """How many problems have one: of those covered, as many as are allowed."""
    share = len(supply["families"]) * len(supply["levels"])
    covered = supply["problems"] * share // (len(IN_DISTRIBUTION) * len(LEVELS))
    allowed = supply["demonstrations"]
    return int(covered if allowed is None else min(covered, allowed))


def _part(supply: Mapping[str, Any], name: Any) -> str:
    """The levels or families that a supply is restricted to; empty if it covers all."""
    levels, families = supply["levels"], supply["families"]
    texts = []
    if set(levels) < set(LEVELS):
        texts.append(f"levels {min(levels)}–{max(levels)}")
    if set(families) < set(IN_DISTRIBUTION):
        texts.append(", ".join(map(name, families)))
    return "; ".join(texts)
