"""Component 2, the reference policy: 1/π_ref of eq. 6, as log π_ref of every token.

This is the paper's use of the word. Elsewhere "the reference policy" is the one that a KL penalty
anchors the policy to.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.component import Component


@dataclass(frozen=True)
class Reference(Component):
    """Returns log π_ref (N, T), a constant to differentiation."""

    needs: ClassVar[frozenset[str]] = frozenset({"logp"})

    @abstractmethod
    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """The log-probability of each token under the reference policy."""


@dataclass(frozen=True)
class CurrentPolicy(Reference):
    """π_ref = π_θ: the score function ∇log π_θ (SFT, REINFORCE; eq. 15)."""

    symbol: ClassVar[str] = "π_θ"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return batch.require("logp", "the reference policy π_θ")


@dataclass(frozen=True)
class RolloutPolicy(Reference):
    """π_ref = π_θold, the policy that sampled the rollouts (PPO, GRPO; eq. 16–18)."""

    symbol: ClassVar[str] = "π_θold"
    needs: ClassVar[frozenset[str]] = frozenset({"logp", "old_logp"})

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return batch.require("old_logp", "the reference policy π_θold")


@dataclass(frozen=True)
class ConstantOne(Reference):
    """π_ref ≡ 1: the gradient of the probability itself (SRFT and LUFFY offline; eq. 19–20)."""

    symbol: ClassVar[str] = "1"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return torch.zeros_like(batch.require("logp", "the reference policy 1"))


@dataclass(frozen=True)
class SequenceRatio(Reference):
    """π_ref = π_θ(τ_t) · (π_θold(τ|q)/π_θ(τ|q))^{1/|τ|}, so that π_θ/π_ref is GSPO's s(θ).

    Source: GSPO, arXiv 2507.18071, eq. 7; Table 1's row GSPO.
    """

    symbol: ClassVar[str] = "π_θ·(π_θold(τ|q)/π_θ(τ|q))^(1/|τ|)"
    needs: ClassVar[frozenset[str]] = frozenset({"logp", "old_logp"})

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        log_s = batch.trajectory_mean(batch.token_log_ratio("GSPO's sequence ratio"))
        return batch.require("logp", "GSPO's sequence ratio") - log_s
