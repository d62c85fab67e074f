"""The smallest batch on which a row of Table 1, read as printed, is not the published gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from upge.algorithms import Algorithm
from upge.batch import TrajectoryBatch
from upge.common.optional import require
from upge.estimator import Estimator
from upge.verification.numeric import published_loss

#: How many batches are tried, and the relative difference that counts.
EXAMPLES, DIFFERENCE = 300, 1e-9

#: log π_θold of every token; leaves room for ratios up to 16.
_OLD_LOGP = -math.log(16)


@dataclass(frozen=True)
class _Trajectory:
    ratios: tuple[float, ...]
    reward: int
    offline: bool

    def __str__(self) -> str:
        kind = "demonstration" if self.offline else "rollout"
        ratios = ", ".join(f"{r:g}" for r in self.ratios)
        return f"a {kind} of reward {self.reward} with π_θ/π_θold = {ratios}"


def _batch(trajectories: tuple[_Trajectory, ...]) -> tuple[TrajectoryBatch, Tensor]:
    longest = max(len(t.ratios) for t in trajectories)
    ratio = torch.ones(len(trajectories), longest, dtype=torch.float64)
    mask = torch.zeros_like(ratio, dtype=torch.bool)
    for i, t in enumerate(trajectories):
        ratio[i, : len(t.ratios)] = torch.tensor(t.ratios)
        mask[i, : len(t.ratios)] = True
    batch = TrajectoryBatch(
        mask=mask,
        reward=torch.tensor([float(t.reward) for t in trajectories], dtype=torch.float64),
        group=torch.zeros(len(trajectories), dtype=torch.long),
        offline=torch.tensor([t.offline for t in trajectories]),
        old_logp=torch.full_like(ratio, _OLD_LOGP),
        values=torch.zeros_like(ratio),
    )
    return batch, (_OLD_LOGP + ratio.log()).requires_grad_()


def _weights(
    algorithm: Algorithm, estimator: Estimator, trajectories: tuple[_Trajectory, ...]
) -> tuple[Tensor, Tensor]:
    """Per-token weights of the row, and of the published loss by autograd."""
    batch, logp = _batch(trajectories)
    (gradient,) = torch.autograd.grad(published_loss(algorithm, batch, logp), logp)
    return estimator(batch, logp.detach()).weights, -gradient


def _strategy(st: Any) -> Any:
    whole = st.integers(1, 9).map(float)
    # Off the kinks of the usual clips, where a clipped loss has no derivative.
    tenths = st.integers(1, 20).map(lambda x: x / 10 - 0.05)
    ratio = st.one_of(whole, whole.map(lambda x: 1 / x), tenths)
    ratios = st.lists(ratio, min_size=1, max_size=2)

    def trajectory(offline: bool) -> Any:
        rewards = st.integers(0, 1)
        return st.builds(_Trajectory, ratios.map(tuple), rewards, st.just(offline))

    rollouts = st.lists(trajectory(False), min_size=1, max_size=3)
    demonstrations = st.lists(trajectory(True), min_size=1, max_size=2)
    return st.tuples(rollouts, demonstrations).map(lambda pair: (*pair[0], *pair[1]))


def smallest_counterexample(algorithm: Algorithm, estimator: Estimator) -> str | None:
    """Search and shrink (hypothesis) a batch where ``estimator`` isn't the published gradient.

    Returns:
        The batch and both weights in words, or None if none of the batches tried differs.
    """
    hypothesis = require("hypothesis", "theory")
    strategies = require("hypothesis.strategies", "theory")

    def differs(trajectories: tuple[_Trajectory, ...]) -> bool:
        row, published = _weights(algorithm, estimator, trajectories)
        return bool(_apart(row, published).any())

    found = _find(hypothesis, _strategy(strategies), differs)
    if found is None:
        return None
    row, published = _weights(algorithm, estimator, found)
    i, t = _apart(row, published).nonzero()[0].tolist()
    read = {term.samples for term in estimator.terms}
    listed = [
        j
        for j, x in enumerate(found)
        if j == i or "all" in read or ("offline" if x.offline else "online") in read
    ]
    return (
        f"{'; '.join(str(found[j]) for j in listed)}: the published loss weighs token {t + 1} of "
        f"trajectory {listed.index(i) + 1} by {published[i, t].item() + 0.0:.4g}, the row by "
        f"{row[i, t].item() + 0.0:.4g}"
    )


def _apart(row: Tensor, published: Tensor) -> Tensor:
    # Not "greater": a NaN on either side is a difference too.
    return ~((row - published).abs() <= DIFFERENCE * (1 + published.abs()))


def _find(hypothesis: Any, strategy: Any, differs: Callable[[Any], bool]) -> Any:
    settings = hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None)
    try:
        return hypothesis.find(strategy, differs, settings=settings, random=Random(0))
    except hypothesis.errors.NoSuchExample:
        return None
