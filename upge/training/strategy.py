"""How the policy lies over the processes: whole in each, or in shards (FSDP2, DeepSpeed ZeRO-2/3).

The loop is the same in all cases; what differs is here, one class a way. Sampling, evaluation and
checkpoints want the weights whole: where the policy is sharded each process keeps a whole copy,
which takes a model's memory and spares all else from knowing of shards.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.models.policy import Policy
from upge.training.config import Stage
from upge.training.precision import MIXED
from upge.training.vigil import main_first

OptimizerState = Mapping[str, Any]


#: What the loop has been made for; see :mod:`upge.training.precision`.
_PRECISIONS = ("no", "bf16", "fp16")


def open_accelerator(**options: Any) -> Any:
    """Accelerate's object, as the launcher configures it; processes wait long for each other.

    Args:
        options: further ones of ``accelerate.Accelerator``.

    Raises:
        UpgeError: the launcher asks for what the loop isn't made for.
    """
    accelerate = require("accelerate", "train")
    group: dict[str, Any] = {"timeout": timedelta(hours=12)}  # while the main one evaluates
    if _asked("DEEPSPEED"):
        require("deepspeed", "deepspeed")
        if not torch.cuda.is_available():
            group["backend"] = "gloo"  # Accelerate knows of no backend for DeepSpeed on a CPU
    patient = accelerate.InitProcessGroupKwargs(**group)
    launched_processes()
    _check_precision(options.get("mixed_precision"))
    try:
        accelerator = accelerate.Accelerator(kwargs_handlers=[patient], **options)
    except (ValueError, ImportError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UpgeError(
            f"processes can't be opened as the launcher says ({said}); see its configuration, and "
            "WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT and ACCELERATE_* in the environment"
        ) from error
    _check_launch(accelerator)
    _load_whole(accelerator)
    return accelerator


def _check_precision(asked: str | None) -> None:
    """Refuse another precision than the process's first, which Accelerate would go on with."""
    state = require("accelerate.state", "train")
    wanted = asked or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if state.is_initialized() and (held := state.AcceleratorState().mixed_precision) != wanted:
        raise UpgeError(
            f"precision: got {_called(wanted)}, but this process has computed in {_called(held)}, "
            "which Accelerate keeps; start a process for each"
        )


def _called(precision: str) -> str:
    """Accelerate's word for a precision as a configuration has it."""
    return next((own for own, theirs in MIXED.items() if theirs == precision), precision)


def launched_processes() -> int:
    """How many processes a launcher has started, 1 without one.

    Raises:
        UpgeError: ``WORLD_SIZE`` in the environment is no number of processes.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    if not given.isdecimal() or int(given) < 1:
        raise UpgeError(f"WORLD_SIZE: got {given!r}, wanted a number of processes; unset it")
    return int(given)


def _check_launch(accelerator: Any) -> None:
    """Refuse what would train something else, in one voice."""
    started, steps = launched_processes(), accelerator.gradient_accumulation_steps
    precision, fault = accelerator.mixed_precision, ""
    if accelerator.num_processes < started:
        fault = (
            f"{started} processes were launched, but Accelerate found no GPU and would have each "
            "train alone; for processes on CPUs set ACCELERATE_USE_CPU=true in the environment"
        )
    elif steps != 1:
        fault = (
            f"gradient_accumulation_steps: got {steps} from the launcher, wanted 1: the loop "
            "accumulates by itself, and each gradient would be divided once more"
        )
    elif precision not in _PRECISIONS:
        fault = (
            f"mixed_precision: got {precision!r} from the launcher, wanted "
            f"{', '.join(_PRECISIONS[:-1])} or {_PRECISIONS[-1]}"
        )
    if fault:
        with main_first(os.environ.get("RANK", "0") == "0"):
            raise UpgeError(fault)


def _asked(kind: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true"


def _load_whole(accelerator: Any) -> None:
    """Have transformers load all weights in every process, whatever the launcher says."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if _kind(accelerator) == "FSDP":
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
    if _kind(accelerator) == "DEEPSPEED":
        from transformers.integrations import deepspeed

        deepspeed.unset_hf_deepspeed_config()


def _kind(accelerator: Any) -> str:
    return str(accelerator.distributed_type.value)


