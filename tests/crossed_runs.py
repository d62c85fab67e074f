"""Whole runs under one launcher after another: ``python crossed_runs.py FOLDER CONFIG DTYPE``.

FOLDER/starts.json names the runs, and for each its starts: of what kind, and in which moment a
process is killed, if any. The next start goes on where that left the run.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import lost_runs
import strategy_runs
import torch

from upge.common.config import build
from upge.training import loop
from upge.training.config import RunConfig
from upge.training.strategy import Strategy


def start_stage(self, stage, state, start=Strategy.start_stage):
    """With AdamW's epsilon so large that rounding of a gradient near 0 is no whole step."""
    start(self, stage, state)
    for group in self.optimizer.param_groups:
        group["eps"] = strategy_runs.EPSILON


def main(folder: str, config: str, dtype: str) -> None:
    """Make the runs; what each start came to is written to FOLDER/ended.json."""
    loop.load_pretrained = partial(loop.load_pretrained, dtype=getattr(torch, dtype))
    Strategy.start_stage = start_stage
    run = build(json.loads(Path(config).read_text()), RunConfig)
    starts = json.loads((Path(folder) / "starts.json").read_text())
    if any(kind.startswith("zero") for run in starts.values() for kind, _ in run):
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401  once, for all that are forked
    ended = {
        name: [
            lost_runs.launch(run, Path(folder) / name, kind=kind, **(kill or {}))
            for kind, kill in starts[name]
        ]
        for name in starts
    }
    (Path(folder) / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(*sys.argv[1:])
