"""Bias, variance and angles from inner products of sampled gradients, with bootstrap intervals.

K independent groups give estimates g_k, and B independent blocks of another, large sample give
unbiased estimates t_b of the true gradient T. With m = E g, all that is measured follows from

    ‖m‖², E‖g‖², m·T and ‖T‖²,

and each has an unbiased estimate: ‖m‖² is the mean of g_k·g_l over k ≠ l, ‖T‖² likewise, m·T the
mean of g_k·t_b. So the reference's own sampling error is taken out, and bias² = ‖m‖² − 2 m·T + ‖T‖²
may come out below 0 where it is 0. Resampling groups and blocks keeps pairs of copies out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: Tensor, tail: float = 0.025) -> Interval:
        """From a quantity of the sample itself (first) and of resampled ones.

        NaN where the sample has none; resamples without one are left out.
        """
        rest = resampled[1:][~resampled[1:].isnan()]
        if resampled[0].isnan() or not len(rest):
            return cls(math.nan, math.nan, math.nan)
        low, high = torch.quantile(rest, rest.new_tensor([tail, 1 - tail])).tolist()
        return cls(resampled[0].item(), low, high)


def resamples(size: int, draws: int, seed: int) -> Tensor:
    """(1 + draws, size) how often each of ``size`` is taken: once each, then at random."""
    generator = torch.Generator().manual_seed(seed)
    taken = torch.randint(size, (draws, size), generator=generator)
    counts = torch.zeros(draws, size, dtype=torch.float64)
    counts.scatter_add_(1, taken, torch.ones_like(counts))
    return torch.cat([torch.ones(1, size, dtype=torch.float64), counts])


def product(gram: Tensor, left: Tensor, right: Tensor | None = None) -> Tensor:
    """(R,) mean of ``gram`` (…) under each resample, pairs of copies left out.

    Args:
        gram: (K, K) inner products of one sample with itself, or (K, B) with another.
        left: (R, K) counts.
        right: (R, B) counts of the other sample; None where it is the same.
    """
    if right is not None:
        total = left.sum(1) * right.sum(1)
        return torch.einsum("rk,kb,rb->r", left, gram, right) / total
    pairs = left.sum(1) ** 2 - (left**2).sum(1)
    whole = torch.einsum("rk,kl,rl->r", left, gram, left) - left**2 @ gram.diagonal()
    return whole / pairs


@dataclass(frozen=True, eq=False)
class Parts:
    """(R,) the numbers that all else follows from, of the sample and of each resample.

    Attributes:
        mean: ‖m‖².
        second: E‖g‖².
        along: m·T.
        truth: ‖T‖².
        single: E[g·T/‖g‖], 0 where g = 0.
    """

    mean: Tensor
    second: Tensor
    along: Tensor
    truth: Tensor
    single: Tensor

    @classmethod
    def of(
        cls, gram: Tensor, cross: Tensor, reference: Tensor, groups: Tensor, blocks: Tensor
    ) -> Parts:
        """From inner products of groups (K, K), with blocks (K, B), of blocks (B, B)."""
        norm = gram.diagonal()
        directed = torch.where(norm > 0, norm, 1.0).rsqrt()[:, None] * cross
        return cls(
            product(gram, groups),
            groups @ norm / groups.sum(1),
            product(cross, groups, blocks),
            product(reference, blocks),
            product(directed, groups, blocks),
        )

    def shifted(self, mu: float, groups: Tensor, demo: Demo) -> Parts:
        """The same against T + μ s, for a known vector s."""
        truth = self.truth + 2 * mu * demo.truth + mu**2 * demo.square
        along = self.along + mu * (groups @ demo.groups) / groups.sum(1)
        single = self.single + mu * (groups @ demo.directed) / groups.sum(1)
        return Parts(self.mean, self.second, along, truth, single)

    def measures(self) -> dict[str, Tensor]:
        """(R,) bias², variance and MSE relative to ‖T‖², and what a rescaling leaves of them.

        As :func:`experiments.bias_variance.common.errors` names them. ``cosine_single`` is the mean
        cosine of single estimates with T.
        """
        size = self.truth.where(self.truth > 0, math.nan)
        forward = self.along.clamp(min=0)
        mean = self.mean.where(self.mean > 0, math.nan)
        bias_sq = (self.mean - 2 * self.along + self.truth) / size
        variance = (self.second - self.mean) / size
        return {
            "bias_sq": bias_sq,
            "variance": variance,
            "mse": bias_sq + variance,
            "weight": self.along / size,
            "cosine": (self.along / (mean * size).sqrt()).clamp(-1, 1),
            "bias_sq_scaled": (1 - forward**2 / (mean * size)).clamp(0, 1),
            "mse_scaled": 1 - forward**2 / (self.second * size),
            "snr": self.mean / (self.second - self.mean).where(self.second > self.mean, math.nan),
            "cosine_single": (self.single / size.sqrt()).clamp(-1, 1),
        }


class Demo(NamedTuple):
    """Inner products of a known vector s.

    Attributes:
        groups: (K,) with g.
        directed: (K,) with g/‖g‖.
        truth: (R,) with T under each resample.
        square: with itself.
    """

    groups: Tensor
    directed: Tensor
    truth: Tensor
    square: float


def averaged(parts: Iterable[Parts]) -> Parts:
    """The mean over questions, each resampled on its own, as if they had no common parameter."""
    every = list(parts)
    return Parts(*(torch.stack([getattr(p, f.name) for p in every]).mean(0) for f in fields(Parts)))
