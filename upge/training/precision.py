"""The precision of matrix products: the same while sampling as while training.

Under ``bfloat16`` Accelerate wraps the policy's forward pass in autocast: weights, gradients and
AdamW's moments stay float32, products are bfloat16, and log π is taken in float32 of bfloat16
logits. It knows nothing of the sampler, which reads the model beneath; here both are of one
precision, an engine that copies the weights included. That makes them one policy on small models
alone: on larger ones sums in another order (a cache, other shapes) leave ratios π_θ/π_θold of a few
per cent from 1 in bfloat16, where float32 leaves some millionths. A clip of 0.2 does not see them;
who wants ratios of 1 on-policy takes float32.

Weights are never bfloat16 themselves: it has 8 bits, so that an AdamW step of 5e-6 to a weight of
0.01 would round to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from upge.rollouts.sampler import Rollouts, Sampler, Sampling

#: Precisions as Accelerate calls them.
MIXED = {"float32": "no", "bfloat16": "bf16"}


def products(accelerator: Any) -> torch.dtype | None:
    """What matrix products are computed in; None where that is the weights' own."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


@dataclass(frozen=True)
class AutocastSampler:
    """A :class:`~upge.rollouts.sampler.Sampler` in the accelerator's precision.

    Args:
        sampler: what samples.
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
