"""The launch check on sound and faulty launchers: ``python launch_check_runs.py OUT.json NAME...``.

``python launch_check_runs.py train CONFIG.json OUT`` has two processes, which lose the gradients of
all micro-batches but the last, train with the launch check and without: OUT/checked, OUT/unchecked.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import forks
from accelerate import Accelerator
from launched import PLAIN

from upge.cli.main import main as command_line
from upge.training import launch, launch_check, processes
from upge.training.gradient import GradientAccumulator


class LosesEarlier(Accelerator):
    """Each backward pass writes over what the ones before it left, as an offloaded ZeRO did."""

    def backward(self, loss, **kwargs):
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        super().backward(loss, **kwargs)


class NeverSteps(Accelerator):
    """Its optimizer takes no step."""

    def prepare(self, *args, **kwargs):
        policy, optimizer = super().prepare(*args, **kwargs)
        optimizer.step = lambda: None
        return policy, optimizer


class NeverClears(Accelerator):
    """Its optimizer keeps the gradients of the step before."""

    def prepare(self, *args, **kwargs):
        policy, optimizer = super().prepare(*args, **kwargs)
        optimizer.zero_grad = lambda: None
        return policy, optimizer


class NeverTalks(Accelerator):
    """Leaves the model as it is, so that no gradient is exchanged."""

    def prepare(self, policy, optimizer):
        return policy, super().prepare(optimizer)


class OwnMeans(GradientAccumulator):
    """Every process divides by its own tokens, and the means are averaged."""

    def plan(self, estimator, batch):
        return super().plan(estimator, replace(batch, all_sum=lambda x: x))

    def __call__(self, plan, *args, **kwargs):
        whole = self.accelerator.backward
        self.accelerator.backward = lambda loss: whole(loss / self.accelerator.num_processes)
        try:
            return super().__call__(plan, *args, **kwargs)
        finally:
            self.accelerator.backward = whole


def faulty(name):
    return partial(GradientAccumulator, faults=(name,))


LAUNCHERS = {
    "sound": (Accelerator, GradientAccumulator),
    "last_micro_batch_only": (LosesEarlier, GradientAccumulator),
    "last_micro_batch_only_as_stage_fault": (Accelerator, faulty("last_micro_batch_only")),
    "mean_of_means": (Accelerator, faulty("mean_of_means")),
    "divided": (partial(Accelerator, gradient_accumulation_steps=3), GradientAccumulator),
    "nothing": (NeverSteps, GradientAccumulator),
    "stale": (NeverClears, GradientAccumulator),
    "own_means": (Accelerator, OwnMeans),
    "not_exchanged": (NeverTalks, GradientAccumulator),
}


def main(out: str, *names: str) -> None:
    """The faults found, by launcher and case."""
    found = {}
    for name in names:
        make_accelerator, make_gradient = LAUNCHERS[name]
        report = launch_check.check_launch("qwen2", make_accelerator(), make_gradient)
        found[name] = {case: diagnosis.fault for case, diagnosis in report.cases.items()}
    if report.main:
        Path(out).write_text(json.dumps(found))


def train(config: str, out: str, *options: str) -> None:
    """``upge train`` by Accelerate's faulty object; what it says goes to OUT-RANK.err."""
    os.dup2(os.open(f"{out}-{os.environ['RANK']}.err", os.O_WRONLY | os.O_CREAT), 2)
    launch.require("accelerate", "train").Accelerator = LosesEarlier
    processes.MAIN_FIRST = 0.5
    sys.argv = ["upge", "train", config, "--out", out, "--quiet", *options]
    command_line()


def train_twice(config: str, out: str) -> None:
    """With the check and without; exit codes of the processes go to OUT/codes.json."""
    launch_check._small_model("qwen2", tied=True)  # imports once what four processes would
    codes = [
        forks.together(2, partial(train, config, f"{out}/{name}", *options), **PLAIN)
        for name, options in (("checked", ()), ("unchecked", ("--no-launch-check",)))
    ]
    Path(out, "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train_twice(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
