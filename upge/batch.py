"""A batch of N trajectories × T tokens, checked once when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from upge.common.errors import UpgeError

Samples = Literal["online", "offline", "all"]

#: exp(±60) and its products with weights stay finite in float32, and no published method tells
#: ratios apart beyond it.
MAX_LOG_RATIO = 60.0

#: Beyond it squares of rewards overflow.
MAX_REWARD = 1e100

#: No model writes a longer response.
MAX_LENGTH = 2**31

#: Rounding may lift the log-probability of a certain token this far above 0.
LOGP_SLACK = 1e-3

#: What rounding may add to a reward of order one that is a sum of a few parts, by its type.
_NOISE = {torch.float64: 1e-13, torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}


class _Field(NamedTuple):
    """An optional field of floats (N, T): what it is, whose tokens it is read at, how to get it."""

    is_logp: bool
    samples: Samples
    remedy: str


_FLOATS = {
    "logp": _Field(True, "all", "pass the current policy's log-probabilities"),
    "old_logp": _Field(
        True,
        "online",
        "pass the policy's own log-probabilities before the update (TRL: old_per_token_logps, "
        "verl: old_log_probs, upge train: computed by itself)",
    ),
    "sampler_logp": _Field(
        True,
        "online",
        "pass the log-probabilities that the sampler reports (TRL: sampling_per_token_logps, verl: "
        "rollout_log_probs with calculate_log_probs=True, upge train: backend: vllm)",
    ),
    "ref_logp": _Field(
        True,
        "all",
        "pass the reference model's log-probabilities (TRL: ref_per_token_logps, verl: "
        "ref_log_prob, upge train: reference: MODEL)",
    ),
    "teacher_logp": _Field(
        True,
        "all",
        "pass the teacher's log-probabilities (TRL and verl: score the batch by the teacher, upge "
        "train: teacher: MODEL)",
    ),
    "demo_logp": _Field(
        True,
        "offline",
        "pass the log-probabilities of the demonstrations before the update, or of who wrote them "
        "(TRL and verl: score them once, upge train: computed by itself)",
    ),
    "values": _Field(False, "online", "pass a critic's values (verl: values)"),
    "entropy": _Field(False, "all", "pass the current policy's entropies"),
}
_OF_ROWS = {"reward": 1, "group": 1, "member": 1}
_REQUIRED = ("mask", "reward", "group", "offline")
_TENSORS = (*_REQUIRED, "member", *_FLOATS, "tokens", "attention", "reward_parts")


def _identity(total: Tensor) -> Tensor:
    return total


@dataclass(frozen=True, eq=False)
class TrajectoryBatch:
    """Trajectories τ of questions q, as every component of the estimator reads them.

    Four policies are kept apart: π_θ now, π_θold (the same policy before the update), the sampler
    (an engine that is not quite π_θold), and a reference or teacher.

    Args:
        mask: (N, T) bool, true at response tokens (those the gradient acts on).
        reward: (N,), R(τ); kept in float64, in which everything before the forward pass is done.
        group: (N,) integers, the question a trajectory answers.
        offline: (N,) or (N, T) bool, true where a token comes from the demonstration policy π_β.
        old_logp: (N, T), log π_θold(τ_t | q, τ_<t) of the rollouts' tokens.
        values: (N, T), the critic's V(s_t) in the reward's units, for GAE.
        tokens: (N, T) token ids of prompt and response; position t of ``logp`` scores tokens[:, t].
        attention: (N, T) bool, true at prompt and response tokens, false at padding.
        max_length: the longest response the run allows, in tokens, for fixed-length normalizers;
            T if not given.
        logp: (N, T), log π_θ of the tokens under the current policy, detached; set by :meth:`at`.
        entropy: (N, T), the current policy's entropy at each position in nats, detached; likewise.
        all_sum: sums a tensor over all processes, so that every normalizer is global. A question's
            trajectories must all be in one process.
        sampler_logp: (N, T), log-probabilities of the rollouts' tokens as the sampler reports them;
            NaN where it doesn't, which stands for π_θold's.
        ref_logp, teacher_logp: (N, T), log-probabilities under a reference, and under a teacher.
        demo_logp: (N, T), log-probabilities of the demonstrations' tokens under π_θold or π_β.
        reward_parts: (N, K), the parts that ``reward`` is a weighted sum of.
        member: (N,) bool, rows that count in their group's statistics and in counts of
            trajectories; those with a response token if not given. A row without either is padding.
        success: R(τ) ≥ success makes τ a success; if not given R(τ) > 0, by which rewards of {0, 1}
            and {−1, 1} read alike.
        reward_noise: rewards of order one that differ by less are equal (scale smaller ones up);
            by the reward's type if not given.

    Raises:
        UpgeError: an impossible shape, type or value, naming the argument.
    """

    mask: Tensor
    reward: Tensor
    group: Tensor
    offline: Tensor
    old_logp: Tensor | None = None
    values: Tensor | None = None
    tokens: Tensor | None = None
    attention: Tensor | None = None
    max_length: int | None = None
    logp: Tensor | None = None
    entropy: Tensor | None = None
    all_sum: Callable[[Tensor], Tensor] = _identity
    sampler_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    teacher_logp: Tensor | None = None
    demo_logp: Tensor | None = None
    reward_parts: Tensor | None = None
    member: Tensor | None = None
    success: float | None = None
    reward_noise: float | None = None

    def __post_init__(self) -> None:
        for name in _TENSORS:
            if (value := getattr(self, name)) is not None or name in _REQUIRED:
                _check_tensor(name, value)
        if self.mask.dim() != 2:
            raise UpgeError(f"mask: got shape {tuple(self.mask.shape)}, wanted (N, T)")
        self._set(mask=_flags("mask", self.mask), offline=_flags("offline", self.offline))
        if self.offline.dim() == 1:
            self._check_shape("offline", self.offline, dims=1)
            self._set(offline=self.offline[:, None].expand_as(self.mask))
        if self.member is not None:
            self._set(member=_flags("member", self.member))
        for name in _TENSORS[:-1]:
            if (value := getattr(self, name)) is not None:
                self._check_shape(name, value, dims=_OF_ROWS.get(name, 2))
        if self.group.is_floating_point() or self.group.dtype == torch.bool:
            raise UpgeError(f"group: got {self.group.dtype}, wanted integers (one a question)")
        self._check_reward()
        for name in _FLOATS:
            if (value := getattr(self, name)) is not None:
                self._set(**{name: self._masked(name, value)})
        longest = int(self.mask.sum(1).max()) if self.mask.numel() else 0
        length = self.max_length
        if length is None or (type(length) is int and max(longest, 1) <= length <= MAX_LENGTH):
            return
        raise UpgeError(
            f"max_length: got {length!r}, wanted a whole number of tokens, at least 1 and the "
            f"longest response's {longest} tokens, and at most {MAX_LENGTH}"
        )

    def _set(self, **values: object) -> None:
        self.__dict__.update(values)  # the dataclass is frozen

    def _check_shape(self, name: str, value: Tensor, dims: int = 2) -> None:
        if value.shape != (shape := self.mask.shape[:dims]):
            raise UpgeError(
                f"{name}: got shape {tuple(value.shape)}, wanted {tuple(shape)} to go with mask "
                f"{tuple(self.mask.shape)}"
            )

    def _check_reward(self) -> None:
        rows = self.rows_of("all")
        if self.reward_noise is None:
            self._set(reward_noise=_NOISE.get(self.reward.dtype, 0.0))
        for name in ("reward", "reward_parts"):
            if (value := getattr(self, name)) is None:
                continue
            if value.shape[:1] != rows.shape or value.dim() > 1 + (name == "reward_parts"):
                raise UpgeError(f"{name}: got shape {tuple(value.shape)}, wanted (N, K)")
            where = rows if value.dim() == 1 else rows[:, None].expand_as(value)
            _check_finite(name, value, where)
            self._set(**{name: torch.where(where, value.detach().double(), 0.0)})
            if (getattr(self, name).abs() > MAX_REWARD).any():
                raise UpgeError(f"{name}: got {value.abs().max():g}, wanted at most 1e100")

    def _masked(self, name: str, value: Tensor, check: bool = True) -> Tensor:
        """A float field with 0 where it is not read, in the batch's type."""
        where = self.tokens_of(_FLOATS[name].samples)
        if name == "sampler_logp":
            known = value if self.old_logp is None else self.old_logp
            value = torch.where(value.isnan(), known.to(value.dtype), value)
        if check:
            if not value.is_floating_point():
                raise UpgeError(f"{name}: got {value.dtype}, wanted floating-point numbers")
            _check_finite(name, value, where)
            if _FLOATS[name].is_logp and (above := value[where] > LOGP_SLACK).any():
                raise UpgeError(
                    f"{name}: got {value[where][above][0].item():.6g}, wanted log-probabilities "
                    "(≤ 0)"
                )
        return torch.where(where, value.detach(), 0.0).to(self.dtype)

    @property
    def is_shared(self) -> bool:
        """Whether the batch is one process's part of a larger one."""
        return self.all_sum is not _identity

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights: that of the log-probabilities, at least float32."""
        source = self.old_logp if self.logp is None else self.logp
        double = source is not None and source.dtype == torch.float64
        return torch.float64 if double else torch.float32

    def _derived(self, **values: Any) -> TrajectoryBatch:
        """A copy with other values, unchecked: what it derives from was checked."""
        derived = object.__new__(TrajectoryBatch)
        derived.__dict__.update({f.name: getattr(self, f.name) for f in fields(self)} | values)
        return derived

    def at(
        self, logp: Tensor, entropy: Tensor | None = None, *, check: bool = True
    ) -> TrajectoryBatch:
        """The batch with the current policy's ``logp`` and, if given, ``entropy``, both (N, T).

        Args:
            logp: log π_θ of the tokens.
            entropy: of the policy at each position, in nats.
            check: whether to look at the values, which waits for a GPU.

        Raises:
            UpgeError: as the constructor.
        """
        policy = {"logp": logp} | ({} if entropy is None else {"entropy": entropy})
        for name, value in policy.items():
            _check_tensor(name, value)
            self._check_shape(name, value)
        dtype = torch.float64 if logp.dtype == torch.float64 else torch.float32
        floats = {n: x.to(dtype) for n in _FLOATS if (x := getattr(self, n)) is not None}
        scored = self._derived(**floats | {"logp": logp})
        for name, value in policy.items():
            scored._set(**{name: scored._masked(name, value, check)})
        return scored

    def with_reward(self, reward: Tensor) -> TrajectoryBatch:
        """The batch with other rewards (N,), float64."""
        return self._derived(reward=reward)

    def of_demonstrations(self) -> TrajectoryBatch:
        """The batch with demonstrations for rollouts: ``demo_logp`` stands for log π_θold."""
        return self._derived(offline=~self.offline, old_logp=self.demo_logp)

    def select(self, rows: Tensor) -> TrajectoryBatch:
        """The batch's ``rows`` (indices or bool mask), e.g. one micro-batch."""
        tensors = ((f.name, getattr(self, f.name)) for f in fields(self))
        return self._derived(
            **{n: value[rows] for n, value in tensors if isinstance(value, Tensor)}
        )

    def require(self, name: str, reader: str) -> Tensor:
        """The optional field ``name``.

        Raises:
            UpgeError: the batch lacks it; says which component wants it, and where one gets it.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            remedy = "pass the parts of the reward (N, K)"
            remedy = _FLOATS[name].remedy if name in _FLOATS else remedy
            raise UpgeError(f"{reader} needs {name}, which the batch lacks; {remedy}")
        return value

    def tokens_of(self, samples: Samples) -> Tensor:
        """(N, T) bool: response tokens of rollouts, of demonstrations, or of both."""
        if samples == "all":
            return self.mask
        return self.mask & (self.offline if samples == "offline" else ~self.offline)

    def rows_of(self, samples: Samples) -> Tensor:
        """(N,) bool: rows with at least one such token, and members without any that are such."""
        rows = self.tokens_of(samples).any(1)
        if self.member is None:
            return rows
        demonstration = self.offline.any(1)
        kinds = {"online": ~demonstration, "offline": demonstration}
        silent = ~self.mask.any(1) & kinds.get(samples, self.member)
        return self.member & (rows | silent)

    @cached_property
    def question(self) -> Tensor:
        """(N,) the group as an index 0 … G−1."""
        index: Tensor = torch.unique(self.group, return_inverse=True)[1]
        return index

    @cached_property
    def num_questions(self) -> int:
        """G, padding's groups included."""
        return int(self.question.max()) + 1 if self.question.numel() else 0

    @property
    def solved(self) -> Tensor:
        """(N,) bool: v(τ) of eq. 7, whether the reward counts as a success."""
        noise = self.reward_noise or 0.0
        if self.success is None:
            return self.reward > noise
        return self.reward >= self.success - noise * max(1.0, abs(self.success))

    def per_question(self, x: Tensor) -> Tensor:
        """(G,) sum of x (N,) over each question's rows."""
        return x.new_zeros(self.num_questions).index_add(0, self.question, x)

    def token_log_ratio(self, reader: str) -> Tensor:
        """(N, T) log(π_θ/π_θold), clamped to ±MAX_LOG_RATIO."""
        ratio = self.require("logp", reader) - self.require("old_logp", reader)
        return ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    def trajectory_mean(self, x: Tensor, samples: Samples = "online") -> Tensor:
        """(N, 1) mean of x (N, T) over the row's tokens of ``samples``; 0 where it has none."""
        tokens = self.tokens_of(samples)
        total = torch.where(tokens, x, 0.0).sum(1, keepdim=True)
        return total / tokens.sum(1, keepdim=True).clamp(min=1)


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise UpgeError(f"{name}: got {type(value).__name__}, wanted a torch tensor")


def _check_finite(name: str, value: Tensor, where: Tensor) -> None:
    bad = ~torch.isfinite(value) & where
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise UpgeError(
            f"{name}: got {value[tuple(place)].item()} at {place}, wanted finite numbers"
        )


def _flags(name: str, value: Tensor) -> Tensor:
    if value.dtype != torch.bool and not ((value == 0) | (value == 1)).all():
        raise UpgeError(f"{name}: got values other than 0 and 1, wanted a bool tensor")
    return value.bool()
