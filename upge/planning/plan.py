"""A run on paper: what it needs, whether it fits, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from upge.planning.checks import Check, Measured, check_run
from upge.planning.cluster import Cluster
from upge.planning.hours import (
    NOTHING,
    Cost,
    concurrency,
    loop_row_bytes,
    sampling_cost,
    step_cost,
)
from upge.planning.memory import BFLOAT16, activation_bytes, state_bytes
from upge.planning.shapes import ModelShape, shape_of
from upge.planning.workload import Batch, Lengths, step_work
from upge.policies.policy import positions_at_a_time
from upge.rollouts.cached import LOGIT_BYTES
from upge.training.config import RunConfig, Stage

#: Bytes for CUDA's context, communication and fragmentation; assumed.
_OVERHEAD = 3 * 10**9


@dataclass(frozen=True)
class Assumptions:
    """What no configuration says.

    Args:
        prompt, response, demonstration: mean tokens; measured where problems and tokenizer are
            here, but for the response.
        gated: share of questions whose demonstration is learned from, under HPT's switch.
        validation_responses: responses a validation.
        test_responses: responses of the test after the last step.
    """

    prompt: int = 150
    response: int | None = None
    demonstration: int | None = None
    gated: float = 0.5
    validation_responses: int = 0
    test_responses: int = 0


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
    """Of one GPU, in bytes, at its fullest.

    Attributes:
        parts: by name.
        needed: of those that are held at one time.
        available: the GPU's.
        sequences: whose caches one engine holds at full length.
    """

    parts: dict[str, int]
    needed: int
    available: int
    sequences: float

    @property
    def fits(self) -> bool:
        """Whether there is enough, for training and for at least one sequence's cache."""
        return self.needed <= self.available and self.sequences >= 1


@dataclass(frozen=True)
class RunPlan:
    """All of it."""

    model: str
    shape: ModelShape
    cluster: Cluster
    assumptions: Assumptions
    checks: list[Check]
    memory: Memory
    stages: list[StagePlan]
    evaluation: Cost

    @property
    def expected(self) -> Cost:
        """All stages and evaluations at the assumed lengths."""
        return sum((stage.expected for stage in self.stages), self.evaluation)


def make_plan(config: RunConfig, cluster: Cluster, assumptions: Assumptions) -> RunPlan:
    """Plan a run.

    Raises:
        UpgeError: a model of unknown shape.
    """
    shape = shape_of(config.model)
    checks, measured = check_run(config, shape)
    assumptions = _with_measured(assumptions, measured, config)
    stages = [_stage(stage, config, shape, cluster, assumptions) for stage in config.stages]
    return RunPlan(
        config.model,
        shape,
        cluster,
        assumptions,
        checks,
        run_memory(config, shape, cluster, assumptions),
        stages,
        _evaluation(config, shape, cluster, assumptions),
    )


def plan_costs(config: RunConfig, cluster: Cluster, assumptions: Assumptions) -> Cost:
    """All of a run at these lengths, whatever is on this machine.

    Raises:
        UpgeError: a model of unknown shape.
    """
    shape = shape_of(config.model)
    assumed = _with_measured(assumptions, Measured(), config)
    stages = [_stage(stage, config, shape, cluster, assumed) for stage in config.stages]
    return sum((stage.expected for stage in stages), _evaluation(config, shape, cluster, assumed))


def _with_measured(given: Assumptions, measured: Measured, config: RunConfig) -> Assumptions:
    """Measured lengths over assumed ones; where there is neither, the limit."""
    limit = config.max_tokens
    return replace(
        given,
        prompt=measured.prompt or given.prompt,
        response=min(given.response or limit, limit),
        demonstration=min(measured.demonstration or given.demonstration or limit, limit),
    )


def _stage(
    stage: Stage, config: RunConfig, shape: ModelShape, cluster: Cluster, assumed: Assumptions
) -> StagePlan:
    limit = config.max_tokens
    mean = Lengths(
        assumed.prompt, assumed.response or limit, assumed.demonstration or limit, assumed.gated
    )
    costs = [
        step_cost(shape, cluster, step_work(stage, lengths)) * stage.steps
        for lengths in (mean, Lengths(assumed.prompt, limit, limit))
    ]
    return StagePlan(stage.algorithm, stage.steps, *costs)


def _evaluation(
    config: RunConfig, shape: ModelShape, cluster: Cluster, assumed: Assumptions
) -> Cost:
    every = config.evaluation.every
    validations = 0 if every is None else -(-config.steps // every)

    def cost(responses: int) -> Cost:
        batch = Batch(responses, assumed.prompt, assumed.response or config.max_tokens)
        return sampling_cost(shape, cluster, batch)

    tests = cost(assumed.test_responses) if config.evaluation.test_samples else NOTHING
    return cost(assumed.validation_responses) * validations + tests


def run_memory(
    config: RunConfig, shape: ModelShape, cluster: Cluster, assumed: Assumptions
) -> Memory:
    """What a run holds on one GPU."""
    state = state_bytes(
        shape, cluster.gpus, cluster.sharding, mixed=cluster.mixed, offload=cluster.offload
    )
    activations = activation_bytes(
        shape,
        config.token_budget,
        mixed=cluster.mixed,
        checkpointing=cluster.checkpointing,
        chunk=positions_at_a_time(shape.vocabulary),
    )
    length = assumed.prompt + config.max_tokens
    sampler = _sampler(config, shape, cluster, length)
    while_training = (
        0 if cluster.sampler_sleeps or cluster.sampler == "loop" else sum(sampler.values())
    )
    training = state.total + activations + while_training
    sampling = state.weights + state.optimizer + sum(sampler.values())
    return Memory(
        vars(state) | {"activations": activations} | sampler | {"overhead (assumed)": _OVERHEAD},
        max(training, sampling) + _OVERHEAD,
        int(cluster.type.memory * 1e9),
        concurrency(shape, cluster, length) if _samples(config) else float("inf"),
    )


def _samples(config: RunConfig) -> bool:
    return _evaluates(config) or any(stage.samples_rollouts for stage in config.stages)


def _evaluates(config: RunConfig) -> bool:
    return bool(config.evaluation.every or config.evaluation.test_samples)


def _sampler(config: RunConfig, shape: ModelShape, cluster: Cluster, length: int) -> dict[str, int]:
    """The engine's weights and cache; of the loop's own sampler, cache and logits."""
    if not _samples(config):
        return {}
    if cluster.sampler == "vllm":
        whole = int(cluster.type.memory * 1e9 * cluster.sampler_memory)
        weights = BFLOAT16 * shape.parameters // cluster.tensor_parallel
        return {"sampler's weights": weights, "KV cache": max(whole - weights, 0)}
    held = concurrency(shape, cluster, length)
    rows = [s.questions * s.rollouts // cluster.gpus for s in config.stages if s.samples_rollouts]
    if _evaluates(config):  # by one process, which takes as many rows as it can
        rows.append(int(held))
    together = min(max(rows), int(held))
    logits = together * shape.vocabulary * LOGIT_BYTES
    return {
        "KV cache": together * loop_row_bytes(shape, length) - logits,
        "sampler's logits": logits,
    }
