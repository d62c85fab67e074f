"""Checkpoints that survive a kill at any moment: written aside, verified, then renamed.

A checkpoint is a folder ``step-00000050`` of

policy.safetensors     the policy's weights
optimizer.safetensors  the optimizer's state; empty at the start of a stage
metrics.jsonl          the metrics of all steps so far
state.json             the loop's counters, the digests of the other files and its own

so that one that is cut short or altered is recognized and passed over, and nothing but the
checkpoint is needed to resume from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from upge.common.config import Config
from upge.common.errors import UpgeError
from upge.common.files import sync
from upge.training.records import Line, metrics_text, parse_metrics

_log = logging.getLogger(__name__)

_STATE, _WEIGHTS, _OPTIMIZER = "state.json", "policy.safetensors", "optimizer.safetensors"
_METRICS = "metrics.jsonl"
_FILES = (_WEIGHTS, _OPTIMIZER, _METRICS)
_PARTIAL = ".partial"

#: What the names of a gradient scaler's state begin with, among those of an optimizer's.
SCALER = "scaler."

Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """The loop's counters.

    Attributes:
        step: steps done, over all stages.
        updates: optimizer updates applied in the current stage.
        skipped_in_a_row: updates skipped since the last one that was applied.
    """

    step: Count = 0
    updates: Count = 0
    skipped_in_a_row: Count = 0


@dataclass(frozen=True)
class Checkpoint:
    """What a run resumes from.

    Attributes:
        progress: the loop's counters.
        weights: the policy's parameters by name.
        optimizer: the optimizer's state by name; empty at the start of a stage.
        metrics: those of all steps so far.
    """

    progress: Progress
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    metrics: Sequence[Line]


class _State(Config):
    """What ``state.json`` holds."""

    progress: Progress
    digests: dict[str, str]
    own: str = ""

    def sealed(self) -> _State:
        """The same with its own digest."""
        content = json.dumps(self.model_dump(mode="json", exclude={"own"}), sort_keys=True)
        return self.model_copy(update={"own": hashlib.sha256(content.encode()).hexdigest()})


class Checkpoints:
    """A run's checkpoints, of which the newest are kept.

    Args:
        folder: where they are; made with the first one.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self._whole: list[int] = []  # steps of those that this process has read or written

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then delete all but the newest that are whole.

        Raises:
            OSError: it can't be written, as on a full disk; those before it are still there.
            SafetensorError: likewise.
        """
        final = self.path(checkpoint.progress.step)
        partial = final.with_name(final.name + _PARTIAL)
        for stale in (final, *self.folder.glob(f"*{_PARTIAL}")):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _write(partial, checkpoint)
        except (OSError, SafetensorError):
            shutil.rmtree(partial, ignore_errors=True)  # so that a full disk has room for the rest
            raise
        partial.rename(final)
        sync(self.folder)
        self._whole = [*self._whole, checkpoint.progress.step][-self.keep :]
        for step, path in self._found().items():
            if step not in self._whole:
                shutil.rmtree(path)

    def load(self, policy: nn.Module, most: int = sys.maxsize) -> Checkpoint | None:
        """The newest checkpoint that is whole and of this policy; None if there is none.

        Those that are damaged are logged.

        Args:
            policy: what it is for.
            most: steps that it may be of.

        Raises:
            OSError: the folder can't be listed.
            UpgeError: a checkpoint can't be read, which may pass.
        """
        for step, path in sorted(self._found().items(), reverse=True):
            if step > most:
                continue
            try:
                checkpoint = _read(path, step)
                _check_fit(checkpoint, policy)
            except (ValueError, SafetensorError, FileNotFoundError, NotADirectoryError) as error:
                _log.warning("%s: is damaged (%s), and is passed over", path, error)
            except OSError as error:
                raise UpgeError(
                    f"{path}: can't be read ({error.strerror}); mend that, or delete it: the run "
                    "then resumes from an earlier checkpoint, if there is one"
                ) from error
            else:
                self._whole = [step]
                return checkpoint
        return None

    def newest(self, most: int) -> int:
        """The last step, up to ``most``, of which there is a checkpoint, whole or not; else 0."""
        with suppress(OSError):
            return max((step for step in self._found() if step <= most), default=0)
        return 0

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:08}"

    def _found(self) -> dict[int, Path]:
        """Folders that look like checkpoints, by step."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return {}
        matches = (re.fullmatch(r"step-(\d{8,12})", name, re.ASCII) for name in names)
        return {int(match[1]): self.folder / match[0] for match in matches if match}


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    save_file(_apart(checkpoint.weights), folder / _WEIGHTS)
    save_file(_apart(checkpoint.optimizer), folder / _OPTIMIZER)
    (folder / _METRICS).write_text(metrics_text(checkpoint.metrics), encoding="utf-8")
    digests = {name: _digest(folder / name) for name in _FILES}
    state = _State(progress=checkpoint.progress, digests=digests).sealed()
    (folder / _STATE).write_text(state.model_dump_json(), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        sync(path)


def _read(path: Path, step: int) -> Checkpoint:
    state = _State.model_validate_json((path / _STATE).read_bytes())
    if state != state.sealed():
        raise ValueError(f"{_STATE} differs from what was written")
    for name in _FILES:
        if _digest(path / name) != state.digests.get(name):
            raise ValueError(f"{name} differs from what was written")
    metrics = parse_metrics((path / _METRICS).read_text(encoding="utf-8"))
    if not state.progress.step == step == len(metrics):
        raise ValueError("its files are of different steps")
    return Checkpoint(
        progress=state.progress,
        weights=load_file(path / _WEIGHTS),
        optimizer=load_file(path / _OPTIMIZER),
        metrics=metrics,
    )


def _check_fit(checkpoint: Checkpoint, policy: nn.Module) -> None:
    """Refuse what the policy and its optimizer can't be given.

    Raises:
        ValueError: says why.
    """
    expected = {name: (x.shape, x.dtype) for name, x in policy.state_dict().items()}
    if {name: (x.shape, x.dtype) for name, x in checkpoint.weights.items()} != expected:
        raise ValueError("its weights are another model's")
    moments = {name: x for name, x in checkpoint.optimizer.items() if not name.startswith(SCALER)}
    shapes = {
        f"{index}.{name}": shape
        for index, parameter in enumerate(policy.parameters())
        for name, shape in (
            ("step", ()),
            ("exp_avg", parameter.shape),
            ("exp_avg_sq", parameter.shape),
        )
    }
    if moments and {name: x.shape for name, x in moments.items()} != shapes:
        raise ValueError("its optimizer's state is another model's")
    updates = {x.item() for name, x in moments.items() if name.endswith(".step")}
    if moments and updates != {checkpoint.progress.updates}:
        raise ValueError("its optimizer's state is of another step")


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no storage, which safetensors refuses: tied weights are copied."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
