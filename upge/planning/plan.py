"""A run on paper: what it needs, whether it fits, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upge.common.errors import UpgeError
from upge.models.policy import positions_at_a_time
from upge.planning.checks import Check, Measured, check_run
from upge.planning.cluster import Cluster
from upge.planning.hours import (
    NOTHING,
    Cost,
    Setting,
    concurrency,
    loop_row_bytes,
    sampling_cost,
    step_cost,
)
from upge.planning.memory import FLOAT32, activation_bytes, state_bytes
from upge.planning.shapes import shape_of
from upge.planning.workload import Batch, Lengths, step_work
from upge.rollouts.cached import LOGIT_BYTES
from upge.training.config import RunConfig, Stage

#: Bytes for CUDA's context, communication and fragmentation; assumed.
_OVERHEAD = 3 * 10**9

#: Tokens, and responses, that no plan is about.
_MOST = 10**9


@dataclass(frozen=True)
class Assumptions:
    """What no configuration says.

    Args:
        prompt, response, demonstration: mean tokens; measured where problems and tokenizer are
            here, but for the response.
        gated: share of questions whose demonstration is learned from, under HPT's switch.
        validation_responses: responses a validation.
        test_responses: responses of the test after the last step.
        benchmark_responses: responses of ``upge evaluate`` after the run.

    Raises:
        UpgeError: a length below 1, a number of responses below 0, or no share.
    """

    prompt: int = 150
    response: int | None = None
    demonstration: int | None = None
    gated: float = 0.5
    validation_responses: int = 0
    test_responses: int = 0
    benchmark_responses: int = 0

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            least = 0 if name.endswith("_responses") else 1
            if name != "gated" and given is not None and not least <= given <= _MOST:
                raise UpgeError(f"{name}: got {given!s:.20}, wanted {least} to {_MOST}")
        if not 0 <= self.gated <= 1:
            raise UpgeError(f"gated: got {self.gated}, wanted a share from 0 to 1")


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        algorithm: of the registry.
        steps: how many.
        expected: all steps at the assumed lengths.
        longest: all steps with every sequence at its limit.
    """

    algorithm: str
    steps: int
    expected: Cost
    longest: Cost


@dataclass(frozen=True)
class Memory:
    """Of one GPU, in bytes.

    Attributes:
        parts: by name.
        phases: what of them is held at one time, by what is then done.
        available: the GPU's.
        sequences: whose caches one engine holds at full length; infinite where none is sampled.
    """

    parts: dict[str, int]
    phases: dict[str, tuple[str, ...]]
    available: int
    sequences: float

    def held(self, phase: str) -> int:
        """In a phase, all together."""
        return sum(self.parts[name] for name in self.phases[phase])

    @property
    def needed(self) -> int:
        """At the fullest moment."""
        return max(map(self.held, self.phases))

    @property
    def fits(self) -> bool:
        """Whether there is enough, for training and for at least one sequence's cache."""
        return self.needed <= self.available and self.sequences >= 1


@dataclass(frozen=True)
class RunPlan:
    """All of it.

    Attributes:
        model: its name.
        setting: its shape, the machine, and what samples.
        assumptions: those that were made.
        is_limit: whether responses are taken to be as long as they may be, for want of a mean.
        checks: what is here, and right.
        memory: of one GPU.
        stages: each.
        evaluation: validations and the last test.
        benchmarks: ``upge evaluate`` after the run, on one GPU; no part of the run.
    """

    model: str
    setting: Setting
    assumptions: Assumptions
    is_limit: bool
    checks: list[Check]
    memory: Memory
    stages: list[StagePlan]
    evaluation: Cost
    benchmarks: Cost

    @property
    def expected(self) -> Cost:
        """All stages and evaluations at the assumed lengths."""
        return sum((stage.expected for stage in self.stages), self.evaluation)


def make_plan(config: RunConfig, cluster: Cluster, assumptions: Assumptions) -> RunPlan:
    """Plan a run.

    Raises:
        UpgeError: a model of unknown shape.
    """
    setting = _setting(config, cluster)
    checks, measured = check_run(config, setting.shape)
    assumed = _with_measured(assumptions, measured, config)
    return RunPlan(
        config.model,
        setting,
        assumptions=assumed,
        is_limit=assumptions.response is None,
        checks=checks,
        memory=run_memory(config, cluster, assumed),
        stages=[_stage(stage, config, setting, assumed) for stage in config.stages],
        evaluation=_evaluation(config, setting, assumed),
        benchmarks=_benchmarks(config, setting, assumed),
    )


def plan_costs(config: RunConfig, cluster: Cluster, assumptions: Assumptions) -> Cost:
    """All of a run at these lengths, whatever is on this machine.

    Raises:
        UpgeError: a model of unknown shape.
    """
    setting = _setting(config, cluster)
    assumed = _with_measured(assumptions, Measured(), config)
    stages = [_stage(stage, config, setting, assumed) for stage in config.stages]
    return sum((stage.expected for stage in stages), _evaluation(config, setting, assumed))


def _setting(config: RunConfig, cluster: Cluster) -> Setting:
    mixed = cluster.mixed if config.precision is None else config.precision == "bfloat16"
    return Setting(shape_of(config.model), cluster, config.backend, mixed)


