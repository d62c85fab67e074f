"""Component 3, the advantage estimate Â of eq. 6.

Rules read rewards (and values), so advantages are known before the forward pass; only those of a
KL term read the current policy. Statistics are taken in float64. A rule that centers gives exactly
0 where all rewards of its set are equal or the set has one member.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from upge.batch import MAX_LOG_RATIO, Samples, TrajectoryBatch
from upge.component import AT_LEAST_0, UNIT, Component, Limits, Range

_EQUAL = "Â = 0 where all rewards of the set are equal or it has one member (0/0 otherwise)"
_BESSEL = "std divides by n − 1: torch's default, which verl and TRL use"
_NO_EPSILON = "nothing is added to std: the papers' formulas; codes add 1e-8 to 1e-4"
_SUCCESS = "R > 0 is a success, or R ≥ the batch's success if that is set"


@dataclass(frozen=True)
class Advantage(Component):
    """Returns Â in the reward's units or normalized, (N, 1) or (N, T), in float64.

    Attributes:
        centers: whether Â vanishes for a set of one reward, or of equal ones.
    """

    centers: ClassVar[bool] = False

    @property
    def is_late(self) -> bool:
        """Whether it reads the current policy, so that it is known after the forward pass only."""
        return "logp" in self.needs

    @property
    def compares(self) -> Samples | None:
        """The samples whose rewards a row's own is compared with; None for none."""
        return getattr(self, "over", None)

    @abstractmethod
    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """The advantage of each trajectory or token."""


@dataclass(frozen=True)
class One(Advantage):
    """Â ≡ 1 (SFT, eq. 15)."""

    symbol: ClassVar[str] = "1"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return torch.ones_like(batch.reward)[:, None]


@dataclass(frozen=True)
class Reward(Advantage):
    """Â = R(τ)."""

    symbol: ClassVar[str] = "R"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return batch.reward[:, None]


@dataclass(frozen=True)
class Signed(Advantage):
    """Â = ``positive`` for a success, else ``negative``; ±1 is Table 1's row REINFORCE."""

    positive: float = 1.0
    negative: float = -1.0
    choices: ClassVar[tuple[str, ...]] = (_SUCCESS,)
    limits: ClassVar[Limits] = dict.fromkeys(("positive", "negative"), Range(-1e30, 1e30))

    @property
    def text(self) -> str:
        """±1, or the two values."""
        if (self.positive, self.negative) == (1.0, -1.0):
            return "±1"
        return f"{{{self.positive:g}, {self.negative:g}}}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        positive = torch.full_like(batch.reward, self.positive)
        return torch.where(batch.solved, positive, self.negative)[:, None]


@dataclass(frozen=True)
class GAE(Advantage):
    """Â_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V(s_{t+1}) − V(s_t), r only at the last token.

    V after the last token is 0. Positions without a response token are skipped. (N, T).

    Source: arXiv 1506.02438, eq. 16.
    """

    gamma: float
    gae_lambda: float
    symbol: ClassVar[str] = "GAE"
    choices: ClassVar[tuple[str, ...]] = (
        "the reward stands at the last response token, and V is 0 after it: verl's code",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"values"})
    limits: ClassVar[Limits] = {"gamma": UNIT, "gae_lambda": UNIT}

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        values = batch.require("values", "GAE").double()
        tokens = batch.tokens_of("online")
        advantage = torch.zeros_like(values)
        reward_to_come = batch.reward
        next_value = ahead = torch.zeros_like(reward_to_come)
        for t in reversed(range(values.shape[1])):
            here = tokens[:, t]
            delta = reward_to_come + self.gamma * next_value - values[:, t]
            ahead = torch.where(here, delta + self.gamma * self.gae_lambda * ahead, ahead)
            advantage[:, t] = torch.where(here, ahead, 0.0)
            next_value = torch.where(here, values[:, t], next_value)
            reward_to_come = torch.where(here, 0.0, reward_to_come)
        return advantage


class _Moments(NamedTuple):
    """Of the rewards of each row's set, (N,).

    Attributes:
        size: of the set.
        member: whether the row is in it.
        deviation: of the row's reward from the set's mean.
        std: over n − 1.
        equal: whether all rewards of the set are equal.
    """

    size: Tensor
    member: Tensor
    deviation: Tensor
    std: Tensor
    equal: Tensor

    @property
    def flat(self) -> Tensor:
        """(N,) bool: rows whose deviation is 0 but for rounding."""
        return self.equal & self.member


