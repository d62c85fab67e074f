"""Batches designed to show one component of a loss at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from upge.testing.inputs import Inputs

#: log π_θ of a token where nothing else is said.
LOGP = -2.0

#: What padding holds: finite, and of the size of the numbers beside it.
PADDING = -0.75


def lengths_mask(lengths: Sequence[int], width: int | None = None) -> Tensor:
    """(N, T) bool: rows of these lengths, padded on the right."""
    size = max(*lengths, 1) if width is None else width
    return torch.arange(size)[None] < torch.tensor(lengths)[:, None]


def build(mask: Tensor, **values: Any) -> Inputs:
    """Inputs with these values, numbers standing for whole tensors.

    Pairs of rows answer a question, the first with reward 1 and Â = 1, the second with 0 and −1;
    all policies are one unless said otherwise.
    """
    rows = len(mask)

    def tokens(name: str, default: Tensor | float) -> Tensor:
        value = torch.as_tensor(values.pop(name, default), dtype=torch.float64)
        value = value[:, None] if value.dim() == 1 else value
        return torch.where(mask, value.expand(mask.shape), PADDING)

    sign = 1.0 - 2.0 * (torch.arange(rows) % 2).double()
    logp = tokens("logp", LOGP)
    old = tokens("old_logp", logp)
    offline = torch.as_tensor(values.pop("offline", False))
    offline = offline[:, None] if offline.dim() == 1 else offline
    advantage = torch.as_tensor(values.pop("advantage", sign), dtype=torch.float64)
    advantage = advantage[:, None] if advantage.dim() == 1 else advantage
    return Inputs(
        mask=mask,
        logp=logp,
        old_logp=old,
        sampler_logp=tokens("sampler_logp", old),
        ref_logp=tokens("ref_logp", logp),
        teacher_logp=tokens("teacher_logp", logp),
        advantage=advantage.expand(mask.shape).clone(),
        reward=torch.as_tensor(values.pop("reward", (sign + 1) / 2), dtype=torch.float64),
        group=torch.as_tensor(values.pop("group", torch.arange(rows) // 2)),
        offline=offline.expand(mask.shape).clone() & mask,
        values=tokens("values", 0.0),
        entropy=tokens("entropy", 1.0),
        max_length=values.pop("max_length", mask.shape[1] + 3),
        **values,
    )


def ordinary(seed: int = 0, offline: bool = False, spread: float = 0.3) -> Inputs:
    """Three questions of two responses each, of unequal lengths, a little off-policy."""
    mask = lengths_mask((3, 1, 5, 2, 4, 4))
    gen = torch.Generator().manual_seed(seed)
    logp = -0.2 - 3 * torch.rand(mask.shape, generator=gen, dtype=torch.float64)
    rows = torch.arange(6)
    return build(
        mask,
        logp=logp,
        **policies(logp, gen, spread),
        advantage=torch.tensor([0.9, -1.1, 0.4, -0.6, 1.3, -0.2], dtype=torch.float64),
        offline=(rows % 2 == 0) if offline else False,
    )


def policies(logp: Tensor, gen: torch.Generator, spread: float) -> dict[str, Tensor]:
    """Log-probabilities of the other policies, within ``spread`` of π_θ's and of each other."""

    def near(x: Tensor) -> Tensor:
        noise = torch.randn(logp.shape, generator=gen, dtype=logp.dtype).clamp(-3, 3)
        return (x + spread * noise).clamp(max=-1e-3)

    old = near(logp)
    return {
        "old_logp": old,
        "sampler_logp": near(old),
        "ref_logp": near(logp),
        "teacher_logp": near(logp),
        "values": torch.randn(logp.shape, generator=gen, dtype=logp.dtype),
        "entropy": torch.rand(logp.shape, generator=gen, dtype=logp.dtype) + 0.2,
    }