def _with_measured(given: Assumptions, measured: Measured, config: RunConfig) -> Assumptions:
    """Measured lengths over assumed ones; where there is neither, the limit."""
    limit = config.max_tokens
    return replace(
        given,
        prompt=measured.prompt or given.prompt,
        response=min(given.response or limit, limit),
        demonstration=min(measured.demonstration or given.demonstration or limit, limit),
    )


def _stage(stage: Stage, config: RunConfig, setting: Setting, assumed: Assumptions) -> StagePlan:
    limit = config.max_tokens
    mean = Lengths(
        assumed.prompt, assumed.response or limit, assumed.demonstration or limit, assumed.gated
    )
    costs = [
        step_cost(setting, step_work(stage, lengths, measures_mismatch=setting.has_engine))
        * stage.steps
        for lengths in (mean, Lengths(assumed.prompt, limit, limit))
    ]
    return StagePlan(stage.algorithm, stage.steps, *costs)


def _evaluation(config: RunConfig, setting: Setting, assumed: Assumptions) -> Cost:
    """Of validations and the last test, which the main process makes, on its GPU alone."""
    every = config.evaluation.every
    validations = 0 if every is None else -(-config.steps // every)

    def cost(responses: int) -> Cost:
        return sampling_cost(setting, _responses(responses, config, assumed), 1)

    tests = cost(assumed.test_responses) if config.evaluation.test_samples else NOTHING
    return cost(assumed.validation_responses) * validations + tests


def _benchmarks(config: RunConfig, setting: Setting, assumed: Assumptions) -> Cost:
    """Of ``upge evaluate``, beside whose sampler the GPU holds nothing else."""
    cluster = replace(setting.cluster, sampler_memory=setting.cluster.evaluator_memory)
    batch = _responses(assumed.benchmark_responses, config, assumed)
    return sampling_cost(replace(setting, cluster=cluster), batch, 1)


def _responses(count: int, config: RunConfig, assumed: Assumptions) -> Batch:
    return Batch(count, assumed.prompt, assumed.response or config.max_tokens)


_ALWAYS = ("weights", "optimizer", "whole copy", "overhead (assumed)")
_TRAINING, _SAMPLING = ("gradients", "gathered", "activations"), ("KV cache", "sampler's logits")


def run_memory(config: RunConfig, cluster: Cluster, assumed: Assumptions) -> Memory:
    """What a run holds on one GPU."""
    setting = _setting(config, cluster)
    shape, mixed = setting.shape, setting.mixed
    state = state_bytes(shape, cluster.gpus, cluster.sharding, mixed=mixed, offload=cluster.offload)
    activations = activation_bytes(
        shape,
        config.tokens_per_microbatch,
        mixed=mixed,
        checkpointing=cluster.checkpointing,
        chunk=positions_at_a_time(shape.vocabulary),
    )
    length = assumed.prompt + config.max_tokens
    sampler = _sampler(config, setting, length)
    parts = vars(state) | {"whole copy": _copy(setting), "activations": activations} | sampler
    parts |= {"overhead (assumed)": _OVERHEAD}
    engine = tuple(sampler) if setting.has_engine else ()

    def held(*names: str) -> tuple[str, ...]:
        return tuple(name for name in parts if name in names)

    return Memory(
        parts,
        {
            "training": held(*_ALWAYS, *_TRAINING, *engine),
            "sampling": held(*_ALWAYS, *_SAMPLING, *engine),
        },
        int(cluster.type.memory * 1e9),
        concurrency(setting, length) if _samples(config) else float("inf"),
    )


def _copy(setting: Setting) -> int:
    """Whole weights beside sharded ones, from which the loop's own sampler samples.

    Under an engine they lie in the host's memory.
    """
    sharded = setting.cluster.sharding in ("gradients", "full") and setting.cluster.gpus > 1
    return FLOAT32 * setting.shape.parameters if sharded and not setting.has_engine else 0


def _samples(config: RunConfig) -> bool:
    return _evaluates(config) or any(stage.samples_rollouts for stage in config.stages)


def _evaluates(config: RunConfig) -> bool:
    return bool(config.evaluation.every or config.evaluation.test_samples)


def _sampler(config: RunConfig, setting: Setting, length: int) -> dict[str, int]:
    """An engine's weights and cache; of the loop's own sampler, cache and logits."""
    if not _samples(config):
        return {}
    shape, cluster = setting.shape, setting.cluster
    if setting.has_engine:
        whole = int(cluster.type.memory * 1e9 * cluster.sampler_memory)
        weights = setting.sampler_size * shape.parameters
        return {"engine's weights": weights, "engine's KV cache": max(whole - weights, 0)}
    held = concurrency(setting, length)
    rows = [
        s.prompts_per_step * s.group_size // cluster.gpus
        for s in config.stages
        if s.samples_rollouts
    ]
    if _evaluates(config):  # by one process, which takes as many rows as it can
        rows.append(held)
    together = min(max(rows), held)
    logits = together * shape.vocabulary * LOGIT_BYTES
    return {
        "KV cache": together * loop_row_bytes(shape, length) - logits,
        "sampler's logits": logits,
    }
