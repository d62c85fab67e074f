"""How the terms of single tokens become one number.

Every count is global: it is summed over processes before anything is divided, and micro-batches
inherit it. Averaging averages is the fault that spoiled baselines (arXiv 2604.23747).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.component import Component, Limits

#: What a normalizer counts: the term's tokens, those of the term where its gate is open, those of
#: all terms where their gates are open, or all of the batch.
Scope = Literal["term", "open", "joint", "batch"]
_SCOPES: dict[str, str] = {
    "term": "the term's tokens",
    "open": "the term's tokens whose gate is open",
    "joint": "all terms' tokens whose gates are open",
    "batch": "all tokens",
}
_LENGTH = "L is the batch's max_length, or its width T where none is given"


class Counted(NamedTuple):
    """Tokens (N, T) and rows (N,) that are counted, bool; rows may have no token."""

    tokens: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Normalizer(Component):
    """Returns the factor 1/Z, broadcastable to (N, T), in float64."""

    scope: Scope = "term"
    limits: ClassVar[Limits] = {"scope": tuple(_SCOPES)}

    @property
    def text(self) -> str:
        """Its name, as the option ``normalizer`` takes it, and what it counts."""
        name = next(name for name, kind in NORMALIZERS.items() if kind is type(self))
        return name if self.scope == "term" else f"{name} over {_SCOPES[self.scope]}"

    @abstractmethod
    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        """The factor, for what the term reads and what is counted."""


def _inverse(count: Tensor) -> Tensor:
    return 1 / count.double().clamp(min=1)


def _lengths(read: Counted) -> Tensor:
    return read.tokens.sum(1, keepdim=True)


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

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return torch.ones((), dtype=torch.float64, device=batch.mask.device)


@dataclass(frozen=True)
class TokenMean(Normalizer):
    """Z = number of counted tokens (DAPO, arXiv 2503.14476, eq. 8)."""

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return _inverse(batch.all_sum(counted.tokens.sum()))


@dataclass(frozen=True)
class TrajectoryMean(Normalizer):
    """Z = N: the token sum of a trajectory, averaged over trajectories (REINFORCE)."""

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return _inverse(batch.all_sum(counted.rows.sum()))


@dataclass(frozen=True)
class SequenceMean(TrajectoryMean):
    """Z = N·|τ|: the token mean of a trajectory, averaged over trajectories."""

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return _inverse(_lengths(read)) * super().__call__(batch, read, counted)


@dataclass(frozen=True)
class FixedLength(TrajectoryMean):
    """Z = N·L with L the longest response allowed (Dr. GRPO, arXiv 2503.20783)."""

    choices: ClassVar[tuple[str, ...]] = (_LENGTH,)

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return super().__call__(batch, read, counted) / _longest(batch)


@dataclass(frozen=True)
class LengthSum(TokenSum):
    """Z = L: the token sum over the longest response allowed, no count of samples.

    Source: the official scripts of arXiv 2509.04419 (``loss_remove_token_mean``).
    """

    choices: ClassVar[tuple[str, ...]] = (_LENGTH,)

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return super().__call__(batch, read, counted) / _longest(batch)


@dataclass(frozen=True)
class QuestionSum(Normalizer):
    """Z = Q·n_q: token sums, averaged over a question's trajectories, then questions (eq. 11)."""

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        questions = batch.all_sum((batch.per_question(counted.rows.long()) > 0).sum())
        group_size = batch.per_question(read.rows.long())[batch.question]
        return _inverse(group_size)[:, None] * _inverse(questions)


@dataclass(frozen=True)
class QuestionMean(QuestionSum):
    """Z = Q·n_q·|τ|: means over tokens, a question's trajectories, and questions (eq. 16–18)."""

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return _inverse(_lengths(read)) * super().__call__(batch, read, counted)


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
    """The normalizer called ``name``.

    Raises:
        UpgeError: an unknown name.
    """
    if name not in NORMALIZERS:
        raise unknown("normalizer", name, NORMALIZERS)
    return NORMALIZERS[name](scope)
