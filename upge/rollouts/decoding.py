"""The next token's logits of many rows of a transformers model: over its cache, where that works.

Recurrent and hybrid models may read padding, or keep states that can't be repeated or dropped row
by row. So :func:`find_decoding` compares each way with ``model(x).logits``, on the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from upge.models.heads import (
    accepts,
    close_logits,
    evaluating,
    failing_quietly,
    forward,
    logits_alone,
    not_causal,
    random_rows,
)

Prompts = Sequence[Sequence[int]]

#: The options by which models take a cache.
_CACHES = ("past_key_values", "cache_params")


class Decoder(Protocol):
    """Rows of tokens that grow by a token at a time.

    Attributes:
        one_length: whether all prompts have to be of one length.
        logits: (prompts · samples, V), those that follow the prompts.
    """

    one_length: ClassVar[bool]
    logits: Tensor

    def __init__(self, model: Any, prompts: Prompts, samples: int, pad: int) -> None:
        """Encode prompts.

        Args:
            model: the model.
            prompts: ids, none empty.
            samples: rows of each prompt.
            pad: a token to pad with.
        """

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but those with these numbers."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token to each row; the logits (rows, V) that follow."""

    @property
    def held(self) -> int:
        """Bytes that the rows take."""


class Unpadded:
    """A :class:`Decoder` over the cache that a model makes by itself, where no row has padding."""

    one_length: ClassVar[bool] = True

    def __init__(self, model: Any, prompts: Prompts, samples: int, pad: int) -> None:
        self.model, self._option = model, _cache_option(model)
        self.cache: Any = None
        self._encode(torch.tensor(prompts), samples)

    def _encode(self, ids: Tensor, samples: int) -> None:
        """Encode each prompt once, and repeat what is known of it."""
        logits = self._forward(ids.to(self.model.device))
        rows = torch.arange(len(ids), device=logits.device).repeat_interleave(samples)
        self.keep(rows)
        self.logits = logits[rows]

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)

    def step(self, tokens: Tensor) -> Tensor:
        return self._forward(tokens[:, None])

    def _forward(self, ids: Tensor) -> Tensor:
        options = {self._option: self.cache, "use_cache": True, "logits_to_keep": 1}
        options |= self._padding(ids.shape[1])
        known = {name: value for name, value in options.items() if accepts(self.model, name)}
        output = self.model(input_ids=ids, **known)
        self.cache = output[self._option]
        logits: Tensor = output.logits[:, -1]
        return logits

    def _padding(self, width: int) -> dict[str, Tensor]:
        """The options that tell of padding, for the last tokens of each row."""
        return {}

    @property
    def held(self) -> int:
        layers = getattr(self.cache, "layers", ())
        states = [state for layer in layers for state in vars(layer).values()]
        return sum(state.nbytes for state in states if isinstance(state, Tensor))


class Cached(Unpadded):
    """A :class:`Decoder` over transformers' own cache, with prompts padded on the left."""

    one_length: ClassVar[bool] = False

    def __init__(self, model: Any, prompts: Prompts, samples: int, pad: int) -> None:
        from transformers import DynamicCache

        self.model, self._option = model, _cache_option(model)
        self.cache = DynamicCache(config=model.config)
        ids, lengths = padded(prompts, pad, left=True)
        places = torch.arange(ids.shape[1])
        attention = (places >= len(places) - lengths[:, None]).long()
        self._attention = attention.to(model.device)
        self._encode(ids, samples)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._attention = self._attention[rows]

    def step(self, tokens: Tensor) -> Tensor:
        self._attention = torch.nn.functional.pad(self._attention, (0, 1), value=1)
        return super().step(tokens)

    def _padding(self, width: int) -> dict[str, Tensor]:
        positions = (self._attention.cumsum(1) - 1).clamp(min=0)[:, -width:]
        return {"attention_mask": self._attention, "position_ids": positions}


