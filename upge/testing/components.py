"""Components that losses in the wild have and the registry's rows have not.

They make a loss that is no row of Table 1 reproducible: a ``compose(...)`` call with them gives its
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upge.advantage import Advantage
from upge.batch import Samples, TrajectoryBatch
from upge.component import AT_LEAST_0, Limits
from upge.normalization import Counted, Normalizer
from upge.stabilization import Stabilization

#: Stretches of log-ratios: where each ends, the power of r there (None for 0) and the level.
Stretches = tuple[tuple[float, float | None, float], ...]

_EVERYWHERE: Stretches = ((float("inf"), 0.0, 1.0),)


@dataclass(frozen=True)
class Piecewise(Stabilization):
    """A stabilizer as measured: on each stretch of the ratio 0, or level · r^power.

    Attributes:
        positive, negative: the stretches for Â > 0 and Â < 0.
        level: whether the ratio is the token's or the trajectory's geometric mean.
    """

    positive: Stretches = _EVERYWHERE
    negative: Stretches = _EVERYWHERE
    level: Literal["token", "sequence"] = "token"
    binary: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"logp", "old_logp"})

    @property
    def text(self) -> str:
        """As measured."""
        return "piecewise"

    def __call__(self, batch: TrajectoryBatch, advantage: Tensor) -> Tensor:
        log_ratio = batch.token_log_ratio("a piecewise stabilizer")
        if self.level == "sequence":
            log_ratio = batch.trajectory_mean(log_ratio).expand_as(log_ratio)
        both = [_on_stretches(log_ratio, side) for side in (self.positive, self.negative)]
        return torch.where(advantage >= 0, both[0], both[1]).to(advantage.dtype)


def _on_stretches(log_ratio: Tensor, stretches: Stretches) -> Tensor:
    value = torch.zeros_like(log_ratio)
    for end, power, level in reversed(stretches):
        here = torch.zeros_like(log_ratio) if power is None else level * (power * log_ratio).exp()
        value = torch.where(log_ratio <= end, here, value)
    return value


@dataclass(frozen=True)
class PaddedMean(Normalizer):
    """Z = N·T, padding included: a plain ``mean()`` over the padded batch."""

    @property
    def text(self) -> str:
        """What it counts."""
        return "all positions, padding included"

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return torch.tensor(1 / max(batch.mask.numel(), 1), dtype=torch.float64)


@dataclass(frozen=True)
class QuestionTokenMean(Normalizer):
    """Z = Q · the tokens of the question: a token mean a question, averaged over questions."""

    @property
    def text(self) -> str:
        """What it counts."""
        return "tokens of the question, questions"

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        tokens = batch.per_question(read.tokens.sum(1))[batch.question].double().clamp(min=1)
        questions = (batch.per_question(read.rows.long()) > 0).sum().clamp(min=1)
        return (1 / tokens / questions)[:, None]


@dataclass(frozen=True)
class QuestionCount(Normalizer):
    """Z = Q: token sums, averaged over questions and not over their trajectories."""

    @property
    def text(self) -> str:
        """What it counts."""
        return "questions"

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        questions = (batch.per_question(read.rows.long()) > 0).sum().clamp(min=1)
        return 1 / questions.double()


@dataclass(frozen=True)
class PlusEpsilon(Normalizer):
    """Another normalizer with ``epsilon`` added to its count of tokens."""

    inner: Normalizer = PaddedMean()
    epsilon: float = 0.0

    @property
    def text(self) -> str:
        """The other's, and ε."""
        return f"{self.inner.text}, ε = {self.epsilon:g} added"

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        factor = self.inner(batch, read, counted)
        tokens = counted.tokens.sum()
        if factor.dim():  # a count a row
            tokens = read.tokens.sum(1, keepdim=True)
        return factor * tokens / (tokens + self.epsilon)


Center = Literal["nothing", "group", "others", "batch", "batch_tokens"]
Scale = Literal["nothing", "group_std", "batch_std", "batch_token_std", "group_mean"]


