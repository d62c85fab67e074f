"""The loop: config → questions → rollouts → verifier → gate → batch → estimator → step.

No algorithm is known by name here: what is sampled and read follows from the estimator's terms.
Everything random is drawn from seeds named by run, stage, step and question, so that a step hangs
on nothing but the policy, the optimizer and its number: a resumed run ends as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, oom_error
from upge.common.optional import require
from upge.estimator import Plan
from upge.evaluation.responses import Responses, respond_suites
from upge.models.policy import Policy
from upge.models.pretrained import (
    load_config,
    load_pretrained,
    load_tokenizer,
    save_pretrained,
    trusting_remote_code,
)
from upge.rollouts import ENGINES, Sampling, check_backend, derive_seed, open_sampler
from upge.rollouts.mismatch import mismatch, mismatch_sums
from upge.tasks.dataset import Dataset
from upge.tasks.encoding import encode
from upge.tasks.problem import Problem
from upge.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from upge.training.config import RunConfig, Stage
from upge.training.data import load_dataset
from upge.training.experience import (
    Experience,
    Question,
    check_lengths,
    collect,
    encode_questions,
    question_order,
)
from upge.training.gradient import (
    GradientAccumulator,
    GradientReport,
    sum_over_processes,
    weighs_by_batch,
)
from upge.training.launch import open_accelerator, open_strategy
from upge.training.precision import MIXED, AutocastSampler, products
from upge.training.records import RunFolder, file_error
from upge.training.vigil import Vigil, main_first

#: Steps that may be skipped in a row before the run is given up: the policy itself is broken then.
_PATIENCE = 10

#: Seconds after which a checkpoint is due, whatever the step.
_LATE = 120.0

#: FLOPs a parameter and token: 2 forward, 4 backward (Kaplan et al. 2020, arXiv 2001.08361).
_FORWARD, _BACKWARD = 2, 4

Metrics = dict[str, Any]


@dataclass
class Progress:
    """The loop's counters, as checkpoints keep them."""

    step: int = 0
    updates: int = 0
    skipped_in_a_row: int = 0


