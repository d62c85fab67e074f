"""HPT's performance feedback: the policy's success P on a question decides (α, β).

P = (1/n) Σ v(τ_i) over the question's rollouts, v(τ) = 1{R(τ) > 0} (eq. 7–8); α = f(P) weighs the
RL loss and β = g(P) the SFT loss (eq. 9, 13).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.component import Component, between, positive

#: Far above float32's rounding of k/n, far below the distance of two such fractions.
ROUNDING = 1e-6

#: The paper's group size (section 4.1), for a P that is given without its n.
ROLLOUTS = 8


def performance(batch: TrajectoryBatch) -> Tensor:
    """P (N,) of each row's question: the share of its rollouts with R > 0, 0 if it has none."""
    rollouts = batch.rows_of("online")
    solved = batch.per_question((rollouts & (batch.reward > 0)).double())
    return solved[batch.question] / rollout_count(batch).clamp(min=1)


def rollout_count(batch: TrajectoryBatch) -> Tensor:
    """Rollouts n (N,) of each row's question: what its P comes from."""
    return batch.per_question(batch.rows_of("online").double())[batch.question]


@dataclass(frozen=True)
class Feedback(Component):
    """A pair f, g of eq. 9, as functions of P (any shape), both non-negative.

    They are also told how many rollouts n (a number, or one a P) P comes from, for gates that ask
    how sure P is; the paper's don't.
    """

    @abstractmethod
    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """α, the weight of the RL loss."""

    @abstractmethod
    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """β, the weight of the SFT loss."""


@dataclass(frozen=True)
class Switch(Feedback):
    """(α, β) = (1, 0) if P > gamma, else (0, 1) (eq. 10)."""

    gamma: float = 0.0
    text: ClassVar[str] = "1{P > γ}, 1 − α"
    latex: ClassVar[str] = r"\alpha=\mathbf 1\{P>\gamma\},\ \beta=1-\alpha"

    def __post_init__(self) -> None:
        between(self, 0, 1, "gamma")

    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 where P > gamma; a P within rounding of gamma counts as equal to it."""
        return (p > self.gamma + ROUNDING).to(p.dtype)

    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 − f."""
        return 1 - self.f(p)


@dataclass(frozen=True)
class Linear(Feedback):
    """α = P, β = 1 − P."""

    text: ClassVar[str] = "P, 1 − P"
    latex: ClassVar[str] = r"\alpha=P,\ \beta=1-P"

    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """P."""
        return p

    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 − P."""
        return 1 - p


@dataclass(frozen=True)
class Sigmoid(Feedback):
    """α = σ(steepness · (P − gamma)), β = 1 − α; the switch in the limit of large steepness."""

    gamma: float = 0.0
    steepness: float = 10.0
    text: ClassVar[str] = "σ(k(P − γ)), 1 − α"
    latex: ClassVar[str] = r"\alpha=\sigma(k(P-\gamma)),\ \beta=1-\alpha"

    def __post_init__(self) -> None:
        between(self, 0, 1, "gamma")
        positive(self, "steepness")

    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """σ(steepness · (P − gamma))."""
        return (self.steepness * (p - self.gamma)).sigmoid()

    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 − f, without cancellation."""
        return (self.steepness * (self.gamma - p)).sigmoid()


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
    text: ClassVar[str] = "Wiener weights of ∇J_μ given P and n"
    latex: ClassVar[str] = (
        r"(\alpha,\beta)=\arg\min\mathbb{E}[\Vert\alpha g_{RL}+\beta g_{SFT}"
        r"-\nabla\mathcal{J}_\mu\Vert^2\mid P,n]"
    )

    def __post_init__(self) -> None:
        between(self, 0, 1, "novelty")
        positive(self, "noise", "prior_solved", "prior_failed")
        between(self, 0, 1e30, "mu", "noise", "prior_solved", "prior_failed")  # no overflow

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


#: Gates by name; each is built from the options it has.
GATES: dict[str, type[Feedback]] = {
    "switch": Switch,
    "linear": Linear,
    "sigmoid": Sigmoid,
    "wiener": Wiener,
}


def feedback(name: str, gamma: float | str = 0.0, **options: float | str) -> Feedback:
    """The gate called ``name`` at threshold ``gamma``, with those of the options that it has."""
    if name not in GATES:
        raise unknown("gate", str(name), GATES)
    kind, given = GATES[name], options | {"gamma": gamma}
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})


@dataclass(frozen=True)
class Gate:
    """One side of a feedback as a weight of rows: α (``side='rl'``) or β (``side='sft'``).

    A question without a demonstration has nothing to be supervised with: there α = 1, β = 0.
    """

    choices: ClassVar[tuple[str, ...]] = (
        "P counts rewards above 0 as successes (paper, eq. 7: R ∈ {0, 1})",
        "a question without a demonstration keeps α = 1, β = 0: nothing could be imitated",
        "a question without rollouts has P = 0",
    )

    feedback: Feedback
    side: Literal["rl", "sft"]

    def __post_init__(self) -> None:
        if not isinstance(self.feedback, Feedback) or self.side not in ("rl", "sft"):
            raise UpgeError(
                f"Gate: got ({self.feedback!r:.40}, {self.side!r}), wanted a Feedback and the side "
                "'rl' or 'sft'"
            )

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """(N, 1) weights of the rows."""
        p, n = performance(batch), rollout_count(batch)
        has_demo = batch.per_question(batch.rows_of("offline").long())[batch.question] > 0
        weight = self.feedback.f(p, n) if self.side == "rl" else self.feedback.g(p, n)
        weight = torch.where(has_demo, weight, 1.0 if self.side == "rl" else 0.0)
        return weight[:, None]