@dataclass(frozen=True)
class Standardized(Advantage):
    """Â = (R − center)/(scale + ε), with the choices that trainers differ in.

    Attributes:
        center: what is taken off: the mean of the question's rows, of its other rows, of the
            batch's rows or of its tokens, each bearing its row's R.
        scale: what is divided by: a standard deviation of rewards, or the question's mean.
        ddof: 1 for a standard deviation over n − 1, 0 for one over n.
        epsilon: added to the scale.
        singletons: Â of a question with one row: ``nothing`` for 0, ``reward`` for R.
        over: the rows that statistics are taken of.
    """

    center: Center = "group"
    scale: Scale = "group_std"
    ddof: Literal[0, 1] = 1
    epsilon: float = 0.0
    singletons: Literal["nothing", "reward"] = "nothing"
    over: Samples = "online"
    limits: ClassVar[Limits] = {"epsilon": AT_LEAST_0, "ddof": (0, 1)}

    @property
    def centers(self) -> bool:  # type: ignore[override]
        """Whether something is taken off."""
        return self.center != "nothing"

    @property
    def compares(self) -> Samples | None:
        """The rows that statistics are taken of."""
        return self.over

    @property
    def text(self) -> str:
        """The formula."""
        center = {
            "nothing": "R",
            "group": "R − mean of the question",
            "others": "R − mean of the question's other rows",
            "batch": "R − mean of the batch",
            "batch_tokens": "R − mean over the batch's tokens",
        }[self.center]
        scale = {
            "nothing": "",
            "group_std": "std of the question",
            "batch_std": "std of the batch",
            "batch_token_std": "std over the batch's tokens",
            "group_mean": "mean of the question",
        }[self.scale]
        if not scale:
            return center
        of_one = center if self.center == "nothing" else f"({center})"
        divisor = f", std over {'n' if self.ddof == 0 else 'n − 1'}" if "std" in scale else ""
        plus = f" + {self.epsilon:g}" if self.epsilon else ""
        return f"{of_one}/({scale}{plus}){divisor}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        reward, rows = batch.reward, batch.rows_of(self.over)
        member, index = rows.double(), batch.question
        count = batch.per_question(member)[index]
        mean = batch.per_question(member * reward)[index] / count.clamp(min=1)
        tokens = batch.tokens_of(self.over).sum(1).double()
        token_mean = (tokens * reward).sum() / tokens.sum().clamp(min=1)
        others = (mean * count - reward) / (count - 1).clamp(min=1)
        centers: dict[Center, Tensor] = {
            "nothing": torch.zeros_like(reward),
            "group": mean,
            "others": torch.where(count > 1, others, reward),
            "batch": ((member * reward).sum() / member.sum().clamp(min=1)).expand_as(reward),
            "batch_tokens": token_mean.expand_as(reward),
        }
        squares = batch.per_question(member * (reward - mean) ** 2)[index]
        scales: dict[Scale, Callable[[], Tensor]] = {
            "nothing": lambda: torch.ones_like(reward),
            "group_std": lambda: (squares / (count - self.ddof).clamp(min=1)).sqrt(),
            "batch_std": lambda: _std(reward, member, self.ddof),
            "batch_token_std": lambda: _std(reward, tokens, self.ddof),
            "group_mean": lambda: mean,
        }
        scale = scales[self.scale]() + (self.epsilon if self.scale != "nothing" else 0.0)
        deviation = reward - centers[self.center]
        if self.centers:
            deviation = torch.where(deviation.abs() <= 1e-12 * reward.abs(), 0.0, deviation)
        advantage = torch.where(deviation == 0, 0.0, deviation / torch.where(scale == 0, 1, scale))
        if self.singletons == "reward":
            advantage = torch.where(count <= 1, reward, advantage)
        return advantage[:, None]


def _std(reward: Tensor, weight: Tensor, ddof: int) -> Tensor:
    total = weight.sum().clamp(min=1)
    mean = (weight * reward).sum() / total
    return ((weight * (reward - mean) ** 2).sum() / (total - ddof).clamp(min=1)).sqrt()
