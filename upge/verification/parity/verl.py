"""verl's policy losses, composed with its own advantage functions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.estimator import Estimator
from upge.verification.parity.common import Gradients, Library, Row, earlier_policy

#: Response lengths. They sum to 65, and n/(n − 1) = 65/64 is exact in float32, in which verl's
#: whitening takes it; groups have four rows each.
LENGTHS = (1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 8)
GROUP, WIDTH, MAX_LENGTH = 4, 9, 12

#: Rewards of this size (a power of 2) leave nothing of the ε = 1e-6 that verl adds to a standard
#: deviation, nor of the 1e-8 it adds to a variance; what is normalised does not see it otherwise.
SCALE = 2.0**30


@dataclass(frozen=True, kw_only=True)
class VerlRow(Row):
    """A policy loss of verl with its advantage and settings.

    Attributes:
        loss: the policy loss, in ``verl.trainer.ppo.core_algos``.
        advantage: the advantage function there.
        aggregation: ``loss_agg_mode``.
        settings: fields of ``ActorConfig``.
        advantage_settings: arguments of the advantage function.
        unwhitened: take returns − values for Â, of which the function whitens what it returns.
        truncation: cap of the token weights of ``rollout_correction``, if the loss reads one.
        samples: what the rows of the batch are.
        signed: whether rewards are ±1.
    """

    loss: str
    advantage: str
    aggregation: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    advantage_settings: Mapping[str, Any] = field(default_factory=dict)
    unwhitened: bool = False
    truncation: float | None = None
    samples: str = "online"
    signed: bool = False
    function: str = ""

    def __post_init__(self) -> None:
        name = f"{self.loss} ({self.aggregation}) of {self.advantage}"
        object.__setattr__(self, "function", name)


@dataclass(frozen=True, kw_only=True)
class _SftRow(Row):
    samples: str = "offline"
    signed: bool = True


_VANILLA = "compute_policy_loss_vanilla"
_GRPO = "compute_grpo_outcome_advantage"
_REMAX = "compute_remax_outcome_advantage"
_MEAN = "seq-mean-token-mean"

#: A bound of the dual clip that no ratio reaches.
_NO_DUAL = {"clip_ratio_c": 1e6}


def _clip(low: float, high: float) -> dict[str, float]:
    return {"clip_ratio": low, "clip_ratio_low": low, "clip_ratio_high": high}


_EPSILON = "Rewards of size 2^30 make verl's ε in the standard deviation vanish."
_GROUPS = "Groups are equal, so that verl's mean over sequences is the mean over questions."
_DUAL = "clip_ratio_c = 1e6 keeps the dual clip, always on in verl, from acting."
_GAE = (
    "Â is verl's returns − values: the Â it returns is whitened over the batch, which is no part "
    "of PPO."
)
_REMAX_NOTE = "Â = ±1 is verl's ReMax advantage with a baseline of 0 on rewards of ±1."

ROWS: dict[str, VerlRow | _SftRow] = {
    "sft": _SftRow(
        function="verl.workers.utils.losses.sft_loss",
        ours={},
        note="batch_num_tokens is the number of demonstration tokens, as verl's trainer sets it.",
    ),
    "ppo": VerlRow(
        loss=_VANILLA,
        advantage="compute_gae_advantage_return",
        advantage_settings={"gamma": 0.9, "lam": 0.8},
        unwhitened=True,
        aggregation=_MEAN,
        settings=_clip(0.2, 0.2) | _NO_DUAL,
        ours={"clip": 0.2, "gamma": 0.9, "gae_lambda": 0.8},
        note=f"{_GAE} {_DUAL} {_GROUPS}",
    ),
    "ppo_dual_clip": VerlRow(
        loss=_VANILLA,
        advantage="compute_gae_advantage_return",
        advantage_settings={"gamma": 0.9, "lam": 0.8},
        unwhitened=True,
        aggregation=_MEAN,
        settings=_clip(0.2, 0.2) | {"clip_ratio_c": 3.0},
        ours={"clip": 0.2, "dual_clip": 3.0, "gamma": 0.9, "gae_lambda": 0.8},
        note=f"{_GAE} {_GROUPS}",
    ),
    "grpo": VerlRow(
        loss=_VANILLA,
        advantage=_GRPO,
        aggregation=_MEAN,
        settings=_clip(0.2, 0.2) | _NO_DUAL,
        ours={"clip": 0.2},
        note=f"{_EPSILON} {_DUAL} {_GROUPS}",
    ),
    "dr_grpo": VerlRow(
        loss=_VANILLA,
        advantage=_GRPO,
        advantage_settings={"norm_adv_by_std_in_grpo": False},
        aggregation="seq-mean-token-sum-norm",
        settings=_clip(0.2, 0.2) | _NO_DUAL | {"global_batch_info": {"loss_scale_factor": 12}},
        ours={"clip": 0.2},
        note=f"loss_scale_factor is the batch's max_length. {_DUAL}",
    ),
    "dapo": VerlRow(
        loss=_VANILLA,
        advantage=_GRPO,
        aggregation="token-mean",
        settings=_clip(0.2, 0.28) | _NO_DUAL,
        ours={"clip_low": 0.2, "clip_high": 0.28},
        note=f"{_EPSILON} {_DUAL}",
    ),
    "reinforce_plus_plus": VerlRow(
        loss=_VANILLA,
        advantage="compute_reinforce_plus_plus_outcome_advantage",
        aggregation="token-mean",
        settings=_clip(0.2, 0.2) | _NO_DUAL,
        ours={"clip": 0.2},
        note=(
            f"Rewards of size 2^30 make verl's ε under the root vanish. {_DUAL} 65 tokens, whose "
            "n/(n − 1) is exact in float32, in which verl takes it."
        ),
    ),
    "reinforce_plus_plus_baseline": VerlRow(
        loss=_VANILLA,
        advantage="compute_reinforce_plus_plus_baseline_outcome_advantage",
        aggregation="token-mean",
        settings=_clip(0.2, 0.2) | _NO_DUAL,
        ours={"clip": 0.2},
        note=(
            f"Rewards of size 2^30 make verl's ε under the root vanish. {_DUAL} 65 tokens, whose "
            "n/(n − 1) is exact in float32, in which verl takes it."
        ),
    ),
    "cispo": VerlRow(
        loss="compute_policy_loss_cispo",
        advantage=_GRPO,
        aggregation="token-mean",
        settings=_clip(0.75, 2.5),
        ours={"ratio_min": 0.25, "ratio_max": 3.5},
        note=f"verl's bounds are 1 − clip_ratio_low and 1 + clip_ratio_high. {_EPSILON}",
    ),
    "gspo": VerlRow(
        loss="compute_policy_loss_gspo",
        advantage=_GRPO,
        aggregation=_MEAN,
        settings=_clip(3e-4, 4e-4),
        ours={"clip_low": 3e-4, "clip_high": 4e-4},
        note=f"{_EPSILON} {_GROUPS}",
        spread=1e-3,
    ),
    "gspo_token": VerlRow(
        loss="compute_policy_loss_gspo",
        advantage=_GRPO,
        aggregation=_MEAN,
        settings=_clip(3e-4, 4e-4),
        ours={"clip_low": 3e-4, "clip_high": 4e-4},
        note=f"verl writes GSPO in this form, with a stop-gradient. {_EPSILON} {_GROUPS}",
        spread=1e-3,
    ),
    "gmpo": VerlRow(
        loss="compute_policy_loss_geo_mean",
        advantage=_GRPO,
        aggregation=_MEAN,
        settings=_clip(0.4, 0.5),
        ours={"clip_low": 0.4, "clip_high": 0.5},
        note=f"{_EPSILON} {_GROUPS}",
    ),
    "sapo": VerlRow(
        loss="compute_policy_loss_sapo",
        advantage=_GRPO,
        aggregation=_MEAN,
        settings={"tau_pos": 1.0, "tau_neg": 1.05},
        ours={"tau_pos": 1.0, "tau_neg": 1.05},
        note=f"{_EPSILON} {_GROUPS}",
    ),
    "tis": VerlRow(
        loss="compute_policy_loss_bypass_mode",
        advantage=_GRPO,
        aggregation=_MEAN,
        truncation=2.0,
        ours={"cap": 2.0},
        note=(
            "rollout_correction of type 'reinforce' at token level: weights π_θ/π_rollout cut at "
            f"rollout_is_threshold. {_EPSILON} {_GROUPS}"
        ),
    ),
    "reinforce": VerlRow(
        loss="compute_policy_loss_reinforce",
        advantage=_REMAX,
        aggregation="seq-mean-token-sum",
        ours={},
        note=_REMAX_NOTE,
        signed=True,
    ),
    "offline_reinforce": VerlRow(
        loss="compute_policy_loss_reinforce",
        advantage=_REMAX,
        aggregation="seq-mean-token-sum",
        ours={},
        note=f"{_REMAX_NOTE} The loss does not ask who sampled: here demonstrations.",
        samples="offline",
        signed=True,
    ),
    "rloo": VerlRow(
        loss="compute_policy_loss_reinforce",
        advantage="compute_rloo_outcome_advantage",
        aggregation="seq-mean-token-sum",
        ours={},
        note="On-policy REINFORCE, as RLOO's paper has it; verl's default would be the PPO loss.",
    ),
}


def gradients(row: VerlRow | _SftRow, estimator: Estimator, seed: int) -> Gradients:
    """The derivative of both sides' loss by log π_θ on one random batch."""
    batch, logp = _batch(row, seed)
    loss = _sft_loss(batch, logp) if isinstance(row, _SftRow) else _policy_loss(row, batch, logp)
    (theirs,) = torch.autograd.grad(loss, logp)
    (ours,) = torch.autograd.grad(estimator(batch, logp).loss, logp)
    return Gradients(ours, theirs)


