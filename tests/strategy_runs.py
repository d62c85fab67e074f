"""Steps of two processes against those of one plain one: ``python strategy_runs.py OUT KIND...``.

For every way of spreading the policy that is named, two processes walk through all algorithms:
gradient, norm, clip and step, with and without accumulation, and an optimizer that went through a
checkpoint. A KIND is ``ddp``, ``fsdp2``, ``zero2``, ``zero3``, or one of these with ``-offload``,
``-bf16`` or ``-three`` (processes).
"""

from __future__ import annotations

import copy
import json
import os
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import forks
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from test_gradient import TRAINED, Accelerator, flat, policy, ragged

from upge.algorithms import algorithm
from upge.config import build
from upge.training import strategy as strategies
from upge.training.config import Stage
from upge.training.gradient import GradientAccumulator, sum_over_processes
from upge.training.strategy import open_accelerator, open_strategy

QUESTIONS, MICRO_BATCH = 5, 4
STAGE = build({"algorithm": "sft", "steps": 1, "lr": 1e-3, "weight_decay": 0.1}, Stage)

#: Beside which rounding of a small gradient doesn't decide about AdamW's step.
EPSILON = 1e-4


# ---------------------------------------------------------------------------------------- launchers


def shard(accelerator):
    """Have Accelerate, which leaves FSDP out on a CPU, do all else as for FSDP2."""
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=True,  # which is to be turned off
        reshard_after_forward=True,
    )
    strategies._load_whole(accelerator)
    return accelerator


def environment(kind):
    """What a launcher tells its processes."""
    mixed = {"ACCELERATE_MIXED_PRECISION": "bf16"} if kind.endswith("bf16") else {}
    if not kind.startswith("zero"):
        return {"ACCELERATE_USE_CPU": "true", **mixed}
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


def walk(kind, out):
    """Relative errors of gradients, norms and parameters, by algorithm."""
    accelerator = opened(kind)
    dtype = torch.float32 if kind.startswith("zero") else torch.float64
    plain = Plain(copy.deepcopy(policy()).to(dtype))
    strategy = open_strategy(accelerator, copy.deepcopy(plain.module.model))
    strategy.set_temperature(plain.module.temperature)
    if kind.startswith("zero"):
        assert strategy.policy.zero_optimization_stage() == int(kind[4])
        assert strategy.policy.zero_cpu_offload() == kind.endswith("offload")
    whole = ragged(questions=QUESTIONS)
    whole = replace(whole, reward=whole.reward.double())
    found = {}
    for name in TRAINED:
        estimator = algorithm(name)()
        plain.start()
        start(strategy, {})
        errors = [
            compare(plain, strategy, accelerator, estimator, whole, micro_batch)
            for micro_batch in (10**6, MICRO_BATCH)
        ]
        found[name] = [max(column) for column in zip(*errors, strict=True)]
    state = {key: value for key, value in strategy.optimizer_state().items()}
    start(strategy, {})
    start(strategy, state)
    found["resumed"] = compare(plain, strategy, accelerator, estimator, whole, MICRO_BATCH)
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


def compare(plain, strategy, accelerator, estimator, whole, micro_batch):
    """Take a step in both; a term's gradient is taken before it, and thrown away."""
    whole = as_sampled_by(plain.module, whole)
    own = whole.group % accelerator.num_processes == accelerator.process_index
    mine = replace(whole.select(own), all_sum=partial(sum_over_processes, accelerator))
    accumulate = GradientAccumulator(strategy.policy, accelerator, 10**9, micro_batch)
    plan = accumulate.plan(estimator, mine)
    accumulate(plan, only=0)
    term = strategy.norm()
    strategy.discard()
    errors = [relative(term, plain.gradient(estimator, whole, only=0).norm())]
    expected = plain.gradient(estimator, whole)
    accumulate(plan)
    gradient = whole_gradient(strategy)
    norm = strategy.norm()
    errors += [relative(gradient, expected), relative(norm, expected.norm())]
    limit = 0.5 * float(expected.norm()) or 1.0
    strategy.step(STAGE.lr, norm, limit)
    plain.step(limit)
    strategy.synchronize()
    parameters = [
        torch.cat([p.detach().flatten() for p in module.parameters()])
        for module in (strategy.whole, plain.module)
    ]
    return [*errors, relative(*parameters), -float(expected.norm())]


def relative(found, expected):
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def main(out: str, *kinds: str) -> None:
    """Walk in two forked processes for each."""
    policy()
    for kind in kinds:
        path = Path(out) / f"{kind}.json"
        codes = forks.together(processes(kind), partial(walk, kind, path), **environment(kind))
        if any(codes):
            raise SystemExit(f"{kind}: ended with {codes}")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(*sys.argv[1:])