def _group_moments(batch: TrajectoryBatch, over: Samples) -> _Moments:
    """Moments of the rewards of each row's question over its rollouts or all its rows."""
    rows, reward, index = batch.rows_of(over), batch.reward, batch.question
    count = batch.per_question(rows.double())
    mean = batch.per_question(torch.where(rows, reward, 0.0)) / count.clamp(min=1)
    deviation = reward - mean[index]
    # Squared in units of the largest one, so that very small rewards don't vanish.
    size = torch.where(rows, deviation.abs(), 0.0)
    unit = torch.zeros_like(mean).scatter_reduce(0, index, size, "amax")
    unit = torch.where(unit > 0, unit, 1.0)
    squares = batch.per_question((size / unit[index]) ** 2)
    std = unit * (squares / (count - 1).clamp(min=1)).sqrt()
    nothing = torch.full_like(mean, torch.inf)
    highest = (-nothing).scatter_reduce(0, index[rows], reward[rows], "amax")
    lowest = nothing.scatter_reduce(0, index[rows], reward[rows], "amin")
    scale = torch.maximum(highest.abs(), lowest.abs()).clamp(min=1)
    if batch.reward_parts is not None:  # whose sum may be small, and its rounding is not
        parts = torch.where(rows, batch.reward_parts.abs().sum(1), 0.0)
        scale = scale.scatter_reduce(0, index, parts, "amax")
    equal = highest - lowest <= (batch.reward_noise or 0.0) * scale
    return _Moments(count[index], rows, deviation, std[index], equal[index])


#: The sets of a question's trajectories that statistics may be taken over, as printed.
_GROUPS = {"online": "Gon", "offline": "Goff", "all": "Gon∪Goff"}


@dataclass(frozen=True)
class _GroupAdvantage(Advantage):
    over: Samples = "online"
    centers: ClassVar[bool] = True
    limits: ClassVar[Limits] = {"over": tuple(_GROUPS)}


@dataclass(frozen=True)
class GroupZScore(_GroupAdvantage):
    """Â = (R − mean)/std over the question's rollouts (eq. 5) or rollouts and demonstrations.

    std divides by n − 1 and nothing is added to it.
    """

    choices: ClassVar[tuple[str, ...]] = (_BESSEL, _NO_EPSILON, _EQUAL)

    @property
    def text(self) -> str:
        """Eq. 5's form, over G_on or over its union with G_off."""
        return f"(R − mean_{_GROUPS[self.over]})/std_{_GROUPS[self.over]}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        m = _group_moments(batch, self.over)
        scaled = m.deviation / torch.where(m.equal, 1.0, m.std)
        return torch.where(m.equal, 0.0, scaled)[:, None]


@dataclass(frozen=True)
class GroupCentered(_GroupAdvantage):
    """Â = R − mean, without eq. 5's std (Dr. GRPO, arXiv 2503.20783).

    With ``keep_singletons`` a set of one keeps Â = R, as in verl's and the official scripts' code.
    """

    keep_singletons: bool = False
    choices: ClassVar[tuple[str, ...]] = (_EQUAL,)

    @property
    def text(self) -> str:
        """Eq. 5 without its denominator."""
        return f"R − mean_{_GROUPS[self.over]}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        m = _group_moments(batch, self.over)
        centered = torch.where(m.flat, 0.0, m.deviation)
        if self.keep_singletons:
            centered = torch.where(m.size <= 1, batch.reward, centered)
        return centered[:, None]


@dataclass(frozen=True)
class GroupRelative(_GroupAdvantage):
    """Â = (R − mean)/mean over the question's rollouts, and 0 where none succeeds (mean 0).

    Made for R ∈ {0, 1}. Source: MaxRL, arXiv 2602.02710.
    """

    choices: ClassVar[tuple[str, ...]] = (_EQUAL,)

    @property
    def text(self) -> str:
        """The deviation in units of the mean."""
        return f"(R − mean_{_GROUPS[self.over]})/mean_{_GROUPS[self.over]}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        m = _group_moments(batch, self.over)
        mean = batch.reward - m.deviation
        nothing = m.equal | (mean.abs() <= (batch.reward_noise or 0.0))
        return torch.where(nothing, 0.0, m.deviation / torch.where(nothing, 1.0, mean))[:, None]


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """Â = R − mean of the question's other rollouts (RLOO, arXiv 2402.14740, eq. 8).

    For a demonstration these are all of the question's rollouts.
    """

    symbol: ClassVar[str] = "R − mean of others"
    choices: ClassVar[tuple[str, ...]] = (_EQUAL,)
    centers: ClassVar[bool] = True
    over: ClassVar[Samples] = "online"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        m = _group_moments(batch, "online")
        others = torch.where(m.member, m.size / (m.size - 1).clamp(min=1), 1.0)
        return torch.where(m.flat, 0.0, m.deviation * others)[:, None]


