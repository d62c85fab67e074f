"""Steps of two processes against those of one plain one: ``python strategy_runs.py OUT KIND...``.

For every way of spreading the policy that is named, two processes walk through all algorithms:
gradient, norm, clip and step, with and without accumulation, and an optimizer that went through a
checkpoint. A KIND is ``ddp``, ``fsdp2``, ``zero2``, ``zero3``, or one of these with ``-offload``,
``-bf16`` or ``-three`` (processes). FSDP2 is as experiments/launch/fsdp2.yaml has it. With
``-bf16``, which rounds gradients, the launch check says what steps are, and sums are compared.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import ClassVar

import forks
import torch
from accelerate import PartialState
from accelerate.commands import launch as accelerate_launch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from launched import ROOT
from ragged import TRAINED, Accelerator, flat, policy, ragged

from upge.algorithms import algorithm
from upge.common.config import build
from upge.training import launch as launch_module
from upge.training import launch_check
from upge.training import strategy as strategies
from upge.training.config import Stage
from upge.training.gradient import GradientAccumulator
from upge.training.launch import open_accelerator, open_strategy
from upge.training.processes import sum_over_processes

#: So many questions that all algorithms have rows for four micro-batches in each of two processes.
QUESTIONS, ROLLOUTS, FEWEST = 12, 4, 4
STAGE = build({"algorithm": "sft", "steps": 1, "lr": 1e-3, "weight_decay": 0.1}, Stage)

#: Beside which rounding of a small gradient doesn't decide about AdamW's step.
EPSILON = 1e-4


# ---------------------------------------------------------------------------------------- launchers


def shard(accelerator):
    """Have Accelerate, which leaves FSDP out on a CPU, do all else as for FSDP2."""
    plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=True)  # to be turned off
    assert plugin.activation_checkpointing  # as all else, from what the launcher said
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    # Both: whatever asks for Accelerate's state anew gives it what the other one has.
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    launch_module._load_whole(accelerator)
    return accelerator


@cache
def recipe():
    """What ``accelerate launch`` tells processes under experiments/launch/fsdp2.yaml of FSDP."""
    file = ROOT / "experiments" / "launch" / "fsdp2.yaml"
    options = [f"--config_file={file}", "--main_process_port=0", "upge"]
    given = accelerate_launch.launch_command_parser().parse_args(options)
    told = prepare_multi_gpu_env(accelerate_launch._validate_launch_command(given)[0])
    return {name: value for name, value in told.items() if name.startswith("FSDP_")}


def environment(kind):
    """What a launcher tells its processes."""
    mixed = {"ACCELERATE_MIXED_PRECISION": "bf16"} if kind.endswith("bf16") else {}
    if not kind.startswith("zero"):
        sharded = recipe() if kind.startswith("fsdp2") else {}
        return {"ACCELERATE_USE_CPU": "true", **sharded, **mixed}
    offload = "cpu" if kind.endswith("offload") else "none"
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": kind[4],
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": offload,
        "DS_ACCELERATOR": "cpu",
        **mixed,
    }


def processes(kind):
    """How many there are."""
    return {"single": 1, "three": 3}.get(kind.split("-")[-1], 2)


def opened(kind, **options):
    """Accelerate's object under that launcher."""
    if kind.startswith("zero"):
        # Faster collectives, which take minutes to compile.
        import_module("deepspeed.comm.torch").build_shm_op = lambda: None
    accelerator = open_accelerator(**options)
    return shard(accelerator) if kind.startswith("fsdp2") else accelerator


# ----------------------------------------------------------------------------------------- the walk


class Plain:
    """One process with the whole batch: AdamW, and a clip as PyTorch's."""

    def __init__(self, module):
        self.module = module

    def start(self):
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=STAGE.lr, betas=STAGE.betas, eps=EPSILON, weight_decay=0.1
        )

    def gradient(self, estimator, batch, only=None):
        self.module.zero_grad()
        accumulate = GradientAccumulator(self.module, Accelerator(), 10**9)
        accumulate(accumulate.plan(estimator, batch), only=only)
        return flat(self.module)

    def step(self, max_norm):
        norm = float(flat(self.module).norm())
        for parameter in self.module.parameters():  # PyTorch's own clip adds 1e-6 to the norm
            parameter.grad *= min(max_norm / norm, 1.0)
        self.optimizer.step()


def whole_gradient(strategy):
    """What the processes' shards make up."""
    found = []
    for p in strategy.policy.parameters():
        if hasattr(strategy, "_api"):
            found.append(strategy._api.safe_get_full_grad(p))
        else:
            found.append(torch.zeros_like(p) if p.grad is None else p.grad)
    return torch.cat([strategies._full(g).flatten() for g in found])


class Counting(GradientAccumulator):
    """Remembers how many rows the micro-batches had that went through the policy."""

    sizes: ClassVar = []

    def __call__(self, *args, **kwargs):
        self.sizes = []
        return super().__call__(*args, **kwargs)

    def _likelihood(self, part):
        self.sizes.append(len(part.mask))
        return super()._likelihood(part)


def uneven():
    """The batch; every other question, those of one process of two, has a rollout less."""
    batch = ragged(questions=QUESTIONS, rollouts=ROLLOUTS)
    rows = torch.arange(len(batch.mask))
    rollout = rows < QUESTIONS * ROLLOUTS  # demonstrations come after them
    last = rollout & (rows % ROLLOUTS == ROLLOUTS - 1) & (batch.group % 2 == 1)
    return replace(batch, reward=batch.reward.double()).select(~last)


