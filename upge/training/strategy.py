"""How processes share the policy: replicated in each, or sharded (FSDP2, DeepSpeed ZeRO-2 and 3).

The loop is the same in all cases; each class here is one of them. Sampling, evaluation and
checkpoints need unsharded weights: where the policy is sharded, each process also keeps an
unsharded copy. It costs a model's memory, and nothing else needs to know about shards.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.models.policy import Policy
from upge.training.checkpoint import SCALER
from upge.training.config import Stage

#: AdamW's state of each parameter, by its index: ``step``, ``exp_avg`` and ``exp_avg_sq``.
Moments = Mapping[int, Mapping[str, Tensor]]


class Strategy:
    """The policy is unsharded in each process: a single process, or data parallelism (DDP).

    Args:
        accelerator: Accelerate's object.
        model: the model.

    Attributes:
        model: the unsharded model, to be sampled from; current after :meth:`synchronize`.
        whole: the policy over it.
        policy: the policy to be trained, as prepared by Accelerate.
        optimizer: AdamW over its parameters, as prepared by Accelerate.
        has_copy: whether ``model`` is a copy of the trained one.
    """

    has_copy = False

    def __init__(self, accelerator: Any, model: Any) -> None:
        self._check(accelerator)
        self.accelerator, self.model, self.whole = accelerator, model, Policy(model)
        trained = self._to_train()
        self.policy, self.optimizer = accelerator.prepare(
            trained, torch.optim.AdamW(trained.parameters())
        )
        self.policy.eval()  # dropout would be randomness that no seed names
        model.to(accelerator.device)

    def _check(self, accelerator: Any) -> None:
        """Refuse settings that the loop doesn't support."""

    def _to_train(self) -> Policy:
        return self.whole

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature of both policies."""
        self.whole.temperature = temperature
        self.accelerator.unwrap_model(self.policy).temperature = temperature

    # ------------------------------------------------------------------------------------ gradients

    def norm(self) -> float:
        """‖gradient‖ over all shards, after unscaling; called once before each step."""
        self.accelerator.unscale_gradients(self.optimizer)
        grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
        return float(_full(torch.nn.utils.get_total_norm(grads))) if grads else 0.0

    @property
    def overflows(self) -> bool:
        """Whether gradients are scaled (fp16), so that they may overflow at too large a scale."""
        return self.accelerator.scaler is not None

    def step(self, lr: float, norm: float, max_norm: float | None) -> None:
        """Step along the clipped gradient, and clear it.

        Args:
            lr: the learning rate.
            norm: the gradient's norm.
            max_norm: the norm that the gradient is clipped to; None for no clip.
        """
        for parameter in self.policy.parameters():
            if parameter.grad is None:  # all rows had weight 0
                parameter.grad = torch.zeros_like(parameter)
            if max_norm is not None and norm > max_norm:
                parameter.grad *= max_norm / norm
        self._set(lr=lr)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def discard(self) -> None:
        """Clear the gradient without a step."""
        self.optimizer.zero_grad()
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # lower after an overflow

    def _set(self, **settings: Any) -> None:
        for group in self.optimizer.param_groups:
            group.update(settings)

    # --------------------------------------------------------------------------------------- states

    def synchronize(self) -> None:
        """Copy the policy's weights to the unsharded model; called in all processes."""

    def start_stage(self, stage: Stage, state: Mapping[str, Tensor]) -> None:
        """Set up the optimizer for a stage, with its state if there is one; in all processes."""
        self._set(lr=stage.lr, betas=stage.betas, weight_decay=stage.weight_decay)
        self._forget_moments()
        moments: dict[int, dict[str, Tensor]] = {}
        scaler = {}
        for name, value in state.items():
            owner, _, key = name.partition(".")
            if name.startswith(SCALER):
                scaler[key] = value.item()
            else:
                moments.setdefault(int(owner), {})[key] = value
        if moments:
            self._load_moments(moments)
        if scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's unsharded state by name; called in all processes."""
        state = {
            f"{index}.{key}": value
            for index, moments in self._moments().items()
            for key, value in moments.items()
        }
        if self.accelerator.scaler is not None:
            for key, value in self.accelerator.scaler.state_dict().items():
                dtype = torch.float64 if isinstance(value, float) else torch.int64
                state[SCALER + key] = torch.tensor(value, dtype=dtype)
        return state

    def _forget_moments(self) -> None:
        self.optimizer.state.clear()

    def _load_moments(self, moments: Moments) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _moments(self) -> Moments:
        moments: Moments = self.optimizer.state_dict()["state"]
        return moments


class FullyShard(Strategy):
    """FSDP2: parameters, gradients and moments are DTensors, sharded over the processes."""

    has_copy = True

    def _check(self, accelerator: Any) -> None:
        if not accelerator.is_fsdp2:
            raise UpgeError("fsdp_version: got 1, which the loop doesn't support; set it to 2")

    def _to_train(self) -> Policy:
        self._keep_float32()
        policy: Any = Policy(copy.deepcopy(self.model))
        # The layers that FSDP wraps, where the launcher doesn't name them.
        present = {type(module).__name__ for module in policy.modules()}
        policy._no_split_modules = present & set(self.model._no_split_modules or ())
        trained: Policy = policy
        return trained

    def _keep_float32(self) -> None:
        """Keep log π and gradient sums float32: Accelerate would have them in bfloat16 too."""
        plugin = self.accelerator.state.fsdp_plugin
        if mixed := plugin.mixed_precision_policy:
            plugin.mixed_precision_policy = replace(
                mixed, reduce_dtype=torch.float32, output_dtype=None
            )

    def synchronize(self) -> None:
        with torch.no_grad():
            for own, shards in zip(self.whole.parameters(), self.policy.parameters(), strict=True):
                own.copy_(_full(shards))

    def _load_moments(self, moments: Moments) -> None:
        sharded = {
            index: {
                key: value if key == "step" else _sharded(value, shards)
                for key, value in moments[index].items()
            }
            for index, shards in enumerate(self.policy.parameters())
        }
        super()._load_moments(sharded)

    def _moments(self) -> Moments:
        return {
            index: {key: _full(value).cpu() for key, value in moments.items()}
            for index, moments in super()._moments().items()
        }


def _full(x: Tensor) -> Tensor:
    """A DTensor unsharded, a tensor as it is."""
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole


def _sharded(whole: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
