"""The gate whose weights estimate ∇J_μ best, given a group's successes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from upge.component import UNIT, Limits, Range
from upge.feedback import ROLLOUTS, Feedback


@dataclass(frozen=True)
class Wiener(Feedback):
    """The weights that estimate ∇J_μ best from a group's rollouts and one demonstration.

    They minimise E‖α Σ_i (R_i − P) s_i + β s* − ∇J_μ‖² (token sums, s = ∇log π_θ of a trajectory)
    given that k of n rollouts succeed. With p the success rate, u and v the mean of s given success
    and failure, D = u − v and p u + (1 − p) v = 0, so u = (1 − p) D, on one question

    * ∇E[r] = p (1 − p) D; and given k, exactly, E Σ_i (R_i − P) s_i = w D with w = n P (1 − P),
    * ∇J_μ = p (1 − p) D + μ E s*.

    Assumed:

    1. p ~ Beta(a, b), a = ``prior_solved`` and b = ``prior_failed``, so that p given k is
       Beta(a + k, b + n − k); below, q_j = E[(1 − p)^j | k].
    2. Demonstrations succeed. E s* = κ (1 − p) D plus a part orthogonal to D, of square ω ‖D‖²,
       κ² = 1 − ω: with ω = ``novelty`` = 0 they are like the policy's own successes, with 1
       imitating them is nothing but a goal in itself.
    3. A score, of a rollout or a demonstration, varies by V about its mean; λ = ``noise`` = V/‖D‖².
    4. Rollouts are on policy, λ and ω are the same for all questions.

    Then, with h₁ = q₁ − q₂ + μκ q₁, h₂ = κ(q₂ − q₃) + μ(κ² q₂ + ω) and e = κ² q₂ + ω + λ,

        α = λ (h₁ e − h₂ κ q₁) / (1 + μ) / d,   d = (w + λ) e − w κ² q₁²,
        β = λ ((w + λ) h₂ − w κ q₁ h₁)₊ / (1 + μ) / d.

    The factor λ/(1 + μ) is for all questions the same; it keeps both in [0, 1]. For λ → ∞ they
    become h₁ and h₂ over 1 + μ; with ω = 0 and p known that is β = (1 − p) α: a demonstration is
    worth one more success in the group.

    The weights are the best ones for a step. Over many, α falls where p rises, and with a constant
    learning rate E[r] ends somewhat below that of the switch.

    Source: this package, study ``mixing`` (``experiments/bias_variance/mixing.py``), where the
    defaults come from too.
    """

    mu: float = 0.5
    noise: float = 3.0
    novelty: float = 0.25
    prior_solved: float = 0.5
    prior_failed: float = 0.5
    symbol: ClassVar[str] = "Wiener weights of ∇J_μ given P and n"
    limits: ClassVar[Limits] = {  # up to 1e30: beyond it products overflow
        "novelty": UNIT,
        "mu": Range(0, 1e30),
        **dict.fromkeys(("noise", "prior_solved", "prior_failed"), Range(0, 1e30, is_open=True)),
    }

    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """α."""
        return self._solve(p, n)[0]

    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """β."""
        return self._solve(p, n)[1]

    def _solve(self, p: Tensor, n: Tensor | float) -> tuple[Tensor, Tensor]:
        failures = self.prior_failed + n * (1 - p)
        total = self.prior_solved + self.prior_failed + n
        q1 = failures / total
        q2 = q1 * (failures + 1) / (total + 1)
        q3 = q2 * (failures + 2) / (total + 2)
        kappa, w = math.sqrt(1 - self.novelty), n * p * (1 - p)
        h1 = (q1 - q2 + self.mu * kappa * q1) / (1 + self.mu)
        h2 = (kappa * (q2 - q3) + self.mu * (kappa**2 * q2 + self.novelty)) / (1 + self.mu)
        e = kappa**2 * q2 + self.novelty + self.noise
        d = (w + self.noise) * e - w * (kappa * q1) ** 2
        alpha = self.noise * (h1 * e - h2 * kappa * q1) / d
        beta = self.noise * ((w + self.noise) * h2 - w * kappa * q1 * h1) / d
        return alpha.clamp(min=0), beta.clamp(min=0)
