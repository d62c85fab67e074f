"""A language model as the policy π_θ: token log-probabilities and entropies of whole batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upge.common.errors import UpgeError
from upge.likelihood import Likelihood, token_likelihood

#: Logits that exist at a time, at most (but always those of a position), and positions.
_LOGITS, _POSITIONS = 2**26, 2048

#: Settings by which some architectures change the logits after the output embedding.
_ALTERED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def positions_at_a_time(vocabulary: int) -> int:
    """Positions whose logits exist at a time: as many as their memory allows, at most 2,048.

    Of 2²⁶ float32 logits (256 MiB) a backward pass makes about five times as many bytes.
    """
    return max(min(_POSITIONS, _LOGITS // vocabulary), 1)


class Policy(nn.Module):
    """π_θ over a transformers causal language model.

    Args:
        model: the model.
        temperature: what the logits are divided by: that of the rollouts.
        chunk: positions whose logits exist at a time; None for as many as
            :func:`positions_at_a_time` gives the model's vocabulary.

    Raises:
        UpgeError: a model whose logits are more than hidden states times output embedding.
    """

    def __init__(self, model: Any, temperature: float = 1.0, chunk: int | None = None) -> None:
        super().__init__()
        altered = [name for name in _ALTERED_LOGITS if getattr(model.config, name, None)]
        if altered:
            raise UpgeError(
                f"model: {type(model).__name__} changes its logits ({altered[0]}), which the "
                "chunked likelihood doesn't know; take a model without it"
            )
        vocabulary = model.get_output_embeddings().weight.shape[0]
        self.model, self.temperature = model, temperature
        self.chunk = positions_at_a_time(vocabulary) if chunk is None else chunk

    def forward(self, tokens: Tensor, mask: Tensor) -> Likelihood:
        """Log π_θ and entropy (N, T) at ``mask``, 0 elsewhere.

        Args:
            tokens: (N, T) ids, padded on the right, so that the causal mask hides the padding.
            mask: (N, T) bool, true at the tokens to score; never at position 0.
        """
        # Without a cache, to which activation checkpointing would add each layer's keys twice.
        decoder = self.model.get_decoder()
        hidden = decoder(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        scored = mask[:, 1:]
        head = self.model.get_output_embeddings()
        flat = token_likelihood(
            hidden[scored],
            head.weight,
            tokens[:, 1:][scored],
            bias=getattr(head, "bias", None),
            temperature=self.temperature,
            chunk=self.chunk,
        )
        return Likelihood(*(_scatter(values, mask) for values in flat))

    @property
    def parameter_count(self) -> int:
        """Parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    whole = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return whole.masked_scatter(mask, values)
