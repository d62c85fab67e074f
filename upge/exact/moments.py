"""Exact mean and covariance of every estimator for one group, on policies that can be enumerated.

Given its composition a group's moments are sums over trajectories
(:mod:`upge.exact.compositions`); over compositions they add up to

    E g = Σ_c P(c) E[g|c],   trace Cov[g] = Σ_c P(c) (trace Cov[g|c] + ‖E[g|c]‖²) − ‖E g‖².

Estimators that weigh by the whole group's entropy (SRFT) have one class a trajectory. Where that
makes more compositions than a Monte Carlo estimate has samples, they are sampled, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from upge.algorithms import Value, algorithm
from upge.common.errors import UpgeError
from upge.estimator import Estimator
from upge.exact.compositions import MAX_ROWS, PIECE, Classes, conditional, tables
from upge.exact.instance import TARGETS, Draws, Setting

#: Default number of groups of a Monte Carlo estimate.
SAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread of an estimator g, and how they compare with the true gradients.

    Attributes:
        mean: (D,) E[g].
        trace_cov: trace Cov[g] = E‖g − E g‖².
        truth: (D,) ∇E[r] (``reward``) and, unless J lacks a policy, ∇J (``mu``).
        method: how they were obtained.
        groups: compositions evaluated, or groups sampled.
        standard_error: of the mean, (E‖mean − E g‖²)^½; 0 if exact.
        standard_error_trace_cov: likewise of ``trace_cov``.
    """

    mean: Tensor
    trace_cov: float
    truth: Mapping[str, Tensor]
    method: Literal["exact", "monte carlo"]
    groups: int
    standard_error: float = 0.0
    standard_error_trace_cov: float = 0.0

    @property
    def norm_mean_sq(self) -> float:
        """‖E g‖²."""
        return (self.mean @ self.mean).item()

    @property
    def snr(self) -> float:
        """‖E g‖²/trace Cov[g]; NaN if both vanish."""
        if self.trace_cov == 0:
            return math.inf if self.norm_mean_sq else math.nan
        return self.norm_mean_sq / self.trace_cov

    def bias(self, target: str) -> Tensor:
        """(D,) E[g] minus the true gradient."""
        return self.mean - self.truth[target]

    def bias_sq(self, target: str) -> float:
        """‖bias‖²; sampled, it is too large by ``standard_error``² on average."""
        return (self.bias(target) ** 2).sum().item()

    def mse(self, target: str) -> float:
        """E‖g − truth‖² = bias² + trace Cov."""
        return self.bias_sq(target) + self.trace_cov

    def cosine(self, target: str) -> float:
        """Of the angle between E[g] and the truth; NaN if one vanishes."""
        truth = self.truth[target]
        norms = (self.mean.norm() * truth.norm()).item()
        return (self.mean @ truth).item() / norms if norms else math.nan

    def row(self) -> dict[str, float | str]:
        """All numbers but the vectors, by name; NaN where there is no truth to compare with."""
        against = {
            f"{name}_{target}": getattr(self, name)(target) if target in self.truth else math.nan
            for name in ("bias_sq", "mse", "cosine")
            for target in TARGETS
        }
        return {
            "norm_mean_sq": self.norm_mean_sq,
            "trace_cov": self.trace_cov,
            **against,
            "snr": self.snr,
            "method": self.method,
            "groups": self.groups,
            "standard_error": self.standard_error,
            "standard_error_trace_cov": self.standard_error_trace_cov,
        }


def exact(estimator: Estimator, setting: Setting) -> Moments:
    """The moments by enumeration of compositions and trajectories.

    Raises:
        UpgeError: more compositions than can be planned.
    """
    mean, square, spread, groups = torch.zeros_like(setting.policy.theta), 0.0, 0.0, 0
    for given in conditional(estimator, setting):
        mean += given.probability @ given.mean
        square += (given.probability @ (given.mean**2).sum(1)).item()
        spread += (given.probability @ given.spread).item()
        groups += len(given.probability)
    trace_cov = spread + max(square - (mean @ mean).item(), 0.0)
    return Moments(mean, trace_cov, setting.truth, "exact", groups)


