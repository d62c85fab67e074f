"""A loss as its weights on designed batches, and how weights are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.estimator import Estimator
from upge.testing.call import Subject
from upge.testing.designs import ordinary, pairs, random_batch
from upge.testing.inputs import Inputs

Side = Literal["online", "offline"]

#: Relative difference up to which weights are equal, in float64 and where it computes in float32.
EXACT, SINGLE = 1e-9, 2e-5


class Undecided(UpgeError):
    """Something can't be told, and why."""


@dataclass(frozen=True)
class Composed:
    """An estimator that stands for a loss.

    Attributes:
        estimator: the sum of its terms; a term that takes the Â handed in has ``Reward()``.
        handed: whether Â is handed in, and stands in the place of rewards.
        has_length: whether the loss knows the longest response; if not, the width stands for it.
    """

    estimator: Estimator
    handed: bool
    has_length: bool = True

    def weights(self, inputs: Inputs) -> Tensor:
        """(N, T) w."""
        batch = self.batch(inputs)
        assert batch.logp is not None
        return self.estimator(batch, batch.logp, batch.entropy).weights.double()

    def batch(self, inputs: Inputs) -> TrajectoryBatch:
        """What the estimator reads."""
        if self.handed:
            inputs = inputs.with_(reward=inputs.advantage[:, 0])
        return inputs.batch(self.has_length)


@dataclass(frozen=True)
class Agreement:
    """How a loss's weights go with an estimator's: one factor, and what is left."""

    factor: float
    error: float
    batches: int


def agree(pairs_of: Sequence[tuple[Tensor, Tensor]]) -> Agreement:
    """The factor that fits measured to predicted weights over all batches, and the largest error.

    The error is relative to the largest measured weight of its batch.
    """
    ab = sum(float((a * b).sum()) for a, b in pairs_of)
    bb = sum(float((b * b).sum()) for a, b in pairs_of)
    if bb == 0 or not math.isfinite(ab):
        zero = all(not a.any() for a, _ in pairs_of) and bb == 0
        return Agreement(1.0 if zero else 0.0, 0.0 if zero else math.inf, len(pairs_of))
    # The mean of several elements' factors is exact to rounding; one element's is as good.
    a, b = max(pairs_of, key=lambda pair: float(pair[1].abs().max()))
    place = b.abs().argmax()
    factor = float(a.flatten()[place] / b.flatten()[place])
    if abs(factor * bb - ab) > 1e-7 * abs(ab):
        factor = ab / bb
    errors = []
    for a, b in pairs_of:
        scale = float(torch.maximum(a.abs().max(), (factor * b).abs().max()))
        errors.append(float((a - factor * b).abs().max()) / scale if scale else 0.0)
    bad = any(math.isnan(error) for error in errors)
    return Agreement(factor, math.inf if bad else max(errors), len(pairs_of))


class Reader:
    """A loss under test, and what is known of it at once."""

    def __init__(self, subject: Subject, in_float32: bool = False, seeds: int = 1) -> None:
        self.seeds = seeds  # sets of random batches to compare on
        self._in_float32 = in_float32
        self.subject = subject
        self.asks = subject.asks
        self.handed = "advantage" in self.asks
        self.rewarded = "reward" in self.asks or "reward_parts" in self.asks
        self.imitates = not (self.handed or self.rewarded)
        self.reads_demos = bool(self.asks & {"offline", "online"})
        self.tells_questions = "group" in self.asks and not subject.has_equal_groups
        self.has_length = "max_length" in self.asks

    # ------------------------------------------------------------------ what it computes in

    @cached_property
    def noise(self) -> float:
        """Relative rounding of the weights: float64's, or float32's if all are float32 numbers."""
        if self._in_float32:
            return 2e-7
        x = self.sided(ordinary(spread=0.05), "online")
        w = self.subject.weights(x)
        if not w.any():
            x = self.sided(x, "offline")
            w = self.subject.weights(x)
        if not w.any():
            return 1e-14
        if self.asks & {"logits", "model"} and self.subject.single:
            return 2e-7
        for name in ("old_logp", "advantage", "reward"):
            if name in self.asks and self._sees_steps(x, w, name):
                return 2e-7
        return 2e-7 if torch.equal(w, w.float().double()) and _rounds(w) else 1e-14

    def _sees_steps(self, x: Inputs, w: Tensor, name: str) -> bool:
        """Whether a change that float32 can't hold changes nothing, where a larger one does."""
        values = getattr(x, name)
        shape = (-1,) + (1,) * (values.dim() - 1)
        by_row = torch.arange(1.0, len(values) + 1, dtype=values.dtype).view(shape)
        moved = []
        for size in (1e-11, 1e-2):
            changed = self.subject.weights(x.with_(**{name: values * (1 + size * by_row)}))
            least = 0.0 if size < 1e-6 else 1e-6 * float(w.abs().max())  # more than rounding
            moved.append((changed - w).abs() > least)
        return bool(moved[1].any()) and float((moved[0] & moved[1]).sum() / moved[1].sum()) < 0.2

    @property
    def tolerance(self) -> float:
        """Relative difference up to which weights count as equal."""
        return EXACT if self.noise < 1e-10 else SINGLE

    @property
    def rounding(self) -> float:
        """Relative error of a number that is read off, as a bound of a clip."""
        return 1e-9 if self.noise < 1e-10 else 1e-5

    # ------------------------------------------------------------------ designed batches

    def sided(self, inputs: Inputs, side: Side) -> Inputs:
        """The same with rollouts only, or demonstrations only."""
        offline = inputs.mask & (side == "offline")
        return inputs.with_(offline=offline)

    def neutral(self, inputs: Inputs) -> Inputs:
        """The same with Â = 0, or with equal rewards."""
        return inputs.with_(
            advantage=torch.zeros_like(inputs.advantage), reward=torch.ones_like(inputs.reward)
        )

    @cached_property
    def has_additive(self) -> bool:
        """Whether some of the weight is there without an advantage."""
        if self.imitates or not self.asks & {"ref_logp", "teacher_logp", "inputs"}:
            return False
        inputs = self.neutral(self.sided(random_batch(3, equal_groups=True), "online"))
        return bool(self.subject.weights(inputs).abs().max() > 0)

    def policy_weights(self, inputs: Inputs) -> Tensor:
        """The part of the weights that comes with the advantage."""
        w = self.subject.weights(inputs)
        return w - self.subject.weights(self.neutral(inputs)) if self.has_additive else w

    def response(self, side: Side) -> Callable[[Tensor], Tensor]:
        """W against the ratio over w at ratio 1, for either sign of Â."""
        return over_zero(
            lambda x: self.policy_weights(self.sided(pairs(x[:, None]), side)).view(len(x), 2)
        )


def over_zero(at: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of (M,) numbers over its values where all are 0; NaN where these are 0."""
    bases: dict[int, Tensor] = {}

    def respond(x: Tensor) -> Tensor:
        if len(x) not in bases:
            bases[len(x)] = at(torch.zeros_like(x))
        base = bases[len(x)]
        return at(x) / torch.where(base == 0, torch.nan, base)

    return respond


def _rounds(w: Tensor) -> bool:
    """Whether the numbers are of a kind that would not be float32's by chance."""
    return bool((w != w.bfloat16().double()).any())
