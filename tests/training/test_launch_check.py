"""The launch check finds sound steps sound, and names the fault of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import launch_check_runs
import pytest
import tiny_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from upge.cli.main import app
from upge.common.errors import UpgeError
from upge.training import launch_check
from upge.training.diagnosis import Rows, diagnose
from upge.training.records import run_folder

WHOLE, ACCUMULATED, CLIPPED = launch_check.CASES


# ---------------------------------------------------------------------------------- the reading


@st.composite
def cases(draw):
    """Rows by process and micro-batch, and a gradient for each; at least two of every kind."""
    processes, micro_batches = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    layout = [[draw(st.integers(1, 2)) for _ in range(micro_batches)] for _ in range(processes)]
    places = [
        (p, m)
        for p, counts in enumerate(layout)
        for m, count in enumerate(counts)
        for _ in range(count)
    ]
    tokens = draw(st.permutations(range(1, 3 * len(places))).map(lambda x: x[: len(places)]))
    seed = draw(st.integers(0, 1000))
    gradients = torch.randn(len(places), 200, generator=torch.Generator().manual_seed(seed))
    return places, list(tokens), gradients.double()


def naive_step(places, tokens, gradients, kind):
    """What a trainer of that kind would step by, as it would go about it."""
    processes = max(p for p, _ in places) + 1
    micro_batches = max(m for _, m in places) + 1
    total = sum(tokens)
    sums = torch.zeros(processes, 200, dtype=torch.float64)
    for p in range(processes):
        own = [i for i, (q, _) in enumerate(places) if q == p]
        for m in range(micro_batches):
            micro = [i for i in own if places[i][1] == m]
            gradient = sum(gradients[i] for i in micro)
            if kind == "micro_means":
                gradient = gradient / sum(tokens[i] for i in micro) / micro_batches / processes
            elif kind == "process_means":
                gradient = gradient / sum(tokens[i] for i in own) / processes
            else:
                gradient = gradient / total
            if kind == "last":
                sums[p] = gradient
            else:
                sums[p] += gradient
    if kind == "alone":
        return sums[0]
    return sums.sum(0) / (processes if kind == "averaged" else 1)


NAMES = {
    "sound": "",
    "last": "only the last micro-batch counts",
    "micro_means": "each micro-batch is divided by its own tokens",
    "process_means": "each process is divided by its own tokens",
    "alone": "gradients are not exchanged",
    "averaged": "divided by the 2 processes once too often",
}


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from(list(NAMES)), st.floats(0.01, 100))
def test_a_fault_is_read_off_the_step(case, kind, scale):
    places, tokens, gradients = case
    process, micro_batch = (torch.tensor(x) for x in zip(*places, strict=True))
    rows = Rows(torch.tensor(tokens), process, micro_batch)
    step = scale * naive_step(places, tokens, gradients, kind)
    found = diagnose(step, gradients, rows, scale=scale, tolerance=1e-6)
    name = NAMES[kind].replace(" 2 ", f" {rows.processes} ")
    assert (found.fault == "") == (kind == "sound")
    assert found.fault.startswith(("", "the gradient is ")[kind == "averaged"] + name)


def test_what_no_row_explains_is_said():
    rows = Rows(torch.tensor([3, 5]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    gradients = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double()
    step = gradients.sum(0) / 8 + torch.randn(50, generator=torch.Generator().manual_seed(1))
    found = diagnose(step, gradients, rows, scale=1.0, tolerance=1e-3)
    assert "come from no row of this batch" in found.fault
    assert found.residual > 0.5


def test_a_fault_without_a_name_is_given_in_numbers():
    rows = Rows(torch.tensor([3, 5]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    gradients = torch.eye(2, 50).double()
    found = diagnose(
        torch.tensor([0.7, 1.9]).double() @ gradients / 8, gradients, rows, scale=1, tolerance=1e-3
    )
    assert found.shares == pytest.approx([0.7, 1.9])
    assert "0.7 to 1.9 times" in found.fault
    found = diagnose(0.3 * gradients.sum(0) / 8, gradients, rows, scale=1, tolerance=1e-3)
    assert found.fault == "the step is 0.3 times as long as it should be"


# ------------------------------------------------------------------------------------ one process


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The faults of every launcher of one process."""
    out = tmp_path_factory.mktemp("check") / "found.json"
    names = [
        name for name in launch_check_runs.LAUNCHERS if name not in ("own_means", "not_exchanged")
    ]
    launch_check_runs.main(str(out), *names)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_a_sound_process_is_sound(alone):
    assert alone["sound"] == dict.fromkeys(launch_check.CASES, "")