@contextmanager
def unchanged(accelerator: Any) -> Iterator[None]:
    """Forget afterwards what is prepared within, and what Accelerate thereby fills in."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    config = getattr(accelerator.state.deepspeed_plugin, "deepspeed_config", {})
    before = copy.deepcopy(config)
    if plugin is not None:
        accelerator.state.fsdp_plugin = copy.copy(plugin)
    try:
        yield
    finally:
        accelerator.free_memory()
        config.clear()
        config.update(before)
        if plugin is not None:
            accelerator.state.fsdp_plugin = plugin


def open_strategy(accelerator: Any, model: Any) -> Strategy:
    """Spread a model over the processes as the launcher says.

    Args:
        accelerator: Accelerate's object.
        model: a transformers model with the same weights in every process.

    Raises:
        UpgeError: a way that the loop isn't made for.
    """
    kind = _kind(accelerator)
    if _asked("FSDP") and kind != "FSDP":
        raise UpgeError(
            f"FSDP was asked for, but Accelerate doesn't shard on {accelerator.device.type} and "
            "would go on without; launch with the configuration for plain data parallelism"
        )
    if kind not in _STRATEGIES:
        raise UpgeError(
            f"the training loop isn't made for {kind}; launch it with plain data parallelism, "
            "FSDP2 or DeepSpeed ZeRO-2 or 3 (experiments/launch has configurations)"
        )
    strategy: Strategy = _STRATEGIES[kind](accelerator, model)
    return strategy


class Strategy:
    """The policy is whole in each process: a single one, or data parallelism (DDP).

    Args:
        accelerator: Accelerate's object.
        model: the model.

    Attributes:
        model: the whole model, to be sampled from; current after :meth:`synchronize`.
        whole: the policy over it.
        policy: the policy to be trained, as prepared by Accelerate.
        optimizer: AdamW over its parameters, as prepared by Accelerate.
        has_copy: whether the whole model is a copy of the trained one.
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
        """Refuse settings that would train something else."""

    def _to_train(self) -> Policy:
        return self.whole

    def set_temperature(self, temperature: float) -> None:
        """Of the policy, trained and whole."""
        self.whole.temperature = temperature
        self.accelerator.unwrap_model(self.policy).temperature = temperature

    # ------------------------------------------------------------------------------------ gradients

    def norm(self) -> float:
        """‖gradient‖ over all processes' shards, after unscaling; once before each step."""
        self.accelerator.unscale_gradients(self.optimizer)
        grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
        return float(_full(torch.nn.utils.get_total_norm(grads))) if grads else 0.0

    @property
    def overflows(self) -> bool:
        """Whether gradients are scaled (fp16), so that too large a scale makes them infinite."""
        return self.accelerator.scaler is not None

    def step(self, lr: float, norm: float, max_norm: float | None) -> None:
        """Step along the gradient, clipped, and forget it.

        Args:
            lr: the learning rate.
            norm: of the gradient.
            max_norm: scale the gradient down to this norm; None for no clip.
        """
        for parameter in self.policy.parameters():
            if parameter.grad is None:  # no row bore weight: the gradient is 0
                parameter.grad = torch.zeros_like(parameter)
            if max_norm is not None and norm > max_norm:
                parameter.grad *= max_norm / norm
        self._set(lr=lr)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def discard(self) -> None:
        """Forget the gradient without a step."""
        self.optimizer.zero_grad()
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # lower after an overflow

    def _set(self, **settings: Any) -> None:
        for group in self.optimizer.param_groups:
            group.update(settings)

    # --------------------------------------------------------------------------------------- states

    def synchronize(self) -> None:
        """Give the whole model the policy's weights; in all processes together."""

    def start_stage(self, stage: Stage, state: OptimizerState) -> None:
        """Set the optimizer up for a stage, as new if no state is given; in all processes."""
        self._set(lr=stage.lr, betas=stage.betas, weight_decay=stage.weight_decay)
        self._forget_moments()
        if state:
            self._load_moments(state)
            if self.accelerator.scaler is not None and "scaler" in state:
                self.accelerator.scaler.load_state_dict(state["scaler"])

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state as one plain process has it; called in all processes."""
        state = self._moments()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return state

    def _forget_moments(self) -> None:
        self.optimizer.state.clear()

    def _load_moments(self, state: OptimizerState) -> None:
        self.optimizer.load_state_dict(_only_moments(state))

    def _moments(self) -> dict[str, Any]:
        return dict(self.optimizer.state_dict())


class FullyShard(Strategy):
    """FSDP2: parameters, gradients and moments are DTensors, sharded over the processes."""

    has_copy = True

    def _check(self, accelerator: Any) -> None:
        if not accelerator.is_fsdp2:
            raise UpgeError("fsdp_version: got 1, which the loop isn't made for; set it to 2")

    def _to_train(self) -> Policy:
        self._keep_float32()
        policy: Any = Policy(copy.deepcopy(self.model))
        # The layers that become units of their own, where the launcher doesn't name them.
        present = {type(module).__name__ for module in policy.modules()}
        policy._no_split_modules = present & set(self.model._no_split_modules or ())
        trained: Policy = policy
        return trained

    def _keep_float32(self) -> None:
        """Round products alone to bfloat16: Accelerate has log π and sums of gradients so too."""
        plugin = self.accelerator.state.fsdp_plugin
        if mixed := plugin.mixed_precision_policy:
            plugin.mixed_precision_policy = replace(
                mixed, reduce_dtype=torch.float32, output_dtype=None
            )

    def synchronize(self) -> None:
        with torch.no_grad():
            for own, shards in zip(self.whole.parameters(), self.policy.parameters(), strict=True):
                own.copy_(_full(shards))

    def _load_moments(self, state: OptimizerState) -> None:
        state = copy.deepcopy(_only_moments(state))
        for index, shards in enumerate(self.policy.parameters()):
            moments = state["state"].get(index, {})
            for name in moments.keys() & {"exp_avg", "exp_avg_sq"}:
                moments[name] = _sharded(moments[name], shards)
        self.optimizer.load_state_dict(state)

    def _moments(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        whole = {
            index: {name: _full(value).cpu() for name, value in moments.items()}
            for index, moments in state["state"].items()
        }
        return {**state, "state": whole}


def _full(x: Tensor) -> Tensor:
    """A DTensor as a whole, a tensor as it is."""
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole


def _sharded(whole: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)


def _only_moments(state: OptimizerState) -> dict[str, Any]:
    return {"state": dict(state["state"]), "param_groups": list(state["param_groups"])}


def _zero(accelerator: Any, model: Any) -> Strategy:
    from upge.training.zero import Zero

    return Zero(accelerator, model)


_STRATEGIES: Mapping[str, Any] = {
    "NO": Strategy,
    "MULTI_CPU": Strategy,
    "MULTI_GPU": Strategy,
    "FSDP": FullyShard,
    "DEEPSPEED": _zero,
}
