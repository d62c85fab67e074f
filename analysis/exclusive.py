"""Problems that one of two methods solves alone, level by level, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import comb

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.run import PROBLEM
from analysis.statistics import corrected
from upge.common.errors import UpgeError
from upge.evaluation.metrics import exclusive_solves

#: The level column's value for all levels together.
ALL = "all"

COLUMNS = ("method", "other", "seed", "level", "problems", "alone", "other_alone", "p", "p_holm")


def mcnemar(alone: int, other: int) -> float:
    """P-value of McNemar's exact test, two-sided.

    Of the b + c problems that one of the two solves alone, each would be either's with chance ½:

        p = min(1, 2 · Σ_{i ≤ min(b, c)} C(b + c, i) / 2^{b + c})

    Args:
        alone: b, solved by the first alone.
        other: c, solved by the second alone.
    """
    tail = sum(comb(alone + other, i) for i in range(min(alone, other) + 1))
    return min(1.0, 2 * tail / (1 << (alone + other)))


def exclusive(answers: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Exclusive solves of pairs of methods, seed by seed and level by level.

    A problem is solved if more than half of its samples are correct
    (:func:`upge.evaluation.metrics.solved`).

    Args:
        answers: from :meth:`analysis.runs.Runs.answers`.
        pairs: of methods.

    Returns:
        :data:`COLUMNS`, for the seeds that both methods have. Holm's correction covers the levels
        of a pair and seed; the test of :data:`ALL` is not one of them.

    Raises:
        UpgeError: methods that were tested on different problems.
    """
    rows = []
    for method, other in pairs:
        first, second = _by_seed(answers, method), _by_seed(answers, other)
        for seed in sorted(first.keys() & second.keys()):
            _check_same_problems(method, other, first[seed], second[seed])
            counts = _by_level(first[seed], second[seed])
            rows += [(method, other, seed, *row) for row in with_tests(counts)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def with_tests(
    counts: Mapping[int, tuple[int, int, int]],
) -> list[tuple[object, int, int, int, float, float]]:
    """Level, problems, both exclusive counts, p and corrected p; :data:`ALL` after the levels."""
    p_values = [mcnemar(b, c) for _, b, c in counts.values()]
    tested = zip(counts.items(), p_values, corrected(p_values), strict=True)
    rows = [(level, *count, p, holm) for (level, count), p, holm in tested]
    problems, alone, other = (sum(column) for column in zip(*counts.values(), strict=True))
    return [*rows, (ALL, problems, alone, other, mcnemar(alone, other), float("nan"))]


def _by_seed(answers: pd.DataFrame, method: str) -> dict[int, pd.DataFrame]:
    if not len(answers):
        return {}
    rows = answers[answers["method"] == method].sort_values(list(PROBLEM))
    return {int(seed): rows[rows["seed"] == seed] for seed in rows["seed"].unique()}


def _check_same_problems(method: str, other: str, a: pd.DataFrame, b: pd.DataFrame) -> None:
    names = list(PROBLEM)
    if not np.array_equal(a[names].to_numpy(), b[names].to_numpy()):
        raise UpgeError(
            f"{method} and {other} were tested on different problems; delete the runs of one and "
            "make them again"
        )


def _by_level(a: pd.DataFrame, b: pd.DataFrame) -> dict[int, tuple[int, int, int]]:
    alone, other = (part.numpy() for part in exclusive_solves(_rewards(a), _rewards(b)))
    levels = a["level"].to_numpy()
    counts = {}
    for level in np.unique(levels):
        of_level = levels == level
        alone_here, other_here = (int(part[of_level].sum()) for part in (alone, other))
        counts[int(level)] = int(of_level.sum()), alone_here, other_here
    return counts


def _rewards(answers: pd.DataFrame) -> Tensor:
    """Rewards (P, n) with as many correct ones; their order within a problem doesn't matter."""
    samples = answers["samples"].unique()
    if len(samples) != 1:
        raise UpgeError(
            f"samples: got {sorted(samples.tolist())} per problem in one run, wanted one number"
        )
    right = torch.tensor(answers["right"].to_numpy())
    return (torch.arange(int(samples[0])) < right[:, None]).float()
