"""HPT's performance feedback: the policy's success P on a question decides (α, β).

P = (1/n) Σ v(τ_i) over the question's rollouts, v(τ) = 1 for a success (eq. 7–8); α = f(P) weighs
the RL loss and β = g(P) the SFT loss (eq. 9, 13).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.component import POSITIVE, UNIT, Component, Limits

#: Far above float32's rounding of k/n, far below the distance of two such fractions.
ROUNDING = 1e-6

#: The paper's group size (section 4.1), for a P that is given without its n.
ROLLOUTS = 8


def performance(batch: TrajectoryBatch) -> Tensor:
    """P (N,) of each row's question: the share of its rollouts that succeed, 0 if it has none."""
    rollouts = batch.rows_of("online")
    solved = batch.per_question((rollouts & batch.solved).double())
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
    symbol: ClassVar[str] = "1{P > γ}, 1 − α"

    limits: ClassVar[Limits] = {"gamma": UNIT}

    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 where P > gamma; a P within rounding of gamma counts as equal to it."""
        return (p > self.gamma + ROUNDING).to(p.dtype)

    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 − f."""
        return 1 - self.f(p)


@dataclass(frozen=True)
class Linear(Feedback):
    """α = P, β = 1 − P."""

    symbol: ClassVar[str] = "P, 1 − P"

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
    symbol: ClassVar[str] = "σ(k(P − γ)), 1 − α"
    limits: ClassVar[Limits] = {"gamma": UNIT, "steepness": POSITIVE}

    def f(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """σ(steepness · (P − gamma))."""
        return (self.steepness * (p - self.gamma)).sigmoid()

    def g(self, p: Tensor, n: Tensor | float = ROLLOUTS) -> Tensor:
        """1 − f, without cancellation."""
        return (self.steepness * (self.gamma - p)).sigmoid()


Side = Literal["rl", "sft"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class Gate:
    """One side of a feedback as a weight of rows: α (``side='rl'``) or β (``side='sft'``).

    A question without a demonstration has nothing to be supervised with: there α = 1, β = 0.
    """

    choices: ClassVar[tuple[str, ...]] = (
        "P counts R > 0 as successes (paper, eq. 7: R ∈ {0, 1}), or R ≥ the batch's success",
        "a question without a demonstration keeps α = 1, β = 0: nothing could be imitated",
        "a question without rollouts has P = 0",
    )

    feedback: Feedback
    side: Side

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """(N, 1) weights of the rows."""
        p, n = performance(batch), rollout_count(batch)
        has_demo = batch.per_question(batch.rows_of("offline").long())[batch.question] > 0
        weight = self.feedback.f(p, n) if self.side == "rl" else self.feedback.g(p, n)
        weight = torch.where(has_demo, weight, 1.0 if self.side == "rl" else 0.0)
        return weight[:, None]