class Rerun:
    """A :class:`Decoder` that runs whole rows again for each token, padded on the right."""

    one_length: ClassVar[bool] = False

    def __init__(self, model: Any, prompts: Prompts, samples: int, pad: int) -> None:
        self.model, self._pad = model, pad
        ids, lengths = padded(prompts, pad)
        self._ids = ids.repeat_interleave(samples, 0).to(model.device)
        self._lengths = lengths.repeat_interleave(samples).to(model.device)
        self.logits = self._forward()

    def keep(self, rows: Tensor) -> None:
        self._ids, self._lengths = self._ids[rows], self._lengths[rows]

    def step(self, tokens: Tensor) -> Tensor:
        self._ids = torch.nn.functional.pad(self._ids, (0, 1), value=self._pad)
        self._ids = self._ids.scatter(1, self._lengths[:, None], tokens[:, None])
        self._lengths = self._lengths + 1
        return self._forward()

    def _forward(self) -> Tensor:
        logits: Tensor = forward(self.model, self._ids).logits
        return logits[torch.arange(len(logits), device=logits.device), self._lengths - 1]

    @property
    def held(self) -> int:
        return self._ids.numel() * self.logits.shape[1] * self.logits.element_size()


def padded(rows: Prompts, pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of ids (rows, longest), padded on one side, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad)
    for place, row in enumerate(rows):
        ids[place, slice(-len(row), None) if left else slice(len(row))] = torch.tensor(row)
    return ids, lengths


def _cache_option(model: Any) -> str:
    """The option by which a model takes a cache.

    Raises:
        StopIteration: it takes none.
    """
    parameters = signature(model.forward).parameters
    return next(name for name in _CACHES if name in parameters)


# ------------------------------------------------------------------------------------- comparison

#: In order of speed.
_WAYS: tuple[type[Decoder], ...] = (Cached, Unpadded, Rerun)

#: Lengths of the prompts that ways are compared on, rows of each, tokens that follow, and the rows
#: that are kept after the first of these.
_LENGTHS, _SAMPLES, _TOKENS, _KEPT = (4, 1), 2, 3, [0, 1, 3]


class Decoding(NamedTuple):
    """How a model is decoded.

    Attributes:
        way: the class of decoder.
        row_bytes: what it holds for a row, however long that is.
        token_bytes: what it holds for each token of a row.
    """

    way: type[Decoder]
    row_bytes: int
    token_bytes: int


def find_decoding(model: Any) -> Decoding:
    """The first way whose logits are the model's own, ``model(x).logits`` of each row alone.

    Raises:
        UpgeError: a model that gives no logits for tokens alone, or whose logits depend on later
            tokens.
    """
    with evaluating(model):
        for way in _WAYS:
            lengths = _LENGTHS[:1] * len(_LENGTHS) if way.one_length else _LENGTHS
            prompts, tokens = _example(model, lengths)
            wanted = _alone(model, prompts, tokens)
            with failing_quietly():
                found, held = _decoded(way, model, prompts, tokens)
                if close_logits(found, wanted):
                    token_bytes = (held[1] - held[0]) // len(tokens)
                    row_bytes = held[0] // len(tokens) - token_bytes * max(lengths)
                    return Decoding(way, row_bytes, token_bytes)
    raise not_causal(model)


def _example(model: Any, lengths: Sequence[int]) -> tuple[list[list[int]], Tensor]:
    """Random prompts, and the tokens (rows, _TOKENS) that follow."""
    rows = random_rows(model, len(lengths) * _SAMPLES, max(lengths) + _TOKENS)
    prompts = [row[:length].tolist() for row, length in zip(rows, lengths, strict=False)]
    return prompts, rows[:, -_TOKENS:]


def _alone(model: Any, prompts: Prompts, tokens: Tensor) -> Tensor:
    """The model's own logits, in the order of :func:`_decoded`."""
    rows = []
    for place, row in enumerate(tokens):
        prompt = prompts[place // _SAMPLES]
        whole = torch.cat([torch.tensor(prompt, device=row.device), row])
        rows.append(logits_alone(model, whole)[len(prompt) - 1 :])
    steps = torch.stack(rows, 1)
    return torch.cat([*steps[:2], *(step[_KEPT] for step in steps[2:])])


def _decoded(
    way: type[Decoder], model: Any, prompts: Prompts, tokens: Tensor
) -> tuple[Tensor, list[int]]:
    """Logits after the prompts and after each token, and bytes held after the first two."""
    decoder = way(model, prompts, _SAMPLES, 0)
    steps, held = [decoder.logits], [decoder.held]
    steps.append(decoder.step(tokens[:, 0]))
    held.append(decoder.held)
    decoder.keep(torch.tensor(_KEPT, device=tokens.device))
    steps += [decoder.step(column) for column in tokens[_KEPT].T[1:]]
    return torch.cat(steps), held
