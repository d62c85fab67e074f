"""Planned tokens, FLOPs and seconds, against what torch counts, real runs, and sums by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import TINY, model_of, shapes
from torch.utils.flop_counter import FlopCounterMode

from upge.algorithms import REGISTRY
from upge.common.config import build
from upge.models.policy import Policy
from upge.models.shapes import ModelShape
from upge.planning.cost import (
    Batch,
    evaluation_cost,
    sampling_cost,
    stage_cost,
    step_work,
    training_flops,
)
from upge.planning.setting import GPUS, Assumptions, Lengths, Setting, setting_of
from upge.training.config import RunConfig, Stage


def stage(algorithm: str, **changes: Any) -> dict[str, Any]:
    return {"algorithm": algorithm, "steps": 10, "lr": 1e-6} | changes


def setting(backend: str = "vllm", *, of: Any = None, **assumed: Any) -> Setting:
    """A run of the 7B model, whose engine has bfloat16 weights."""
    run = {"name": "r", "model": "Qwen/Qwen2.5-Math-7B", "max_tokens": 1024, "backend": backend}
    run |= {"stages": [of or stage("hpt")], "evaluation": {"every": 5, "test_samples": 1}}
    return setting_of(build(run, RunConfig), Assumptions(**{"gpu": "a100"} | assumed))


# ------------------------------------------------------------------------------------------- FLOPs


@dataclass(frozen=True)
class Unmasked(Batch):
    """As the eager kernel has it, which also computes what the mask hides."""

    @property
    def pairs(self) -> float:
        return self.sequences * (self.prompt + self.response) ** 2


def counted(shape: ModelShape, batch: Batch, checkpointing: bool) -> int:
    model = model_of(shape, "eager")
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    # The last token is no input.
    length = batch.prompt + batch.response + 1
    tokens = torch.randint(0, shape.vocab_size, (int(batch.sequences), length))
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[:, batch.prompt + 1 :] = True
    policy = Policy(model)
    with FlopCounterMode(display=False) as counter:
        logp, _ = policy(tokens, mask)
        logp.sum().backward()
    rotary = shape.query_width // shape.num_attention_heads * (length - 1)
    return counter.get_total_flops() - rotary  # positions times frequencies


@settings(max_examples=10, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
def test_training_flops_are_those_that_torch_counts(
    shape: ModelShape, rows: int, prompt: int, response: int
) -> None:
    batch = Unmasked(rows, prompt, response)
    assert training_flops(shape, batch, False) == counted(shape, batch, False)


def test_checkpointing_costs_another_forward_pass_except_for_its_last_product() -> None:
    batch = Unmasked(2, 2, 8)
    last = 2 * 20 * TINY.num_hidden_layers * TINY.hidden_size * TINY.intermediate_size
    assert training_flops(TINY, batch, True) - last == counted(TINY, batch, True)


def test_a_query_sees_the_keys_before_it() -> None:
    pairs = [(q, k) for q in range(7) for k in range(7) if k <= q]
    assert Batch(3, 2, 5).pairs == 3 * len(pairs)


# ------------------------------------------------------------------------------------------ tokens


def test_trained_tokens_are_those_of_a_run(tmp_path: Path) -> None:
    tiny = tiny_runs.Tiny(tmp_path / "tiny")
    problems = tmp_path / "alike.jsonl"
    records = [{"problem": f"{a}+4=", "answer": str(a), "solution": f"{a}4"} for a in range(9)]
    problems.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = tiny.config("sft", data=tiny.data(train=str(problems), held_out=1, test=None))
    lines = tiny_runs.run(config, tmp_path / "run").metrics()
    work = step_work(config.stages[0], Lengths(4, 8, 5), 0.5)  # as 34#3 and the end
    assert {line["tokens_computed"] for line in lines} == {sum(b.tokens for b in work.trained)}
    assert work.sampled.sequences == 0


@pytest.mark.parametrize(
    ("algorithm", "rollouts", "demonstrations", "sampled"),
    [
        ("sft", 0, 4, 0),
        ("grpo", 32, 0, 32),
        ("luffy", 32, 4, 32),
        ("hpt", 24, 1, 32),  # a quarter of the prompts is gated
        ("hpt_wiener", 32, 4, 32),  # its gate is soft: both losses everywhere
    ],
)
def test_what_is_trained_follows_from_the_terms(
    algorithm: str, rollouts: int, demonstrations: int, sampled: int
) -> None:
    work = step_work(build(stage(algorithm, prompts_per_step=4), Stage), Lengths(10, 20, 30), 0.25)
    assert [batch.sequences for batch in work.trained] == [rollouts, demonstrations]
    assert work.sampled.sequences == sampled
    twice = build(stage(algorithm, prompts_per_step=4, epochs=2), Stage)
    again = step_work(twice, Lengths(10, 20, 30), 0.25)
    assert [batch.sequences for batch in again.trained] == [2 * rollouts, 2 * demonstrations]


def test_weights_of_the_whole_batch_cost_a_forward_pass_an_epoch() -> None:
    for algorithm, passes in (("srft", 2), ("luffy", 0)):
        two = build(stage(algorithm, prompts_per_step=4, epochs=2), Stage)
        work = step_work(two, Lengths(10, 20, 30), 0.25)
        assert [batch.sequences for batch in work.scored] == [32 * passes, 4 * passes][:passes]


def test_every_algorithm_that_trains_has_work() -> None:
    for name, entry in REGISTRY.items():
        if "values" not in entry().needs:
            work = step_work(build(stage(name), Stage), Lengths(10, 20, 30), 0.5)
            assert sum(batch.tokens for batch in work.trained) > 0, name


def test_rollouts_of_an_engine_are_scored_once_more() -> None:
    built_in, engine = (
        stage_cost(at, at.config.stages[0])
        for at in (setting(backend, response=500) for backend in ("transformers", "vllm"))
    )
    tokens = 10 * 16 * 8 * (150 + 500)
    forward = 2 * tokens * 7_615_616_512
    assert engine.flops - built_in.flops == pytest.approx(forward, rel=0.1)


# ------------------------------------------------------------------------------------------- hours


def test_sampling_time_by_hand() -> None:
    at = setting(gpus=2, sampler_memory=0.5, use_of_bandwidth=0.5)
    cost = sampling_cost(at, Batch(16, 100, 1000), 2)
    # 8 sequences at once on each GPU: 1000 times all weights, and each token its sequence's cache.
    weights = 1000 * 7_615_616_512 * 2
    cache = 8 * 1000 * (100 + 500) * (2 * 28 * 4 * 128 * 2)
    assert cost.sampling_seconds == pytest.approx((weights + cache) / (2039e9 * 0.5))
    assert cost.sampled_tokens == 16000


def test_sampling_that_is_bound_by_flops_by_hand() -> None:
    at = setting(gpus=2, use_of_flops=0.001)
    cost = sampling_cost(at, Batch(16, 100, 1000), 2)
    assert cost.sampling_seconds == pytest.approx(cost.flops / (2 * 312e12 * 0.001))
    assert cost.flops == pytest.approx(2 * 16 * 1100 * 7_615_616_512, rel=0.1)


def test_training_time_by_hand() -> None:
    at = setting(gpus=4, use_of_flops=0.5, of=stage("sft"))
    cost = stage_cost(at, at.config.stages[0])
    assert cost.training_seconds == pytest.approx(cost.flops / (4 * 312e12 * 0.5))
    assert cost.sampling_seconds == 0


def test_the_built_in_sampler_waits_for_kernel_launches() -> None:
    slow, slower = (setting("transformers", layer_seconds=x) for x in (0.01, 0.02))
    cost = sampling_cost(slow, Batch(1, 100, 1000), 1)
    assert cost.sampling_seconds == pytest.approx(1000 * 28 * 0.01)
    assert sampling_cost(slower, Batch(1, 100, 1000), 1).sampling_seconds == pytest.approx(560)


def test_caches_that_do_not_fit_wait() -> None:
    # 20 GB less 15.2 GB of weights: caches of 10 sequences of 8,192 tokens at 57,344 bytes.
    at = setting(gpus=1, sampler_memory=0.25)
    ten, eleven, thirty = (
        sampling_cost(at, Batch(n, 0, 8192), 1).sampling_seconds for n in (10, 11, 30)
    )
    assert eleven > 1.5 * ten
    assert thirty == pytest.approx(3 * ten, rel=0.01)


def test_fewer_sequences_than_engines_take_the_time_of_one() -> None:
    one, two = (
        sampling_cost(setting(gpus=gpus), Batch(1, 10, 20), gpus).sampling_seconds
        for gpus in (1, 2)
    )
    assert 0 < two == one


@given(st.sampled_from(sorted(GPUS)), st.integers(1, 4), st.integers(1, 50))
def test_more_gpus_are_never_slower(gpu: str, gpus: int, prompts: int) -> None:
    of = stage("hpt", prompts_per_step=prompts)
    few, many = (
        stage_cost(at, at.config.stages[0])
        for at in (setting(of=of, gpu=gpu, gpus=n) for n in (gpus, 2 * gpus))
    )
    assert many.seconds <= few.seconds
    assert many.flops == few.flops > 0


def test_one_gpu_evaluates_after_every_interval_and_at_the_end() -> None:
    at = setting(response=500, validation_responses=64, test_responses=100)
    cost = evaluation_cost(at)
    assert cost.sampled_tokens == (2 * 64 + 100) * 500
    parts = [sampling_cost(at, Batch(n, 150, 500), 1).seconds for n in (64, 64, 100)]
    assert cost.seconds == pytest.approx(sum(parts))
    alone = at.assumed.model_copy(update={"gpus": 1})
    assert evaluation_cost(replace(at, assumed=alone)) == cost
