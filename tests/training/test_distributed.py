"""Two processes are one: the same gradients, parameters and metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from math import isclose
from pathlib import Path

import pytest
import tiny_runs
import torch
from small_models import gpt2

from upge.algorithms import REGISTRY
from upge.training.records import RunFolder

SCRIPT = str(Path(__file__).parents[1] / "distributed_runs.py")
TOLERANCE = 1e-9
TRAINED = sorted(name for name, entry in REGISTRY.items() if "values" not in entry().needs)
HANDFUL = ("sft", "reinforce_plus_plus", "hpt", "luffy", "srft")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"), gpt2)


def train(processes, configs, out, **environment):
    """Train in so many processes; the finished command."""
    out.mkdir()
    given = out / "configs.json"
    given.write_text(json.dumps([config.model_dump(mode="json") for config in configs]))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), SCRIPT, str(given), str(out)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def compare(tiny, tmp_path, configs):
    for processes in (1, 2):
        result = train(processes, configs, tmp_path / str(processes))
        assert result.returncode == 0, result.stderr[-2000:]
    for config in configs:
        one, two = (tmp_path / str(processes) / config.name for processes in (1, 2))
        kept, other = (torch.load(folder / "kept.pt", weights_only=True) for folder in (one, two))
        stage = config.stages[0]
        assert len(kept["gradients"]) == len(other["gradients"]) == stage.steps * stage.minibatches
        for a, b in zip(kept["gradients"], other["gradients"], strict=True):
            assert_close(a, b, config.name)
        assert any(g.abs().max() > 1e-3 for step in kept["gradients"] for g in step)
        assert_close(kept["parameters"], other["parameters"], config.name)
        lines, others = (tiny_runs.numbers(RunFolder(folder)) for folder in (one, two))
        assert len(lines) == len(others) == stage.steps
        for own, theirs in zip(lines, others, strict=True):
            assert own.keys() == theirs.keys()
            for key in own:
                assert is_close(own[key], theirs[key]), (config.name, key, own[key], theirs[key])


def assert_close(one, other, name):
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= TOLERANCE, name


def is_close(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(map(is_close, a, b))
    return isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def odd(tiny, name, **changes):
    """Five questions, so that one process has three and the other two."""
    return tiny.config(name, steps=2, prompts_per_step=5, **changes)


@pytest.mark.slow
def test_two_processes_are_one(tiny, tmp_path):
    evaluation = {"every": 1, "validation_samples": 1, "test_samples": 2}
    parts = odd(tiny, "hpt_global_token", minibatches=2, entropy_bonus=0.1, evaluation=evaluation)
    few = tiny.config("grpo", steps=6, prompts_per_step=2)
    renamed = [
        config.model_copy(update={"name": name})
        for name, config in (("parts", parts), ("few", few))
    ]
    compare(tiny, tmp_path, [*(odd(tiny, name) for name in HANDFUL), *renamed])
    one_sided = [
        sum(0 < share < 1 for share in line["solved"]) == 1
        for line in RunFolder(tmp_path / "2" / "few").metrics()
    ]
    assert any(one_sided)  # steps in which one process has rows that bear weight, the other none
    folder = RunFolder(tmp_path / "2" / "parts")  # written by one of the two
    assert [line["step"] for line in folder.metrics() if "validation" in line] == [1, 2]
    assert len(json.loads((folder.path / "provenance.json").read_text())["starts"]) == 1
    assert set(folder.result["suites"]) == {"held"}


@pytest.mark.slow
def test_two_processes_are_one_for_every_algorithm(tiny, tmp_path):
    compare(tiny, tmp_path, [odd(tiny, name) for name in TRAINED])


@pytest.mark.slow
def test_what_is_not_finite_in_one_process_stops_both(tiny, tmp_path):
    started = time.monotonic()
    result = train(2, [odd(tiny, "sft")], tmp_path / "run", BREAK_PROCESS="1")
    assert result.returncode != 0
    assert time.monotonic() - started < 60
    sentence = "step 1: the loss or its gradient is not finite; the batch is in"
    assert result.stderr.count(sentence) == 1  # both know, one says it
    names = sorted(path.name for path in (tmp_path / "run" / "sft" / "bad_steps").iterdir())
    assert names == [f"step-00000001-process-{i}.pt" for i in (0, 1)]


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_run(tiny, tmp_path):
    """The main process can't have the folder; the other one does not wait for it for ever."""
    config = odd(tiny, "sft")
    started = time.monotonic()
    (tmp_path / "run").mkdir()
    with RunFolder(tmp_path / "run" / "out" / "sft").locked():
        result = train(2, [config], tmp_path / "run" / "out2", OUT=str(tmp_path / "run" / "out"))
    assert result.returncode != 0
    assert time.monotonic() - started < 60
    assert result.stderr.count("another process is working on this run") == 1
