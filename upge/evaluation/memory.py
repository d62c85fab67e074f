"""Whether the GPU of this machine can hold a model that is sampled from, before it is loaded."""

from __future__ import annotations

import torch

from upge.common.errors import UpgeError
from upge.planning.shapes import shape_of
from upge.rollouts.cached import LOGIT_BYTES, memory_held, rows_held

_GIGA = 1e9


def check_gpu_memory(
    model: str, *, size: int, rows: int, group: int, length: int, free: int | None = None
) -> None:
    """Refuse a model whose weights and sampler need more memory than is free on the GPU.

    Not looked at: machines without a GPU, and models whose shape is not known here.

    Args:
        model: a base's name, a folder, or a known model's name.
        size: bytes of a weight, and of a number in the cache.
        rows: responses that there are to sample at a time.
        group: those to one prompt, which are sampled together whatever memory they take.
        length: tokens of the longest prompt and response.
        free: bytes; those of this machine's GPU if not given.

    Raises:
        UpgeError: it needs more, by the formulas of ``upge plan``; no amount in
            ``UPGE_SAMPLER_MEMORY``.
    """
    if free is None and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
    if free is None:
        return
    needed = memory_needed(model, size=size, rows=rows, group=group, length=length)
    if needed is not None and needed > free:
        raise UpgeError(
            f"{model}: needs about {needed / _GIGA:.1f} GB of GPU memory, of which "
            f"{free / _GIGA:.1f} are free; lower --max-tokens or UPGE_SAMPLER_MEMORY (now "
            f"{memory_held('cuda'):g} GiB), ask for fewer --samples, take a smaller model, or free "
            "the GPU"
        )


def memory_needed(model: str, *, size: int, rows: int, group: int, length: int) -> int | None:
    """Bytes of weights, cache and logits at their fullest; None for a model of unknown shape."""
    try:
        shape = shape_of(model)
    except UpgeError:
        return None
    row = length * shape.cache_bytes(size) + shape.vocabulary * LOGIT_BYTES
    together = max(min(rows, rows_held(memory_held("cuda"), row)), group)
    return size * shape.parameters + together * row
