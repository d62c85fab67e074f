"""Problems that one of two methods solves alone, level by level, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import comb

import pandas as pd

from analysis.run import PROBLEM
from analysis.statistics import corrected
from upge.common.errors import UpgeError

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

    A problem is solved if more than half of its samples are correct, as in
    :func:`upge.evaluation.metrics.solved`.

    Args:
        answers: from :meth:`analysis.runs.Runs.answers`.
        pairs: of methods.

    Returns:
        :data:`COLUMNS`, for the seeds that both methods have. Holm's correction covers the levels
        of a pair and seed; the test of :data:`ALL` is not one of them.

    Raises:
        UpgeError: methods that were tested on different problems.
    """
    if not len(answers):
        return pd.DataFrame(columns=list(COLUMNS))
    solved = answers.assign(solved=2 * answers["right"] > answers["samples"])
    table = solved.pivot(index=list(PROBLEM), columns=["method", "seed"], values="solved")
    rows = []
    for method, other in pairs:
        for seed in sorted(_seeds(table, method) & _seeds(table, other)):
            both = table[[(method, seed), (other, seed)]].dropna(how="all")
            if both.isna().any(axis=None):
                raise UpgeError(
                    f"{method} and {other} were tested on different problems; delete the runs of "
                    "one and make them again"
                )
            rows += [(method, other, seed, *row) for row in with_tests(_by_level(both))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _seeds(table: pd.DataFrame, method: str) -> set[int]:
    return {int(seed) for name, seed in table.columns if name == method}


def _by_level(both: pd.DataFrame) -> dict[int, tuple[int, int, int]]:
    """Problems, and those that either of two methods solves alone."""
    a, b = (both.iloc[:, i].astype(bool) for i in (0, 1))
    counts = pd.DataFrame({"problems": 1, "a": a & ~b, "b": b & ~a}).groupby("level").sum()
    return {int(level): (int(n), int(x), int(y)) for level, n, x, y in counts.itertuples()}


def with_tests(
    counts: Mapping[int, tuple[int, int, int]],
) -> list[tuple[object, int, int, int, float, float]]:
    """Level, problems, both exclusive counts, p and corrected p; :data:`ALL` after the levels."""
    p_values = [mcnemar(b, c) for _, b, c in counts.values()]
    tested = zip(counts.items(), p_values, corrected(p_values), strict=True)
    rows = [(level, *count, p, holm) for (level, count), p, holm in tested]
    problems, alone, other = (sum(column) for column in zip(*counts.values(), strict=True))
    return [*rows, (ALL, problems, alone, other, mcnemar(alone, other), float("nan"))]