def monte_carlo(
    estimator: Estimator, setting: Setting, samples: int = SAMPLES, seed: int = 0
) -> Moments:
    """The moments from groups that are sampled; equal groups are evaluated once.

    Raises:
        UpgeError: fewer than 2 samples, or more rows in all than can be drawn.
    """
    if samples < 2:
        raise UpgeError(f"samples: got {samples}, wanted at least 2")
    draws, tree = setting.draws(estimator), setting.policy.tree
    if (rows := samples * sum(draws.sizes)) > MAX_ROWS:
        raise UpgeError(
            f"{estimator.name}: {samples:,} groups of {' + '.join(map(str, draws.sizes))} "
            f"trajectories have {rows:,} rows, more than the {MAX_ROWS:,} that can be drawn; take "
            "fewer samples or smaller groups"
        )
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for kind, size in enumerate(draws.sizes):
        chances = torch.where(draws.offline == bool(kind), draws.probability, 0.0)
        drawn = torch.multinomial(chances, samples * size, True, generator=generator)
        columns.append(drawn.view(samples, size).sort(1).values)
    groups, copies = torch.unique(torch.cat(columns, 1), dim=0, return_counts=True)
    weights = torch.stack([_group_weights(estimator, draws, rows) for rows in groups])
    share = copies.double() / samples
    piece = max(PIECE // max(tree.prefixes * tree.vocab, len(setting.policy.theta)), 1)

    def estimates() -> Iterator[tuple[Tensor, Tensor]]:
        """The share of each distinct group (C,) and its g (C, D), some groups at a time."""
        for some, w, own in zip(*(x.split(piece) for x in (groups, weights, share)), strict=True):
            slot = torch.arange(len(some)).repeat_interleave(some.shape[1])
            cell = draws.cell[some.flatten()]
            yield own, setting.scores.combine(tables(tree, slot, cell, w.flatten(0, 1), len(some)))

    mean = torch.zeros_like(setting.policy.theta)
    for own, g in estimates():
        mean += own @ g
    distance = torch.cat([((g - mean) ** 2).sum(1) for _, g in estimates()])
    trace_cov = (share @ distance).item() * samples / (samples - 1)
    spread = (share @ (distance - trace_cov) ** 2).item()
    return Moments(
        mean,
        trace_cov,
        setting.truth,
        "monte carlo",
        samples,
        math.sqrt(trace_cov / samples),
        math.sqrt(spread / samples),
    )


def _group_weights(estimator: Estimator, draws: Draws, rows: Tensor) -> Tensor:
    batch = draws.batch.select(rows)
    return estimator(batch, draws.logp[rows], batch.entropy).weights


def moments(
    estimator: Estimator, setting: Setting, *, samples: int = SAMPLES, seed: int = 0
) -> Moments:
    """Mean, covariance trace and what follows from them, for one group.

    They are exact, unless the estimator weighs by the whole group's entropy and has more
    compositions than ``samples``: then they come from so many groups drawn with ``seed``.

    Raises:
        UpgeError: other estimators with more compositions than can be planned.
    """
    if estimator.weighs_by_batch:
        count = Classes(estimator, setting.draws(estimator)).count
        if count > samples:
            return monte_carlo(estimator, setting, samples, seed)
    return exact(estimator, setting)


def prepared(name: str, normalizer: str = "trajectory_mean", **overrides: Value) -> Estimator:
    """The registered algorithm as its moments are compared: one normaliser for all.

    Args:
        name: of the registry.
        normalizer: of all terms, or ``own`` for each its own.
        overrides: values for the options of these names, where the algorithm has them.
    """
    entry = algorithm(name)
    options = {key: value for key, value in overrides.items() if key in entry.options}
    return entry(**options) if normalizer == "own" else entry(**options, normalizer=normalizer)
