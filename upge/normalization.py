"""How the terms of single tokens become one number.

Every count is global: it is summed over processes before anything is divided, and micro-batches
inherit it. Averaging averages is the fault that spoiled baselines (arXiv 2604.23747).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.component import Component

#: Which tokens a normalizer counts: those of the term, those of the term where its gate is open,
#: those of all terms where their gates are open, or all of the batch.
Scope = Literal["term", "open", "joint", "batch"]
_SCOPES: dict[str, str] = {
    "term": "the term's tokens",
    "open": "the term's tokens whose gate is open",
    "joint": "all terms' tokens whose gates are open",
    "batch": "all tokens",
}


@dataclass(frozen=True)
class Normalizer(Component):
    """Returns the factor 1/Z, broadcastable to (N, T), in float64."""

    scope: Scope = "term"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in _SCOPES:
            raise unknown("normalizer scope", str(self.scope), _SCOPES)

    @property
    def text(self) -> str:
        """Its name, as the option ``normalizer`` takes it, and what it counts."""
        name = next(name for name, kind in NORMALIZERS.items() if kind is type(self))
        return name if self.scope == "term" else f"{name} over {_SCOPES[self.scope]}"

    @abstractmethod
    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        """The factor, for the term's ``tokens`` (N, T) and the ``counted`` ones (N, T)."""


def _inverse(count: Tensor) -> Tensor:
    return 1 / count.double().clamp(min=1)


def _rows(batch: TrajectoryBatch, counted: Tensor) -> Tensor:
    return batch.all_sum(counted.any(1).sum())


def _longest(batch: TrajectoryBatch) -> int:
    if batch.max_length is None and batch.is_shared:
        raise UpgeError(
            "max_length: is missing, and a fixed-length normalizer can't take the batch's width "
            "for it, which may differ between processes"
        )
    return batch.max_length or max(batch.mask.shape[1], 1)


@dataclass(frozen=True)
class TokenSum(Normalizer):
    """Z = 1 (eq. 14)."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        return torch.ones((), dtype=torch.float64, device=tokens.device)


@dataclass(frozen=True)
class TokenMean(Normalizer):
    """Z = number of counted tokens (DAPO, arXiv 2503.14476, eq. 8)."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        return _inverse(batch.all_sum(counted.sum()))


@dataclass(frozen=True)
class TrajectoryMean(Normalizer):
    """Z = N: the token sum of a trajectory, averaged over trajectories (REINFORCE)."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        return _inverse(_rows(batch, counted))


@dataclass(frozen=True)
class SequenceMean(Normalizer):
    """Z = N·|τ|: the token mean of a trajectory, averaged over trajectories."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        lengths = _inverse(tokens.sum(1, keepdim=True))
        return lengths * _inverse(_rows(batch, counted))


@dataclass(frozen=True)
class FixedLength(Normalizer):
    """Z = N·L with L the longest response allowed (Dr. GRPO, arXiv 2503.20783)."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        return _inverse(_rows(batch, counted)) / _longest(batch)


@dataclass(frozen=True)
class LengthSum(Normalizer):
    """Z = L: the token sum over the longest response allowed, no count of samples.

    Source: the official scripts of arXiv 2509.04419 (``loss_remove_token_mean``).
    """

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        return torch.ones((), dtype=torch.float64, device=tokens.device) / _longest(batch)


@dataclass(frozen=True)
class QuestionSum(Normalizer):
    """Z = Q·n_q: token sums, averaged over a question's trajectories, then questions (eq. 11)."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        questions = batch.all_sum((batch.per_question(counted.any(1).long()) > 0).sum())
        own = batch.per_question(tokens.any(1).long())[batch.question]
        return _inverse(own)[:, None] * _inverse(questions)


@dataclass(frozen=True)
class QuestionMean(QuestionSum):
    """Z = Q·n_q·|τ|: means over tokens, a question's trajectories, and questions (eq. 16–18)."""

    def __call__(self, batch: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
        lengths = _inverse(tokens.sum(1, keepdim=True))
        return lengths * super().__call__(batch, tokens, counted)


NORMALIZERS: dict[str, type[Normalizer]] = {
    "token_sum": TokenSum,
    "token_mean": TokenMean,
    "trajectory_mean": TrajectoryMean,
    "sequence_mean": SequenceMean,
    "fixed_length": FixedLength,
    "length_sum": LengthSum,
    "question_sum": QuestionSum,
    "question_mean": QuestionMean,
}


def normalizer(name: str, scope: Scope = "term") -> Normalizer:
    """The normalizer called ``name``; raises UpgeError for a name that is not known."""
    if not isinstance(name, str):
        raise UpgeError(f"normalizer: got {name!r}, wanted one of {', '.join(NORMALIZERS)}")
    if name not in NORMALIZERS:
        raise unknown("normalizer", name, NORMALIZERS)
    return NORMALIZERS[name](scope)
