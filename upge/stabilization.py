"""Component 1, the stabilization mask 1_stable of eq. 6.

A mask multiplies each token's weight. PPO's clip is a 0/1 mask (appendix B.3). Where a published
method is not, the stabilizer is real-valued (``binary`` is false), and Table 1 says so.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upge.batch import MAX_LOG_RATIO, TrajectoryBatch
from upge.common.errors import UpgeError
from upge.component import AT_LEAST_0, POSITIVE, Component, Limits, Range

_CLIP_RANGE: Limits = {"low": AT_LEAST_0, "high": AT_LEAST_0}
_RATIO: frozenset[str] = frozenset({"logp", "old_logp"})


@dataclass(frozen=True)
class Stabilization(Component):
    """Returns 1_stable, broadcastable to (N, T), a constant to differentiation."""

    binary: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        """The mask, given the advantage Â broadcast to (N, T)."""


@dataclass(frozen=True)
class NoMask(Stabilization):
    """1_stable ≡ 1."""

    symbol: ClassVar[str] = "1"

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        return torch.ones_like(advantage)


@dataclass(frozen=True)
class Clip(Stabilization):
    """PPO's clip: 0 where the ratio has left [1 − low, 1 + high] in the harmful direction.

    1_Clip = 0 if Â > 0 and ratio > 1 + high, or Â < 0 and ratio < 1 − low; else 1. It is the
    derivative of min(r Â, clip(r, 1 − low, 1 + high) Â) with respect to r, over Â, everywhere but
    at the two kinks. ``level`` is the ratio it looks at: the token's π_θ/π_θold (PPO, arXiv
    1707.06347, eq. 7) or the trajectory's geometric mean of them (GSPO, arXiv 2507.18071, eq. 7).
    """

    low: float
    high: float
    level: Literal["token", "sequence"] = "token"
    symbol: ClassVar[str] = "1_Clip"
    needs: ClassVar[frozenset[str]] = _RATIO
    limits: ClassVar[Limits] = {**_CLIP_RANGE, "level": ("token", "sequence")}

    @property
    def text(self) -> str:
        """1_Clip, or 1_Seq-Clip at the sequence level."""
        return "1_Seq-Clip" if self.level == "sequence" else self.symbol

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        log_ratio = batch.token_log_ratio("the clip")
        if self.level == "sequence":
            log_ratio = batch.trajectory_mean(log_ratio)
        ratio = log_ratio.exp()
        too_high = (advantage > 0) & (ratio > 1 + self.high)
        too_low = (advantage < 0) & (ratio < 1 - self.low)
        return (~(too_high | too_low)).to(advantage.dtype)


@dataclass(frozen=True)
class DualClip(Clip):
    """PPO's clip, and 0 where Â < 0 and ratio > dual.

    Source: dual-clip PPO, arXiv 1912.09729, eq. 5.
    """

    dual: float = 3.0
    symbol: ClassVar[str] = "1_Dual-Clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dual not in (least := Range(1 + self.high)):
            raise UpgeError(f"DualClip.dual: got {self.dual}, wanted {least}")

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        ratio = batch.token_log_ratio("the dual clip").exp()
        harmless = ~((advantage < 0) & (ratio > self.dual))
        return super().__call__(batch, advantage) * harmless


@dataclass(frozen=True)
class CISMask(Clip):
    """The 0/1 mask that Table 1 prints for CISPO: PPO's trust region without touching the weight.

    Source: CISPO, arXiv 2506.13585, eq. 7. It is *not* the derivative of CISPO's own loss, whose
    stabilizer is :class:`WeightClip`; kept so that the row can be checked as printed.
    """

    symbol: ClassVar[str] = "1_CIS-Mask"


@dataclass(frozen=True)
class WeightClip(Stabilization):
    """clip(r, low, high)/r: the importance weight is clipped, no token is dropped.

    Source: CISPO, arXiv 2506.13585, eq. 4–5; with low = 0 truncated importance sampling.
    """

    low: float
    high: float
    binary: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = _RATIO
    symbol: ClassVar[str] = "clip(r)/r"
    limits: ClassVar[Limits] = {"low": AT_LEAST_0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high not in (least := Range(self.low)):
            raise UpgeError(f"WeightClip.high: got {self.high}, wanted {least}")

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        ratio = batch.token_log_ratio("the weight clip").exp()
        return ratio.clamp(self.low, self.high) / ratio


@dataclass(frozen=True)
class RatioCap(Stabilization):
    """1_inner · min(r, cap)/r: another stabilizer under truncated importance sampling.

    A token's weight then grows with r = π_θ/π_θold up to ``cap`` alone, however much less likely
    than the policy its sampler thought it.

    Source: Yao et al. 2025, for rollouts whose sampler differs from the trainer; arXiv 1802.01561.
    """

    inner: Stabilization
    cap: float
    binary: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = _RATIO
    limits: ClassVar[Limits] = {"cap": POSITIVE}

    @property
    def text(self) -> str:
        """1_inner·min(r, cap)/r."""
        return f"{self.inner.text}·min(r, {self.cap:g})/r"

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        return self.inner(batch, advantage) * WeightClip(0.0, self.cap)(batch, advantage)


@dataclass(frozen=True)
class SigmoidGate(Stabilization):
    """SAPO's soft gate 4 p (1 − p) with p = σ(tau · (r − 1)), tau by the sign of Â.

    Source: SAPO, arXiv 2511.20347: the derivative of (4/tau) σ(tau (r − 1)) with respect to r.
    """

    tau_pos: float
    tau_neg: float
    binary: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = _RATIO
    symbol: ClassVar[str] = "4σ(1−σ)"
    limits: ClassVar[Limits] = {"tau_pos": POSITIVE, "tau_neg": POSITIVE}

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        ratio = batch.token_log_ratio("the sigmoid gate").exp()
        x = torch.where(advantage > 0, self.tau_pos * (ratio - 1), self.tau_neg * (ratio - 1))
        return 4 * x.sigmoid() * (-x).sigmoid()


@dataclass(frozen=True)
class GeometricClip(Stabilization):
    """GMPO: token masks, times what clipping the tokens changes in the geometric mean ratio.

    The loss is −Â ∏_t min-clip(r_t)^{1/|τ|}, r_t clipped to [e^−low, e^high] in the direction of
    Â. Over the reference policy of :class:`~upge.reference.SequenceRatio` the stabilizer is
    1_t · ∏_s (min-clip(r_s)/r_s)^{1/|τ|}.

    Source: GMPO, arXiv 2507.20673.
    """

    low: float
    high: float
    binary: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = _RATIO
    symbol: ClassVar[str] = "1_Clip·∏(clip(r)/r)^(1/|τ|)"
    limits: ClassVar[Limits] = _CLIP_RANGE

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        raw = batch.token_log_ratio("the geometric clip")
        clipped = torch.where(advantage > 0, raw.clamp(max=self.high), raw.clamp(min=-self.low))
        correction = batch.trajectory_mean(clipped - raw).exp()
        return (clipped == raw) * correction


@dataclass(frozen=True)
class Correction(Component):
    """What makes up for a sampler that is not π_θold: a function of ρ = π_θold/π_sampler.

    ρ is the token's, the trajectory's product (``sequence``) or its geometric mean. Beyond
    [low, high] ``truncate`` takes the nearer bound (TIS), ``mask`` takes 0 (MIS, IcePop), and both
    ρ within; ``reject`` takes 1 within and 0 beyond (rejection sampling).

    Source: Yao et al. 2025; IcePop, arXiv 2510.18855; TRL's and verl's rollout corrections.
    """

    level: Literal["token", "sequence", "geometric"] = "token"
    rule: Literal["truncate", "mask", "reject"] = "truncate"
    low: float = 0.0
    high: float = 2.0
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "sampler_logp"})
    limits: ClassVar[Limits] = {
        "level": ("token", "sequence", "geometric"),
        "rule": ("truncate", "mask", "reject"),
        "low": AT_LEAST_0,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high not in (least := Range(self.low)):
            raise UpgeError(f"Correction.high: got {self.high}, wanted {least}")

    @property
    def text(self) -> str:
        """The rule and its bounds."""
        return f"{self.rule}(ρ_{self.level}; {self.low:g}, {self.high:g})"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """(N, T) or (N, 1); 1 at demonstrations."""
        old, sampler = (
            batch.require(name, "the sampler's correction") for name in ("old_logp", "sampler_logp")
        )
        log_rho = (old - sampler).double()
        if self.level == "geometric":
            log_rho = batch.trajectory_mean(log_rho)
        if self.level == "sequence":
            log_rho = torch.where(batch.tokens_of("online"), log_rho, 0.0).sum(1, keepdim=True)
        rho = log_rho.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        if self.rule == "truncate":
            return rho.clamp(self.low, self.high)
        inside = (rho >= self.low) & (rho <= self.high)
        return inside.to(rho.dtype) * (rho if self.rule == "mask" else 1.0)
