"""Component 4, the likelihood gradient ∇π_θ: token log-probabilities, and shapings f' of them.

Since ∇π = π ∇log π, the gradient enters the estimator as log π_θ of the taken tokens. They are
taken from hidden states in chunks, so that logits (tokens × vocabulary) are never held whole.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.component import POSITIVE, Component, Limits

#: Nothing in a chunk is random, so the generators' states need not be kept.
_RECOMPUTE: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}


class Likelihood(NamedTuple):
    """log π_θ of the tokens and the policy's entropy (nats) at their positions."""

    logp: Tensor
    entropy: Tensor


def token_likelihood(
    hidden: Tensor,
    head: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    chunk: int = 512,
) -> Likelihood:
    """Log π_θ(token) and entropy under softmax((hidden @ headᵀ + bias)/temperature), in chunks.

    Both are differentiable; a chunk's logits are recomputed in the backward pass, so that at most
    (chunk, V) of them exist at a time.

    Args:
        hidden: (..., H), the states that predict ``tokens``.
        head: (V, H), the output embedding.
        tokens: (...), integer ids below V.
        bias: (V,) or None.
        temperature: what the logits are divided by, > 0 (the sampling temperature).
        chunk: positions at a time, at most.

    Raises:
        UpgeError: shapes that don't go together, a temperature or chunk that isn't positive.
    """
    if hidden.shape[:-1] != tokens.shape or head.dim() != 2 or head.shape[1] != hidden.shape[-1]:
        raise UpgeError(
            f"token_likelihood: got hidden {tuple(hidden.shape)}, head {tuple(head.shape)}, tokens "
            f"{tuple(tokens.shape)}, wanted (..., H), (V, H) and (...)"
        )
    if bias is not None and bias.shape != head.shape[:1]:
        raise UpgeError(f"bias: got shape {tuple(bias.shape)}, wanted ({head.shape[0]},)")
    if not temperature > 0:
        raise UpgeError(f"temperature: got {temperature}, wanted a number > 0")
    if not isinstance(chunk, int) or chunk < 1:
        raise UpgeError(f"chunk: got {chunk}, wanted a whole number of positions, at least 1")
    if tokens.is_floating_point() or tokens.is_complex():
        raise UpgeError(f"tokens: got {tokens.dtype}, wanted integers")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < head.shape[0]:
        raise UpgeError(
            f"tokens: got ids from {int(tokens.min())} to {int(tokens.max())}, wanted 0 to "
            f"{head.shape[0] - 1}; give masked positions a valid id too"
        )
    flat, ids = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1).long()
    # Even pieces: a last one of few rows goes through a slower and less accurate matrix product.
    count = max(math.ceil(len(ids) / chunk), 1)
    pieces = [
        checkpoint(_chunk_likelihood, h, head, bias, t, temperature, **_RECOMPUTE)
        for h, t in zip(flat.tensor_split(count), ids.tensor_split(count), strict=True)
    ]
    logp, entropy = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Likelihood(logp.view(tokens.shape), entropy.view(tokens.shape))


def _chunk_likelihood(
    hidden: Tensor, head: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, head, bias)
    # Half-precision log-softmax loses the ratios' digits.
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    log_pi = (logits / temperature).log_softmax(-1)
    pi = log_pi.exp()
    # A token that can't be taken has π log π = 0, not 0 · ∞.
    entropy = -(pi * torch.where(pi > 0, log_pi, 0.0)).sum(-1)
    return log_pi.gather(-1, tokens[:, None]).squeeze(-1), entropy


@dataclass(frozen=True)
class Shaping(Component):
    """Returns f'(π_θ) (N, T) of a shaped likelihood gradient ∇f(π) = f'(π) ∇π."""

    needs: ClassVar[frozenset[str]] = frozenset({"logp"})

    @abstractmethod
    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        """The factor on each token's ∇π_θ."""


@dataclass(frozen=True)
class Unshaped(Shaping):
    """f(π) = π."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return torch.ones_like(batch.mask, dtype=batch.dtype)


@dataclass(frozen=True)
class PolicyShaping(Shaping):
    """f(π) = π/(π + gamma), f'(π) = gamma/(π + gamma)² (LUFFY, arXiv 2504.14945)."""

    gamma: float
    symbol: ClassVar[str] = "f'_shape"
    limits: ClassVar[Limits] = {"gamma": POSITIVE}

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        pi = batch.require("logp", "policy shaping").exp()
        return self.gamma / (pi + self.gamma) / (pi + self.gamma)


@dataclass(frozen=True)
class Complement(Shaping):
    """f(π) = π − π²/2, f'(π) = 1 − π: over π_ref ≡ 1 CHORD's token weight π(1 − π).

    Source: CHORD, arXiv 2508.11408.
    """

    symbol: ClassVar[str] = "(1−π_θ)"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return -torch.expm1(batch.require("logp", "CHORD's weighting").clamp(max=0))
