"""verl: every algorithm of rollouts alone as a policy loss and an advantage estimator by name.

Importing this module adds them to verl's registries as ``upge_NAME``; :func:`register` adds one
with other options. Have every process of verl import it, and name it in the configuration:

    VERL_USE_EXTERNAL_MODULES=upge.integrations.verl python -m verl.trainer.main_ppo
        algorithm.adv_estimator=upge_grpo actor_rollout_ref.actor.policy_loss.loss_mode=upge_grpo

1/Z comes from the algorithm and from verl's counts of the whole mini-batch, not from
``loss_agg_mode``; ``actor.loss_scale_factor`` is the longest response of fixed-length normalisers.
Options of clips are the algorithm's, not ``clip_ratio``.

verl passes a critic's values to its own GAE alone, so PPO is a policy loss only: take
``adv_estimator=gae``, whose advantages verl whitens. For demonstrations see
:mod:`upge.integrations.verl_engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upge.algorithms import REGISTRY
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.estimator import Estimator, Term, term_metrics
from upge.integrations.fixed import fixed
from upge.normalization import (
    FixedLength,
    LengthSum,
    Normalizer,
    QuestionMean,
    QuestionSum,
    SequenceMean,
    TokenMean,
    TokenSum,
    TrajectoryMean,
)

require("verl", "verl")
_algos: Any = import_module("verl.trainer.ppo.core_algos")


def register(name: str, estimator: Estimator) -> None:
    """Add an estimator to verl's policy losses and advantage estimators.

    Args:
        name: as verl's configuration names it.
        estimator: one term over rollouts, as ``upge.get("grpo", clip=0.1)``.

    Raises:
        UpgeError: verl's interface can't carry the estimator.
    """
    term = _only_term(estimator)
    _algos.register_policy_loss(name)(partial(_policy_loss, estimator, term))
    if "values" not in term.advantage.needs:
        _algos.register_adv_est(name)(partial(_advantage, term))


def _only_term(estimator: Estimator) -> Term:
    if len(estimator.terms) != 1 or estimator.terms[0].samples != "online":
        raise UpgeError(
            f"{estimator.name} is more than one term over rollouts, and verl's policy losses see "
            "nothing else; use upge.integrations.verl_engine"
        )
    if estimator.terms[0].gate is not None or estimator.terms[0].entropy_weight is not None:
        raise UpgeError(
            f"{estimator.name} weighs by questions or entropy, which verl's policy losses don't "
            "see; use upge.integrations.verl_engine"
        )
    return estimator.terms[0]


def _advantage(
    term: Term,
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any] | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Â (N, T) twice, as verl's estimators return advantages and returns."""
    group = range(len(response_mask)) if index is None else question_ids(index)
    batch = TrajectoryBatch(
        mask=response_mask,
        reward=token_level_rewards.sum(1),
        group=torch.as_tensor(group, device=response_mask.device),
        offline=torch.zeros_like(response_mask),
    )
    advantage = term.advantage(batch).expand(batch.mask.shape)
    advantage = torch.where(batch.mask, advantage, 0.0).to(token_level_rewards.dtype)
    return advantage, advantage


def question_ids(index: Sequence[Any]) -> Tensor:
    """(N,) verl's ``uid`` of each row as a number."""
    numbers = np.unique([str(uid) for uid in index], return_inverse=True)[1]
    return torch.from_numpy(numbers.astype(np.int64))


def _policy_loss(
    estimator: Estimator,
    term: Term,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of a micro-batch, a part of the mini-batch's, and metrics."""
    counts = config.global_batch_info if config is not None else {}
    batch = TrajectoryBatch(
        mask=response_mask,
        reward=torch.zeros(len(log_prob), device=log_prob.device),
        group=torch.arange(len(log_prob), device=log_prob.device),
        offline=torch.zeros_like(response_mask),
        old_logp=old_log_prob,
    )
    if rollout_is_weights is not None:
        advantages = advantages * rollout_is_weights
    factor = term.coefficient * _factor(term.normalizer, batch.mask, counts)
    estimate = Estimator((fixed(term, advantages, factor),), estimator.name)
    seen = estimate.plan(batch, partial=True).estimate(log_prob)
    metrics = {"actor/pg_clipfrac": term_metrics(seen.terms[0].sums())["clip_fraction"]}
    # Data parallel processes average their gradients; ours are parts of one sum.
    return seen.loss * (counts.get("dp_size") or 1), metrics


def _factor(normalizer: Normalizer, mask: Tensor, counts: dict[str, Any]) -> Tensor:
    """1/Z by verl's counts of the mini-batch, or the micro-batch's own where it gives none.

    All questions have as many rollouts, so that a mean over questions is one over rows.
    """
    lengths = mask.sum(1, keepdim=True).double().clamp(min=1)
    tokens = counts.get("batch_num_tokens") or mask.sum().clamp(min=1)
    rows = counts.get("global_batch_size") or mask.any(1).sum().clamp(min=1)
    longest = counts.get("loss_scale_factor") or mask.shape[1]
    one = torch.ones((), dtype=torch.float64, device=mask.device)
    inverse = {
        TokenSum: one,
        TokenMean: one * tokens,
        TrajectoryMean: one * rows,
        QuestionSum: one * rows,
        SequenceMean: rows * lengths,
        QuestionMean: rows * lengths,
        FixedLength: one * rows * longest,
        LengthSum: one * longest,
    }
    return 1 / inverse[type(normalizer)]


def _fits(estimator: Estimator) -> bool:
    try:
        _only_term(estimator)
    except UpgeError:
        return False
    return True


for _name, _entry in REGISTRY.items():
    if _fits(_entry()):
        register(f"upge_{_name}", _entry())
