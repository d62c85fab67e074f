"""Supplies of demonstrations, from the comparisons of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from analysis.methods import BASE, title
from analysis.run import Run
from analysis.runs import Runs
from upge.common.errors import UpgeError
from upge.tasks.synthetic import IN_DISTRIBUTION, LEVELS

#: The comparisons of the study.
COMPARISONS = tuple(f"supply-{name}" for name in (30, 100, 300, 900, "levels", "families"))

#: Learns without demonstrations, and is the same at every supply; so is the base model.
ROLLOUTS_ALONE = "grpo"
FREE = (BASE, ROLLOUTS_ALONE)

#: The methods of the study; those of :data:`FREE` need runs in one comparison alone.
METHODS = (*FREE, "sft", "sft_long", "sft_grpo", "luffy", "hpt_global_token")


def short(method: str) -> str:
    """A method's name where room is scarce: the study has one form of each."""
    return "base" if method == BASE else title(method).partition(",")[0]


@dataclass(frozen=True)
class Column:
    """A supply of demonstrations.

    Args:
        label: what is supplied, short.
        demonstrations: how many problems have one.
        problems: how many problems are trained on.
        whole: whether demonstrations cover all families and levels that are trained on.
        runs: with it, and those that need none.
    """

    label: str
    demonstrations: int
    problems: int
    whole: bool
    runs: Runs


def columns(given: Sequence[Runs]) -> list[Column]:
    """No demonstration, then ever more, then those of some levels or families.

    Args:
        given: the study's comparisons, as many as there are.

    Raises:
        UpgeError: comparisons that supply the same.
    """
    there = [runs for runs in given if runs.finished]
    free = [run for method in FREE for run in _first(there, method)]
    found = sorted(
        (_column(runs, free) for runs in there),
        key=lambda column: (not column.whole, column.demonstrations, column.label),
    )
    for a, b in pairwise(found):
        if a.label == b.label:
            raise UpgeError(
                f"{a.runs.folder} and {b.runs.folder}: both supply {a.label} demonstrations; name "
                "one of them"
            )
    none = [_none(found[0], free)] if any(run.method == ROLLOUTS_ALONE for run in free) else []
    return none + found


def _first(given: Sequence[Runs], method: str) -> list[Run]:
    """The method's runs in the first comparison that has some."""
    return next((own for runs in given if (own := runs.of(method))), [])


def _none(column: Column, free: Sequence[Run]) -> Column:
    runs = replace(column.runs, finished=free, unfinished={})
    return replace(column, label="0", demonstrations=0, whole=True, runs=runs)


def _column(runs: Runs, free: Sequence[Run]) -> Column:
    supply = runs.finished[0].config["data"]["supply"]
    whole = _is_whole(supply)
    number = _demonstrations(supply)
    label = str(number) if whole else _part(supply)
    bound = [run for run in runs.finished if run.method in METHODS and run.method not in FREE]
    own = replace(runs, finished=[*free, *bound])
    return Column(label, number, supply["problems"], whole, own)


def _demonstrations(supply: Mapping[str, Any]) -> int:
    """How many problems have one: of those covered, as many as are allowed."""
    share = len(supply["families"]) * len(supply["levels"])
    covered = supply["problems"] * share // (len(IN_DISTRIBUTION) * len(LEVELS))
    allowed = supply["demonstrations"]
    return int(covered if allowed is None else min(covered, allowed))


def _is_whole(supply: Mapping[str, Any]) -> bool:
    return set(supply["families"]) >= set(IN_DISTRIBUTION) and set(supply["levels"]) >= set(LEVELS)


def _part(supply: Mapping[str, Any]) -> str:
    """What a supply of some levels or families covers."""
    levels, families = supply["levels"], supply["families"]
    texts = []
    if set(levels) < set(LEVELS):
        texts.append(f"levels {min(levels)}–{max(levels)}")
    if set(families) < set(IN_DISTRIBUTION):
        texts.append(", ".join(families))
    return "; ".join(texts)
