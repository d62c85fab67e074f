"""Metrics of graded responses: avg@k (mean@k), pass@k, their intervals, exclusive solves.

Pure functions of rewards: a tensor (P, n), n responses to each of P problems, or P sequences where
problems have different numbers of responses. A response is correct where its reward is above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from upge.common.errors import UpgeError

Rewards = Tensor | Sequence[Sequence[float]]

#: Problems, beside the measured ones, that an interval counts as solved always or never.
_EXTREMES, _PAIRED_EXTREMES = 8, 2


def avg_at_k(rewards: Rewards) -> Tensor:
    """avg@k of each problem: the mean reward of its k responses (paper, section 4.1).

    Args:
        rewards: (P, k).

    Returns:
        (P,), float64; a suite's avg@k is its mean.

    Raises:
        UpgeError: no problem, no response, or a reward that is no number.
    """
    return torch.stack([own.mean() for own in _checked(rewards)])


def pass_at_k(rewards: Rewards, ks: Sequence[int]) -> Tensor:
    """pass@k of each problem, without bias; see :func:`pass_at_k_of_counts`.

    Args:
        rewards: (P, n).
        ks: how many responses are drawn, each from 1 to n.

    Returns:
        (P, len(ks)), float64; a suite's pass@k is the mean of its column.

    Raises:
        UpgeError: no problem, no response, a reward that is no number, or a k out of range.
    """
    found = [
        pass_at_k_of_counts((own > 0).sum(0, keepdim=True), len(own), ks)
        for own in _checked(rewards)
    ]
    return torch.cat(found)


def pass_at_k_of_counts(correct: Tensor, n: int, ks: Sequence[int]) -> Tensor:
    """pass@k of each problem, without bias (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    The chance that k of the n responses, drawn without replacement, hold one of the c correct ones:

        1 − C(n−c, k) / C(n, k) = 1 − Π_{i = n−c+1 … n} (1 − k/i)

    The product is taken in logarithms, so that neither large n nor small chances lose digits.

    Args:
        correct: (P,) integers, c of each problem, from 0 to n.
        n: responses to each.
        ks: how many responses are drawn, each from 1 to n.

    Returns:
        (P, len(ks)), float64.

    Raises:
        UpgeError: a count or a k out of range.
    """
    for k in ks:
        if not 1 <= k <= n:
            raise UpgeError(f"k: got {k} with {n} responses a problem, wanted 1 to {n}")
    for count in correct[(correct < 0) | (correct > n)].tolist():
        raise UpgeError(f"correct: got {count} of {n} responses, wanted 0 to {n}")
    i = torch.arange(n, 0, -1, dtype=torch.float64)
    factors = -torch.tensor(list(ks), dtype=torch.float64) / i[:, None]
    log_miss = torch.zeros(n + 1, len(ks), dtype=torch.float64)  # by c
    log_miss[1:] = factors.clamp(min=-1).log1p().cumsum(0)
    return -log_miss[correct].expm1()


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4 … up to n: the k of the paper's Figure 2."""
    return [2**i for i in range(n.bit_length())]


class Interval(NamedTuple):
    """Where a mean lies."""

    low: float
    high: float


def interval(values: Tensor, confidence: float = 0.95, extremes: int = _EXTREMES) -> Interval:
    """Score interval of a mean over problems, as of a sample of such problems.

    The mean m of P values in [0, 1] is taken for a share of n independent trials, n such that its
    variance is s²/P (Korn and Graubard's effective sample size). Few problems tell little of s², so
    e more are counted into it whose values are 0 or 1, as in the worst case, n = P, all are:

        s² = (Σ(x − m)² + e·m(1−m)) / (P + e),   n = P · m(1−m)/s² ≥ P

    Then Wilson's interval with continuity correction, whose bounds p solve

        |m − p| − 1/2n = z √(p(1−p)/n)

    ``python -m experiments.intervals`` measures how often it holds the truth:
    ``paper_tables/intervals.md``.

    Args:
        values: (P,), in [0, 1], avg@k or pass@k of each problem.
        confidence: how often it holds the mean over all such problems.
        extremes: e.

    Raises:
        UpgeError: no problem, or a value out of range.
    """
    x, count = values.tolist(), len(values)
    if not count or not all(0 <= value <= 1 for value in x):
        raise UpgeError("values: wanted those of at least one problem, each from 0 to 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    mean = sum(x) / count
    most = mean * (1 - mean)
    variance = (sum((value - mean) ** 2 for value in x) + extremes * most) / (count + extremes)
    n = max(count * most / variance, count) if variance else count
    half = 0.5 / n
    low = _score_bound(mean - half, n, -z) if mean > half else 0.0
    high = _score_bound(mean + half, n, z) if mean < 1 - half else 1.0
    return Interval(low, high)


def _score_bound(share: float, n: float, z: float) -> float:
    """The p of share − p = −z √(p(1−p)/n): Wilson's upper bound, or for negative z his lower."""
    spread = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (share + z**2 / (2 * n) + spread) / (1 + z**2 / n)


def paired_interval(differences: Tensor, confidence: float = 0.95) -> Interval:
    """Where the mean difference of two policies on the same problems lies.

    :func:`interval` of (1 + d)/2, with fewer extremes: of pairs s² is small, and more of them would
    hide what there is to see.

    Args:
        differences: (P,), in [-1, 1], of avg@k of each problem.
        confidence: how often it holds the mean over all such problems.

    Raises:
        UpgeError: no problem, or a difference out of range.
    """
    low, high = interval((1 + differences.double()) / 2, confidence, _PAIRED_EXTREMES)
    return Interval(2 * low - 1, 2 * high - 1)


def solved(rewards: Rewards) -> Tensor:
    """Which problems count as solved: more than half of their responses are correct.

    That is what one typical response does, and depends little on n.

    Args:
        rewards: (P, n).

    Returns:
        (P,) bool.

    Raises:
        UpgeError: no problem, no response, or a reward that is no number.
    """
    return torch.stack([(own > 0).double().mean() > 0.5 for own in _checked(rewards)])


class Exclusive(NamedTuple):
    """Problems that only one of two policies solves.

    Attributes:
        first: (P,) bool, solved by the first alone.
        second: (P,) bool, solved by the second alone.
    """

    first: Tensor
    second: Tensor


def exclusive_solves(first: Rewards, second: Rewards) -> Exclusive:
    """The problems that one policy solves and the other doesn't (paper, Table 4).

    Args:
        first: (P, n) rewards of one policy.
        second: (P, m) rewards of the other, on the same problems in the same order.

    Raises:
        UpgeError: see :func:`solved`; not the same number of problems.
    """
    if len(first) != len(second):
        raise UpgeError(
            f"got {len(first)} and {len(second)} problems, wanted the same ones of both policies"
        )
    a, b = solved(first), solved(second)
    return Exclusive(a & ~b, b & ~a)


def _checked(rewards: Rewards) -> list[Tensor]:
    """Each problem's rewards, float64."""
    rows = [torch.as_tensor(own, dtype=torch.float64).cpu() for own in rewards]
    if not rows or not all(own.dim() == 1 and len(own) for own in rows):
        shape = tuple(rewards.shape) if isinstance(rewards, Tensor) else list(map(len, rewards))
        raise UpgeError(
            f"rewards: got shape {shape}, wanted (problems, responses), of each at least one"
        )
    for place, own in enumerate(rows):
        if not own.isfinite().all():
            raise UpgeError(f"rewards: problem {place} has {own.tolist()}, wanted finite numbers")
    return rows
