"""Data sets: the problems to train on, to validate on and to test on, and their verifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from upge.common.errors import UpgeError, unknown
from upge.tasks.problem import Problem
from upge.tasks.synthetic import (
    ANSWER_MARKER,
    IN_DISTRIBUTION,
    LEVELS,
    OUT_OF_DISTRIBUTION,
    suite,
)
from upge.tasks.verifier import MarkedAnswer, Verifier


@dataclass(frozen=True)
class Dataset:
    """Problems of each split.

    Args:
        train: training problems; some or all may lack a demonstration.
        validation: problems that settings are chosen by.
        tests: test suites by name, never looked at before the end.
        verifier: what grades responses.
        unseen: names of the suites that are out of distribution.
        dropped: how many training problems or demonstrations were left out, by reason.
    """

    train: list[Problem]
    validation: list[Problem]
    tests: Mapping[str, list[Problem]]
    verifier: Verifier
    unseen: frozenset[str] = frozenset()
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def omissions(self) -> str:
        """What was left out of the training problems, as a line; empty if nothing was."""
        counts = "; ".join(f"{count} × {why}" for why, count in self.dropped.items() if count)
        return f"dropped from the training problems: {counts}" if counts else ""


def synthetic(
    *,
    problems: int,
    demonstrations: int | None,
    families: tuple[str, ...] = tuple(IN_DISTRIBUTION),
    levels: tuple[int, ...] = LEVELS,
    validation: int,
    test: int,
    seed: int = 0,
) -> Dataset:
    """The synthetic suites with a limited supply of demonstrations.

    Args:
        problems: training problems, spread evenly over families and levels.
        demonstrations: how many of them carry a demonstration, at most; None for all that
            ``families`` and ``levels`` cover. A larger supply holds a smaller one.
        families: what demonstrations cover.
        levels: likewise.
        validation: problems a family and level.
        test: likewise.
        seed: which problems are trained on, and which have a demonstration.

    Raises:
        UpgeError: a family or level that is not trained on, or more problems than there are.
    """
    for family in families:
        if family not in IN_DISTRIBUTION:
            raise unknown("family", family, IN_DISTRIBUTION)
    for level in levels:
        if level not in LEVELS:
            raise unknown("level", level, map(str, LEVELS))
    cells = len(IN_DISTRIBUTION) * len(LEVELS)
    pool = [p for f in IN_DISTRIBUTION for p in suite(f, "train", -(-problems // cells), seed)]
    random = Random(seed)
    random.shuffle(pool)
    pool = pool[:problems]
    covered = [i for i, p in enumerate(pool) if p.family in families and p.level in levels]
    kept = set(covered if demonstrations is None else covered[:demonstrations])
    return Dataset(
        train=[p if i in kept else replace(p, demonstration=None) for i, p in enumerate(pool)],
        validation=[p for f in IN_DISTRIBUTION for p in suite(f, "validation", validation)],
        tests={f: suite(f, "test", test) for f in (*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION)},
        verifier=MarkedAnswer(ANSWER_MARKER, exact=True),  # 049 is not 49
        unseen=frozenset(OUT_OF_DISTRIBUTION),
    )


def split_off(
    problems: list[Problem], count: int, seed: int
) -> tuple[list[Problem], list[Problem]]:
    """Training and ``count`` held-out problems, at random; equal prompts stay together.

    Raises:
        UpgeError: no problem would be left to train on.
    """
    prompts = sorted({problem.prompt for problem in problems})
    if len(prompts) <= count:
        raise UpgeError(
            f"held_out: got {count}, but there are only {len(prompts)} problems; hold out fewer, "
            "or name a validation file"
        )
    held = set(Random(seed).sample(prompts, count))
    kept = [p for p in problems if p.prompt not in held]
    return kept, [replace(p, split="validation") for p in problems if p.prompt in held]
