"""Whole runs of two processes are those of one, killed and gone on with under another launcher too.

What is compared is all that a run leaves: metrics, evaluations, the trained model. One launcher's
runs are equal bit for bit, killed or not; those of two launchers up to rounding: sums go in another
order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from math import isclose

import crossed_runs
import pytest
import tiny_runs
from pyarrow import parquet
from safetensors.torch import load_file
from small_models import gpt2

from upge.training.records import RunFolder

#: How much whole runs may differ, where sums go in another order, at most a hundredfold what was
#: measured: 7e-12 in float64, 1.5e-6 in float32, which is what DeepSpeed's master weights are.
ROUNDING = {"float64": 5e-10, "float32": 2e-5}

#: Where a process is killed.
SFT = {"victim": 0, "moment": "a step", "call": 3}
MICRO_BATCH = {"victim": 0, "moment": "a micro-batch", "call": 8}
CHECKPOINT = {"victim": 0, "moment": "a checkpoint", "call": 2}
GRPO = {"victim": 0, "moment": "an update", "call": 7}
OTHER = {"victim": 1, "moment": "an update", "call": 5}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A base model for each dtype: GPT-2's norms are of the weights' own."""
    return {
        dtype: tiny_runs.Tiny(tmp_path_factory.mktemp(dtype), build)
        for dtype, build in (("float64", gpt2), ("float32", None))
    }


def two_stages(tiny):
    """SFT, then GRPO with two updates a step: seven steps, checkpoints in and between stages."""

    def stage(name, **changes):
        return tiny.config(name, **{"prompts_per_step": 5} | changes).model_dump(mode="json")[
            "stages"
        ][0]

    return tiny.config(
        "sft",
        stages=[
            stage("sft", steps=3),
            stage("grpo", steps=4, prompts_per_step=6, minibatches=2, lr=3e-3),
        ],
        evaluation={"every": 3, "validation_samples": 2, "test_samples": 2},
    )


