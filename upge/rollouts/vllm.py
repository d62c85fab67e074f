"""Sampling from a vLLM engine that holds a copy of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from upge.extras import require
from upge.rollouts.sampler import Rollouts, Sampling


class VLLMSampler:
    """A :class:`~upge.rollouts.sampler.Sampler` on a vLLM engine.

    Args:
        model: the transformers causal language model whose weights it copies.
        tokenizer: its tokenizer.

    Raises:
        UpgeError: the extra ``vllm`` is missing.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._vllm = require("vllm", "vllm")
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        raise NotImplementedError

    def synchronize(self) -> None:
        """Mark the engine's weights as old; the next call takes new ones in."""
