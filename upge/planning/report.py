"""A plan in words, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from upge.planning.hours import Cost
from upge.planning.plan import RunPlan

_GIGA = 1e9


def plan_lines(plan: RunPlan) -> Iterator[str]:
    """The plan for a reader; numbers that rest on assumptions say so."""
    setting = plan.setting
    shape, cluster = setting.shape, setting.cluster
    yield f"model     {plan.model}: {shape.parameters:,} parameters ({shape.source})"
    yield (
        f"machine   {cluster.gpus} × {cluster.gpu} of {cluster.type.memory:g} GB, "
        f"sharding {cluster.sharding}, {'bfloat16' if setting.mixed else 'float32'} products, "
        f"{'with' if cluster.checkpointing else 'without'} activation checkpointing, "
        f"rollouts by {setting.backend}"
    )
    for check in plan.checks:
        yield f"{check.state:<9} {check.what}: {check.note}"
    yield from _memory(plan)
    yield from _costs(plan)


def _memory(plan: RunPlan) -> Iterator[str]:
    memory = plan.memory
    yield "memory    of one GPU, GB (10⁹ bytes):"
    for name, size in memory.parts.items():
        if size:
            yield f"          {size / _GIGA:8.1f}  {name}"
    for phase, names in memory.phases.items():
        left_out = [name for name, size in memory.parts.items() if size and name not in names]
        without = f", without {', '.join(left_out)}" if left_out else ""
        yield f"          {memory.held(phase) / _GIGA:8.1f}  in all while {phase}{without}"
    together = (
        f"; a sampler holds {memory.sequences:,.0f} responses of full length at a time"
        if memory.sequences < float("inf")
        else ""
    )
    yield (
        f"          of {memory.available / _GIGA:g}: {'fits' if memory.fits else 'DOES NOT FIT'}"
        f"{together}"
    )


def _costs(plan: RunPlan) -> Iterator[str]:
    assumed = plan.assumptions
    limit = " (the limit: no mean is assumed, see --assume)" if plan.is_limit else ""
    yield (
        f"lengths   on average {assumed.prompt} tokens a prompt, {assumed.response} a response"
        f"{limit}, {assumed.demonstration} a demonstration; {assumed.gated:.0%} of questions gated"
    )
    for stage in plan.stages:
        yield f"stage     {stage.algorithm}, {stage.steps} steps: {_cost(stage.expected, plan)}"
        yield f"          with every sequence at its limit: {_cost(stage.longest, plan)}"
    if plan.evaluation.sampled_tokens:
        yield f"evaluate  {_cost(plan.evaluation, plan)}"
    yield f"in all    {_cost(plan.expected, plan)}"
    cluster = plan.setting.cluster
    yield (
        f"          at assumed {cluster.use_of_flops:.0%} of the peak FLOP/s and "
        f"{cluster.use_of_bandwidth:.0%} of the memory's bandwidth; without communication, "
        "start-up and grading"
    )
    if plan.benchmarks.sampled_tokens:
        cost = plan.benchmarks
        yield (
            f"after it  {assumed.benchmark_responses:,} responses by upge evaluate: "
            f"{cost.sampled_tokens:.2g} tokens, {_duration(cost.seconds)} on one GPU"
        )


def _cost(cost: Cost, plan: RunPlan) -> str:
    work = (
        f"{cost.sampled_tokens:.2g} tokens sampled, {cost.trained_tokens:.2g} trained on, "
        f"{cost.flops:.2g} FLOPs"
    )
    if not plan.memory.fits:
        return work
    hours = cost.seconds / 3600 * plan.setting.cluster.gpus
    return (
        f"{work}, {_duration(cost.seconds)} ({_duration(cost.sampling_seconds)} of them sampling), "
        f"{_number(hours)} GPU hours"
    )


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{_number(seconds / length)} {unit}"
    return f"{_number(seconds)} seconds"


def _number(x: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
