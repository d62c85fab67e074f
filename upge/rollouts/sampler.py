"""The protocol of rollout backends: what they are asked, and what they give back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from upge.common.errors import UpgeError
from upge.tasks.encoding import tokens_left

#: Logits divided by less than this may overflow.
_COLDEST = 1e-9


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Args:
        max_tokens: the longest response, in tokens, its end included.
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
        mask: (N, T) bool, true at response tokens, the one that ends it included.
        logp: (N, T), log-probabilities under the policy at the sampling temperature (at 1 for
            greedy sampling), before top-p; NaN where the backend knows them only after it.
        finished: (N,) bool, whether the response ended by itself.
    """

    tokens: Tensor
    mask: Tensor
    logp: Tensor
    finished: Tensor

    def texts(self, tokenizer: Any) -> list[str]:
        """The responses as text, without the tokens that ended them."""
        lengths = self.mask.sum(1) - self.finished.long()
        rows = zip(self.tokens.tolist(), lengths.tolist(), strict=True)
        responses = [row[:length] for row, length in rows]
        texts: list[str] = tokenizer.batch_decode(responses, skip_special_tokens=True)
        return texts


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

        A prompt's responses depend on its seed alone, whatever else is sampled with it, up to
        rounding of the log-probabilities.
        """

    def synchronize(self) -> None:
        """To be called when the policy's weights have changed: what is sampled next is of these."""


def check_request(
    prompts: Sequence[Sequence[int]],
    samples: int,
    settings: Sampling,
    seeds: Sequence[int],
    positions: int | None,
) -> None:
    """Refuse what no backend samples.

    Args:
        prompts: ids, none empty.
        samples: responses to each.
        settings: how they are drawn.
        seeds: one a prompt.
        positions: tokens that prompt and response may have together, if there is a limit.

    Raises:
        UpgeError: no prompt, or an empty one; no response wanted; not a seed for each prompt;
            prompts and ``max_tokens`` beyond the limit.
    """
    if not prompts or not all(map(len, prompts)):
        raise UpgeError("prompts: wanted at least one, and at least one token in each")
    if samples < 1:
        raise UpgeError(f"samples: got {samples}, wanted at least 1 a prompt")
    if len(seeds) != len(prompts):
        raise UpgeError(f"seeds: got {len(seeds)}, wanted one for each of {len(prompts)} prompts")
    longest = max(map(len, prompts))
    if positions and longest + settings.max_tokens > positions:
        raise UpgeError(
            f"max_tokens: got {settings.max_tokens}, which with the longest prompt ({longest} "
            f"tokens) is more than the model's {positions} positions; wanted "
            f"{tokens_left(positions - longest)}"
        )


def position_limit(model: Any) -> int | None:
    """The longest text that the model has positions for, in tokens; None without a limit."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def end_tokens(model: Any, ids: int | Iterable[int] | None) -> list[int]:
    """The tokens that end a response, of which the model may have several.

    Args:
        model: the model; its generation configuration names some.
        ids: others, that come first: of the tokenizer and its chat template.

    Raises:
        UpgeError: the model knows none of them.
    """
    known = model.get_input_embeddings().num_embeddings
    generation = getattr(model, "generation_config", None)
    named = [*_listed(ids), *_listed(getattr(generation, "eos_token_id", None))]
    ends = [token for token in dict.fromkeys(named) if token < known]
    if not ends:
        raise UpgeError(
            "model: its tokenizer has no end-of-sequence token that the model knows, so no "
            "response could end; set eos_token in tokenizer_config.json"
        )
    return ends


def _listed(ids: int | Iterable[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def derive_seed(*parts: int | str) -> int:
    """A seed from whatever names a draw: run seed, step, question … The same on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
