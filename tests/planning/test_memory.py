"""Planned bytes, against what autograd, AdamW and the sampler really hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import TINY, model_of, with_changes
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.likelihood import _chunk_likelihood
from upge.planning import memory
from upge.planning.memory import check_run_memory, run_memory
from upge.planning.setting import Assumptions, Setting, load_assumptions, setting_of
from upge.rollouts.cached import LOGIT_BYTES
from upge.rollouts.decoding import Cached
from upge.training.config import RunConfig

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"

WEIGHTS = 7_615_616_512


def config(**changes: Any) -> RunConfig:
    stage = {"algorithm": "grpo", "steps": 10, "lr": 1e-6, "prompts_per_step": 16, "group_size": 8}
    run = {"name": "r", "model": "Qwen/Qwen2.5-Math-7B", "stages": [stage], "max_tokens": 64}
    return build(run | {"tokens_per_microbatch": 128} | changes, RunConfig)


# ------------------------------------------------------------------------------------- activations


def kept_bytes(compute: Callable[[], Any], parameters: Iterable[torch.Tensor]) -> int:
    """Of all storages that autograd keeps, except for the parameters'."""
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    assert result is not None
    return sum(size for size, _ in kept.values())


#: With a quarter as many keys as queries, and a wide feed-forward part, as a real one.
BLOCK = with_changes(
    TINY,
    hidden_size=128,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=352,
)

TOKENS = torch.arange(128).reshape(2, 64) % BLOCK.vocab_size


def blocks(layers: int, *, mixed: bool, checkpointing: bool) -> Setting:
    shape = with_changes(BLOCK, num_hidden_layers=layers)
    return Setting(config(), shape, Assumptions(mixed=mixed, checkpointing=checkpointing))


def kept_by(layers: int, *, mixed: bool, checkpointing: bool) -> int:
    """Bytes that so many layers keep, wrapped as launchers do under checkpointing."""
    model = model_of(with_changes(BLOCK, num_hidden_layers=layers)).train()
    if checkpointing:
        for place, layer in enumerate(model.model.layers):
            model.model.layers[place] = checkpoint_wrapper(layer)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return model.model(input_ids=TOKENS, use_cache=False).last_hidden_state

    return kept_bytes(forward, model.parameters())


def kept_by_a_block(mixed: bool) -> float:
    one, three = (kept_by(n, mixed=mixed, checkpointing=False) for n in (1, 3))
    weights = 2 * BLOCK.layer_matrix if mixed else 0  # autocast's copies, planned as gathered
    return (three - one) / 2 - weights


@pytest.mark.parametrize("mixed", [False, True])
def test_a_block_keeps_as_much_as_planned(mixed: bool) -> None:
    planned = memory.block_bytes(blocks(3, mixed=mixed, checkpointing=False))
    assert planned == pytest.approx(3 * kept_by_a_block(mixed), rel=0.05)


@pytest.mark.parametrize("mixed", [False, True])
def test_checkpointed_blocks_keep_as_much_as_planned(mixed: bool) -> None:
    """Each keeps its input, and the one that is recomputed all the rest."""
    planned = [memory.block_bytes(blocks(n, mixed=mixed, checkpointing=True)) for n in (1, 9)]
    one, nine = (kept_by(n, mixed=mixed, checkpointing=True) for n in (1, 9))
    assert planned[1] - planned[0] == pytest.approx(nine - one, rel=0.01)
    wanted = (nine - one) / 8 * 9 + kept_by_a_block(mixed)
    assert planned[1] == pytest.approx(wanted, rel=0.05)


def test_a_chunk_of_logits_keeps_as_much_as_planned() -> None:
    hidden, head = torch.randn(40, 8, requires_grad=True), torch.randn(300, 8)
    ids = torch.randint(0, 300, (40,))
    kept = kept_bytes(lambda: _chunk_likelihood(hidden, head, None, ids, 1.0), [hidden, head])
    assert pytest.approx(kept, rel=0.05) == memory.LOGIT_KEPT * 40 * 300


# ------------------------------------------------------------------------------------------- state


def state(**assumed: Any) -> dict[str, int]:
    return memory.state_bytes(Setting(config(), TINY, Assumptions(**assumed)))


