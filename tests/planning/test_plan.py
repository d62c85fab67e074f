"""``upge plan`` and ``upge train --dry-run --gpu``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from upge.cli.main import app
from upge.common.errors import UpgeError

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"


def plan(config: Path, *options: object) -> Result:
    return CliRunner().invoke(app, ["plan", str(config), *map(str, options)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: big\nmodel: Qwen/Qwen2.5-Math-7B\nmax_tokens: 1024\n"
        "stages: [{algorithm: grpo, steps: 10, lr: 1e-6}]\n"
    )
    return path


def test_a_run_that_fits_has_hours(config: Path) -> None:
    done = plan(config, "--gpu", "h200")
    assert done.exit_code == 0, done.output
    assert "7,615,616,512 parameters" in done.output
    assert "of 141: fits; a sampler holds" in done.output
    stage, total = re.findall(r"\(0:0\d:\d\d sampling\), (\d\.\d) GPU hours", done.output)
    assert float(stage) == float(total) > 0


def test_a_run_that_does_not_fit_has_none(config: Path) -> None:
    done = plan(config, "--gpu", "rtx4090", "--gpus", 1)
    assert done.exit_code == 1
    assert "of 24: DOES NOT FIT" in done.output and "GPU hours" not in done.output


def test_parts_of_memory_make_up_the_total(config: Path) -> None:
    rows = re.findall(r"^ +(\d+\.\d) +(\d+\.\d)  ([a-z].*)$", plan(config).output, re.MULTILINE)
    *parts, (training, sampling, last) = rows
    assert last == "total" and len(parts) > 5
    for column, total in enumerate((training, sampling)):
        assert sum(float(part[column]) for part in parts) == pytest.approx(float(total), abs=0.5)


def test_a_launch_and_settings_are_planned(config: Path) -> None:
    model = ("--set", "model=Qwen/Qwen2.5-Math-1.5B", "--launch", LAUNCH / "ddp.yaml")
    done = plan(config, *model)
    assert done.exit_code == 0, done.output
    wanted = "8 × a800 of 80 GB, sharding none, float32 products, without activation checkpointing"
    assert wanted in done.output
    assert "machine   16 × a800" in plan(config, *model, "--gpus", 16).output


def test_a_limit_is_called_one(config: Path, tmp_path: Path) -> None:
    assumed = tmp_path / "assumed.yaml"
    assumed.write_text("response: 500\nvalidation_responses: 7\n")
    done = plan(config)
    assert "1024 a response (the limit: no mean is assumed, see --assume)" in done.output
    assert "evaluate" not in done.output
    for option in ("--assume", "--cluster"):  # the other was read until 0.2
        done = plan(config, option, assumed)
        assert "500 a response, " in done.output and "the limit" not in done.output
        assert "\nevaluate  3.5e+03 tokens sampled" in done.output


def test_a_run_without_stages_is_a_sentence(config: Path) -> None:
    error = plan(config, "--set", "stages=[]").exception
    assert isinstance(error, UpgeError) and "there is nothing to plan; add one" in str(error)


def test_a_dry_run_plans_where_a_gpu_is_named() -> None:
    command = ["train", "-a", "sft", "--dry-run", "--gpu", "a100"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert len([line for line in done.output.splitlines() if line.startswith("# memory")]) == 1
    assert done.output.startswith(CliRunner().invoke(app, command[:-2]).output)
