"""The plan of a run: does it fit, how many tokens, how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from upge.common.errors import UpgeError
from upge.planning.cost import Cost, evaluation_cost, run_cost, stage_cost
from upge.planning.memory import Memory, run_memory
from upge.planning.setting import Assumptions, Setting, setting_of
from upge.training.config import RunConfig


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run.

    Attributes:
        setting: the run, and what is assumed.
        memory: of one GPU.
        cost: all stages and evaluations.
    """

    setting: Setting
    memory: Memory
    cost: Cost


def make_plan(config: RunConfig, assumed: Assumptions) -> RunPlan:
    """Plan a run.

    Raises:
        UpgeError: a model of unknown shape, or a run that trains nothing.
    """
    if not config.stages:
        raise UpgeError("stages: there are none, so there is nothing to plan; add one")
    setting = setting_of(config, assumed)
    return RunPlan(setting, run_memory(setting), run_cost(setting))


def print_plan(plan: RunPlan, prefix: str = "") -> None:
    """Print a plan, each line after a prefix."""
    for part in (_setting, _memory, _costs):
        for line in part(plan):
            print(prefix + line)


def _setting(plan: RunPlan) -> Iterator[str]:
    setting, assumed = plan.setting, plan.setting.assumed
    yield f"model     {setting.config.model}: {setting.shape.parameters:,} parameters"
    yield (
        f"machine   {assumed.gpus} × {assumed.gpu} of {setting.gpu.memory / 1e9:g} GB, sharding "
        f"{assumed.sharding}, {'bfloat16' if setting.mixed else 'float32'} products, "
        f"{'with' if assumed.checkpointing else 'without'} activation checkpointing, rollouts by "
        f"{setting.config.backend}"
    )


def _memory(plan: RunPlan) -> Iterator[str]:
    memory = plan.memory
    yield f"memory    {'training':>8}{'sampling':>10}  GB (10⁹ bytes) of one GPU"
    for name in memory.training | memory.sampling:
        sizes = [phase.get(name, 0) for phase in (memory.training, memory.sampling)]
        if any(sizes):
            yield _row(name, *sizes)
    yield _row("total", sum(memory.training.values()), sum(memory.sampling.values()))
    held = f"; a sampler holds {memory.sequences:,} responses of full length at a time"
    yield (
        f"          of {memory.available / 1e9:g}: {'fits' if memory.fits else 'DOES NOT FIT'}"
        f"{'' if memory.sequences is None else held}"
    )


def _row(name: str, training: int, sampling: int) -> str:
    return f"          {training / 1e9:8.1f}{sampling / 1e9:10.1f}  {name}"


def _costs(plan: RunPlan) -> Iterator[str]:
    assumed, lengths = plan.setting.assumed, plan.setting.lengths
    limit = " (the limit: no mean is assumed, see --assume)" if assumed.response is None else ""
    yield (
        f"assumed   {lengths.prompt} tokens a prompt, {lengths.response} a response{limit}, "
        f"{lengths.demonstration} a demonstration; {assumed.gated:.0%} of prompts gated; "
        f"{assumed.use_of_flops:.0%} of the peak FLOP/s, {assumed.use_of_bandwidth:.0%} of the "
        "memory's bandwidth; no communication, start-up or grading"
    )
    for stage in plan.setting.config.stages:
        cost = stage_cost(plan.setting, stage)
        yield f"stage     {stage.algorithm}, {stage.steps} steps: {_cost(cost, plan)}"
    evaluation = evaluation_cost(plan.setting)
    if evaluation.sampled_tokens:
        yield f"evaluate  {_cost(evaluation, plan)}"
    yield f"total     {_cost(plan.cost, plan)}"


def _cost(cost: Cost, plan: RunPlan) -> str:
    work = (
        f"{cost.sampled_tokens:.2g} tokens sampled, {cost.trained_tokens:.2g} trained on, "
        f"{cost.flops:.2g} FLOPs"
    )
    if not plan.memory.fits:
        return work
    took, sampling = (timedelta(seconds=round(x)) for x in (cost.seconds, cost.sampling_seconds))
    hours = cost.seconds / 3600 * plan.setting.assumed.gpus
    return f"{work}, {took} ({sampling} sampling), {hours:,.1f} GPU hours"
