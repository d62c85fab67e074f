"""HPT's performance feedback: the policy's success P on a question decides (α, β).

P = (1/n) Σ v(τ_i) over the question's rollouts, v(τ) = 1{R(τ) > 0} (eq. 7–8); α = f(P) weighs the
RL loss and β = g(P) the SFT loss (eq. 9, 13).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.component import Component, between, positive
from upge.errors import unknown

#: Far above float32's rounding of k/n, far below the distance of two such fractions.
ROUNDING = 1e-6


def performance(batch: TrajectoryBatch) -> Tensor:
    """P (N,) of each row's question: the share of its rollouts with R > 0, 0 if it has none."""
    rollouts = batch.rows_of("online")
    solved = batch.per_question((rollouts & (batch.reward > 0)).double())
    count = batch.per_question(rollouts.double())
    return (solved / count.clamp(min=1))[batch.question]


@dataclass(frozen=True)
class Feedback(Component):
    """A pair f, g of eq. 9, as functions of P (any shape), both non-negative."""

    @abstractmethod
    def f(self, p: Tensor) -> Tensor:
        """α, the weight of the RL loss."""

    @abstractmethod
    def g(self, p: Tensor) -> Tensor:
        """β, the weight of the SFT loss."""


@dataclass(frozen=True)
class Switch(Feedback):
    """(α, β) = (1, 0) if P > gamma, else (0, 1) (eq. 10)."""

    gamma: float = 0.0
    text: ClassVar[str] = "1{P > γ}, 1 − α"
    latex: ClassVar[str] = r"\alpha=\mathbf 1\{P>\gamma\},\ \beta=1-\alpha"

    def __post_init__(self) -> None:
        between(self, 0, 1, "gamma")

    def f(self, p: Tensor) -> Tensor:
        """1 where P > gamma; a P within rounding of gamma counts as equal to it."""
        return (p > self.gamma + ROUNDING).to(p.dtype)

    def g(self, p: Tensor) -> Tensor:
        """1 − f."""
        return 1 - self.f(p)


@dataclass(frozen=True)
class Linear(Feedback):
    """α = P, β = 1 − P."""

    text: ClassVar[str] = "P, 1 − P"
    latex: ClassVar[str] = r"\alpha=P,\ \beta=1-P"

    def f(self, p: Tensor) -> Tensor:
        """P."""
        return p

    def g(self, p: Tensor) -> Tensor:
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

    def f(self, p: Tensor) -> Tensor:
        """σ(steepness · (P − gamma))."""
        return (self.steepness * (p - self.gamma)).sigmoid()

    def g(self, p: Tensor) -> Tensor:
        """1 − f, without cancellation."""
        return (self.steepness * (self.gamma - p)).sigmoid()


#: Gates by name; each is built from the options it has.
GATES: dict[str, type[Feedback]] = {"switch": Switch, "linear": Linear, "sigmoid": Sigmoid}


def feedback(name: str, gamma: float) -> Feedback:
    """The gate called ``name`` (switch, linear, sigmoid) at threshold ``gamma``."""
    if name not in GATES:
        raise unknown("gate", str(name), GATES)
    return Linear() if GATES[name] is Linear else GATES[name](gamma)  # type: ignore[call-arg]


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

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """(N, 1) weights of the rows."""
        p = performance(batch)
        has_demo = batch.per_question(batch.rows_of("offline").long())[batch.question] > 0
        weight = self.feedback.f(p) if self.side == "rl" else self.feedback.g(p)
        weight = torch.where(has_demo, weight, 1.0 if self.side == "rl" else 0.0)
        return weight[:, None]
