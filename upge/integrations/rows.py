"""Rollouts as TRL's trainers hold them, and demonstrations of the same questions, as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from upge.batch import TrajectoryBatch


def trajectories(
    rollouts: Mapping[str, Tensor],
    reward: Tensor,
    demonstrations: Sequence[Sequence[int]],
    demonstration_reward: Tensor,
    *,
    max_length: int,
    success: float | None = None,
    all_sum: Callable[[Tensor], Tensor],
) -> TrajectoryBatch:
    """Each question's rollouts, then the demonstrations; prompts and responses side by side.

    Args:
        rollouts: ``prompt_ids``, ``prompt_mask`` (N, P), padded on the left, and
            ``completion_ids``, ``completion_mask`` (N, C), padded on the right; possibly
            ``tool_mask``, ``old_per_token_logps`` and ``sampling_per_token_logps`` (N, C). All
            questions have as many rollouts, which stand together.
        reward: (N,); NaN where a rollout has none, which then takes part in nothing.
        demonstrations: token ids for each question, with their end; empty without one.
        demonstration_reward: (questions,), NaN likewise.
        max_length: the longest response the run allows.
        success: see :class:`upge.batch.TrajectoryBatch`.
        all_sum: sums a tensor over all processes.
    """
    device, size = reward.device, len(reward) // len(demonstrations)
    graded = demonstration_reward.isfinite().tolist()
    shown = [i for i, ids in enumerate(demonstrations) if ids and graded[i]]
    questions = torch.tensor(shown, dtype=torch.long, device=device)
    ids, mask = padded([demonstrations[i] for i in shown], device)
    prompt_ids, prompt_mask = (
        torch.cat([rollouts[name], rollouts[name][questions * size]])
        for name in ("prompt_ids", "prompt_mask")
    )
    completion_mask = _stacked(rollouts["completion_mask"].bool(), mask)
    scored = _stacked(_scored(rollouts) & reward.isfinite()[:, None], mask)
    old_logp = _old_logp(rollouts)
    if old_logp is not None:
        old_logp = _stacked(old_logp, torch.zeros(mask.shape, dtype=old_logp.dtype, device=device))
        old_logp = pad(old_logp, (prompt_ids.shape[1], 0))
    group = torch.arange(len(reward), device=device) // size
    # TRL clears the mask of a truncated completion, which remains in its group.
    member = torch.cat([reward.isfinite(), torch.ones_like(questions, dtype=torch.bool)])
    return TrajectoryBatch(
        mask=pad(scored, (prompt_ids.shape[1], 0)),
        reward=torch.cat([reward, demonstration_reward[questions]]).nan_to_num(),
        group=torch.cat([group, questions]),
        offline=torch.arange(len(reward) + len(shown), device=device) >= len(reward),
        old_logp=old_logp,
        tokens=torch.cat([prompt_ids, _stacked(rollouts["completion_ids"], ids)], 1),
        attention=torch.cat([prompt_mask.bool(), completion_mask], 1),
        max_length=max_length,
        member=member,
        success=success,
        all_sum=all_sum,
    )


def _scored(rollouts: Mapping[str, Tensor]) -> Tensor:
    """(N, C) bool: what the policy wrote; results of tools are not its own."""
    written = rollouts["completion_mask"].bool()
    return written & rollouts["tool_mask"].bool() if "tool_mask" in rollouts else written


def _old_logp(rollouts: Mapping[str, Tensor]) -> Tensor | None:
    """(N, C): the sampler's where it told, the trainer's elsewhere; None if neither is known.

    NaN is how TRL marks tokens that the sampler gave no probability; 0 if the trainer neither.
    """
    trainer = rollouts.get("old_per_token_logps")
    sampler = rollouts.get("sampling_per_token_logps")
    if sampler is None:
        return trainer
    return torch.where(sampler.isnan(), 0.0 if trainer is None else trainer, sampler)


def unknown_logp(rollouts: Mapping[str, Tensor]) -> Tensor:
    """(N, C) bool: tokens of which the sampler told no log-probability, nor the trainer any."""
    sampler = rollouts.get("sampling_per_token_logps")
    if sampler is None or rollouts.get("old_per_token_logps") is not None:
        return torch.zeros_like(rollouts["completion_mask"], dtype=torch.bool)
    return sampler.isnan()


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids, padded on the right, and where they are, (rows, longest)."""
    width = max(map(len, rows), default=0)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    lengths = torch.tensor([len(tokens) for tokens in rows], dtype=torch.long)
    return ids.to(device), (torch.arange(width) < lengths[:, None]).to(device)


def _stacked(above: Tensor, below: Tensor) -> Tensor:
    """One over the other, padded on the right with 0 to one width."""
    width = max(above.shape[1], below.shape[1])
    return torch.cat([pad(x, (0, width - x.shape[1])) for x in (above, below)])
