"""Gradients of many estimators on many groups, over all parameters of a language model.

An estimate is Σ w ∇log π_θ(token). Estimators that weigh a trajectory's tokens alike, up to a
factor, share its gradient: one backward pass then serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from upge.batch import TrajectoryBatch
from upge.estimator import Estimator
from upge.likelihood import Likelihood
from upge.models.policy import Policy

#: Trajectories whose gradients exist at a time.
_PIECE = 96

#: Weights of a trajectory whose shapes differ by less are taken for multiples of each other.
_DECIMALS = 6


class Factored(NamedTuple):
    """Weights (E, N, T) as Σ over shapes m of ``factor``[:, m] · ``shape``[m], at ``row``[m].

    Attributes:
        row: (M,) the trajectory that a shape weighs.
        shape: (M, T) weights of its tokens, the largest 1.
        factor: (E, M) how much of it each estimator takes.
    """

    row: Tensor
    shape: Tensor
    factor: Tensor


def factored(weights: Tensor) -> Factored:
    """The distinct shapes of each trajectory's weights; rows without weight have none."""
    peak = weights.gather(2, weights.abs().argmax(2, keepdim=True)).squeeze(2)  # (E, N)
    rows, shapes, factors = [], [], []
    for i in peak.any(0).nonzero().flatten().tolist():
        live = peak[:, i] != 0
        units = (weights[live, i] / peak[live, i, None]).round(decimals=_DECIMALS)
        distinct, which = torch.unique(units, dim=0, return_inverse=True)
        factor = peak.new_zeros(len(peak), len(distinct))
        factor[live, which] = peak[live, i]
        rows += [i] * len(distinct)
        shapes.append(distinct)
        factors.append(factor)
    if not rows:
        none = weights.new_zeros
        return Factored(
            torch.zeros(0, dtype=torch.long), none(0, weights.shape[2]), none(len(peak), 0)
        )
    return Factored(torch.tensor(rows), torch.cat(shapes), torch.cat(factors, 1))


class Gradients:
    """∇_θ of weighted log-likelihoods of single trajectories.

    Args:
        model: a transformers causal language model whose attention autograd can vectorise.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._parameters = {name: p.detach() for name, p in model.named_parameters()}

    @property
    def size(self) -> int:
        """Parameters, D."""
        return sum(p.numel() for p in self._parameters.values())

    def __call__(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """(M, D) Σ_t w ∇log π_θ(token t), for tokens and weights (M, T) padded on the right."""
        width = int((weights != 0).any(0).nonzero().max()) + 1
        found = vmap(grad(self._weighted), (None, 0, 0))(
            self._parameters, tokens[:, :width], weights[:, :width]
        )
        return torch.cat([part.flatten(1) for part in found.values()], 1)

    def _weighted(self, parameters: dict[str, Tensor], tokens: Tensor, weights: Tensor) -> Tensor:
        logits = functional_call(self.model, parameters, (tokens[None, :-1],)).logits[0]
        logp = logits.log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
        total: Tensor = (weights[1:] * logp).sum()
        return total


def group_gradients(
    estimators: Sequence[Estimator],
    batch: TrajectoryBatch,
    likelihood: Likelihood,
    gradients: Gradients,
) -> Tensor:
    """(E, K, D) each estimator on each of a batch's K groups, one by one.

    Args:
        estimators: read groups as batches of their own.
        batch: groups of one question or several, as ``collect`` gives them.
        likelihood: log π_θ and entropies of the batch (N, T).
        gradients: of the same policy.
    """
    groups = [(batch.question == k).nonzero().flatten() for k in range(batch.num_questions)]
    found = torch.zeros(len(estimators), len(groups), gradients.size)
    assert batch.tokens is not None
    for some in _pieces([_shapes(estimators, batch, likelihood, rows) for rows in groups]):
        rows = torch.cat([groups[k][part.row] for k, part in some])
        scores = gradients(batch.tokens[rows], torch.cat([part.shape for _, part in some]))
        sizes = [len(part.row) for _, part in some]
        for (k, part), own in zip(some, scores.split(sizes), strict=True):
            found[:, k] = part.factor @ own
    return found


def _shapes(
    estimators: Sequence[Estimator], batch: TrajectoryBatch, likelihood: Likelihood, rows: Tensor
) -> Factored:
    group = batch.select(rows)
    logp, entropy = (values[rows] for values in likelihood)
    return factored(torch.stack([e(group, logp, entropy).weights for e in estimators]))


def _pieces(parts: Sequence[Factored]) -> Iterator[list[tuple[int, Factored]]]:
    """Groups with any weight, so many at a time that their gradients fit."""
    piece: list[tuple[int, Factored]] = []
    for k, part in enumerate(parts):
        if piece and sum(len(p.row) for _, p in piece) + len(part.row) > _PIECE:
            yield piece
            piece = []
        if len(part.row):
            piece.append((k, part))
    if piece:
        yield piece


def likelihood_of(policy: Policy, batch: TrajectoryBatch, rows: int = 512) -> Likelihood:
    """Log π_θ and entropy (N, T) of a batch, some rows at a time, without gradient."""
    assert batch.tokens is not None
    with torch.no_grad():
        parts = [
            policy(tokens, mask)
            for tokens, mask in zip(batch.tokens.split(rows), batch.mask.split(rows), strict=True)
        ]
    return Likelihood(torch.cat([p.logp for p in parts]), torch.cat([p.entropy for p in parts]))
