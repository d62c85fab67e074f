"""Sampling from a transformers model, token by token.

Against ``generate`` (same greedy tokens, see the tests; times in
``paper_tables/benchmarks/rollouts.md``): a group's prompt is encoded once, finished responses leave
the batch, log-probabilities come along, and each prompt's randomness is its own. How the model is
decoded, :mod:`upge.rollouts.decoding` finds out.

Environment variable: ``UPGE_SAMPLER_MEMORY``, GiB of caches and logits that are held at a time
(4 on a CPU, 16 on a GPU). It bounds how many responses are sampled together, which changes no
response but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.rollouts.decoding import find_decoding
from upge.rollouts.sampler import (
    Rollouts,
    Sampling,
    check_request,
    end_tokens,
    position_limit,
)

#: The batch is compacted when this share of its rows has ended: each time costs a copy.
_LEAVE = 0.125

#: Responses sampled at a time, at most: with more, small models take no less time a token.
ROWS = 512

#: Bytes a logit while a token is drawn below top-p: logit, log π, π; sorted π with its places, and
#: as much for sorting (float32, int64).
LOGIT_BYTES = 3 * 4 + 2 * (4 + 8)

#: GiB held at a time: a quarter of a laptop's memory, a fifth of the GPU's that is planned for.
_CPU_MEMORY, _GPU_MEMORY = 4.0, 16.0

#: GiB that no machine has more of.
_LARGEST_MEMORY = 2**20


class CachedSampler:
    """A :class:`~upge.rollouts.sampler.Sampler` on a transformers causal language model.

    Args:
        model: the model; it is put into evaluation mode while sampling.
        eos: ids of tokens that end a response, besides those of the model's generation
            configuration.
        rows: responses sampled at a time, at most (but always a whole group); fewer where their
            caches and logits are more than the memory set aside.

    Raises:
        UpgeError: the model knows no token that ends a response, or can't be decoded; an amount of
            memory that is none; when called, without a prompt, with an empty one, without a seed
            for each, or with prompts and ``max_tokens`` that the model has no positions for.
    """

    def __init__(self, model: Any, eos: int | Iterable[int] | None, rows: int = ROWS) -> None:
        self.ends = end_tokens(model, eos)
        self.model, self.rows = model, rows
        self._memory = memory_held(model.device.type)
        self.decoding = find_decoding(model)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        check_request(prompts, samples, settings, seeds, position_limit(self.model))
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                rollouts = self._sample(prompts, samples, settings, seeds)
        finally:
            self.model.train(training)
        # Outside of inference mode, so that autograd may keep them.
        return Rollouts(*(tensor.clone() for tensor in rollouts))

    def synchronize(self) -> None:
        """Nothing to do: the model that is trained is the one that is sampled from."""

    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        # Prompts of one length need no padding, and chunks of like lengths little.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        longest = len(prompts[order[-1]]) + settings.max_tokens
        held = min(self.rows, rows_held(self._memory, self._row_bytes(longest)))
        parts = [
            self._sample_chunk(
                [prompts[i] for i in places], samples, settings, [seeds[i] for i in places]
            )
            for places in self._chunks(order, prompts, max(held // samples, 1))
        ]
        place = torch.tensor(order).argsort().repeat_interleave(samples) * samples
        rows = place + torch.arange(samples).repeat(len(prompts))
        return Rollouts(*(torch.cat([part[i] for part in parts])[rows] for i in range(4)))

    def _chunks(
        self, order: list[int], prompts: Sequence[Sequence[int]], size: int
    ) -> Iterator[list[int]]:
        """The prompts that are sampled together."""
        apart = self.decoding.way.one_length
        for _, places in groupby(order, key=lambda i: len(prompts[i]) if apart else 0):
            alike = list(places)
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _row_bytes(self, length: int) -> int:
        """Of a sequence's cache, and of the logits that its next token is drawn from."""
        vocabulary = self.model.config.get_text_config().vocab_size
        cache = self.decoding.row_bytes + length * self.decoding.token_bytes
        return int(cache + vocabulary * LOGIT_BYTES)

    def _sample_chunk(
        self,
        prompts: list[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: list[int],
    ) -> Rollouts:
        device = self.model.device
        rows, length = len(prompts) * samples, settings.max_tokens
        uniform = _uniforms(seeds, samples, length).to(device)
        ends = torch.tensor(self.ends, device=device)
        tokens = torch.zeros(rows, length, dtype=torch.long, device=device)
        logp = torch.zeros(rows, length, device=device)
        lengths = torch.full((rows,), length, device=device)
        decoder = self.decoding.way(self.model, prompts, samples, self.ends[0])
        logits = decoder.logits
        alive = torch.arange(rows, device=device)
        done = torch.zeros(rows, dtype=torch.bool, device=device)
        for t in range(length):
            token, taken = _pick(logits, uniform[alive, t], settings)
            tokens[alive, t], logp[alive, t] = token, taken
            ended = torch.isin(token, ends) & ~done
            lengths[alive[ended]] = t + 1
            done = done | ended
            if done.all() or t + 1 == length:
                break
            if done.sum() >= _LEAVE * len(done):
                stay = (~done).nonzero().flatten()
                decoder.keep(stay)
                alive, token, done = alive[stay], token[stay], done[stay]
            logits = decoder.step(token)
        mask = torch.arange(length, device=device) < lengths[:, None]
        last = tokens.gather(1, lengths[:, None] - 1).squeeze(1)
        return Rollouts(tokens, mask, logp, torch.isin(last, ends))


def memory_held(device: str) -> float:
    """GiB of caches and logits that are held at a time, on a type of device.

    Raises:
        UpgeError: ``UPGE_SAMPLER_MEMORY`` is no positive number, or more than any machine has.
    """
    given = os.environ.get("UPGE_SAMPLER_MEMORY")
    if given is None:
        return _CPU_MEMORY if device == "cpu" else _GPU_MEMORY
    try:
        memory = float(given)
    except ValueError:
        memory = 0.0
    if not 0 < memory <= _LARGEST_MEMORY:
        raise UpgeError(
            f"UPGE_SAMPLER_MEMORY: got {given!r}, wanted a number of GiB above 0 and at most "
            f"{_LARGEST_MEMORY}"
        )
    return memory


def rows_held(memory: float, row_bytes: int) -> int:
    """Responses whose caches and logits that many GiB hold; 1 at least, ``ROWS`` at most."""
    return int(min(max(memory * 2**30 // row_bytes, 1), ROWS))


def _uniforms(seeds: list[int], samples: int, length: int) -> Tensor:
    """Numbers in [0, 1) (prompts · samples, length), each prompt's from its own seed."""
    return torch.cat(
        [
            torch.rand(samples, length, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


def _pick(logits: Tensor, uniform: Tensor, settings: Sampling) -> tuple[Tensor, Tensor]:
    """Tokens (rows,) by inversion of the distribution function, and their log-probabilities."""
    logp = (logits.float() / (settings.temperature or 1.0)).log_softmax(-1)
    if settings.temperature == 0:
        token = logp.argmax(-1)
    else:
        token = _invert(logp.exp(), uniform, settings.top_p)
    return token, logp.gather(-1, token[:, None]).squeeze(-1)


def _invert(probability: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    order = None
    if top_p < 1:
        probability, order = probability.sort(dim=-1, descending=True, stable=True)
        before = probability.cumsum(-1) - probability
        probability = torch.where(before < top_p, probability, 0.0)
    cumulative = probability.cumsum(-1)
    # At most 1 − 2⁻²⁴ of the total, which never rounds up to it, so that no zero is taken.
    point = uniform[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, point, right=True)
    token = token.clamp(max=probability.shape[-1] - 1)  # where the probabilities are no numbers
    token = token if order is None else order.gather(-1, token)
    return token.squeeze(-1)
