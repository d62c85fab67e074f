"""One of two processes is lost: the other says so in one sentence, soon, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import lost_runs
import pytest
import tiny_runs

from upge.training.processes import LostProcess, is_broken, main_first, reporting_loss

SENTENCE = "another process of this run has ended (killed, or out of memory) or hasn't answered"


def lose(tmp_path, *how):
    tiny = tiny_runs.Tiny(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny.config("hpt", steps=6).model_dump(mode="json")))
    ended = subprocess.run(
        [sys.executable, lost_runs.__file__, str(tmp_path), str(config), *how],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads((tmp_path / "found.json").read_text())


@pytest.mark.slow
def test_a_killed_process_is_one_sentence_and_the_run_resumes(tmp_path):
    runs = lose(tmp_path, "0", "10")
    assert {run["victim"] for run in runs} == {0, 1}
    for run in runs:
        assert run["codes"][run["victim"]] == -9, run
        assert run["codes"][1 - run["victim"]] > 0, run
        assert run["seconds"] < run["patience"] + 10, run
        assert "".join(run["said"]).count(SENTENCE) == 1, run
        assert run["again"] == [0, 0], run
        assert run["same"], run


@pytest.mark.slow
def test_a_process_that_stops_answering_is_missed_in_time(tmp_path):
    """As one on a node that is cut off: nothing that the others do with it fails at once."""
    for victim, run in enumerate(lose(tmp_path, "stop")):
        assert run["codes"][victim] == -9, run  # by the launcher, when the other one had ended
        assert run["codes"][1 - victim] == 2, run
        assert run["seconds"] < lost_runs.PATIENCE + 25, run
        assert "".join(run["said"]).count(SENTENCE) == 1, run
        assert run["again"] == [0, 0], run


@pytest.mark.slow
def test_a_terminated_run_is_one_sentence_and_resumes(tmp_path):
    """Whichever process gets the signal, both stop after the same step, which is not lost."""
    for run in lose(tmp_path, "terminate"):
        assert run["codes"] == [130, 130], run
        said = "".join(run["said"])
        step = {"a step": 3, "an update": 3, "a checkpoint": 2}[run["moment"]]
        assert said.count("interrupted: it resumes from step ") == 1, run
        assert f"resumes from step {step}\n" in said, run
        assert run["again"] == [0, 0], run
        assert run["same"], run


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms"), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
    ],
)
def test_what_tells_of_a_lost_process(error, broken):
    assert is_broken(error) == broken
    with (
        pytest.raises(LostProcess if broken else type(error)) as raised,
        main_first(False),
        reporting_loss(lambda: True, lambda: "resumes from step 3"),
    ):
        raise error
    if broken:
        assert str(raised.value).startswith(SENTENCE)
        assert str(raised.value).endswith("rerun the command: it resumes from step 3")


def test_one_process_alone_speaks():
    with pytest.raises(SystemExit) as end, reporting_loss(lambda: False, str):
        raise RuntimeError("Connection reset by peer")
    assert end.value.code == 1
