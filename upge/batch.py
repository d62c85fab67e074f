"""The one record that travels: N trajectories of T token positions, checked once when built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
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
_TENSORS = (*_REQUIRED, "old_logp", "values", "tokens", "attention", "logp", "entropy")


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
        max_length: the longest response the run allows, in tokens, for fixed-length normalisers;
            T if not given.
        logp: (N, T), log π_θ of the tokens under the current policy, detached; set by :meth:`at`.
        entropy: (N, T), the current policy's entropy at each position in nats, detached; likewise.
        all_sum: sums a tensor over all processes, so that every normaliser is global. A question's
            trajectories must all be in one process.

    Raises:
        UpgeError: a shape, type or value that cannot be meant, naming the argument.
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
        for name in _TENSORS:
            given = getattr(self, name)
            if not isinstance(given, Tensor) and (given is not None or name in _REQUIRED):
                raise UpgeError(f"{name}: got {type(given).__name__}, wanted a torch tensor")
        if self.mask.dim() != 2:
            raise UpgeError(f"mask: got shape {tuple(self.mask.shape)}, wanted (N, T)")
        self._set("mask", _flags("mask", self.mask))
        self._set("offline", _flags("offline", self.offline))
        if self.offline.dim() == 1:
            self._expect_shape("offline", self.offline, (self.mask.shape[0],))
            self._set("offline", self.offline[:, None].expand_as(self.mask))
        self._expect_shape("offline", self.offline, tuple(self.mask.shape))
        for name in ("reward", "group"):
            self._expect_shape(name, getattr(self, name), (self.mask.shape[0],))
        if self.group.is_floating_point() or self.group.dtype == torch.bool:
            raise UpgeError(f"group: got {self.group.dtype}, wanted integers (one a question)")
        self._check_finite("reward", self.reward, self.mask.any(1))
        reward = torch.where(self.mask.any(1), self.reward.detach().double(), 0.0)
        if (reward.abs() > MAX_REWARD).any():
            raise UpgeError(f"reward: got {reward.abs().max().item():g}, wanted at most 1e100")
        self._set("reward", reward)
        online = self.mask & ~self.offline
        for name, where, is_logp in (
            ("old_logp", online, True),
            ("values", online, False),
            ("logp", self.mask, True),
            ("entropy", self.mask, False),
        ):
            self._check_field(name, where, is_logp)
        for name in ("tokens", "attention"):
            if (given := getattr(self, name)) is not None:
                self._expect_shape(name, given, tuple(self.mask.shape))
        self._check_max_length()

    def _set(self, name: str, value: Tensor) -> None:
        object.__setattr__(self, name, value)

    def _expect_shape(self, name: str, given: Tensor, wanted: tuple[int, ...]) -> None:
        if tuple(given.shape) != wanted:
            raise UpgeError(
                f"{name}: got shape {tuple(given.shape)}, wanted {wanted} to go with mask "
                f"{tuple(self.mask.shape)}"
            )

    def _check_finite(self, name: str, given: Tensor, where: Tensor) -> None:
        bad = ~torch.isfinite(given) & where
        if bad.any():
            place = bad.nonzero()[0].tolist()
            raise UpgeError(
                f"{name}: got {given[tuple(place)].item()} at {place}, wanted finite numbers"
            )

    def _check_field(self, name: str, where: Tensor, is_logp: bool) -> None:
        given: Tensor | None = getattr(self, name)
        if given is None:
            return
        self._expect_shape(name, given, tuple(self.mask.shape))
        if not given.is_floating_point():
            raise UpgeError(f"{name}: got {given.dtype}, wanted floating-point numbers")
        self._check_finite(name, given, where)
        if is_logp and (above := given[where] > LOGP_SLACK).any():
            raise UpgeError(
                f"{name}: got {given[where][above][0].item():.6g}, wanted log-probabilities (≤ 0)"
            )
        self._set(name, torch.where(where, given.detach(), 0.0).to(self.dtype))

    def _check_max_length(self) -> None:
        if self.max_length is None:
            return
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int):
            raise UpgeError(f"max_length: got {self.max_length!r}, wanted a whole number of tokens")
        longest = int(self.mask.sum(1).max()) if self.mask.numel() else 0
        if not max(longest, 1) <= self.max_length <= MAX_LENGTH:
            raise UpgeError(
                f"max_length: got {self.max_length}, wanted at least 1 and the longest response's "
                f"{longest} tokens, and at most {MAX_LENGTH}"
            )

    @property
    def is_shared(self) -> bool:
        """Whether the batch is one process's part of a larger one."""
        return self.all_sum is not _identity

    @property
    def dtype(self) -> torch.dtype:
        """What weights are computed in: the log-probabilities' type, at least float32."""
        source = self.old_logp if self.logp is None else self.logp
        double = source is not None and source.dtype == torch.float64
        return torch.float64 if double else torch.float32

    def at(self, logp: Tensor, entropy: Tensor | None = None) -> TrajectoryBatch:
        """The batch as the current policy sees it: ``logp`` and, if given, ``entropy`` set."""
        return replace(self, logp=logp, entropy=self.entropy if entropy is None else entropy)

    def select(self, rows: Tensor) -> TrajectoryBatch:
        """The batch's ``rows`` (indices or bool mask), e.g. one micro-batch."""
        chosen: dict[str, Any] = {
            f.name: value[rows]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **chosen)

    def require(self, name: str, reader: str) -> Tensor:
        """The optional field ``name``, or an error that says which component wants it."""
        given: Tensor | None = getattr(self, name)
        if given is None:
            remedy = {
                "logp": "pass the current policy's log-probabilities",
                "old_logp": "pass the rollout policy's log-probabilities",
                "values": "pass a critic's values",
                "entropy": "pass the current policy's entropies",
            }[name]
            raise UpgeError(f"{reader} needs {name}, which the batch lacks; {remedy}")
        return given

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

    @property
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


def _flags(name: str, given: Tensor) -> Tensor:
    if given.dtype != torch.bool and not ((given == 0) | (given == 1)).all():
        raise UpgeError(f"{name}: got values other than 0 and 1, wanted a bool tensor")
    return given.bool()