@pytest.mark.parametrize(
    ("launcher", "fault"),
    [
        ("last_micro_batch_only", "only the last micro-batch counts"),
        ("last_micro_batch_only_as_stage_fault", "only the last micro-batch counts"),
        ("mean_of_means", "each micro-batch is divided by its own tokens"),
        ("divided", "the gradient is divided by the 3 micro-batches"),
    ],
)
def test_a_fault_of_accumulation_is_named(alone, launcher, fault):
    assert alone[launcher][ACCUMULATED].startswith(fault)
    if launcher != "divided":
        assert alone[launcher][WHOLE] == ""
        assert alone[launcher][CLIPPED] != ""


def test_an_optimizer_that_does_nothing_is_named(alone):
    assert all(fault.startswith("nothing stepped") for fault in alone["nothing"].values())


def test_gradients_of_the_step_before_are_seen(alone):
    assert alone["stale"][WHOLE] == ""  # the first step, with none before it
    assert "come from no row" in alone["stale"][ACCUMULATED]


def test_an_unknown_architecture_is_a_sentence():
    with pytest.raises(UpgeError, match="unknown architecture 'qwen'; did you mean 'qwen2'"):
        launch_check.check_launch("qwen")


def test_a_launcher_that_the_loop_has_not_been_made_for_is_a_sentence(monkeypatch):
    def refuse(*_):
        raise ValueError("model and optimizer must be passed together.\nAnd more.")

    monkeypatch.setattr(launch_check_runs.Accelerator, "prepare", refuse)
    with pytest.raises(
        UpgeError, match=r"under NO \(model and optimizer must be passed together\)"
    ):
        launch_check.check_launch()


def test_what_breaks_while_a_step_is_taken_is_a_sentence(monkeypatch):
    """As activation checkpointing did, of a model with a cache."""

    def fail(*_, **__):
        raise RuntimeError("Recomputed values have different metadata.\ntensor at position 9: ...")

    monkeypatch.setattr(launch_check_runs.Accelerator, "backward", fail)
    with pytest.raises(UpgeError) as found:
        launch_check.check_launch()
    assert str(found.value).startswith(
        "the training loop can't take a step under NO (Recomputed values have different metadata); "
    )


def test_the_loss_of_a_process_is_none_of_the_launchers_faults(monkeypatch):
    """Its sentence is that of :func:`upge.training.processes.reporting_loss`."""

    def fail(*_, **__):
        raise RuntimeError("[gloo/transport] Connection closed by peer")

    monkeypatch.setattr(launch_check_runs.Accelerator, "backward", fail)
    with pytest.raises(RuntimeError, match="closed by peer"):
        launch_check.check_launch()


def test_the_command_refuses_what_is_faulty(monkeypatch):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert result.output.count("the step of one plain process") == len(launch_check.CASES)
    monkeypatch.setattr(launch_check.Updater, "_apply", lambda *_: None)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code != 0
    assert "nothing stepped" in result.output
    assert isinstance(result.exception, UpgeError)


# ----------------------------------------------------------------------------------- two processes


@pytest.mark.slow
def test_a_faulty_launcher_is_not_trained_under(tmp_path):
    config = tiny_runs.Tiny(tmp_path).config("sft", tokens_per_microbatch=16)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    subprocess.run(
        [sys.executable, launch_check_runs.__file__, "train", str(file), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=True,
    )
    checked, trained = json.loads((tmp_path / "codes.json").read_text())
    assert checked == [2, 2]
    for rank in (0, 1):  # the second one would have been ended while it waits
        said = (tmp_path / f"checked-{rank}.err").read_text()
        assert said.count("upge: steps under this launcher (2 processes on cpu") == 1, said
        assert "with accumulation, only the last micro-batch counts" in said
        assert "Traceback" not in said
    assert not list((tmp_path / "checked").rglob("*.jsonl"))
    assert trained == [0, 0]
    assert len(run_folder(tmp_path / "unchecked", config).metrics()) == 3


LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def launch(tmp_path, *names):
    out = tmp_path / "found.json"
    started = subprocess.run(
        [sys.executable, *LAUNCH, str(Path(launch_check_runs.__file__)), str(out), *names],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert started.returncode == 0, started.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.slow
def test_two_processes(tmp_path):
    found = launch(tmp_path, "sound", "own_means", "not_exchanged", "last_micro_batch_only")
    assert found["sound"] == dict.fromkeys(launch_check.CASES, "")
    for case in (WHOLE, ACCUMULATED):
        assert found["own_means"][case].startswith("each process is divided by its own tokens")
        assert found["not_exchanged"][case].startswith("gradients are not exchanged")
    assert found["last_micro_batch_only"][WHOLE] == ""
    assert found["last_micro_batch_only"][ACCUMULATED].startswith("only the last micro-batch")
