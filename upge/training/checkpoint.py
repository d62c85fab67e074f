"""Checkpoints that survive a kill at any moment: written aside, verified, then renamed.

A checkpoint is a folder ``step-00000050`` with the policy's weights (safetensors), the optimizer's
state and ``state.json``, which holds the digest of both files: one that is cut short or altered is
recognised and passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_STATE, _WEIGHTS, _OPTIMIZER = "state.json", "policy.safetensors", "optimizer.pt"
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Args:
        step: steps done, over all stages.
        weights: the policy's parameters by name.
        optimizer: the optimizer's ``state_dict``; empty at the start of a stage.
        progress: the loop's own counters.
    """

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    progress: Mapping[str, int]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> None:
    """Write a checkpoint, then delete all but the ``keep`` newest."""
    final = folder / f"step-{checkpoint.step:08}"
    partial = final.with_name(final.name + _PARTIAL)
    for stale in (final, partial):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_own_storage(checkpoint.weights), partial / _WEIGHTS)
    torch.save(dict(checkpoint.optimizer), partial / _OPTIMIZER)
    state = {
        "step": checkpoint.step,
        "progress": dict(checkpoint.progress),
        "digests": {name: _digest(partial / name) for name in (_WEIGHTS, _OPTIMIZER)},
    }
    (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
    for path in partial.iterdir():
        _sync(path)
    partial.rename(final)
    _sync(folder)
    for old in sorted(folder.glob("step-*[0-9]"))[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none."""
    return next(_whole(folder), None)


def _whole(folder: Path) -> Iterator[Checkpoint]:
    for path in sorted(folder.glob("step-*[0-9]"), reverse=True):
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
            for name, digest in state["digests"].items():
                if _digest(path / name) != digest:
                    raise ValueError(f"{name} differs from what was written")
            yield Checkpoint(
                step=state["step"],
                weights=load_file(path / _WEIGHTS),
                optimizer=torch.load(path / _OPTIMIZER, weights_only=True),
                progress=state["progress"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue


def _own_storage(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights share storage, which safetensors refuses; copies don't."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
