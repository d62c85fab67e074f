"""Two processes that share a policy, in any way, take the steps of one: for every algorithm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import strategy_runs
import torch
from ragged import TRAINED, policy

from upge.common.errors import UpgeError
from upge.training import launch, launch_check
from upge.training.launch import open_strategy

#: Some hundredfold what was measured: 6e-15 in float64.
EXACT, SINGLE = 1e-12, 1e-4

#: With bfloat16 products, five times what was measured of shares and residuals.
ROUNDED = 0.03

ZERO = ("zero2", "zero3", "zero2-offload", "zero3-offload")


def walk(out, *kinds, rows=TRAINED):
    found = subprocess.run(
        [sys.executable, strategy_runs.__file__, str(out), *kinds],
        env=os.environ | {"OMP_NUM_THREADS": "1", "UPGE_TEST_ROWS": ",".join(rows)},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return {kind: json.loads((Path(out) / f"{kind}.json").read_text()) for kind in kinds}


@pytest.fixture(scope="module")
def walked(tmp_path_factory, request):
    """The rows that this run has tests of."""
    asked = {i.callspec.params["name"] for i in request.session.items if named(i)}
    rows = [name for name in TRAINED if name in asked]
    return walk(tmp_path_factory.mktemp("walk"), "ddp", "fsdp2", "fsdp2-bf16", rows=rows)


def named(item):
    return getattr(item, "originalname", "") == "test_two_processes_step_as_one"


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", [*TRAINED, "resumed"])
def test_two_processes_step_as_one(walked, kind, name):
    check(walked[kind][name], EXACT)


def check(steps, tolerance):
    """As the whole batch's, in one micro-batch (none of the resumed) and in four or more."""
    for step in steps:
        assert step["size"] > 1e-3  # the gradient's norm: nothing is compared with nothing
        assert max(step["errors"].values()) <= tolerance, step
    *undivided, accumulated = (step["micro_batches"] for step in steps)
    assert undivided in ([], [[1, 1]])
    assert min(accumulated) >= 4
    assert accumulated[0] != accumulated[1]


def test_the_recipes_bfloat16_is_of_products_alone(walked):
    """Log π and sums of gradients, which Accelerate would have in bfloat16 too, are float32."""
    found = walked["fsdp2-bf16"]
    for name in launch_check.CASES:
        case = found["cases"][name]
        assert case["fault"] == ""
        assert 0 < case["residual"] <= ROUNDED
        assert max(abs(share - 1) for share in case["shares"]) <= ROUNDED
    assert found["dtype"] == "torch.float32"
    assert found["summing"] <= 1e-5  # of 64 parts of one gradient; 4e-2 in bfloat16


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="no deepspeed: make test-extras")
@pytest.mark.parametrize("kind", ZERO)
def test_deepspeed_steps_as_one(tmp_path, kind):
    """In float32, which is what its master weights are."""
    for name, found in walk(tmp_path, kind)[kind].items():
        assert name in (*TRAINED, "resumed")
        check(found, SINGLE)


# --------------------------------------------------------------------------------- what is refused


def launcher(kind, **state):
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        device=torch.device("cpu"),
        is_fsdp2=False,
        state=SimpleNamespace(**state),
    )


def test_an_unknown_way_is_a_sentence():
    with pytest.raises(UpgeError, match="doesn't support MEGATRON_LM; launch it with plain data"):
        open_strategy(launcher("MEGATRON_LM"), policy().model)


def test_fsdp_that_accelerate_leaves_out_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UpgeError, match="doesn't shard on cpu and would train without it"):
        open_strategy(launcher("MULTI_CPU"), policy().model)


def test_the_first_fsdp_is_a_sentence():
    with pytest.raises(UpgeError, match=r"fsdp_version: got 1, .* set it to 2"):
        open_strategy(launcher("FSDP"), policy().model)


def test_a_stage_of_zero_that_shards_no_gradients_is_a_sentence():
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 1}})
    with pytest.raises(UpgeError, match=r"zero_stage: got 1, .* wanted 2 or 3"):
        open_strategy(launcher("DEEPSPEED", deepspeed_plugin=plugin), policy().model)


@pytest.mark.parametrize(
    ("processes", "steps", "sentence"),
    [
        (1, 1, "2 processes were launched, but Accelerate found no GPU"),
        (2, 4, "gradient_accumulation_steps: got 4 from the launcher, wanted 1"),
    ],
)
def test_a_launch_that_would_train_something_else(monkeypatch, processes, steps, sentence):
    """Under the launchers themselves: tests/training/test_launch.py."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    accelerator = SimpleNamespace(
        num_processes=processes, gradient_accumulation_steps=steps, mixed_precision="no"
    )
    with pytest.raises(UpgeError, match=sentence):
        launch._check_launch(accelerator)
    accelerator.num_processes, accelerator.gradient_accumulation_steps = 2, 1
    launch._check_launch(accelerator)


# ----------------------------------------------------------------------------------- scaled losses


def test_scaled_gradients_are_measured_unscaled():
    """fp16's scaler, on a CPU: norms and steps are those without, and an overflow is no step."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    plain = step_of(accelerator)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    try:
        scaled = step_of(accelerator)
        assert scaled == pytest.approx(plain, rel=1e-6)
        lost = step_of(accelerator, factor=float("inf"))
        assert lost[1] == 0.0
        assert accelerator.scaler.get_scale() == 256.0  # halved twice
    finally:
        accelerator.state._mixed_precision = "no"


def step_of(accelerator, factor=1.0):
    """Norm of a gradient, twice over (the first is thrown away), and how far the step goes."""
    strategy = open_strategy(accelerator, policy().model.__class__(policy().model.config).float())
    with torch.no_grad():
        for parameter in strategy.policy.parameters():
            parameter.fill_(0.1)
    before = torch.cat([p.detach().flatten() for p in strategy.policy.parameters()])
    strategy.start_stage(strategy_runs.STAGE, {})
    for last in (False, True):
        loss = sum((p**2).sum() for p in strategy.policy.parameters()) * factor
        accelerator.backward(loss)
        norm = strategy.norm()
        if not last or norm == float("inf"):
            strategy.discard()
        else:
            strategy.step(1e-3, norm, 0.5 * norm)
    after = torch.cat([p.detach().flatten() for p in strategy.policy.parameters()])
    return norm, float((after - before).norm())
