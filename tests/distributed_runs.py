"""Trains runs, in one process or as one of several: ``python distributed_runs.py CONFIGS OUT``.

In float64, so that what remains of a difference is no rounding; each step's gradient is kept.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.models.policy import Policy
from upge.training import loop
from upge.training.config import RunConfig
from upge.training.loop import Trainer
from upge.training.records import RunFolder
from upge.training.strategy import _full
from upge.training.update import Updater


class Keeping(Updater):
    """Keeps the gradients of its updates."""

    gradients: ClassVar = []

    def _apply(self, norm):
        self.gradients.append([whole_gradient(p) for p in self.strategy.policy.parameters()])
        super()._apply(norm)


def train(config, folder):
    """Train; the gradients of all updates, and the parameters after them, go to its folder."""
    Keeping.gradients.clear()
    trainer = Trainer(config, folder)
    trainer.run()
    if trainer.accelerator.is_main_process:
        parameters = [p.detach() for p in trainer.strategy.whole.parameters()]
        kept = {"gradients": Keeping.gradients, "parameters": parameters}
        torch.save(kept, folder.path / "kept.pt")


def whole_gradient(parameter):
    """What all processes' shards make up."""
    gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
    return _full(gradient).clone()


def break_in(process: str) -> None:
    """Have the policy give NaN in one of the processes."""
    forward = Policy.forward

    def broken(self, tokens, mask):
        logp, entropy = forward(self, tokens, mask)
        return logp * float("nan") if os.environ["RANK"] == process else logp, entropy

    Policy.forward = broken


def main(configs: str, out: str) -> None:
    """Train every configuration of a JSON list, each into its own folder."""
    loop.load_pretrained = partial(loop.load_pretrained, dtype=torch.float64)
    loop.Updater = Keeping
    if "BREAK_PROCESS" in os.environ:
        break_in(os.environ["BREAK_PROCESS"])
    for given in json.loads(Path(configs).read_text()):
        config = build(given, RunConfig)
        try:
            train(config, RunFolder(Path(os.environ.get("OUT", out)) / config.name))
        except UpgeError as error:
            print(f"{config.name}: {error}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
