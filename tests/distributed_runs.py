"""Trains runs, in one process or as one of several: ``python distributed_runs.py CONFIGS OUT``.

In float64, so that what remains of a difference is no rounding; each step's gradient is kept.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.models.policy import Policy
from upge.training import loop
from upge.training.config import RunConfig
from upge.training.loop import Trainer
from upge.training.records import RunFolder
from upge.training.strategy import _full


class Keeping(Trainer):
    """Keeps the gradients of its updates, and the parameters behind them."""

    def _apply(self, stage, norm):
        self.gradients.append([whole_gradient(p) for p in self.strategy.policy.parameters()])
        super()._apply(stage, norm)

    def run(self):
        self.gradients = []
        result = super().run()
        if self._is_main:
            kept = {
                "gradients": self.gradients,
                "parameters": [p.detach() for p in self.strategy.whole.parameters()],
            }
            torch.save(kept, self.folder.path / "kept.pt")
        return result


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
    if "BREAK_PROCESS" in os.environ:
        break_in(os.environ["BREAK_PROCESS"])
    for given in json.loads(Path(configs).read_text()):
        config = build(given, RunConfig)
        try:
            folder = RunFolder(Path(os.environ.get("OUT", out)) / config.name)
            Keeping(config, folder, doctor=False).run()
        except UpgeError as error:
            print(f"{config.name}: {error}", file=sys.stderr, flush=True)
            raise SystemExit(1) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
