"""The loop: questions → rollouts → verifier → gate → batch → estimator → step.

No algorithm is known by name here: what is sampled and read follows from the estimator's terms.
Everything random is drawn from seeds named by run, stage, step and question. A step depends only on
policy, optimizer state and step index, so a resumed run ends as an uninterrupted one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from upge.common.errors import UpgeError, oom_error
from upge.common.optional import require
from upge.models.policy import Policy
from upge.models.pretrained import load_pretrained, save_pretrained, trusting_remote_code
from upge.rollouts import ENGINES, Sampling, derive_seed, open_sampler
from upge.training.checkpoint import Checkpoint, Checkpoints, Progress
from upge.training.config import RunConfig, Stage
from upge.training.evaluate import Evaluator
from upge.training.experience import Experience, Question, collect, question_order
from upge.training.gradient import GradientAccumulator
from upge.training.interrupts import Interrupts
from upge.training.launch import open_accelerator, open_strategy
from upge.training.measure import (
    Metrics,
    experience_metrics,
    flops,
    mismatch_metrics,
    update_metrics,
)
from upge.training.precision import MIXED, AutocastSampler, products
from upge.training.prepare import Prepared, prepare
from upge.training.processes import check_same, main_first, reporting_loss, sum_over_processes
from upge.training.records import Line, RunFolder, file_error, of_other_length
from upge.training.update import Update, Updater, minibatches

#: Seconds after which a checkpoint is due, whatever the step.
_LATE = 120.0


@dataclass
class Trainer:
    """Trains one run; :meth:`run` starts or resumes it.

    Args:
        config: what to train.
        folder: where its records go.
        observe: called with each step's metrics.
        note: called with remarks on the problems and on where the run starts, before it does.
        accelerator: Accelerate's object; opened as the launcher configures it, if not given.
        keep: whether a run in the folder is taken although other code began it.
    """

    config: RunConfig
    folder: RunFolder
    observe: Callable[[Metrics], None] = lambda metrics: None
    note: Callable[[str], None] = lambda text: None
    accelerator: Any = None
    keep: bool = False
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._checkpoints = Checkpoints(self.folder.checkpoints)
        self._saved_step, self._saved_at = 0, time.monotonic()
        self._unrecorded: Metrics | None = None
        self._lines: list[Line] = []

    def run(self) -> Mapping[str, Any]:
        """The final numbers; those of a finished run are read, not made again.

        Raises:
            UpgeError: see :class:`~upge.training.config.RunConfig`, and a step whose loss or
                gradient is not finite.
            KeyboardInterrupt: on SIGINT or SIGTERM; a checkpoint holds all steps that were done.
        """
        self.folder.check(self.config, self.keep)
        if self.accelerator is None:
            self.accelerator = open_run(self.config, self.folder)
        try:
            with main_first(self._is_main), reporting_loss(self.reports, lambda: self.resumes):
                result = self.folder.result
                check_same(
                    self.accelerator,
                    (self.config.key, result is not None),
                    "were started with different configurations or data, or see different run "
                    "folders; give all the same, and an --out on a disk that they share",
                )
                return self._run() if result is None else result
        except (OSError, SafetensorError) as error:
            raise file_error(error, self.folder.path, self.resumes) from error

    def reports(self) -> bool:
        """Whether this process reports how the run was cut short; one of several does."""
        several = self.accelerator is not None and self.accelerator.num_processes > 1
        return not several or self.folder.reports()

    @property
    def resumes(self) -> str:
        """Where the run resumes when it is started again, as a verb and its object."""
        step = self._saved_step
        return f"resumes from step {step}" if step else "starts anew, without a checkpoint"

    @property
    def _is_main(self) -> bool:
        """Whether this process writes: of several, one does."""
        return bool(self.accelerator.is_main_process)

    def _run(self) -> Mapping[str, Any]:
        lock = self.folder.locked() if self._is_main else nullcontext()
        trusting = trusting_remote_code(self.config.trust_remote_code)
        with lock, trusting, oom_error(), Interrupts() as self._interrupts:
            self._prepare()
            self._start_trackers()
            try:
                self._train()
            except KeyboardInterrupt:
                self._save_interrupted()
                raise
            self._finish()
        return self.folder.result or {}

    # -------------------------------------------------------------------------------- preparation

    def _prepare(self) -> None:
        """Validate everything before loading the model; then restore the run's state."""
        if self._is_main:
            self.folder.probe()
        self.prepared: Prepared = prepare(self.config, self.accelerator.num_processes)
        if self._is_main and self.prepared.dataset.omissions:
            self.note(self.prepared.dataset.omissions)
        # In evaluation mode: dropout would be randomness without a seed of its own.
        self.model, _ = load_pretrained(self.config.model)
        self._restore()
        self._open_policy()
        if self._is_main:
            self.folder.open(self.config)

    def _restore(self) -> None:
        """Load the newest checkpoint, if there is one, and go back to its metrics."""
        policy = Policy(self.model)
        checkpoint = self._checkpoints.load(policy, self.config.steps) or self._borrow(policy)
        self._optimizer: Mapping[str, Tensor] = {}
        self.progress = Progress()
        if checkpoint is not None:
            policy.load_state_dict(dict(checkpoint.weights))
            self._optimizer, self._lines = checkpoint.optimizer, list(checkpoint.metrics)
            self.progress, self._saved_step = checkpoint.progress, checkpoint.progress.step
        check_same(
            self.accelerator,
            self.progress.step,
            "found different checkpoints; --out has to be on a disk that they share",
        )
        if self._is_main:
            self.folder.rewind(self._lines)

    def _borrow(self, policy: Policy) -> Checkpoint | None:
        """A checkpoint of a run of fewer or more steps, which this one continues."""
        most = self.config.steps
        others = [Checkpoints(o.checkpoints) for o in of_other_length(self.folder, self.config)]
        for other in sorted(others, key=lambda other: other.newest(most), reverse=True):
            with suppress(OSError, UpgeError):
                if (checkpoint := other.load(policy, most)) is not None:
                    step, every = checkpoint.progress.step, self.config.evaluation.every
                    if every is None or step % every:  # validated as the other run's last step
                        checkpoint.metrics[-1].pop("validation", None)
                    if self._is_main:
                        self.note(f"continues {other.folder.parent} from step {step}")
                    return checkpoint
        return None

    def _open_policy(self) -> None:
        """Shard the initial or restored model, and open what samples from it."""
        self.strategy = open_strategy(self.accelerator, self.model)
        if self.strategy.has_copy and self.config.backend in ENGINES:
            self.model.cpu()  # read by the engine's loader and by checkpoints alone
        sampler = open_sampler(
            self.config.backend,
            self.model,
            self.prepared.tokenizer,
            dtype=products(self.accelerator) or self.model.dtype,
            device=self.accelerator.device,
        )
        self.sampler = AutocastSampler(sampler, self.accelerator)
        self.evaluator = Evaluator(
            self.config,
            self.prepared.dataset,
            self.prepared.tokenizer,
            self.sampler,
            self.accelerator,
        )
        self._synchronize()

    def _synchronize(self) -> None:
        """Give the policy's new weights to the sampler and to the unsharded model."""
        self.strategy.synchronize()
        self.sampler.synchronize()

    # -------------------------------------------------------------------------------------- stages

    def _train(self) -> None:
        if self.accelerator.num_processes > 1:
            self._interrupts.share(lambda asked: bool(self._all_sum(self._tensor(asked))))
        self._validate_late()
        for number, stage in enumerate(self.config.stages):
            self._run_stage(number, stage)
        self._interrupts.free()

    def _run_stage(self, number: int, stage: Stage) -> None:
        first = sum(s.steps for s in self.config.stages[:number])
        end = first + stage.steps
        if self.progress.step >= end:
            return
        if self.progress.step == first:
            self._optimizer, self.progress.updates = {}, 0
        gradient = GradientAccumulator(
            self.strategy.policy,
            self.accelerator,
            self.config.tokens_per_microbatch,
            stage.micro_batch,
            stage.faults,
        )
        updater = Updater(stage, self.strategy, gradient, self.progress, self._keep_batch)
        updater.start(self._optimizer)
        pool = self.prepared.pool(stage)
        while self.progress.step < end:
            self._started = time.perf_counter(), time.process_time()
            self._unrecorded = self.step(number, updater, pool, self.progress.step - first)
            self.progress.step += 1
            self._end_step(stage_ends=self.progress.step == end)

    def step(self, number: int, updater: Updater, pool: list[Question], index: int) -> Metrics:
        """One step of a stage: questions → rollouts and rewards → gate → gradient → update.

        Args:
            number: of the stage, from 0.
            updater: takes its optimizer steps.
            pool: its questions.
            index: of the step within the stage, from 0.

        Returns:
            The step's metrics.
        """
        stage = updater.stage
        experience = self._collect(number, stage, pool, index)
        self._interrupts.release()
        metrics: Metrics = {"step": self.progress.step + 1, "stage": number}
        mismatch, norms = {}, {}
        if self.config.backend in ENGINES and stage.samples_rollouts:
            mismatch = mismatch_metrics(experience, updater.gradient, self.accelerator)
        finite = self._all_sum(experience.finite.to(self.accelerator.device).long())
        updates: list[Update] = []
        for batch in minibatches(experience.batch, stage):
            plan = updater.plan(batch)
            if not updates and self._measures_norms:
                norms = {"per_term_grad_norm": updater.term_norms(plan)}
            valid = bool(finite == self.accelerator.num_processes)
            updates.append(updater.step(plan, valid, self._interrupts.hold))
        self._synchronize()
        metrics |= experience_metrics(experience, updates[: stage.minibatches], self.accelerator)
        metrics |= mismatch | norms | update_metrics(updates)
        parameters = self.strategy.whole.parameter_count
        return metrics | {"flops": flops(stage, experience, updates, parameters, self.accelerator)}

    def _collect(self, number: int, stage: Stage, pool: list[Question], index: int) -> Experience:
        """The process's part of a step's trajectories."""
        seed = self.config.seed
        order = question_order(
            len(pool), stage.prompts_per_step, index, derive_seed(seed, number, "order")
        )
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        slots = range(len(order))[rank::world]
        return collect(
            [pool[order[slot]] for slot in slots],
            slots=slots,
            sampler=self.sampler if stage.samples_rollouts else None,
            demonstrations=stage.reads_demonstrations,
            samples=stage.group_size,
            settings=Sampling(self.config.max_tokens, stage.temperature),
            seeds=[derive_seed(seed, number, index, slot) for slot in slots],
            verifier=self.prepared.dataset.verifier,
            tokenizer=self.prepared.tokenizer,
            device=self.accelerator.device,
            success=stage.success,
            mask_truncated=stage.mask_truncated,
            all_sum=None if world == 1 else self._all_sum,
        )

    @property
    def _measures_norms(self) -> bool:
        every = self.config.norms_every
        return every is not None and self.progress.step % every == 0

    def _all_sum(self, x: Tensor) -> Tensor:
        return sum_over_processes(self.accelerator, x)

    def _tensor(self, flag: bool) -> Tensor:
        return torch.tensor(int(flag), device=self.accelerator.device)

    def _keep_batch(self, step: int, batch: Mapping[str, Any]) -> Path:
        name = f"step-{step:08}-process-{self.accelerator.process_index}"
        return self.folder.keep_bad_step(name, batch)

    # ------------------------------------------------------------------------------------- records

    def _end_step(self, stage_ends: bool) -> None:
        """Validate, record and save a step, as far as these are due."""
        assert self._unrecorded is not None
        self._interrupts.release()
        self._unrecorded |= self._validate()
        self._interrupts.hold()
        self._record()
        due = self.progress.step % self.config.checkpoint_every == 0
        if stage_ends or due or self._is_late():
            # The next stage has an optimizer of its own.
            self._save(optimizer=not stage_ends or self.progress.step == self.config.steps)
        self._interrupts.release()

    def _validate(self) -> Metrics:
        every, step = self.config.evaluation.every, self.progress.step
        if every is None or (step % every and step != self.config.steps):
            return {}
        return {"validation": self.evaluator.validate()}

    def _validate_late(self) -> None:
        """Validate after the last step on record, if an interrupt kept the run from it."""
        if self._lines and "validation" not in self._lines[-1]:
            clocks = {name: self._lines[-1].pop(name, 0.0) for name in ("seconds", "cpu_seconds")}
            self._lines[-1] |= self._validate() | clocks
            if self._is_main:
                self.folder.rewind(self._lines)

    def _record(self) -> None:
        """Add the step's metrics to the run's folder, and to trackers."""
        assert self._unrecorded is not None
        wall, cpu = self._started
        line = self._unrecorded | {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        self._lines.append(line)
        if self._is_main:
            self.folder.append(line)
        self._unrecorded = None
        if self._is_main:
            self.observe(line)
        numbers = {key: x for key, x in line.items() if isinstance(x, int | float)}
        self.accelerator.log(numbers, step=line["step"])

    def _is_late(self) -> bool:
        """Whether more time has passed since the last checkpoint than a kill may cost."""
        late = time.monotonic() - self._saved_at > _LATE
        return bool(self._all_sum(self._tensor(late)))

    def _save(self, optimizer: bool = True) -> None:
        """Write a checkpoint; called in all processes.

        Args:
            optimizer: whether its state goes with it.

        Raises:
            UpgeError: the policy's weights are not finite.
        """
        step = self.progress.step
        weights = self.strategy.whole.state_dict()
        if broken := next((name for name, x in weights.items() if not x.isfinite().all()), None):
            raise UpgeError(
                f"step {step}: the policy has broken, its weight {broken} is not finite; start "
                "anew with a lower lr"
            )
        state = self.strategy.optimizer_state() if optimizer else {}
        if self._is_main:
            self._checkpoints.save(Checkpoint(replace(self.progress), weights, state, self._lines))
        self.accelerator.wait_for_everyone()
        self._saved_step, self._saved_at = step, time.monotonic()

    def _save_interrupted(self) -> None:
        """Save what is done when an interrupt is delivered, which is never within an update."""
        self._interrupts.hold()
        if self._unrecorded is not None:  # only its validation is missing; see _validate_late
            self._record()
        if self.progress.step > self._saved_step:
            self._save()

    def _start_trackers(self) -> None:
        """Open the trackers; W&B resumes the run of the same key."""
        config = self.config
        about = {"name": config.name, "model": config.model, "seed": config.seed, "key": config.key}
        wandb = {"name": self.folder.path.name, "id": config.key, "resume": "allow"}
        if config.trackers:
            self.accelerator.init_trackers("upge", about, {"wandb": wandb})

    def _finish(self) -> None:
        """Test the policy and write the result."""
        result = self.evaluator.test(self.folder.evaluation)
        if self._is_main:
            save_pretrained(self.model, self.prepared.tokenizer, self.folder.policy)
            self.folder.finish(result, self.config.steps)
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:
            tracker.finish()


def open_run(config: RunConfig, folder: RunFolder) -> Any:
    """Accelerate's object for a run.

    Raises:
        UpgeError: see :func:`~upge.training.launch.open_accelerator`; a tracker is missing.
    """
    for tracker in config.trackers:
        require(tracker, tracker)
    return open_accelerator(
        log_with=list(config.trackers) or None,
        project_dir=folder.path / "trackers",
        mixed_precision=config.precision and MIXED[config.precision],
    )