def test_state_is_as_large_as_planned() -> None:
    model = model_of(TINY)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()

    def size(tensors: Iterable[torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    moments = [
        x for state in optimizer.state.values() for x in state.values() if x.shape != torch.Size()
    ]
    assert state(gpus=1, sharding="none", mixed=False) == {
        "weights": size(model.parameters()),
        "optimizer": size(moments),
        "whole copy": 0,
        "gradients": size(p.grad for p in model.parameters()),
        "gathered": 0,
    }


@given(st.sampled_from(["none", "gradients", "full"]), st.integers(1, 16))
def test_sharding_spreads_weights_moments_and_gradients(sharding: str, gpus: int) -> None:
    alone, spread = (state(gpus=n, sharding=sharding) for n in (1, gpus))
    share = 1 if sharding == "none" else gpus
    for part in ("optimizer", "gradients", "weights"):
        assert alone[part] <= spread[part] * share < alone[part] + 2 * share


def test_fully_sharded_weights_are_gathered_block_by_block() -> None:
    """The outer parameters, a block and the next one; by hand."""
    outer = 2 * 50 * 32 + 32
    block = (2 * 32 + 2 * 16) * 32 + 3 * 32 * 48 + (32 + 2 * 16) + 2 * 32
    assert state(sharding="full", mixed=True)["gathered"] == 2 * (outer + 2 * block)
    assert state(sharding="full", mixed=False)["gathered"] == 4 * (outer + 2 * block)


def test_an_offloaded_optimizer_takes_no_gpu_memory() -> None:
    assert state(offload=True) == state() | {"optimizer": 0}


@pytest.mark.parametrize(
    ("file", "per_parameter"),
    [
        ("ddp", 16),
        ("fsdp2", 4 + 16 / 8),
        ("deepspeed_zero2", 2 + 4 + (4 + 8 + 2) / 8),
        ("deepspeed_zero3", 4 + 16 / 8),
    ],
)
def test_bytes_a_parameter_are_those_of_the_launch_files(file: str, per_parameter: float) -> None:
    """As experiments/launch/README.md has them, which leaves out blocks gathered for their time."""
    assumed = load_assumptions(launch=LAUNCH / f"{file}.yaml")
    parts = memory.state_bytes(setting_of(config(), assumed))
    gathered = parts["gathered"] if assumed.sharding == "full" else 0
    assert (sum(parts.values()) - gathered) / WEIGHTS == pytest.approx(per_parameter)


# ----------------------------------------------------------------------------------------- samplers


def test_the_cache_is_as_large_as_planned() -> None:
    model = model_of(TINY)
    decoder = Cached(model, [[5] * 9, [6] * 9], 1, 0)
    tensors = [x for layer in decoder.cache.layers for x in (layer.keys, layer.values)]
    measured = sum(x.numel() * x.element_size() for x in tensors)
    assert measured == 2 * 9 * TINY.cache_bytes(4)


def test_the_backend_is_the_runs() -> None:
    """An engine beside the policy, or whole weights to sample from beside the sharded ones."""

    def planned(**changes: Any) -> memory.Memory:
        return run_memory(setting_of(config(**changes), Assumptions(sampler_memory=0.5)))

    built_in, engine = planned(), planned(backend="vllm")
    assert built_in.sampling["whole copy"] == 4 * WEIGHTS
    assert "sampler" not in built_in.training and built_in.sampling["sampler"] > 0
    assert engine.training["whole copy"] == 0
    for phase in (engine.training, engine.sampling):
        assert phase["engine's weights"] == 2 * WEIGHTS
        assert phase["engine's KV cache"] == 40 * 10**9 - 2 * WEIGHTS
    single = planned(backend="vllm", precision="float32")
    assert single.sampling["engine's KV cache"] == 40 * 10**9 - 4 * WEIGHTS


def test_the_built_in_sampler_holds_a_step_s_rollouts_or_what_an_evaluation_can_use() -> None:
    row = (150 + 128) * (2 * 28 * 4 * 128 * 4) + 152064 * LOGIT_BYTES
    run = config(max_tokens=128)
    evaluated = run_memory(setting_of(run, Assumptions()))
    assert evaluated.sequences == 16 * 2**30 // row
    assert evaluated.sampling["sampler"] == 16 * 2**30 // row * row
    never = run.evaluation.model_copy(update={"every": None, "test_samples": None})
    step = run_memory(setting_of(run.model_copy(update={"evaluation": never}), Assumptions()))
    assert step.sampling["sampler"] == 16 * 8 // 8 * row


def test_a_run_that_samples_nothing_needs_no_sampler() -> None:
    sft = {"algorithm": "sft", "steps": 1, "lr": 1e-6}
    nothing = {"every": None, "test_samples": None}
    for backend in ("transformers", "vllm"):
        run = config(stages=[sft], evaluation=nothing, backend=backend)
        planned = run_memory(setting_of(run, Assumptions(sampler_memory=0.1)))
        assert planned.sequences is None and planned.fits
        assert not {"sampler", "engine's weights"} & set(planned.training | planned.sampling)


def test_a_cache_for_not_one_response_does_not_fit() -> None:
    setting = setting_of(config(backend="vllm"), Assumptions(sampler_memory=0.2))
    planned = run_memory(setting)
    assert planned.needed < planned.available and planned.sequences > 0 and planned.fits
    planned = run_memory(replace(setting, assumed=Assumptions(sampler_memory=0.15)))
    assert planned.needed < planned.available and planned.sequences == 0 and not planned.fits


# ----------------------------------------------------------------------------------------- this GPU


def test_a_run_is_refused_for_one_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    run = config(model="smollm2", precision="bfloat16")
    alone = Assumptions(gpus=1, sharding="none", checkpointing=False)
    needed = run_memory(setting_of(run, alone)).needed
    check_run_memory(run, free=needed)
    with pytest.raises(UpgeError, match=r"^r: needs about .*; lower tokens_per_microbatch \(now"):
        check_run_memory(run, free=needed - 1)
    # Not checked: an engine, a model of unknown shape, several processes.
    check_run_memory(run.model_copy(update={"backend": "vllm"}), free=0)
    check_run_memory(run.model_copy(update={"model": "some/model"}), free=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_run_memory(run, free=0)
