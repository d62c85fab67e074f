"""What a loss under test is handed: a batch of N trajectories × T tokens, padding included."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from upge.batch import TrajectoryBatch


@dataclass(frozen=True)
class Inputs:
    """The numbers that losses read; those at padding are what padding may hold.

    Attributes:
        mask: (N, T) bool.
        logp: (N, T), log π_θ, the one that gradients are taken of.
        old_logp, sampler_logp, ref_logp, teacher_logp, values, entropy: (N, T).
        advantage: (N, T), Â handed in, for losses that don't compute it.
        reward, group: (N,).
        offline: (N, T) bool, tokens of demonstrations.
        max_length: the longest response allowed.
        batch_tokens, batch_rows: of the whole batch, where this is a part of it.
        ranks, parts: processes and micro-batches that the batch is split over.
        parts_of_reward: (N, K) what the reward is the sum of.
    """

    mask: Tensor
    logp: Tensor
    old_logp: Tensor
    sampler_logp: Tensor
    ref_logp: Tensor
    teacher_logp: Tensor
    advantage: Tensor
    reward: Tensor
    group: Tensor
    offline: Tensor
    values: Tensor
    entropy: Tensor
    max_length: int
    batch_tokens: int | None = None
    batch_rows: int | None = None
    ranks: int = 1
    parts: int = 1
    parts_of_reward: Tensor | None = None

    def select(self, rows: Tensor) -> Inputs:
        """Some rows, with the counts of the whole batch."""
        changes: dict[str, Any] = {
            f.name: value[rows]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **changes, batch_tokens=self.tokens, batch_rows=self.rows)

    def with_(self, **changes: Any) -> Inputs:
        """A copy with other values."""
        return replace(self, **changes)

    @property
    def tokens(self) -> int:
        """Response tokens of the whole batch."""
        return int(self.mask.sum()) if self.batch_tokens is None else self.batch_tokens

    @property
    def rows(self) -> int:
        """Rows of the whole batch with a response token."""
        return int(self.mask.any(1).sum()) if self.batch_rows is None else self.batch_rows

    @property
    def group_size(self) -> int:
        """Rows of the first question."""
        return int((self.group == self.group[0]).sum()) if len(self.group) else 1

    def batch(self, has_length: bool = True) -> TrajectoryBatch:
        """The same as the package's own batch, with log π_θ set.

        Args:
            has_length: whether the longest response is known; the batch's width stands for it
                otherwise.
        """
        batch = TrajectoryBatch(
            mask=self.mask,
            reward=self.reward,
            group=self.group,
            offline=self.offline,
            old_logp=self.old_logp,
            values=self.values,
            max_length=self.max_length if has_length else None,
            sampler_logp=self.sampler_logp,
            ref_logp=self.ref_logp,
            teacher_logp=self.teacher_logp,
            demo_logp=self.old_logp,
            reward_parts=self.parts_of_reward,
        )
        return batch.at(self.logp, self.entropy)


def token_rewards(inputs: Inputs) -> Tensor:
    """(N, T): the reward at each row's last response token, as reward managers place it."""
    position = torch.arange(inputs.mask.shape[1]).expand(inputs.mask.shape)
    last = torch.where(inputs.mask, position, -1).max(1, keepdim=True).values
    return torch.where(inputs.mask & (position == last), inputs.reward[:, None], 0.0)


class TableModel(nn.Module):
    """A language model that looks its logits up: those that predict the next token, by this token.

    Every position of a batch has a token of its own, so that each has its own logits.
    """

    def __init__(self, logits: Tensor, ids: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(logits.shape[-1], logits.shape[-1]).to(logits))
        with torch.no_grad():
            self.table[ids[:, :-1].flatten()] = logits.reshape(-1, logits.shape[-1])
        self.config = SimpleNamespace(vocab_size=logits.shape[-1], model_type="table")

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        """Logits of the next token at each position, as transformers' models return them."""
        return _Output(logits=self.table[input_ids])


class _Output(dict[str, Any]):
    """Read by name, key or number, as transformers' outputs are."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        return (
            list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)
        )


def token_ids(inputs: Inputs) -> Tensor:
    """(N, 1 + T) ids, a prompt's before each response, no two alike."""
    rows, width = inputs.mask.shape
    return torch.arange(1, rows * (width + 1) + 1).view(rows, width + 1)


#: At least so many tokens are there, as some losses look at the likeliest twenty.
_VOCABULARY = 32


def token_logits(inputs: Inputs, ids: Tensor) -> Tensor:
    """(N, T, V) logits under which each response token has its log π_θ; others share the rest."""
    rows, width = inputs.mask.shape
    size = max(int(ids.max()) + 2 if ids.numel() else 0, _VOCABULARY)
    gen = torch.Generator().manual_seed(1)
    noise = torch.randn(rows, width, size, generator=gen, dtype=inputs.logp.dtype)
    chosen = ids[:, 1:, None]
    noise = noise.scatter(2, chosen, -torch.inf)
    rest = noise.logsumexp(-1, keepdim=True)
    logp = torch.where(inputs.mask, inputs.logp, -1.0)[..., None]
    others = noise - rest + torch.log(-torch.expm1(logp))
    return others.scatter(2, chosen, logp)
