"""Checkpoints that survive a kill at any moment: written aside, verified, then renamed.

A checkpoint is a folder ``step-00000050`` with the policy's weights (safetensors), the optimizer's
state and ``state.json``, which holds the digests of both files and its own: one that is cut short
or altered is recognised and passed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from upge.common.files import sync
from upge.training.records import write_tensors

_log = logging.getLogger(__name__)

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
    """Write a checkpoint, then delete all but the ``keep`` newest.

    Raises:
        OSError: it can't be written, as on a full disk; those before it are still there.
    """
    final = folder / f"step-{checkpoint.step:08}"
    partial = final.with_name(final.name + _PARTIAL)
    for stale in (final, *folder.glob(f"*{_PARTIAL}")):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, checkpoint)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # so that a full disk has room for the rest
        raise
    partial.rename(final)
    sync(folder)
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    (folder / _WEIGHTS).write_bytes(save(_own_storage(checkpoint.weights)))
    write_tensors(folder / _OPTIMIZER, checkpoint.optimizer)
    state = {
        "step": checkpoint.step,
        "progress": dict(checkpoint.progress),
        "digests": {name: _digest(folder / name) for name in (_WEIGHTS, _OPTIMIZER)},
    }
    text = json.dumps(state | {"own": _digest_of(state)})
    (folder / _STATE).write_text(text, encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        sync(path)


def load_checkpoint(folder: Path, recorded: int) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none. Damaged ones are logged.

    Args:
        folder: of the checkpoints.
        recorded: the last step whose metrics are there: a later checkpoint can't be gone on from.
    """
    for path in _newest_first(folder):
        try:
            checkpoint = _read(path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as e:
            _log.warning("%s: is damaged (%s), so the run goes on from an earlier step", path, e)
            continue
        if checkpoint.step <= recorded:
            return checkpoint
        _log.warning("%s: the metrics end at step %s, so an earlier one is used", path, recorded)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*[0-9]"), reverse=True)


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if state.pop("own") != _digest_of(state):
        raise ValueError(f"{_STATE} differs from what was written")
    for name in (_WEIGHTS, _OPTIMIZER):
        if _digest(path / name) != state["digests"][name]:
            raise ValueError(f"{name} differs from what was written")
    return Checkpoint(
        step=state["step"],
        weights=load_file(path / _WEIGHTS),
        # Not where it was saved from: the next machine may have no GPU.
        optimizer=torch.load(path / _OPTIMIZER, "cpu", weights_only=True),
        progress=state["progress"],
    )


def _own_storage(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights share storage, which safetensors refuses; copies don't."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_of(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
