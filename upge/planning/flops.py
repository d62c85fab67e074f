"""Floating-point operations of a transformer; a multiplication with its addition counts as two.

Only matrix products count, as in torch.utils.flop_counter, against which the tests hold these.
"""

from __future__ import annotations

from upge.planning.shapes import ModelShape


def causal_pairs(lengths: list[int]) -> int:
    """Pairs of a query and a key that it sees, over sequences of these lengths."""
    return sum(length * (length + 1) // 2 for length in lengths)


def block_flops(shape: ModelShape, tokens: int, pairs: int) -> int:
    """Of a forward pass through the blocks, without embeddings.

    Args:
        shape: the model.
        tokens: how many go through.
        pairs: of a query and a key; :func:`causal_pairs`, or T² a sequence where the kernel
            computes what the mask hides.
    """
    return 2 * shape.layers * (tokens * shape.layer_matrix + 2 * pairs * shape.query_width)


def head_flops(shape: ModelShape, tokens: int) -> int:
    """Of logits at so many positions."""
    return 2 * tokens * shape.vocabulary * shape.hidden


def training_flops(
    shape: ModelShape, tokens: int, pairs: int, scored: int, *, checkpointing: bool
) -> int:
    """Of a forward and a backward pass.

    A backward pass costs two forward passes. Logits are computed anew in it (chunked likelihood);
    so are the blocks under activation checkpointing, but for the very last product of each.

    Args:
        shape: the model.
        tokens: see :func:`block_flops`.
        pairs: likewise.
        scored: positions whose likelihood is taken.
        checkpointing: whether the blocks' activations are computed anew.
    """
    return (4 if checkpointing else 3) * block_flops(shape, tokens, pairs) + 4 * head_flops(
        shape, scored
    )
