"""``upge`` under the launchers that a user has, as experiments/launch/README.md says."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import tiny_runs
from launched import PLAIN, ROOT, TORCHRUN, launch, with_file

from upge.common.config import build
from upge.training.config import RunConfig
from upge.training.records import run_folder

SENTENCE = "another process of this run has ended"
SOUND = "the step of one plain process"
DDP = with_file("ddp.yaml")
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="no deepspeed: make test-extras"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """SFT, then GRPO: a run's file."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny = tiny_runs.Tiny(folder)
    stages = [
        tiny.config(name, steps=steps).model_dump(mode="json")["stages"][0]
        for name, steps in (("sft", 3), ("grpo", 5))
    ]
    evaluation = {"every": 4, "validation_samples": 1, "test_samples": 2}
    given = tiny.config("sft", stages=stages, evaluation=evaluation)
    path = folder / "run.json"
    path.write_text(json.dumps(given.model_dump(mode="json")))
    return path


def train(launcher, config, out, victim=None, step=0, **environment):
    """The run's folder, and what the command came to."""
    folder = run_folder(out, build(json.loads(config.read_text()), RunConfig))
    command = ("train", config, "--out", out)
    ended = launch(
        launcher, *command, victim=victim, when=lambda: folder.recorded >= step, **environment
    )
    return folder, ended


def kill_and_go_on(launcher, config, tmp_path, **environment):
    """Killed twice and started again, the run ends as one left alone."""
    whole, ended = train(launcher, config, tmp_path / "whole", **environment)
    assert ended.code == 0, ended.output
    for victim, step in ((1, 3), (0, 5)):
        _, ended = train(launcher, config, tmp_path / "killed", victim, step, **environment)
        assert ended.code != 0
        assert ended.seconds < 60
        assert ended.output.count(SENTENCE) == 1, ended.output
    killed, ended = train(launcher, config, tmp_path / "killed", **environment)
    assert ended.code == 0, ended.output
    assert tiny_runs.numbers(killed) == tiny_runs.numbers(whole)
    assert killed.result == whole.result is not None
    assert tiny_runs.weights(killed) == tiny_runs.weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [DDP, TORCHRUN], ids=["accelerate", "torchrun"])
def test_a_run_is_killed_and_goes_on(launcher, config, tmp_path):
    kill_and_go_on(launcher, config, tmp_path, **PLAIN)


@pytest.mark.slow
@pytest.mark.extras
@needs_deepspeed
@pytest.mark.parametrize("file", ["deepspeed_zero2.yaml", "deepspeed_zero3.yaml"])
def test_a_run_under_deepspeed_is_killed_and_goes_on(file, config, tmp_path):
    """In bfloat16, as the files have it; the first time DeepSpeed compiles for two minutes."""
    doctor = launch(with_file(file), "doctor", timeout=600)
    assert doctor.code == 0, doctor.output
    assert doctor.output.count(SOUND) == 3
    kill_and_go_on(with_file(file), config, tmp_path)


# ------------------------------------------------------------------------------ what is refused


def refused(sentence, launcher, **environment):
    ended = launch(launcher, "doctor", **environment)
    assert ended.code != 0
    assert ended.output.count("upge: ") == ended.output.count(sentence) == 1, ended.output
    assert SOUND not in ended.output


@pytest.mark.slow
def test_the_doctor_looks_at_both_processes():
    ended = launch(DDP, "doctor", **PLAIN)
    assert ended.code == 0, ended.output
    assert ended.output.count(SOUND) == 3
    assert "Launcher: 2 processes on cpu, multi cpu, float32 products" in ended.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sentence", "launcher", "environment"),
    [
        ("2 processes were launched, but Accelerate found no GPU", DDP, {}),
        (
            "gradient_accumulation_steps: got 4 from the launcher, wanted 1",
            DDP,
            PLAIN | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        ),
        ("FSDP was asked for, but Accelerate doesn't shard on cpu", with_file("fsdp2.yaml"), PLAIN),
    ],
)
def test_a_launch_that_would_train_something_else(sentence, launcher, environment):
    refused(sentence, launcher, **environment)


@pytest.mark.slow
@pytest.mark.extras
@needs_deepspeed
def test_accumulation_by_deepspeed_is_refused(tmp_path):
    given = (ROOT / "experiments" / "launch" / "deepspeed_zero2.yaml").read_text()
    file = tmp_path / "accumulating.yaml"
    file.write_text(given.replace("accumulation_steps: 1", "accumulation_steps: 4"))
    refused("gradient_accumulation_steps: got 4", with_file(file))
