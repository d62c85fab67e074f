"""DeepSpeed's ZeRO-2 and ZeRO-3: the engine steps when the loop says so, not with a backward pass.

Weights, gradients and moments are read and written through ``deepspeed.utils``'s ``safe_*``
functions, which know where each stage keeps them, offloaded or not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.models.policy import Policy
from upge.training.strategy import Moments, Strategy

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(Strategy):
    """Gradients and moments are sharded, under ZeRO-3 the parameters too.

    Gradients are clipped by the engine, which scales by max_norm / (norm + 1e-6).
    """

    has_copy = True

    def __init__(self, accelerator: Any, model: Any) -> None:
        super().__init__(accelerator, model)
        accelerator.deepspeed_engine_wrapped = _Backward(self.policy)
        self._zero = self.policy.optimizer
        self._api = require("deepspeed", "deepspeed").utils
        # The engine rounded its float32 weights to bfloat16; a resumed run needs the exact ones.
        for own, shards in zip(model.parameters(), self.policy.parameters(), strict=True):
            self._write("fp32_param", shards, own.detach())

    def _check(self, accelerator: Any) -> None:
        plugin = accelerator.state.deepspeed_plugin
        stage = plugin.deepspeed_config["zero_optimization"]["stage"]
        if stage not in (2, 3):
            raise UpgeError(
                f"zero_stage: got {stage}, which the loop doesn't support; wanted 2 or 3"
            )
        # The loop makes micro-batches of varying size, and accumulates gradients itself.
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        plugin.deepspeed_config["zero_force_ds_cpu_optimizer"] = False

    def _to_train(self) -> Policy:
        return Policy(copy.deepcopy(self.model))

    @property
    def overflows(self) -> bool:
        """As :attr:`Strategy.overflows`."""
        return bool(self.policy.fp16_enabled())

    # ------------------------------------------------------------------------------------ gradients

    def norm(self) -> float:
        squares = [
            self._api.safe_get_full_grad(p).double().square().sum()
            for p in self.policy.parameters()
        ]
        return float(torch.stack(squares).sum().sqrt() / self._zero.loss_scale)

    def step(self, lr: float, norm: float, max_norm: float | None) -> None:
        self._set(lr=lr)
        self._zero.clip_grad = max_norm or 0.0
        self.policy.step()

    def discard(self) -> None:
        for parameter in self.policy.parameters():
            shape = getattr(parameter, "ds_shape", parameter.shape)
            self._write("grad", parameter, torch.zeros(shape, device=self.accelerator.device))
        self._zero.micro_step_id = -1  # the next backward pass is the first of its step
        self._zero.zero_grad()

    # --------------------------------------------------------------------------------------- states

    def synchronize(self) -> None:
        with torch.no_grad():
            for own, shards in zip(self.whole.parameters(), self.policy.parameters(), strict=True):
                own.copy_(self._api.safe_get_full_fp32_param(shards))

    def _forget_moments(self) -> None:
        self._zero.optimizer.state.clear()
        self._zero._hp_optimizer_states_linked = False

    def _load_moments(self, moments: Moments) -> None:
        for flat in self._flat_parameters():
            zeros = {name: torch.zeros_like(flat) for name in _MOMENTS}
            self._zero.optimizer.state[flat] = {"step": moments[0]["step"].clone(), **zeros}
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._lazy_init_hp_params_optimizer_state()
        for index, parameter in enumerate(self.policy.parameters()):
            for name in _MOMENTS:
                value = moments[index][name].to(self.accelerator.device)
                self._write("optimizer_state", parameter, value, name)

    def _moments(self) -> Moments:
        if not self._zero.optimizer.state:  # no step has been taken
            return {}
        step = next(iter(self._zero.optimizer.state.values()))["step"]
        return {
            index: {"step": step.clone().cpu()}
            | {
                name: self._api.safe_get_full_optimizer_state(parameter, name).cpu()
                for name in _MOMENTS
            }
            for index, parameter in enumerate(self.policy.parameters())
        }

    def _write(self, what: str, parameter: Any, whole: Tensor, *options: str) -> None:
        """Set a parameter's master weights, gradient or moments; called in all processes."""
        if not hasattr(parameter, "ds_tensor"):
            getattr(self._api, f"safe_set_full_{what}")(parameter, whole, *options)
            return
        # ZeRO-3's shards are of equal size, the last one padded, but DeepSpeed splits values as if
        # every size were divisible.
        size, process = parameter.ds_tensor.numel(), self.accelerator.process_index
        padding = size * self.accelerator.num_processes - whole.numel()
        own = torch.nn.functional.pad(whole.flatten(), (0, padding))[size * process :][:size]
        getattr(self._api, f"safe_set_local_{what}")(parameter, own, *options)

    def _flat_parameters(self) -> Iterator[Tensor]:
        """The process's shard of the parameters, flat as in the inner optimizer."""
        names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
        yield from next(getattr(self._zero, name) for name in names if hasattr(self._zero, name))


class _Backward:
    """Stands in for Accelerate's wrapper of the engine, which would step with the last pass."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def backward(self, loss: Tensor, sync_gradients: bool = True, **options: Any) -> None:
        """Add to the gradients, and reduce them over processes if ``sync_gradients``."""
        self.engine.set_gradient_accumulation_boundary(sync_gradients)
        self.engine.backward(loss, **options)
