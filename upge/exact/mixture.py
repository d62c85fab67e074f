"""The best weights of two estimators: α g_RL + β g_SFT as an estimate of a gradient, given P.

For weights that depend on the number k of successes only, the mean squared error is a sum over k
of quadratics in (α_k, β_k), so that optimal weights are two linear equations for every k. The
moments are exact: those of g_RL given k come from :mod:`upge.exact.compositions`, and the
demonstration is independent of the rollouts.

With its learning rate tuned, an estimator's error also says how far one step takes the objective:
T·E[g] − ½E‖g‖² = ½(‖T‖² − E‖g − T‖²) is the improvement that a step of rate η on η-smooth J is
sure of, in units of η. What an estimator with error m achieves is therefore ‖T‖² − m.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from upge.advantage import GroupCentered, One
from upge.estimator import Estimator, Term
from upge.exact.compositions import conditional
from upge.exact.instance import Setting
from upge.normalization import TokenSum
from upge.reference import CurrentPolicy

#: Both terms as token sums, as in ``hpt_global_token``: Σ_i (R_i − P) s_i and s*.
RL = Estimator((Term("online", CurrentPolicy(), GroupCentered(), TokenSum()),), "rl")
SFT = Estimator((Term("offline", CurrentPolicy(), One(), TokenSum()),), "sft")


class Tuned(NamedTuple):
    """The error of weights (x f, y g) at the best x, y ≥ 0."""

    mse: float
    x: float
    y: float


@dataclass(frozen=True, eq=False)
class Given:
    """An estimator given the successes among its rollouts: k = 0 … n, all (n + 1, …).

    Attributes:
        probability: of k.
        mean: (n + 1, D) E[g | k].
        square: E[‖g‖² | k].
    """

    probability: Tensor
    mean: Tensor
    square: Tensor


def given_successes(estimator: Estimator, setting: Setting) -> Given:
    """The estimator's moments given k, for binary rewards and any normaliser."""
    size, width = setting.group_size + 1, len(setting.policy.theta)
    probability, square = torch.zeros(2, size, dtype=torch.float64)
    mean = torch.zeros(size, width, dtype=torch.float64)
    for some in conditional(estimator, setting):
        second = some.spread + (some.mean**2).sum(1)
        probability.index_add_(0, some.successes, some.probability)
        square.index_add_(0, some.successes, some.probability * second)
        mean.index_add_(0, some.successes, some.probability[:, None] * some.mean)
    safe = probability.clamp(min=torch.finfo(torch.float64).tiny)
    return Given(probability, mean / safe[:, None], square / safe)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """E‖α g_RL + β g_SFT − T‖² and k, as α²a + 2αβ c + β²b − 2αu − 2βv + t, each (n + 1,).

    Every coefficient includes the probability of k, so quadratics of several questions add up to
    that of a question drawn among them, of which only k is known.
    """

    rl: Tensor
    cross: Tensor
    sft: Tensor
    rl_target: Tensor
    sft_target: Tensor
    target: Tensor

    @classmethod
    def of(cls, rl: Given, sft: Given, target: Tensor, weight: float = 1.0) -> Quadratic:
        """From the moments of g_RL given k, of g_SFT (whatever its k) and T (D,)."""
        chance = weight * rl.probability
        other = sft.probability @ sft.mean
        return cls(
            chance * rl.square,
            chance * (rl.mean @ other),
            chance * (sft.probability @ sft.square),
            chance * (rl.mean @ target),
            chance * (other @ target),
            chance * (target @ target),
        )

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(*(a + b for a, b in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return self.rl, self.cross, self.sft, self.rl_target, self.sft_target, self.target

    def mse(self, alpha: Tensor, beta: Tensor) -> float:
        """The error of weights (n + 1,) by k."""
        return self.by_k(alpha, beta).sum().item()

    def by_k(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """(n + 1,) each k's part of the error."""
        square = alpha**2 * self.rl + 2 * alpha * beta * self.cross + beta**2 * self.sft
        return square - 2 * (alpha * self.rl_target + beta * self.sft_target) + self.target

    @property
    def nothing(self) -> float:
        """E‖T‖², the error of no step at all."""
        return self.target.sum().item()

    def optimum(self) -> tuple[Tensor, Tensor]:
        """(α*, β*) by k, of any sign; α* = 0 where g_RL vanishes (k = 0, k = n)."""
        d = self.rl * self.sft - self.cross**2
        both = d > 1e-12 * self.rl * self.sft
        d = torch.where(both, d, 1.0)
        alpha = torch.where(both, self.rl_target * self.sft - self.sft_target * self.cross, 0.0) / d
        rest = self.sft_target - alpha * self.cross
        return alpha, torch.where(self.sft > 0, rest / self.sft, 0.0)

    def tuned(self, f: Tensor, g: Tensor) -> Tuned:
        """The best (x f, y g) with one factor x, y ≥ 0 a term: a gate at its best coefficients."""
        a, b, c = (
            (h * s).sum()
            for h, s in zip((f * f, g * g, f * g), (self.rl, self.sft, self.cross), strict=True)
        )
        u, v = (f * self.rl_target).sum(), (g * self.sft_target).sum()
        zero = torch.zeros(())
        pairs = [(zero, zero)]
        pairs += [(u / a, zero)] if a > 0 else []
        pairs += [(zero, v / b)] if b > 0 else []
        if (d := a * b - c * c) > 1e-12 * a * b:
            pairs.append(((u * b - v * c) / d, (v * a - u * c) / d))
        candidates = (
            Tuned(self.mse(x * f, y * g), float(x), float(y)) for x, y in pairs if x >= 0 and y >= 0
        )
        return min(candidates)

    def alone(self, term: Literal["rl", "sft"]) -> float:
        """The gain over no step of one term alone, at its best factor ≥ 0 for all k."""
        square, along = (getattr(self, name).sum().item() for name in (term, f"{term}_target"))
        return max(along, 0.0) ** 2 / square if square else 0.0


def pooled(quadratics: Iterable[Quadratic]) -> Quadratic:
    """The sum.

    Raises:
        UpgeError: there is nothing to sum.
    """
    first, *rest = quadratics
    for quadratic in rest:
        first = first + quadratic
    return first
