"""A batch of N trajectories × T tokens, checked once when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

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

_REQUIRED = ("mask", "reward", "group", "offline")

#: Optional fields of floats (N, T): whether they are log-probabilities, and what to do without one.
_FLOATS = {
    "old_logp": (True, "pass the rollout policy's log-probabilities"),
    "values": (False, "pass a critic's values"),
    "logp": (True, "pass the current policy's log-probabilities"),
    "entropy": (False, "pass the current policy's entropies"),
}

#: Fields that are read at rollout tokens alone, and fields of rows.
_OF_ROLLOUTS, _OF_ROWS = ("old_logp", "values"), ("reward", "group")


def _identity(total: Tensor) -> Tensor:
    return total


@dataclass(frozen=True, eq=False)
class TrajectoryBatch:
    """Trajectories τ of questions q, as every component of the estimator reads them.

    Args:
        mask: (N, T) bool, true at response tokens (those the gradient acts on). A row without any
            is padding: it takes part in nothing.
        reward: (N,), R(τ); kept in float64, in which everything before the forward pass is done.
        group: (N,) integers, the question a trajectory answers.
        offline: (N,) or (N, T) bool, true where a token comes from the demonstration policy π_β.
        old_logp: (N, T), log π_θold(τ_t | q, τ_<t) of the policy that sampled the rollouts;
            what stands at offline tokens is not read.
        values: (N, T), the critic's V(s_t) in the reward's units, for GAE.
        tokens: (N, T) token ids of prompt and response; position t of ``logp`` scores tokens[:, t].
        attention: (N, T) bool, true at prompt and response tokens, false at padding.
        max_length: the longest response the run allows, in tokens, for fixed-length normalizers;
            T if not given.
        logp: (N, T), log π_θ of the tokens under the current policy, detached; set by :meth:`at`.
        entropy: (N, T), the current policy's entropy at each position in nats, detached; likewise.
        all_sum: sums a tensor over all processes, so that every normalizer is global. A question's
            trajectories must all be in one process.

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

    def __post_init__(self) -> None:
        for name in (*_REQUIRED, *_FLOATS, "tokens", "attention"):
            value = getattr(self, name)
            if value is not None or name in _REQUIRED:
                _check_tensor(name, value)
        if self.mask.dim() != 2:
            raise UpgeError(f"mask: got shape {tuple(self.mask.shape)}, wanted (N, T)")
        self._set(mask=_flags("mask", self.mask), offline=_flags("offline", self.offline))
        if self.offline.dim() == 1:
            self._check_shape("offline", self.offline, dims=1)
            self._set(offline=self.offline[:, None].expand_as(self.mask))
        for name in (*_REQUIRED, *_FLOATS, "tokens", "attention"):
            if (value := getattr(self, name)) is not None:
                self._check_shape(name, value, dims=1 if name in _OF_ROWS else 2)
        if self.group.is_floating_point() or self.group.dtype == torch.bool:
            raise UpgeError(f"group: got {self.group.dtype}, wanted integers (one a question)")
        rows = self.mask.any(1)
        _check_finite("reward", self.reward, rows)
        self._set(reward=torch.where(rows, self.reward.detach().double(), 0.0))
        if (self.reward.abs() > MAX_REWARD).any():
            raise UpgeError(f"reward: got {self.reward.abs().max():g}, wanted at most 1e100")
        for name in _FLOATS:
            if (value := getattr(self, name)) is not None:
                self._set(**{name: self._masked(name, value)})
        if self.max_length is not None:
            self._check_max_length(self.max_length)

    def _set(self, **values: Tensor) -> None:
        self.__dict__.update(values)  # the dataclass is frozen

    def _check_shape(self, name: str, value: Tensor, dims: int = 2) -> None:
        shape = self.mask.shape[:dims]
        if value.shape != shape:
            raise UpgeError(
                f"{name}: got shape {tuple(value.shape)}, wanted {tuple(shape)} to go with mask "
                f"{tuple(self.mask.shape)}"
            )

    def _masked(self, name: str, value: Tensor, check: bool = True) -> Tensor:
        """A float field with 0 where it is not read, in the batch's type."""
        where = self.tokens_of("online") if name in _OF_ROLLOUTS else self.mask
        if check:
            if not value.is_floating_point():
                raise UpgeError(f"{name}: got {value.dtype}, wanted floating-point numbers")
            _check_finite(name, value, where)
            if _FLOATS[name][0] and (above := value[where] > LOGP_SLACK).any():
                raise UpgeError(
                    f"{name}: got {value[where][above][0].item():.6g}, wanted log-probabilities "
                    "(≤ 0)"
                )
        return torch.where(where, value.detach(), 0.0).to(self.dtype)

    def _check_max_length(self, given: object) -> None:
        longest = int(self.mask.sum(1).max()) if self.mask.numel() else 0
        if not (type(given) is int and max(longest, 1) <= given <= MAX_LENGTH):
            raise UpgeError(
                f"max_length: got {given!r}, wanted a whole number of tokens, at least 1 and the "
                f"longest response's {longest} tokens, and at most {MAX_LENGTH}"
            )

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

    def select(self, rows: Tensor) -> TrajectoryBatch:
        """The batch's ``rows`` (indices or bool mask), e.g. one micro-batch."""
        tensors = ((f.name, getattr(self, f.name)) for f in fields(self))
        return self._derived(
            **{n: value[rows] for n, value in tensors if isinstance(value, Tensor)}
        )

    def require(self, name: str, reader: str) -> Tensor:
        """The optional field ``name``.

        Raises:
            UpgeError: the batch lacks it; says which component wants it.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise UpgeError(f"{reader} needs {name}, which the batch lacks; {_FLOATS[name][1]}")
        return value

    def tokens_of(self, samples: Samples) -> Tensor:
        """(N, T) bool: response tokens of rollouts, of demonstrations, or of both."""
        if samples == "all":
            return self.mask
        return self.mask & (self.offline if samples == "offline" else ~self.offline)

    def rows_of(self, samples: Samples) -> Tensor:
        """(N,) bool: rows with at least one such token."""
        return self.tokens_of(samples).any(1)

    @cached_property
    def question(self) -> Tensor:
        """(N,) the group as an index 0 … G−1."""
        index: Tensor = torch.unique(self.group, return_inverse=True)[1]
        return index

    @cached_property
    def num_questions(self) -> int:
        """G, padding's groups included."""
        return int(self.question.max()) + 1 if self.question.numel() else 0

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
