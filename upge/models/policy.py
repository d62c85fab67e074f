"""A language model as the policy π_θ: token log-probabilities and entropies of whole batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upge.likelihood import Likelihood
from upge.models.heads import HEADS, find_head

#: Positions whose logits exist at a time, at most, and logits (but always those of a position).
_POSITIONS, _LOGITS = 2048, 2**26


def positions_at_a_time(vocabulary: int) -> int:
    """Positions whose logits exist at a time: as many as their memory allows, at most 2,048.

    Of 2²⁶ float32 logits (256 MiB) a backward pass makes about five times as many bytes.
    """
    return max(min(_POSITIONS, _LOGITS // vocabulary), 1)


class Policy(nn.Module):
    """π_θ over a transformers causal language model: log softmax(``model(x).logits`` / T).

    Args:
        model: the model.
        temperature: T, what the logits are divided by: that of the rollouts.
        chunk: positions whose logits exist at a time; None for as many as
            :func:`positions_at_a_time` gives the model's vocabulary.

    Attributes:
        head: how log π follows from the model, see :mod:`upge.models.heads`.

    Raises:
        UpgeError: a model that gives no log π of a token, see
            :func:`~upge.models.heads.find_head`.
    """

    def __init__(self, model: Any, temperature: float = 1.0, chunk: int | None = None) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.head, vocabulary = find_head(model)
        self.chunk = positions_at_a_time(vocabulary) if chunk is None else chunk

    def forward(self, tokens: Tensor, mask: Tensor) -> Likelihood:
        """Log π_θ and entropy (N, T) at ``mask``, 0 elsewhere.

        Args:
            tokens: (N, T) ids, padded on the right, so that the causal mask hides the padding.
            mask: (N, T) bool, true at the tokens to score; never at position 0.
        """
        flat = HEADS[self.head](self.model, tokens, mask, self.temperature, self.chunk)
        return Likelihood(*(_scatter(values, mask) for values in flat))

    @property
    def parameter_count(self) -> int:
        """Parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    whole = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return whole.masked_scatter(mask, values)
