"""The precision of matrix products: the same while sampling as while training.

Under ``bfloat16`` Accelerate runs the policy's forward pass under autocast: weights, gradients and
AdamW's moments stay float32, products are bfloat16, and log π is computed in float32 from bfloat16
logits. The sampler reads the model beneath, outside of that autocast; :class:`AutocastSampler`
gives it the same precision, which an engine that copies the weights has as well. Even so the two
are one policy on small models only. On larger ones, sums in another order (a cache, other shapes)
leave on-policy ratios π_θ/π_θold a few percent from 1 in bfloat16, and some millionths in float32.
A clip of 0.2 isn't affected; for on-policy ratios of 1, take float32.

Weights themselves are never bfloat16: with its 8 bits of precision, an AdamW step of 5e-6 on a
weight of 0.01 would be rounded away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from upge.rollouts.sampler import Rollouts, Sampler, Sampling

#: Accelerate's names of precisions.
MIXED = {"float32": "no", "bfloat16": "bf16"}


def products(accelerator: Any) -> torch.dtype | None:
    """The dtype of matrix products; None where it is that of the weights."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


@dataclass(frozen=True)
class AutocastSampler:
    """A :class:`~upge.rollouts.sampler.Sampler` in the accelerator's precision.

    Args:
        sampler: the sampler.
        accelerator: Accelerate's object.
    """

    sampler: Sampler
    accelerator: Any

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        with self.accelerator.autocast():
            return self.sampler(prompts, samples, settings, seeds)

    def synchronize(self) -> None:
        """See :class:`~upge.rollouts.sampler.Sampler`."""
        self.sampler.synchronize()
