"""Whether the GPU of this machine can hold a run, before anything is loaded onto it."""

from __future__ import annotations

import torch

from upge.common.errors import UpgeError
from upge.planning.cluster import Cluster
from upge.planning.plan import Assumptions, run_memory
from upge.training.config import RunConfig
from upge.training.launch import launched_processes

#: Of the cluster, memory alone is asked for: its type of GPU says nothing here.
_ONE = Cluster(gpus=1, sharding="none", checkpointing=False, mixed=False)

_GIGA = 1e9


def check_gpu_memory(config: RunConfig, free: int | None = None) -> None:
    """Refuse a run that needs more memory than is free on the GPU.

    Not looked at: machines without a GPU, several processes (which may share the load), an engine
    beside the policy, and models whose shape is not known here.

    Args:
        config: the run.
        free: bytes; those of this machine's GPU if not given.

    Raises:
        UpgeError: it needs more, by the formulas of ``upge plan``.
    """
    alone = launched_processes() == 1 and config.backend == "transformers"
    if free is None and alone and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
    needed = memory_needed(config) if free is not None and alone and config.stages else None
    if free is not None and needed is not None and needed > free:
        raise UpgeError(
            f"{config.name}: needs about {needed / _GIGA:.1f} GB of GPU memory, of which "
            f"{free / _GIGA:.1f} are free; lower tokens_per_microbatch (now "
            f"{config.tokens_per_microbatch}), take a smaller model or "
            "precision: bfloat16, or free the GPU (see upge plan)"
        )


def memory_needed(config: RunConfig) -> int | None:
    """Bytes that a run takes on one GPU at its fullest; None for a model of unknown shape."""
    try:
        return run_memory(config, _ONE, Assumptions()).needed
    except UpgeError:
        return None
