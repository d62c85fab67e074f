"""What a step's line of metrics.jsonl holds; :mod:`upge.training.records` says what it means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch

from upge.rollouts.mismatch import mismatch, mismatch_sums
from upge.training.config import Stage
from upge.training.experience import Experience
from upge.training.gradient import GradientAccumulator
from upge.training.processes import gather, sum_over_processes
from upge.training.update import Update

#: FLOPs a parameter and token: 2 forward, 4 backward (Kaplan et al. 2020, arXiv 2001.08361).
_FORWARD, _BACKWARD = 2, 4

Metrics = dict[str, Any]


def experience_metrics(
    experience: Experience, first_pass: Sequence[Update], accelerator: Any
) -> Metrics:
    """What was sampled, and how much of it the estimator's gates let through.

    Args:
        experience: the process's part of the step.
        first_pass: the updates that read each of its rows once.
        accelerator: Accelerate's object, for sums over processes.
    """
    batch = experience.batch
    rollouts = batch.rows_of("online")
    lengths = batch.mask.sum(1).double()
    gated_in = torch.cat([update.plan.gated_in() for update in first_pass])
    offline = torch.cat([update.plan.batch.rows_of("offline") for update in first_pass])
    sums = torch.stack(
        [
            (gated_in & offline).sum(),
            gated_in.sum(),
            rollouts.sum(),
            (lengths * rollouts).sum(),
            (batch.reward * rollouts).sum(),
            experience.finished.sum().to(batch.mask.device),
            batch.require("old_logp", "entropy").double().sum(),
        ]
    ).double()
    totals = sum_over_processes(accelerator, sums).tolist()
    demos, samples, count, tokens, reward, finished, logp = totals
    metrics: Metrics = {"offline_ratio": demos / max(samples, 1), "demonstrations": demos}
    solved = [pair for pairs in gather(accelerator, experience.solved) for pair in pairs]
    if count:
        metrics |= {
            "reward": reward / count,
            "solved": [share for _, share in sorted(solved)],
            "response_length": tokens / count,
            "entropy": -logp / tokens,
            "finished": finished / count,
            "tokens_sampled": tokens,
        }
    return metrics


def mismatch_metrics(
    experience: Experience, gradient: GradientAccumulator, accelerator: Any
) -> Metrics:
    """How far the policy that sampled, an engine's copy, is from the one that is trained."""
    batch = experience.batch
    logp, _ = gradient.score(batch)
    sampled = batch.require("old_logp", "the mismatch")
    sums = mismatch_sums(logp, sampled, batch.tokens_of("online"))
    return dict(mismatch(accelerator.gather(sums[None])))


def update_metrics(updates: Sequence[Update]) -> Metrics:
    """Masses and loss an update, tokens of all of them, and their norms."""
    report = reduce(add, [update.report for update in updates])
    return report.metrics() | {
        "grad_norm": sum(update.norm for update in updates) / len(updates),
        "skipped": sum(not update.applied for update in updates),
    }


def flops(
    stage: Stage,
    experience: Experience,
    updates: Sequence[Update],
    parameters: int,
    accelerator: Any,
) -> float:
    """FLOPs of sampling and training, without attention's quadratic part.

    Args:
        stage: what is trained.
        experience: the process's part of the step.
        updates: all of the step.
        parameters: how many the policy has.
        accelerator: Accelerate's object, for sums over processes.
    """
    forward = float(experience.batch.tokens_of("online").sum()) + experience.prompt_tokens
    if stage.estimator.weighs_by_batch:
        assert experience.batch.attention is not None
        forward += stage.epochs * float(experience.batch.attention.sum())
    total = torch.tensor(forward, device=accelerator.device)
    forward = sum_over_processes(accelerator, total).item()
    trained = sum(update.report.computed.item() for update in updates)
    return parameters * (_FORWARD * forward + (_FORWARD + _BACKWARD) * trained)