LIBRARY = Library("verl", ROWS, gradients)


def _batch(row: VerlRow | _SftRow, seed: int) -> tuple[TrajectoryBatch, Tensor]:
    """Ragged rows with gaps, as tool calls leave them; one group's rewards are all equal."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(LENGTHS)
    shape = (rows, WIDTH)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    lengths = torch.tensor(LENGTHS)[torch.randperm(rows, generator=generator)]
    places = torch.rand(shape, generator=generator).argsort(1).argsort(1)
    reward = normal(rows) * SCALE
    reward[:GROUP] = SCALE
    logp = (-2 - 4 * torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    batch = TrajectoryBatch(
        mask=places < lengths[:, None],
        reward=reward.sign() if row.signed else reward,
        group=torch.arange(rows) // GROUP,
        offline=torch.full((rows,), row.samples == "offline"),
        old_logp=earlier_policy(logp, row.spread, generator),
        values=normal(*shape) * SCALE,
        max_length=MAX_LENGTH,
    )
    return batch, logp


def _policy_loss(row: VerlRow, batch: TrajectoryBatch, logp: Tensor) -> Tensor:
    core = import_module("verl.trainer.ppo.core_algos")
    old_logp = batch.old_logp if batch.old_logp is not None else logp.detach()
    loss, _ = getattr(core, row.loss)(
        # verl's REINFORCE names its first argument otherwise.
        old_logp,
        logp,
        advantages=_advantage(core, row, batch),
        response_mask=batch.mask,
        loss_agg_mode=row.aggregation,
        config=_actor_config(row),
    )
    return torch.as_tensor(loss)


def _actor_config(row: VerlRow) -> Any:
    config = import_module("verl.workers.config")
    correction = import_module("verl.trainer.config.algorithm").RolloutCorrectionConfig(
        rollout_is="token", rollout_is_threshold=row.truncation, loss_type="reinforce"
    )
    return config.ActorConfig(
        strategy="fsdp",
        rollout_n=GROUP,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=config.PolicyLossConfig(rollout_correction=correction),
        **row.settings,
    )


def _advantage(core: Any, row: VerlRow, batch: TrajectoryBatch) -> Tensor:
    """The advantage by verl, called with those of the fields and settings that it names."""
    function = getattr(core, row.advantage)
    known: dict[str, Any] = {
        "token_level_rewards": _token_rewards(batch),
        "response_mask": batch.mask.long(),
        "index": batch.group.numpy(),
        "values": batch.values,
        "reward_baselines": torch.zeros_like(batch.reward),
        "config": import_module("verl.trainer.config").AlgoConfig(gamma=1.0),
        **row.advantage_settings,
    }
    named = inspect.signature(function).parameters
    advantage, returns = function(**{name: known[name] for name in named if name in known})
    if row.unwhitened:
        advantage = returns - known["values"]
    return torch.where(batch.mask, advantage, 0.0)


def _token_rewards(batch: TrajectoryBatch) -> Tensor:
    """The reward at each row's last token, as verl's reward managers place it."""
    position = torch.arange(batch.mask.shape[1]).expand(batch.mask.shape)
    last = torch.where(batch.mask, position, -1).argmax(1, keepdim=True)
    return torch.where(batch.mask & (position == last), batch.reward[:, None], 0.0)


def _sft_loss(batch: TrajectoryBatch, logp: Tensor) -> Tensor:
    losses = import_module("verl.workers.utils.losses")
    data = import_module("verl.utils.tensordict_utils").get_tensordict(
        {"response_mask": batch.mask},
        {"pad_mode": "left_right", "dp_size": 1, "batch_num_tokens": int(batch.mask.sum())},
    )
    loss, _ = losses.sft_loss(None, {"log_probs": logp}, data)
    return torch.as_tensor(loss)
