"""Terms whose advantage and normaliser a trainer has found before, on more than it shows now."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from upge.advantage import Advantage
from upge.batch import TrajectoryBatch
from upge.estimator import Term
from upge.normalization import Counted, Normalizer


@dataclass(frozen=True)
class _Given(Advantage):
    values: Tensor

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return self.values


@dataclass(frozen=True)
class _Factor(Normalizer):
    value: Tensor = field(kw_only=True)

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return self.value


def fixed(term: Term, advantage: Tensor, factor: Tensor) -> Term:
    """The term with Â and c · α / Z given, (N, T) or broadcastable to it.

    What hangs on the current policy stays the term's: reference policy, stabilizer, shaping and a
    trajectory's entropy weight.
    """
    given: Advantage = _Given(advantage.double())
    if term.advantage.is_late:
        given, factor = term.advantage, factor * advantage
    return replace(
        term,
        advantage=given,
        normalizer=_Factor(value=torch.as_tensor(factor).double()),
        coefficient=1.0,
        gate=None,
        corrections=(),
    )
