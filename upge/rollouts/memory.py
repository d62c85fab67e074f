"""Whether the GPU has room for a model, before its weights are loaded."""

from __future__ import annotations

import torch

from upge.common.errors import UpgeError
from upge.models.shapes import ModelShape, shape_of
from upge.rollouts.cached import LOGIT_BYTES, memory_held, rows_held

_GIGA = 1e9


def check_gpu_memory(name: str, needed: int, remedy: str, free: int | None = None) -> None:
    """Refuse what needs more memory than is free on the GPU; without a GPU nothing is checked.

    Args:
        name: of the model or the run, for the message.
        needed: bytes.
        remedy: what the user can do about it.
        free: bytes; those of this machine's GPU by default.

    Raises:
        UpgeError: ``needed`` is more than ``free``.
    """
    if free is None and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
    if free is not None and needed > free:
        raise UpgeError(
            f"{name}: needs about {needed / _GIGA:.1f} GB of GPU memory, of which "
            f"{free / _GIGA:.1f} are free; {remedy}"
        )


def check_sampler_memory(
    model: str, *, size: int, rows: int, group: int, length: int, free: int | None = None
) -> None:
    """Refuse to sample from a model where the GPU lacks the memory; unknown shapes pass.

    The arguments are those of :func:`sampler_bytes`, and ``free`` of :func:`check_gpu_memory`.

    Raises:
        UpgeError: too little memory is free; ``UPGE_SAMPLER_MEMORY`` is no amount.
    """
    needed = sampler_bytes(model, size=size, rows=rows, group=group, length=length)
    remedy = (
        f"lower --max-tokens or UPGE_SAMPLER_MEMORY (now {memory_held('cuda'):g} GiB), ask for "
        "fewer --samples, take a smaller model, or free the GPU"
    )
    if needed is not None:
        check_gpu_memory(model, needed, remedy, free)


def sampler_bytes(model: str, *, size: int, rows: int, group: int, length: int) -> int | None:
    """Peak bytes of weights, cache and logits while sampling; None for a model of unknown shape.

    Args:
        model: a base's name, a folder, or a known model's name.
        size: bytes of a weight, and of a number in the cache.
        rows: responses to sample in all.
        group: responses to one prompt, which are sampled together whatever memory they take.
        length: tokens of the longest prompt and response.
    """
    try:
        shape = shape_of(model)
    except UpgeError:
        return None
    row = row_bytes(shape, size, length)
    together = max(min(rows, rows_held(memory_held("cuda"), row)), group)
    return size * shape.parameters + together * row


def row_bytes(shape: ModelShape, size: int, length: int) -> int:
    """Bytes of one response in the built-in sampler: its cache, and its next token's logits.

    Args:
        shape: the model.
        size: bytes of a number in the cache.
        length: tokens of prompt and response.
    """
    return length * shape.cache_bytes(size) + shape.vocab_size * LOGIT_BYTES