def run(tiny, folder, dtype, **starts):
    """The runs by name, each started as often as given, the last of them to the end."""
    (folder / "config.json").write_text(json.dumps(two_stages(tiny).model_dump(mode="json")))
    (folder / "starts.json").write_text(json.dumps(starts))
    script = [sys.executable, crossed_runs.__file__, str(folder), str(folder / "config.json")]
    done = subprocess.run(
        [*script, dtype],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ended = json.loads((folder / "ended.json").read_text())
    for name, found in ended.items():
        for (_, kill), (codes, _, said) in zip(starts[name], found, strict=True):
            killed = {code for code in codes if code}
            assert (-9 in killed) if kill else not killed, (name, kill, codes, said)
    return {name: RunFolder(folder / name) for name in starts}


def assert_same(one, other):
    """Bit for bit."""
    assert tiny_runs.numbers(one) == tiny_runs.numbers(other)
    assert one.result == other.result is not None
    assert tiny_runs.weights(one) == tiny_runs.weights(other)
    assert evaluations(one).equals(evaluations(other))


def assert_alike(one, other, rounding):
    """Up to rounding."""
    lines, others = tiny_runs.numbers(one), tiny_runs.numbers(other)
    assert len(lines) == len(others) == 7
    for own, theirs in zip(lines, others, strict=True):
        assert own.keys() == theirs.keys()
        for key in own:
            assert is_close(own[key], theirs[key], rounding), (key, own[key], theirs[key])
    assert one.result == other.result is not None
    assert distance(trained(one), trained(other)) <= rounding
    assert evaluations(one).equals(evaluations(other))


def is_close(a, b, rounding):
    if isinstance(a, list):
        return len(a) == len(b) and all(is_close(x, y, rounding) for x, y in zip(a, b, strict=True))
    return isclose(a, b, rel_tol=rounding, abs_tol=rounding)


def trained(folder):
    return load_file(folder.policy / "model.safetensors")


def distance(weights, others):
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def evaluations(folder):
    return parquet.read_table(folder.evaluation / "held.parquet")


def check(runs, rounding, base):
    """All are the first one, a plain process's, which learnt; NAME_again is NAME bit for bit."""
    plain = next(iter(runs.values()))
    lines = plain.metrics()
    assert sum("validation" in line for line in lines) == 3
    assert sum("per_term_grad_norm" in line for line in lines) == 4
    assert any(0 < share < 1 for line in lines[3:] for share in line["solved"])
    assert distance(trained(plain), load_file(base.model / "model.safetensors")) > 1e-3
    for name, found in runs.items():
        assert_alike(plain, found, rounding)
        if name.endswith("_again"):
            assert_same(found, runs[name.removesuffix("_again")])


@pytest.mark.slow
def test_fsdp2_is_one_process_and_goes_on_as_one(bases, tmp_path):
    runs = run(
        bases["float64"],
        tmp_path,
        "float64",
        single=[("single", None)],
        fsdp2=[("fsdp2", None)],
        fsdp2_again=[("fsdp2", GRPO), ("fsdp2", None)],
        to_single=[("fsdp2", SFT), ("single", None)],
    )
    check(runs, ROUNDING["float64"], bases["float64"])


@pytest.mark.slow
def test_runs_go_on_under_any_launcher(bases, tmp_path):
    runs = run(
        bases["float64"],
        tmp_path,
        "float64",
        single=[("single", None)],
        single_again=[("single", MICRO_BATCH), ("single", None)],
        ddp=[("ddp", None)],
        ddp_again=[("ddp", OTHER), ("ddp", CHECKPOINT), ("ddp", None)],
        fsdp2=[("fsdp2", None)],
        fsdp2_again=[("fsdp2", MICRO_BATCH), ("fsdp2", CHECKPOINT), ("fsdp2", None)],
        to_fsdp2=[("single", GRPO), ("fsdp2", None)],
        there_and_back=[("fsdp2", SFT), ("ddp", OTHER), ("fsdp2", None)],
    )
    check(runs, ROUNDING["float64"], bases["float64"])


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="no deepspeed: make test-extras")
def test_deepspeed_is_one_process_and_goes_on_under_any_launcher(bases, tmp_path):
    runs = run(
        bases["float32"],
        tmp_path,
        "float32",
        single=[("single", None)],
        zero2=[("zero2", None)],
        zero2_again=[("zero2", GRPO), ("zero2", None)],
        zero3=[("zero3", None)],
        zero3_again=[("zero3", CHECKPOINT), ("zero3", OTHER), ("zero3", None)],
        offload2=[("zero2-offload", None)],
        offload2_again=[("zero2-offload", SFT), ("zero2-offload", None)],
        offload3=[("zero3-offload", None)],
        three3=[("zero3-three", OTHER), ("zero3-three", None)],  # sizes that can't be divided
        to_ddp=[("zero2", GRPO), ("ddp", None)],
        to_single=[("zero3", SFT), ("single", None)],
        from_single=[("single", MICRO_BATCH), ("zero2", None)],
        from_fsdp2=[("fsdp2", GRPO), ("zero3", None)],
        to_fsdp2=[("zero3", OTHER), ("fsdp2", None)],
        between=[("zero2", CHECKPOINT), ("zero3", OTHER), ("zero2", None)],
    )
    check(runs, ROUNDING["float32"], bases["float32"])


@pytest.mark.slow
@pytest.mark.extras
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="no deepspeed: make test-extras")
@pytest.mark.parametrize("kind", ["zero2-bf16", "zero3-bf16"])
def test_master_weights_go_on_where_products_are_bfloat16(bases, tmp_path, kind):
    """DeepSpeed makes them anew from the model's in bfloat16, and would round them."""
    starts = {"whole": [(kind, None)], "again": [(kind, GRPO), (kind, None)]}
    runs = run(bases["float32"], tmp_path, "float32", **starts)
    assert_same(runs["again"], runs["whole"])