def pairs(log_ratio: Tensor, logp: Tensor | float = LOGP, **values: Any) -> Inputs:
    """Each row of log(π_θ/π_θold) (M, T) twice: with a positive and with a negative Â.

    Args:
        log_ratio: (M, T) of the tokens.
        logp: log π_θ, lowered where log π_θold would not be below 0.
        values: further fields, by row of ``log_ratio``.
    """
    twice = log_ratio.repeat_interleave(2, 0)
    if isinstance(logp, Tensor):
        logp = logp.repeat_interleave(2, 0)
    values = {
        n: x.repeat_interleave(2, 0) if isinstance(x, Tensor) else x for n, x in values.items()
    }
    mask = torch.ones(twice.shape, dtype=torch.bool)
    logp = torch.minimum(torch.as_tensor(logp, dtype=torch.float64), twice - 1e-3)
    return build(mask, logp=logp, old_logp=logp - twice, **values)


def random_batch(
    seed: int,
    *,
    spread: float = 0.3,
    equal_groups: bool = False,
    demonstrations: bool = False,
    rewards: Sequence[float] = (0.0, 1.0),
    empty_row: bool = False,
) -> Inputs:
    """Ragged rows of two to four questions, Â of either sign, every policy its own.

    Args:
        seed: of everything.
        spread: how far policies are apart, as a standard deviation of log-ratios.
        equal_groups: whether all questions have as many rows.
        demonstrations: whether the last row of each question is a demonstration.
        rewards: what rewards are drawn from; the first two rows of a question differ in it.
        empty_row: whether one row has no response token.
    """
    gen = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=gen))

    size = draw(2, 4)
    sizes = [size if equal_groups else draw(2, 5) for _ in range(draw(2, 4))]
    group = [q for q, n in enumerate(sizes) for _ in range(n)]
    rows, width = len(group), draw(5, 7)
    lengths = [draw(1, width) for _ in range(rows)]
    if empty_row:
        lengths[draw(1, rows - 1)] = 0
    mask = lengths_mask(lengths, width)
    logp = -0.05 - 4 * torch.rand(mask.shape, generator=gen, dtype=torch.float64)
    chosen = torch.randint(len(rewards), (rows,), generator=gen)
    firsts = [sum(sizes[:q]) for q in range(len(sizes))]
    for first in firsts:
        chosen[first], chosen[first + 1] = 0, 1
    offline = torch.zeros(rows, dtype=torch.bool)
    if demonstrations:
        for first, n in zip(firsts, sizes, strict=True):
            offline[first + n - 1] = True
    advantage = torch.randn(rows, generator=gen, dtype=torch.float64)
    return build(
        mask,
        logp=logp,
        **policies(logp, gen, spread),
        advantage=advantage,
        reward=torch.tensor(list(rewards), dtype=torch.float64)[chosen],
        group=torch.tensor(group),
        offline=offline,
        max_length=width + draw(1, 9),
    )


#: Lengths of the rows of small batches, by the number of their cells.
_SMALL = (
    (1,), (1, 1), (2,), (2, 1), (1, 2), (2, 2), (3, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1, 1),
    (2, 1, 1, 1), (1, 2, 1, 1), (2, 1, 2, 1), (3, 1, 1, 2),
)  # fmt: skip


def small_batches(rewarded: bool) -> Iterator[Inputs]:
    """Batches of round numbers, by size: on-policy, a little off-policy, far off-policy.

    Args:
        rewarded: whether the loss reads rewards, so that a lone row shows nothing; batches of one
            question then come after those of pairs.
    """
    for lengths in _SMALL:
        mask = lengths_mask(lengths)
        rows = len(lengths)
        groups = [torch.arange(rows) // 2] if rows % 2 == 0 or not rewarded else []
        if rewarded and rows > 2:
            groups.append(torch.zeros(rows, dtype=torch.long))
        place = torch.arange(mask.shape[1])[None] + torch.arange(rows)[:, None]
        logp = -1.5 - place.double() / 2
        reward = (torch.arange(rows) % 2 == 0).double()
        for group in groups:
            one = len(group.unique()) == 1 and rows > 2
            reward = (torch.arange(rows) < 1).double() if one else reward
            for off in (0.0, 0.125, 1.0):
                old = logp - off * (place % 3 - 1)
                yield build(mask, logp=logp, old_logp=old, group=group, reward=reward)
