"""The rollout backends by name.

A batch's ``old_logp`` is what the backend says: log π of the policy that sampled, not the trainer's
of the same weights. The ratio π_θ/π_θold of an algorithm then corrects for a backend that is not
quite the policy, too, and its clip or cap bounds that correction: ``tis``, or the option
``is_cap`` of any algorithm, is truncated importance sampling. How far the two are apart is in a
run's metrics (:mod:`upge.rollouts.mismatch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch

from upge.common.errors import UpgeError, unknown
from upge.common.optional import available, hint
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Sampler
from upge.tasks.encoding import end_ids

#: ``transformers``: the policy itself, token by token; ``vllm``: an engine that copies its weights.
Backend = Literal["transformers", "vllm"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

#: Those that sample from a copy with arithmetic of its own, which may differ from the original.
ENGINES: frozenset[Backend] = frozenset({"vllm"})


def check_backend(backend: Backend) -> None:
    """Refuse a backend whose package isn't there, without importing it.

    Raises:
        UpgeError: names the extra to install.
    """
    if backend in ENGINES and not available(backend):
        raise UpgeError(
            f"{backend} is not installed; install it with {hint(backend, backend)}, or take "
            "backend: transformers"
        )


def open_sampler(
    backend: Backend,
    model: Any,
    tokenizer: Any,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Sampler:
    """A sampler of the policy ``model``, which is told of new weights by ``synchronize``.

    Args:
        backend: what samples.
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        dtype: of the weights of a backend that copies them; the model's if not given.
        device: where such a backend samples; the model's if not given.

    Raises:
        UpgeError: no such backend; its extra is missing; a model that it can't sample from.
    """
    if backend not in _OPEN:
        raise unknown("backend", backend, BACKENDS)
    return _OPEN[backend](model, tokenizer, dtype or model.dtype, device or model.device)


def _open_cached(model: Any, tokenizer: Any, *_: object) -> Sampler:
    return CachedSampler(model, end_ids(tokenizer))


def _open_vllm(model: Any, tokenizer: Any, dtype: torch.dtype, device: torch.device) -> Sampler:
    from upge.rollouts.vllm import VLLMSampler

    return VLLMSampler(model, tokenizer, dtype, device)


_OPEN: Mapping[str, Callable[[Any, Any, torch.dtype, torch.device], Sampler]] = {
    "transformers": _open_cached,
    "vllm": _open_vllm,
}
