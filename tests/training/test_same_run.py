"""Processes of one run have to be given the same run, and to see the same folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import tiny_runs

from upge.training.records import RunFolder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


def together(*commands):
    """Exit codes, and what was said by each, of processes that see each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(len(commands)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "upge.cli", "train", *map(str, command), "--no-launch-check"],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], said


def written(config, path):
    path.write_text(config.model_dump_json(), encoding="utf-8")
    return path


@pytest.mark.slow
def test_two_configurations_are_a_sentence(tiny, tmp_path):
    run = written(tiny.config("grpo"), tmp_path / "run.yaml")
    codes, said = together(
        (run, "--out", tmp_path / "out"),
        (run, "--out", tmp_path / "out", "--set", "stages.0.lr=2e-3"),
    )
    assert codes == [2, 2]
    assert all("were started with different configurations or data" in text for text in said)
    assert not list((tmp_path / "out").glob("*/metrics.jsonl"))


@pytest.mark.slow
def test_two_folders_are_a_sentence(tiny, tmp_path):
    """One of which has a checkpoint; and one of which is finished."""
    config = tiny.config("grpo")
    run = written(config, tmp_path / "run.yaml")
    name = f"grpo-s0-{config.key}"
    half = tiny_runs.run(config, tmp_path / "half" / name)
    for file in ("result.json", "policy", "evaluation"):
        path = half.path / file
        if path.is_file():
            path.unlink()
    newest = max(half.checkpoints.glob("step-*[0-9]"))
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    codes, said = together((run, "--out", half.path.parent), (run, "--out", tmp_path / "none"))
    assert codes == [2, 2]
    assert all("found different checkpoints; --out has to be on a disk" in text for text in said)
    whole = tiny_runs.run(config, tmp_path / "whole" / name)
    codes, said = together((run, "--out", whole.path.parent), (run, "--out", tmp_path / "none"))
    assert codes == [2, 2]
    assert all("see different run folders" in text for text in said)
    assert RunFolder(whole.path).result is not None
