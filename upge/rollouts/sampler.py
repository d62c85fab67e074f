"""The protocol of rollout backends: what they are asked, and what they give back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from upge.errors import UpgeError

#: Logits divided by less than this may overflow.
_COLDEST = 1e-9


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Args:
        max_tokens: the longest response, in tokens, its end-of-sequence token included.
        temperature: what the logits are divided by; 0 takes the most likely token.
        top_p: tokens are drawn from the smallest set of at least this probability.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UpgeError(f"max_tokens: got {self.max_tokens}, wanted at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UpgeError(f"temperature: got {self.temperature}, wanted a finite number ≥ 0")
        if 0 < self.temperature < _COLDEST:
            raise UpgeError(
                f"temperature: got {self.temperature}, wanted 0, which is greedy, or at least "
                f"{_COLDEST:g}"
            )
        if not 0 < self.top_p <= 1:
            raise UpgeError(f"top_p: got {self.top_p}, wanted a number above 0, at most 1")


class Rollouts(NamedTuple):
    """Responses to P prompts, n each, in the order of the prompts (N = P·n rows).

    Attributes:
        tokens: (N, T) ids; what stands behind a response's end is not read.
        mask: (N, T) bool, true at response tokens, the end-of-sequence token included.
        logp: (N, T), log-probabilities under the policy at the sampling temperature (at 1 for
            greedy sampling), before top-p.
        finished: (N,) bool, whether the response ended by itself.
    """

    tokens: Tensor
    mask: Tensor
    logp: Tensor
    finished: Tensor


class Sampler(Protocol):
    """A rollout backend."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        """``samples`` responses to each prompt (ids, none empty).

        A prompt's responses hang on its own seed alone, whatever else is sampled with it, up to
        rounding of the log-probabilities.
        """

    def synchronize(self) -> None:
        """To be called when the policy's weights have changed: what is sampled next is of these."""


def room(positions: int) -> str:
    """What to want where prompt and response don't fit: so many tokens at most, if any are left."""
    return f"at most {positions}" if positions > 0 else "shorter prompts, or a longer model"


def question_seed(*parts: int | str) -> int:
    """A seed from whatever names a draw: run seed, step, question … The same on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
