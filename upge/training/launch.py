"""The processes that a launcher starts, and the strategy by which they share the policy."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.training.precision import MIXED
from upge.training.processes import TIMEOUT, main_first
from upge.training.strategy import FullyShard, Strategy

#: Supported values of Accelerate's ``mixed_precision``; see :mod:`upge.training.precision`.
_PRECISIONS = ("no", "bf16", "fp16")


def open_accelerator(**options: Any) -> Any:
    """Accelerate's object, as the launcher configures it.

    Args:
        options: further ones of ``accelerate.Accelerator``.

    Raises:
        UpgeError: the launcher asks for something that the loop doesn't support.
    """
    accelerate = require("accelerate", "train")
    group: dict[str, Any] = {"timeout": TIMEOUT}
    if _asked("DEEPSPEED"):
        require("deepspeed", "deepspeed")
        if not torch.cuda.is_available():
            group["backend"] = "gloo"  # Accelerate knows of no backend for DeepSpeed on a CPU
    processes = accelerate.InitProcessGroupKwargs(**group)
    launched_processes()
    _check_precision(options.get("mixed_precision"))
    try:
        accelerator = accelerate.Accelerator(kwargs_handlers=[processes], **options)
    except (ValueError, ImportError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UpgeError(
            f"the launcher's processes can't be connected ({said}); check its configuration, and "
            "WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT and ACCELERATE_* in the environment"
        ) from error
    _check_launch(accelerator)
    _load_whole(accelerator)
    return accelerator


def _check_precision(asked: str | None) -> None:
    """Refuse to change the precision within a process, where Accelerate would keep the first."""
    state = require("accelerate.state", "train")
    wanted = asked or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if state.is_initialized() and (held := state.AcceleratorState().mixed_precision) != wanted:
        raise UpgeError(
            f"precision: got {_called(wanted)}, but Accelerate keeps this process's first one, "
            f"{_called(held)}; start a process for each"
        )


def _called(precision: str) -> str:
    """A configuration's name of a precision, from Accelerate's."""
    return next((own for own, theirs in MIXED.items() if theirs == precision), precision)


def launched_processes() -> int:
    """The number of processes that a launcher has started; 1 without a launcher.

    Raises:
        UpgeError: ``WORLD_SIZE`` in the environment isn't a number of processes.
    """
    given = os.environ.get("WORLD_SIZE", "1")
    if not given.isdecimal() or int(given) < 1:
        raise UpgeError(f"WORLD_SIZE: got {given!r}, wanted a number of processes; unset it")
    return int(given)


def _check_launch(accelerator: Any) -> None:
    """Reject unsupported launches; one process reports."""
    started, steps = launched_processes(), accelerator.gradient_accumulation_steps
    precision, fault = accelerator.mixed_precision, ""
    if accelerator.num_processes < started:
        fault = (
            f"{started} processes were launched, but Accelerate found no GPU and would train in "
            "each alone; to train on CPUs, set ACCELERATE_USE_CPU=true in the environment"
        )
    elif steps != 1:
        fault = (
            f"gradient_accumulation_steps: got {steps} from the launcher, wanted 1: the loop "
            "accumulates gradients itself, and they would be divided twice"
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
    """Make transformers load all weights in every process, whatever the launcher says."""
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
    """Undo afterwards what Accelerate prepares within, and what it fills in meanwhile."""
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
    """Shard or replicate a model over the processes, as the launcher says.

    Args:
        accelerator: Accelerate's object.
        model: a transformers model with the same weights in every process.

    Raises:
        UpgeError: the loop doesn't support it.
    """
    kind = _kind(accelerator)
    if _asked("FSDP") and kind != "FSDP":
        raise UpgeError(
            f"FSDP was asked for, but Accelerate doesn't shard on {accelerator.device.type} and "
            "would train without it; launch with the configuration for plain data parallelism"
        )
    if kind not in _STRATEGIES:
        raise UpgeError(
            f"the training loop doesn't support {kind}; launch it with plain data parallelism, "
            "FSDP2 or DeepSpeed ZeRO-2 or 3 (experiments/launch has configurations)"
        )
    strategy: Strategy = _STRATEGIES[kind](accelerator, model)
    return strategy


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