@dataclass
class Trainer:
    """Trains one run; :meth:`run` starts it or goes on with it.

    Args:
        config: what to train.
        folder: where its records go.
        observe: called with each step's metrics.
        note: called with what a reader should know of the problems, before training starts.
        doctor: whether a step of several processes is first compared with a plain one's, see
            :mod:`upge.training.doctor`.
    """

    config: RunConfig
    folder: RunFolder
    observe: Callable[[Metrics], None] = lambda metrics: None
    note: Callable[[str], None] = lambda text: None
    progress: Progress = field(default_factory=Progress)
    doctor: bool = True

    def run(self) -> Mapping[str, Any]:
        """The final numbers; those of a finished run are read, not made again.

        Raises:
            UpgeError: see :class:`~upge.training.config.RunConfig`, and a step whose loss or
                gradient is not finite.
        """
        self.folder.check(self.config)
        self.accelerator = _accelerator(self.config, self.folder)
        self._saved_at = time.monotonic()
        try:
            with main_first(self._is_main):
                result = self.folder.result
                self._check_alike(
                    (self.config.key, result is not None),
                    "were started with different configurations or data, or see different run "
                    "folders; give all the same, and an --out on a disk that they share",
                )
                return self._run_alone() if result is None else result
        except (OSError, SafetensorError) as error:
            step = checkpoint.step if (checkpoint := self._checkpoint) else 0
            raise file_error(error, self.folder.path, step) from error

    def _run_alone(self) -> Mapping[str, Any]:
        """While no other run has the folder."""
        lock = self.folder.locked() if self._is_main else nullcontext()
        trust = trusting_remote_code(self.config.trust_remote_code)
        with lock, self._vigil(), oom_error(), trust:
            return self._run()

    def _vigil(self) -> Vigil:
        return Vigil(self.folder, self._is_main, self.accelerator.num_processes)

    def _run(self) -> Mapping[str, Any]:
        self._prepare()
        self._rewind()
        self._start_trackers()
        for number, stage in enumerate(self.config.stages):
            self._run_stage(number, stage)
        if self._is_main:
            self._finish()
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        return self.folder.result or {}

    @property
    def _is_main(self) -> bool:
        """Whether this process writes: of several, one does."""
        return bool(self.accelerator.is_main_process)

    # -------------------------------------------------------------------------------- preparation

    def _prepare(self) -> None:
        """Whatever can be wrong is looked for before the model is loaded."""
        self._check_processes()
        check_backend(self.config.backend)
        self.dataset: Dataset = load_dataset(self.config)
        if self._is_main and self.dataset.omissions:
            self.note(self.dataset.omissions)
        self._check_demonstrations(problem.demonstration for problem in self.dataset.train)
        model = load_config(self.config.model)
        self._encode(model)
        if self.doctor:
            self._examine(model)
        # In evaluation mode: dropout would be randomness that no seed names.
        self.model, _ = load_pretrained(self.config.model)
        self._restore()
        self._spread()
        if self._is_main:
            self.folder.open(self.config)

    def _encode(self, model: Any) -> None:
        """The problems as ids, of lengths that the model of that configuration takes."""
        self.tokenizer = load_tokenizer(self.config.model)
        self.questions = encode_questions(
            self.dataset.train,
            self.tokenizer,
            self.dataset.verifier,
            max_tokens=self.config.max_tokens,
            drop_long=self.config.long_demonstrations == "drop",
            demonstrations=any(stage.reads_demonstrations for stage in self.config.stages),
        )
        suites = (self.dataset.validation, *self.dataset.tests.values())
        tested = [encode(self.tokenizer, problem.prompt) for suite in suites for problem in suite]
        trained = [question.prompt for question in self.questions]
        check_lengths(trained, tested, self.config, model)
        self._check_demonstrations(question.demonstration for question in self.questions)

    def _examine(self, model: Any) -> None:
        from upge.training.doctor import check_launcher  # which takes its steps by a Trainer

        check_launcher(self.accelerator, model)

    def _check_demonstrations(self, demonstrations: Iterable[object]) -> None:
        readers = [stage.algorithm for stage in self.config.stages if stage.reads_demonstrations]
        if readers and not any(demonstrations):
            left_out = f" ({self.dataset.omissions})" if self.dataset.omissions else ""
            raise UpgeError(
                f"{readers[0]} learns from demonstrations, but no training problem has one that is "
                f"at most max_tokens {self.config.max_tokens} long{left_out}; add solutions, raise "
                "max_tokens, or take an algorithm without"
            )

    def _check_processes(self) -> None:
        fewest = min((stage.prompts_per_step for stage in self.config.stages), default=None)
        if fewest is not None and fewest < self.accelerator.num_processes:
            raise UpgeError(
                f"questions: got {fewest} for {self.accelerator.num_processes} processes, "
                "wanted at least one a process"
            )

    def _restore(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        checkpoint = self._checkpoint
        self._optimizer_state: Mapping[str, Any] = {}
        self.progress = Progress()
        if checkpoint is not None:
            Policy(self.model).load_state_dict(dict(checkpoint.weights))
            self._optimizer_state = checkpoint.optimizer
            self.progress = Progress(**checkpoint.progress)

    @property
    def _checkpoint(self) -> Checkpoint | None:
        return load_checkpoint(self.folder.checkpoints, self.folder.recorded)

    def _spread(self) -> None:
        """Over the processes, with the weights that the run starts or goes on from."""
        self.strategy = open_strategy(self.accelerator, self.model)
        if self.strategy.has_copy and self.config.backend in ENGINES:
            self.model.cpu()  # read by the engine's loader and by checkpoints alone
        sampler = open_sampler(
            self.config.backend,
            self.model,
            self.tokenizer,
            dtype=products(self.accelerator) or self.model.dtype,
            device=self.accelerator.device,
        )
        self.sampler = AutocastSampler(sampler, self.accelerator)
        self._synchronize()

    def _synchronize(self) -> None:
        """Have what samples, and is saved, know of the policy's new weights."""
        self.strategy.synchronize()
        self.sampler.synchronize()

    def _check_alike(self, own: object, otherwise: str) -> None:
        """Refuse processes of which this isn't the same; all have come this far afterwards."""
        if self.accelerator.num_processes == 1:
            return
        found = require("accelerate.utils", "train").gather_object([own])
        if any(other != own for other in found):
            raise UpgeError(f"the processes of this run {otherwise}")

    def _rewind(self) -> None:
        """Drop what was recorded after the checkpoint, once all have read what is rewritten."""
        self._check_alike(
            self.progress.step,
            "found different checkpoints; --out has to be on a disk that they share",
        )
        if self._is_main:
            self.folder.rewind(self.progress.step)

    # -------------------------------------------------------------------------------------- stages

    def _run_stage(self, number: int, stage: Stage) -> None:
        first = sum(s.steps for s in self.config.stages[:number])
        if self.progress.step >= first + stage.steps:
            return
        if self.progress.step == first:
            self._optimizer_state, self.progress.updates = {}, 0
        self.strategy.set_temperature(stage.temperature)
        self.gradient = GradientAccumulator(
            self.strategy.policy,
            self.accelerator,
            self.config.tokens_per_microbatch,
            stage.micro_batch,
            stage.faults,
        )
        self.strategy.start_stage(stage, self._optimizer_state)
        pool = self._pool(stage)
        while self.progress.step < first + stage.steps:
            started, cpu = time.perf_counter(), time.process_time()
            metrics = self._step(number, stage, pool, self.progress.step - first)
            self.progress.step += 1
            last = self.progress.step == first + stage.steps
            metrics |= self._validate(last and number + 1 == len(self.config.stages))
            metrics |= {
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - cpu,
            }
            self._record(metrics)
            due = self.progress.step % self.config.checkpoint_every == 0
            if last or due or self._is_late():
                self._save(last)

    def _is_late(self) -> bool:
        """Whether more time has passed since the last checkpoint than a kill should cost."""
        late = time.monotonic() - self._saved_at > _LATE
        return bool(self._all_sum(torch.tensor(int(late), device=self.accelerator.device)))

    def _pool(self, stage: Stage) -> list[Question]:
        """The questions of a stage: where no rollouts are read, those with a demonstration."""
        if stage.samples_rollouts:
            return self.questions
        return [question for question in self.questions if question.demonstration is not None]

    def _step(self, number: int, stage: Stage, pool: list[Question], step: int) -> Metrics:
        seed = self.config.seed
        order = question_order(
            len(pool), stage.prompts_per_step, step, derive_seed(seed, number, "order")
        )
        experience = self._collect(
            stage,
            [pool[i] for i in order],
            [derive_seed(seed, number, step, slot) for slot in range(len(order))],
        )
        metrics: Metrics = {"step": self.progress.step + 1, "stage": number}
        metrics |= self._experience_metrics(stage, experience)
        metrics |= self._mismatch(stage, experience.batch)
        finite = self._all_sum(experience.finite.to(self.accelerator.device).long())
        reports: list[GradientReport] = []
        norms: list[float] = []
        skipped = 0
        for part in _parts(experience.batch, stage):
            plan = self.gradient.plan(stage.estimator, part)
            if self._measures_norms and not norms:
                metrics["per_term_grad_norm"] = [
                    self._term_norm(plan, i) for i in range(len(plan.parts))
                ]
            report = self.gradient(plan, stage.entropy_bonus)
            report.finite &= finite == self.accelerator.num_processes
            norms.append(self.strategy.norm())
            skipped += not self._update(stage, plan, report, norms[-1])
            reports.append(report)
        self._synchronize()
        report = reduce(add, reports)
        metrics |= report.metrics() | {"grad_norm": sum(norms) / len(norms), "skipped": skipped}
        return metrics | {"flops": self._flops(stage, experience, report)}

    @property
    def _measures_norms(self) -> bool:
        every = self.config.norms_every
        return every is not None and self.progress.step % every == 0

    def _collect(self, stage: Stage, questions: list[Question], seeds: list[int]) -> Experience:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        all_sum = None if world == 1 else self._all_sum
        return collect(
            questions[rank::world],
            slots=range(len(questions))[rank::world],
            sampler=self.sampler if stage.samples_rollouts else None,
            demonstrations=stage.reads_demonstrations,
            samples=stage.group_size,
            settings=Sampling(self.config.max_tokens, stage.temperature),
            seeds=seeds[rank::world],
            verifier=self.dataset.verifier,
            tokenizer=self.tokenizer,
            device=self.accelerator.device,
            all_sum=all_sum,
        )

    def _all_sum(self, x: Tensor) -> Tensor:
        return sum_over_processes(self.accelerator, x)

    # ------------------------------------------------------------------------------------- updates

    def _term_norm(self, plan: Plan, term: int) -> float:
        """‖gradient of one term‖, before any clip."""
        self.gradient(plan, only=term)
        norm = self.strategy.norm()
        self.strategy.discard()
        return norm

    def _update(self, stage: Stage, plan: Plan, report: GradientReport, norm: float) -> bool:
        """Whether the gradient was applied; it is not where it can't be trusted."""
        finite = bool(report.finite) and norm < float("inf")
        applies = finite and (stage.skip_norm is None or norm <= stage.skip_norm)
        if applies:
            self._apply(stage, norm)
        else:
            overflow = bool(report.finite) and self.strategy.overflows
            self._bad_step(stage, plan, finite or overflow)
            self.strategy.discard()
        return applies

    def _apply(self, stage: Stage, norm: float) -> None:
        self.progress.updates += 1
        self.progress.skipped_in_a_row = 0
        rate = stage.lr * min(self.progress.updates / max(stage.warmup, 1), 1.0)
        self.strategy.step(rate, norm, stage.max_grad_norm)

    def _bad_step(self, stage: Stage, plan: Plan, finite: bool) -> None:
        """Keep the batch of a step that is not applied; stop, where the stage says so."""
        step = self.progress.step + 1
        kept = ("tokens", "mask", "reward", "group", "offline", "old_logp")
        path = self.folder.keep_bad_step(
            f"step-{step:08}-process-{self.accelerator.process_index}",
            {name: getattr(plan.batch, name) for name in kept},
        )
        if not finite and stage.on_bad_step == "stop":
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

    # ------------------------------------------------------------------------------------- records

    def _experience_metrics(self, stage: Stage, experience: Experience) -> Metrics:
        batch = experience.batch
        opened = stage.estimator.plan(batch, partial=True).gated_in()
        offline = batch.rows_of("offline")
        rollouts = batch.rows_of("online")
        lengths = batch.mask.sum(1).double()
        sums = torch.stack(
            [
                (opened & offline).sum(),
                opened.sum(),
                rollouts.sum(),
                (lengths * rollouts).sum(),
                (batch.reward * rollouts).sum(),
                experience.finished.sum().to(batch.mask.device),
                batch.require("old_logp", "entropy").double().sum(),
            ]
        ).double()
        demos, samples, count, tokens, reward, finished, logp = self._all_sum(sums).tolist()
        solved = experience.solved
        if self.accelerator.num_processes > 1:
            solved = require("accelerate", "train").utils.gather_object(solved)
        found: Metrics = {"offline_ratio": demos / max(samples, 1), "demonstrations": demos}
        if count:
            found |= {
                "reward": reward / count,
                "solved": [share for _, share in sorted(solved)],
                "response_length": tokens / count,
                "entropy": -logp / tokens,
                "finished": finished / count,
                "tokens_sampled": tokens,
            }
        return found

    def _mismatch(self, stage: Stage, batch: TrajectoryBatch) -> Metrics:
        """How far the sampler's policy is from the trained one, where it is a copy."""
        if self.config.backend not in ENGINES or not stage.samples_rollouts:
            return {}
        logp, _ = self.gradient.score(batch)
        sampled = batch.require("old_logp", "the mismatch")
        sums = mismatch_sums(logp, sampled, batch.tokens_of("online"))
        return dict(mismatch(self.accelerator.gather(sums[None])))

    def _flops(self, stage: Stage, experience: Experience, report: GradientReport) -> float:
        """Of sampling and training, without attention's quadratic part."""
        forward = float(experience.batch.tokens_of("online").sum()) + experience.prompt_tokens
        if weighs_by_batch(stage.estimator):
            assert experience.batch.attention is not None
            forward += stage.epochs * float(experience.batch.attention.sum())
        forward = self._all_sum(torch.tensor(forward, device=self.accelerator.device)).item()
        trained = report.computed.item()
        parameters = self.strategy.whole.parameter_count
        return parameters * (_FORWARD * forward + (_FORWARD + _BACKWARD) * trained)

    def _validate(self, last: bool) -> Metrics:
        every = self.config.evaluation.every
        due = every is not None and (last or self.progress.step % every == 0)
        if not (due and self._is_main):
            return {}
        samples = self.config.evaluation.validation_samples
        responses = self._respond({"validation": self.dataset.validation}, samples)
        return {"validation": responses["validation"].rewards.mean().item()}

    def _respond(
        self, suites: Mapping[str, Sequence[Problem]], samples: int
    ) -> Mapping[str, Responses]:
        return respond_suites(
            suites,
            sampler=self.sampler,
            tokenizer=self.tokenizer,
            verifier=self.dataset.verifier,
            samples=samples,
            settings=self.config.evaluation.sampling(self.config.max_tokens),
            seed=self.config.seed,
        )

    def _start_trackers(self) -> None:
        """Open the trackers; W&B goes on with the run that it knows by the configuration's key."""
        config = self.config
        about = {"name": config.name, "model": config.model, "seed": config.seed, "key": config.key}
        wandb = {"name": self.folder.path.name, "id": config.key, "resume": "allow"}
        if config.trackers:
            self.accelerator.init_trackers("upge", about, {"wandb": wandb})

    def _record(self, metrics: Metrics) -> None:
        if self._is_main:
            self.folder.append(metrics)
            self.observe(metrics)
        numbers = {key: x for key, x in metrics.items() if isinstance(x, int | float)}
        self.accelerator.log(numbers, step=metrics["step"])

    def _save(self, stage_ends: bool) -> None:
        state = {} if stage_ends else self.strategy.optimizer_state()
        if self._is_main:
            self.folder.flush()
            weights = self.strategy.whole.state_dict()
            save_checkpoint(
                self.folder.checkpoints,
                Checkpoint(self.progress.step, weights, state, vars(self.progress)),
            )
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()

    def _test(self) -> dict[str, Any]:
        """Accuracy on each test suite, and the averages over those in and out of distribution."""
        samples = self.config.evaluation.test_samples
        if samples is None or not self.dataset.tests:
            return {}
        suites = {}
        for name, responses in self._respond(self.dataset.tests, samples).items():
            responses.save(self.folder.evaluation / f"{name}.parquet")
            suites[name] = responses.rewards.mean().item()
        unseen = self.dataset.unseen
        return {
            "suites": suites,
            "in_distribution": _average({k: v for k, v in suites.items() if k not in unseen}),
            "out_of_distribution": _average({k: v for k, v in suites.items() if k in unseen}),
        }

    def _finish(self) -> None:
        result = self._test()
        save_pretrained(self.model, self.tokenizer, self.folder.policy)
        self.folder.finish(result)


def _average(accuracy: Mapping[str, float]) -> float | None:
    return sum(accuracy.values()) / len(accuracy) if accuracy else None


def _accelerator(config: RunConfig, folder: RunFolder) -> Any:
    for tracker in config.trackers:
        require(tracker, tracker)
    return open_accelerator(
        log_with=list(config.trackers) or None,
        project_dir=folder.path / "trackers",
        mixed_precision=config.precision and MIXED[config.precision],
    )


def _parts(batch: TrajectoryBatch, stage: Stage) -> list[TrajectoryBatch]:
    """The batches of a step's optimizer updates: whole questions, ``epochs`` times over."""
    if stage.minibatches == 1:
        return [batch] * stage.epochs
    part = batch.group * stage.minibatches // stage.prompts_per_step
    return [batch.select(part == i) for i in range(stage.minibatches)] * stage.epochs