def micro_batch_for(rows):
    """The largest that splits so many rows, by process, in enough parts, and not in as many."""
    for size in range(min(rows) // (FEWEST - 1), 0, -1):
        parts = [ceil(count / size) for count in rows]
        if min(parts) >= FEWEST and len(set(parts)) > 1:
            return size
    raise AssertionError(f"no size splits {rows} rows unevenly")


def gathered(accelerator, count):
    """One number of every process."""
    return accelerator.gather(torch.tensor([count])).tolist()


def never(policy):
    raise AssertionError("a whole gradient is kept until it is summed")


def walk(kind, out):
    """Relative errors of gradients, norms and parameters, by algorithm."""
    accelerator = opened(kind)
    dtype = torch.float32 if kind.startswith("zero") else torch.float64
    plain = Plain(copy.deepcopy(policy()).to(dtype))
    strategy = open_strategy(accelerator, copy.deepcopy(plain.module.model))
    strategy.set_temperature(plain.module.temperature)
    if kind.startswith("fsdp2"):
        assert accelerator.is_fsdp2  # still
        accelerator.no_sync = never  # so that no process keeps a whole gradient
    if kind.startswith("zero"):
        assert strategy.policy.zero_optimization_stage() == int(kind[4])
        assert strategy.policy.zero_cpu_offload() == kind.endswith("offload")
    take = partial(compare, plain, strategy, accelerator, uneven())
    found = {}
    for name in os.environ.get("UPGE_TEST_ROWS", ",".join(TRAINED)).split(","):
        estimator = algorithm(name)()
        plain.start()
        start(strategy, {})
        found[name] = [take(estimator, accumulates) for accumulates in (False, True)]
    state = {key: value for key, value in strategy.optimizer_state().items()}
    start(strategy, {})
    start(strategy, state)
    found["resumed"] = [take(estimator, accumulates=True)]
    if accelerator.is_main_process:
        Path(out).write_text(json.dumps(found))


def as_sampled_by(policy, batch):
    """The batch with one question's rollouts as the policy's own, within any clip."""
    with torch.no_grad():
        logp = policy(batch.tokens, batch.mask)[0].clamp(max=0).to(batch.old_logp.dtype)
    own = (batch.group == QUESTIONS - 1)[:, None] & ~batch.offline
    return replace(batch, old_logp=torch.where(own, logp, batch.old_logp))


def start(strategy, state):
    strategy.start_stage(STAGE, state)
    for group in strategy.optimizer.param_groups:
        group["eps"] = EPSILON


def compare(plain, strategy, accelerator, whole, estimator, accumulates):
    """Take a step in both; a term's gradient is taken before it, and thrown away."""
    whole = as_sampled_by(plain.module, whole)
    own = whole.group % accelerator.num_processes == accelerator.process_index
    mine = replace(whole.select(own), all_sum=partial(sum_over_processes, accelerator))
    accumulate = Counting(strategy.policy, accelerator, 10**9)
    rows = gathered(accelerator, int(accumulate.plan(estimator, mine).nonzero_rows().sum()))
    accumulate.micro_batch = micro_batch_for(rows) if accumulates else max(rows)
    plan = accumulate.plan(estimator, mine)
    accumulate(plan, only=0)
    term = strategy.norm()
    strategy.discard()
    errors = {"term norm": relative(term, plain.gradient(estimator, whole, only=0).norm())}
    expected = plain.gradient(estimator, whole)
    accumulate(plan)
    micro_batches = gathered(accelerator, sum(size > 0 for size in accumulate.sizes))
    gradient = whole_gradient(strategy)
    norm = strategy.norm()
    errors |= {"gradient": relative(gradient, expected), "norm": relative(norm, expected.norm())}
    limit = 0.5 * float(expected.norm()) or 1.0
    strategy.step(STAGE.lr, norm, limit)
    plain.step(limit)
    strategy.synchronize()
    parameters = [
        torch.cat([p.detach().flatten() for p in module.parameters()])
        for module in (strategy.whole, plain.module)
    ]
    errors["parameters"] = relative(*parameters)
    return {"errors": errors, "size": float(expected.norm()), "micro_batches": micro_batches}


def relative(found, expected):
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


# ------------------------------------------------------------------------------- bfloat16 products


def look(kind, out):
    """What the launch check finds, the dtype of log π, what summing a gradient in parts changes."""
    accelerator = opened(kind)
    report = launch_check.check_launch(accelerator=accelerator)
    strategy = open_strategy(accelerator, copy.deepcopy(policy().model).float())
    strategy.start_stage(STAGE, {})
    assert accelerator.is_fsdp2 == kind.startswith("fsdp2")
    batch = uneven()

    def gradient(parts):
        for part in range(parts):
            last = part == parts - 1
            with nullcontext() if last else accelerator.no_sync(strategy.policy):
                logp = strategy.policy(batch.tokens, batch.mask)[0]
                accelerator.backward(logp.sum() / parts)
        found = whole_gradient(strategy)
        strategy.discard()
        return found, logp

    (whole, logp), (summed, _) = gradient(1), gradient(64)
    cases = {name: vars(case) for name, case in report.cases.items()}
    found = {"cases": cases, "dtype": str(logp.dtype), "summing": relative(summed, whole)}
    if accelerator.is_main_process:
        Path(out).write_text(json.dumps(found))


def main(out: str, *kinds: str) -> None:
    """Walk, or look, in two forked processes for each."""
    policy()
    for kind in kinds:
        path = Path(out) / f"{kind}.json"
        run = look if kind.endswith("bf16") else walk
        codes = forks.together(processes(kind), partial(run, kind, path), **environment(kind))
        if any(codes):
            raise SystemExit(f"{kind}: ended with {codes}")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(*sys.argv[1:])