@dataclass(frozen=True)
class BatchZScore(Advantage):
    """Â = (x − mean)/std over all rollout tokens of the batch, each bearing its trajectory's x.

    x is R, or R less its question's mean (``centered``). std divides by (tokens − 1). Source:
    REINFORCE++ and its variant with a baseline, arXiv 2501.03262.
    """

    of: Literal["reward", "centered"] = "reward"
    limits: ClassVar[Limits] = {"of": ("reward", "centered")}
    choices: ClassVar[tuple[str, ...]] = (_BESSEL, _NO_EPSILON, _EQUAL)
    over: ClassVar[Samples] = "online"

    @property
    def text(self) -> str:
        """Of R, or of R − mean of the group."""
        x = "R" if self.of == "reward" else "c"
        where = "" if self.of == "reward" else ", c = R − mean_Gon"
        return f"({x} − mean_batch)/std_batch{where}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        reward = batch.reward if self.of == "reward" else GroupCentered()(batch)[:, 0]
        tokens = batch.tokens_of("online").sum(1).double()
        count = batch.all_sum(tokens.sum())
        mean = batch.all_sum((tokens * reward).sum()) / count.clamp(min=1)
        deviation = reward - mean
        squares = batch.all_sum((tokens * deviation**2).sum())
        scale = batch.all_sum((tokens * reward.abs()).sum()) / count.clamp(min=1)
        std = (squares / (count - 1).clamp(min=1)).sqrt()
        equal = std <= (batch.reward_noise or 0.0) * scale.clamp(min=1)
        scaled = torch.where(equal, 0.0, deviation / torch.where(equal, 1.0, std))
        return scaled[:, None]


#: ψ of a KL term: w = −β ψ(k), k = log π_θ − log π_ref of the sampled token.
_PSI: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": torch.ones_like,
    "k2": lambda k: k,
    "k3": lambda k: -torch.expm1(-k),
    "k1+1": lambda k: k + 1,
}


@dataclass(frozen=True)
class KLGradient(Advantage):
    """Â = −ψ(k), k = log π_θ − log π_ref: the gradient of a KL penalty as a term of its own.

    ========  =========  ==============================================================
    ``psi``   ψ          over π_ref = π_θ, and over π_ref = π_θold (r = π_θ/π_θold)
    ========  =========  ==============================================================
    ``k1``    1          k differentiated: nothing in expectation; –
    ``k2``    k          k²/2 differentiated, on-policy ∇KL(π_θ‖π_ref); r·k3 differentiated
    ``k3``    1 − e⁻ᵏ    k3 = e⁻ᵏ + k − 1 differentiated, on-policy ∇KL(π_ref‖π_θ); –
    ``k1+1``  k + 1      –; r·k1 differentiated
    ========  =========  ==============================================================

    A token's KL leaves out that the policy also decides which prefixes come (arXiv 2512.21852).
    With a teacher for the reference, ``k2`` is on-policy distillation. The paper's trust region
    (B.2) is Â − λk: ``k2`` over π_θold.
    """

    psi: Literal["k1", "k2", "k3", "k1+1"] = "k2"
    to: Literal["reference", "teacher"] = "reference"
    limits: ClassVar[Limits] = {"psi": tuple(_PSI), "to": ("reference", "teacher")}

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Log π_θ and that of the reference or teacher."""
        return frozenset({"logp", self._field})

    @property
    def _field(self) -> str:
        return "ref_logp" if self.to == "reference" else "teacher_logp"

    @property
    def text(self) -> str:
        """−ψ, in k = log(π_θ/π_ref)."""
        symbol = {"k1": "1", "k2": "k", "k3": "(1 − e^−k)", "k1+1": "(k + 1)"}[self.psi]
        return f"−{symbol}" + ("" if self.to == "reference" else " to the teacher")

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        k = batch.require("logp", "a KL term") - batch.require(self._field, "a KL term")
        return -_PSI[self.psi](k.double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


@dataclass(frozen=True)
class Penalized(Advantage):
    """Another advantage of R(τ) − β Σ_t log(π_θold/π_ref)(τ_t): a KL penalty within the reward.

    Source: as trainers without a value function have it, e.g. RLOO, arXiv 2402.14740, section 2.
    """

    inner: Advantage
    beta: float
    limits: ClassVar[Limits] = {"beta": AT_LEAST_0}

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Those of the other advantage, and two log-probabilities."""
        return self.inner.needs | {"old_logp", "ref_logp"}

    @property
    def compares(self) -> Samples | None:
        """As the other advantage."""
        return self.inner.compares

    @property
    def text(self) -> str:
        """The other advantage's, of the penalized reward."""
        return f"{self.inner.text} of R − {self.beta:g}·Σk"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        old, reference = (
            batch.require(name, "a KL in the reward") for name in ("old_logp", "ref_logp")
        )
        k = torch.where(batch.tokens_of("online"), old - reference, 0.0).double()
        return self.inner(batch.with_reward(batch.reward - self.beta * k.sum(1)))
