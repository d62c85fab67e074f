"""How far the policy that sampled is from the one that is trained, at the tokens it sampled."""

from __future__ import annotations

import torch
from torch import Tensor


def mismatch_sums(logp: Tensor, sampler_logp: Tensor, tokens: Tensor) -> Tensor:
    """What :func:`mismatch` reads of one process's rollouts, (4,) float64.

    Args:
        logp: (N, T), log π of the trainer.
        sampler_logp: (N, T), log π of the sampler.
        tokens: (N, T) bool, true at sampled tokens.
    """
    x = (logp - sampler_logp)[tokens].double()
    largest = torch.cat([x, x.new_full((1,), -torch.inf)]).max().exp()
    count = torch.tensor(float(x.numel()), device=x.device)
    return torch.stack([count, x.abs().sum(), (x.expm1() - x).sum(), largest])


def mismatch(sums: Tensor) -> dict[str, float]:
    """Three measures of x = log π_trainer − log π_sampler over the sampled tokens.

    ``mismatch/logp`` is mean |x|; ``mismatch/kl`` estimates KL(sampler‖trainer), in nats a token,
    by the mean of eˣ − 1 − x, which is without bias and never negative; ``mismatch/ratio`` is the
    largest eˣ, which importance sampling would weigh a token by.

    Source: the estimate is k3 of Schulman 2020, "Approximating KL Divergence".

    Args:
        sums: (processes, 4), :func:`mismatch_sums` of each.
    """
    count, distance, divergence = sums[:, :3].sum(0).tolist()
    return {
        "mismatch/logp": distance / max(count, 1),
        "mismatch/kl": divergence / max(count, 1),
        "mismatch/ratio": sums[:, 3].max().item(),
    }
