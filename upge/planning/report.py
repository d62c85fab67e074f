"""A plan in words, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from upge.planning.hours import Cost
from upge.planning.plan import RunPlan

_GIGA = 1e9


def plan_lines(plan: RunPlan) -> Iterator[str]:
    """The plan for a reader; numbers that rest on assumptions say so."""
    cluster = plan.cluster
    yield f"model     {plan.model}: {plan.shape.parameters:,} parameters ({plan.shape.source})"
    yield (
        f"machine   {cluster.gpus} × {cluster.gpu} of {cluster.type.memory:g} GB, "
        f"sharding {cluster.sharding}, {'bfloat16' if cluster.mixed else 'float32'} products, "
        f"{'with' if cluster.checkpointing else 'without'} activation checkpointing, "
        f"sampler {cluster.sampler}"
    )
    for check in plan.checks:
        yield f"{check.state:<9} {check.what}: {check.note}"
    yield from _memory(plan)
    yield from _costs(plan)


def _memory(plan: RunPlan) -> Iterator[str]:
    memory = plan.memory
    yield "memory    of one GPU, GB (10⁹ bytes):"
    for name, size in memory.parts.items():
        yield f"          {size / _GIGA:8.1f}  {name}"
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    together = (
        f"; a sampler holds {memory.sequences:,.0f} responses of full length"
        if memory.sequences < float("inf")
        else ""
    )
    yield (
        f"          {memory.needed / _GIGA:8.1f}  at the fullest moment, of "
        f"{memory.available / _GIGA:g}: {verdict}{together}"
    )


def _costs(plan: RunPlan) -> Iterator[str]:
    assumed = plan.assumptions
    yield (
        f"lengths   on average {assumed.prompt} tokens a prompt, {assumed.response} a response, "
        f"{assumed.demonstration} a demonstration; {assumed.gated:.0%} of questions gated"
    )
    for stage in plan.stages:
        yield f"stage     {stage.algorithm}, {stage.steps} steps: {_cost(stage.expected, plan)}"
        yield f"          with every sequence at its limit: {_cost(stage.longest, plan)}"
    if plan.evaluation.sampled_tokens:
        yield f"evaluate  {_cost(plan.evaluation, plan)}"
    yield f"in all    {_cost(plan.expected, plan)}"
    yield (
        f"          at assumed {plan.cluster.use_of_flops:.0%} of the peak FLOP/s and "
        f"{plan.cluster.use_of_bandwidth:.0%} of the memory's bandwidth; without communication, "
        "start-up and grading"
    )


def _cost(cost: Cost, plan: RunPlan) -> str:
    hours, gpus = cost.seconds / 3600, plan.cluster.gpus
    return (
        f"{cost.sampled_tokens:.2g} tokens sampled, {cost.trained_tokens:.2g} trained on, "
        f"{cost.flops:.2g} FLOPs, {hours:.3g} hours ({cost.sampling_seconds / 3600:.3g} of them "
        f"sampling), {hours * gpus:.3g} GPU hours"
    )
