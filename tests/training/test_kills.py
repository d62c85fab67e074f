"""Runs of the command line, killed by SIGKILL: ``python -m experiments.check_resume``, in short."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_runs
from pyarrow import parquet

from experiments.check_resume import check, differences
from upge.training.records import RunFolder


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_one_left_alone(tmp_path):
    landed, compared = check(tmp_path, kills=2, seed=3, steps=9)
    assert sum(landed.values()) >= 2
    assert compared
    assert all(len(found) == 5 and not any(found.values()) for found in compared)


@pytest.mark.slow
def test_a_run_killed_twenty_times(tmp_path):
    landed, compared = check(tmp_path, kills=20, seed=1)
    assert sum(landed.values()) >= 20
    assert sum(count for where, count in landed.items() if "inside a checkpoint" in where) >= 2
    assert not any(any(found.values()) for found in compared)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny = tiny_runs.Tiny(folder)
    evaluation = {"every": None, "validation_samples": 1, "test_samples": 2}
    tiny_runs.run(tiny.config("hpt", evaluation=evaluation), folder / "run")
    return folder / "run"


def break_metrics(folder):
    lines = RunFolder(folder).metrics()
    lines[1]["loss"] *= 1 + 1e-15
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def break_clocks(folder):
    lines = [line | {"seconds": 9.0, "cpu_seconds": 9.0} for line in RunFolder(folder).metrics()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def break_result(folder):
    (folder / "result.json").write_text("{}")


def break_evaluation(folder):
    path = folder / "evaluation" / "held.parquet"
    table = parquet.read_table(path)
    parquet.write_table(table.slice(0, table.num_rows - 1), path)


def add_evaluation(folder):
    shutil.copy(folder / "evaluation" / "held.parquet", folder / "evaluation" / "other.parquet")


def break_policy(folder):
    path = folder / "policy" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.spread(3)
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (break_metrics, "metrics of 3 steps"),
        (break_result, "result.json"),
        (break_evaluation, "responses and rewards"),
        (add_evaluation, "names of the evaluations"),
        (break_policy, "trained policy"),
        (break_clocks, None),
    ],
)
def test_the_comparison_sees_every_difference(finished, tmp_path, change, what):
    shutil.copytree(finished, tmp_path / "copy")
    change(tmp_path / "copy")
    found = differences(RunFolder(tmp_path / "copy"), RunFolder(finished))
    seen = [name for name, differs in found.items() if differs]
    assert len(seen) == (what is not None)
    assert all(name.startswith(what) for name in seen)
