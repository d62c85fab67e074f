"""An optimizer step on a batch: ∇J, its norm, clip and AdamW; or none, if ∇J is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.estimator import Plan
from upge.training.checkpoint import Progress
from upge.training.config import Stage
from upge.training.gradient import GradientAccumulator, GradientReport
from upge.training.strategy import Strategy

#: Updates that may be skipped in a row before the run is given up: the policy itself is broken.
_PATIENCE = 10

#: Fields of a batch that are kept of an update that was not applied.
_KEPT = ("tokens", "mask", "reward", "group", "offline", "old_logp")


@dataclass(frozen=True)
class Update:
    """What one update came to.

    Attributes:
        plan: the estimator on the batch.
        report: what was seen while the gradient was taken.
        norm: ‖∇J‖ before the clip.
        applied: whether AdamW stepped.
    """

    plan: Plan
    report: GradientReport
    norm: float
    applied: bool


@dataclass
class Updater:
    """Takes the optimizer steps of a stage.

    Args:
        stage: its algorithm and optimizer.
        strategy: how the policy lies over the processes.
        gradient: takes ∇J.
        progress: the run's counters, which are advanced.
        keep_batch: writes a batch that no update was made from, and returns the path of the file.
    """

    stage: Stage
    strategy: Strategy
    gradient: GradientAccumulator
    progress: Progress = field(default_factory=Progress)
    keep_batch: Callable[[int, Mapping[str, Any]], Path] = lambda step, batch: Path()

    def start(self, optimizer: Mapping[str, Tensor]) -> None:
        """Set up the optimizer with its state; as new without one."""
        self.strategy.set_temperature(self.stage.temperature)
        self.strategy.start_stage(self.stage, optimizer)

    def plan(self, batch: TrajectoryBatch) -> Plan:
        """The stage's estimator on the process's part of a batch."""
        return self.gradient.plan(self.stage.estimator, batch)

    def term_norms(self, plan: Plan) -> list[float]:
        """‖∇J‖ of each term alone, before any clip."""
        norms = []
        for term in range(len(plan.parts)):
            self.gradient(plan, only=term)
            norms.append(self.strategy.norm())
            self.strategy.discard()
        return norms

    def step(
        self, plan: Plan, valid: bool = True, ready: Callable[[], None] = lambda: None
    ) -> Update:
        """Step along ∇J.

        Args:
            plan: from :meth:`plan`.
            valid: whether all log-probabilities of the batch are finite.
            ready: called when the gradient is known, before anything changes.

        Raises:
            UpgeError: the gradient is not finite and ``on_bad_step`` is ``stop``, or too many
                updates in a row were skipped.
        """
        report = self.gradient(plan, self.stage.entropy_bonus)
        report.finite &= valid
        norm = self.strategy.norm()
        ready()
        finite = bool(report.finite) and norm < float("inf")
        applied = finite and (self.stage.skip_norm is None or norm <= self.stage.skip_norm)
        if applied:
            self._apply(norm)
        else:
            overflow = bool(report.finite) and self.strategy.overflows
            self._skip(plan, finite or overflow)
        return Update(plan, report, norm, applied)

    def _apply(self, norm: float) -> None:
        self.progress.updates += 1
        self.progress.skipped_in_a_row = 0
        rate = self.stage.lr * min(self.progress.updates / max(self.stage.warmup, 1), 1.0)
        self.strategy.step(rate, norm, self.stage.max_grad_norm)

    def _skip(self, plan: Plan, finite: bool) -> None:
        """Keep the batch; stop, where the stage says so."""
        step = self.progress.step + 1
        path = self.keep_batch(step, {name: getattr(plan.batch, name) for name in _KEPT})
        if not finite and self.stage.on_bad_step == "stop":
            raise UpgeError(
                f"step {step}: the loss or its gradient is not finite; the batch is in {path}. "
                "Lower lr, or set on_bad_step: skip"
            )
        self.progress.skipped_in_a_row += 1
        if self.progress.skipped_in_a_row >= _PATIENCE:
            raise UpgeError(
                f"step {step}: {_PATIENCE} updates in a row were skipped, the last batch is in "
                f"{path}; the policy has broken: start anew with a lower lr"
            )
        self.strategy.discard()


def minibatches(batch: TrajectoryBatch, stage: Stage) -> list[TrajectoryBatch]:
    """The batches of a step's updates: parts of whole questions, ``epochs`` times over."""
    if stage.minibatches == 1:
        return [batch] * stage.epochs
    part = batch.group * stage.minibatches // stage.prompts_per_step
    return [batch.select(part == i) for i in range(stage.minibatches)] * stage.epochs
