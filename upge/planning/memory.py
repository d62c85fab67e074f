"""Bytes that training and sampling hold on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from upge.planning.shapes import ModelShape

#: What is spread over the GPUs: nothing (DDP), the optimizer (ZeRO 1), gradients too (ZeRO 2), or
#: parameters too (ZeRO 3, FSDP).
Sharding = Literal["none", "optimizer", "gradients", "full"]

#: Bytes of a number.
FLOAT32, BFLOAT16 = 4, 2

#: Of a chunk of logits: log π, π and the masked log π kept for the backward pass, with a mask; and
#: two gradients while that lasts.
_LOGIT_KEPT, _LOGIT_PASSING = 3 * FLOAT32 + 1, 2 * FLOAT32


@dataclass(frozen=True)
class StateBytes:
    """What is held between steps, on one GPU.

    Attributes:
        weights: float32 parameters.
        gradients: of these; of the gathered ones under ZeRO 2.
        optimizer: AdamW's two moments.
        gathered: copies in the precision of the matrix products, at their largest.
    """

    weights: int
    gradients: int
    optimizer: int
    gathered: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.gathered


def state_bytes(
    shape: ModelShape, gpus: int, sharding: Sharding, *, mixed: bool, offload: bool = False
) -> StateBytes:
    """Of float32 training, with bfloat16 matrix products if ``mixed``.

    Args:
        shape: the model.
        gpus: over which things are spread.
        sharding: which things.
        mixed: whether matrix products are in bfloat16.
        offload: whether the optimizer's state lies in the host's memory.
    """
    whole = FLOAT32 * shape.parameters
    share = -(-whole // gpus)
    full, partly = sharding == "full", sharding == "gradients"
    # Fully sharded: the outer parameters, a block, and the next one that is being fetched.
    together = shape.outer_parameters + 2 * shape.layer_parameters if full else shape.parameters
    held = FLOAT32 if partly or (full and gpus > 1) else 0
    size = BFLOAT16 if mixed else held
    # ZeRO 2 (DeepSpeed) shards the float32 weights too, beside whole ones of the products' size.
    gradients = size * shape.parameters if partly else whole
    return StateBytes(
        weights=share if full or partly else whole,
        gradients=-(-gradients // gpus) if full or partly else gradients,
        optimizer=0 if offload else 2 * (whole if sharding == "none" else share),
        gathered=size * together,
    )


def block_activations(shape: ModelShape, *, mixed: bool) -> int:
    """Bytes a token that one block keeps for its backward pass, under a fused attention kernel.

    Kept: each norm's input, normalised input and output; q, k, v and the attention's output with
    its float32 log-sum-exp; the feed-forward part's gate, its activation, the other factor, and
    their product. Mixed precision has the norms' first two in float32, and their outputs once for
    each of the five products that read them.
    """
    size = BFLOAT16 if mixed else FLOAT32
    norms = shape.hidden * (4 * FLOAT32 + size * (5 if mixed else 2))
    attention = size * (2 * shape.query_width + 2 * shape.kv_width) + FLOAT32 * shape.heads
    return norms + attention + size * 4 * shape.intermediate


def activation_bytes(
    shape: ModelShape, tokens: int, *, mixed: bool, checkpointing: bool, chunk: int
) -> int:
    """Of a micro-batch's forward and backward pass.

    Args:
        shape: the model.
        tokens: of the micro-batch, padding included.
        mixed: whether matrix products are in bfloat16.
        checkpointing: whether blocks keep their inputs alone.
        chunk: positions whose logits exist at a time.
    """
    block = tokens * block_activations(shape, mixed=mixed)
    inputs = tokens * FLOAT32 * shape.hidden * shape.layers
    blocks = inputs + block if checkpointing else shape.layers * block
    size = _LOGIT_KEPT + _LOGIT_PASSING + (BFLOAT16 if mixed else 0)
    return blocks + min(chunk, tokens) * shape.vocabulary * size
