"""Points of one training run: the policy after chosen numbers of steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upge.models.pretrained import load_pretrained
from upge.training.config import RunConfig
from upge.training.loop import Trainer
from upge.training.records import RunFolder, write_tensors

#: A model's parameters by name.
State = dict[str, Tensor]


def points(config: RunConfig, steps: Iterable[int], runs: Path) -> dict[int, State]:
    """The parameters after each of ``steps`` (0 is the base), from a run that is kept in ``runs``.

    The run is made once, or gone on with if it was cut short; it is the same wherever it is made.
    """
    wanted = sorted(set(steps))
    label = hashlib.sha256(f"{config.key} {wanted}".encode()).hexdigest()[:12]
    folder = RunFolder(runs / f"{config.name}-{label}")
    files = {step: folder.path / "points" / f"step-{step:05}.pt" for step in wanted if step}
    if folder.result is None and files:
        _train(config, folder, files)
    states = {step: torch.load(file, weights_only=True) for step, file in files.items()}
    return {0: _copy(load_pretrained(config.model)[0])} | states


def _train(config: RunConfig, folder: RunFolder, files: dict[int, Path]) -> None:
    trainer = Trainer(config, folder)

    def keep(metrics: dict[str, Any]) -> None:
        """Called before the step's checkpoint, so that a resumed run lacks none."""
        if (step := metrics["step"]) in files:
            files[step].parent.mkdir(exist_ok=True)
            write_tensors(files[step], _copy(trainer.model))

    trainer.observe = keep
    trainer.run()


def _copy(model: Any) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
