"""Run folders: whole lines, whole files, one process at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.common.files import atomic_write, write_json
from upge.training.config import RunConfig
from upge.training.records import RunFolder, file_error


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_metrics_come_back_bit_for_bit(folder):
    lines = [{"step": i, "value": 0.1 * i, "tiny": 5e-324, "list": [1 / 3]} for i in (1, 2, 3)]
    for line in lines:
        folder.append(line)
    assert folder.metrics() == lines
    assert folder.recorded == 3
    folder.rewind(lines[:2])
    assert folder.metrics() == lines[:2]
    assert folder.recorded == 2


def test_no_metrics_are_none(folder):
    assert folder.metrics() == []
    assert folder.recorded == 0
    folder.rewind([])
    assert folder.metrics() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(0, 200))
def test_a_line_that_was_cut_short_is_left_out(tmp_path, cut):
    folder = RunFolder(tmp_path)
    folder.metrics_path.unlink(missing_ok=True)
    for step in (1, 2, 3):
        folder.append({"step": step, "value": "é" * step})
    content = folder.metrics_path.read_bytes()
    folder.metrics_path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert [line["step"] for line in folder.metrics()] == [1, 2, 3][:whole]
    folder.rewind(folder.metrics())
    folder.append({"step": whole + 1})
    assert [line["step"] for line in folder.metrics()] == [*[1, 2, 3][:whole], whole + 1]


def test_lines_behind_a_damaged_one_are_done_again(folder):
    folder.append({"step": 1})
    with folder.metrics_path.open("ab") as file:
        file.write(b"\0\0\xff\n")
    folder.append({"step": 3})
    assert folder.metrics() == [{"step": 1}]


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fail(descriptor):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="can't be written"):
        atomic_write(path, "half")
    assert json.loads(path.read_text()) == {"a": 1}


HOLDER = """
import sys, time
from pathlib import Path
from upge.training.records import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time(folder):
    command = [sys.executable, "-c", HOLDER, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UpgeError, match=r"another process .* wait for it or stop it"):
                folder.locked().__enter__()
        finally:
            other.kill()
    with folder.locked():  # a process that was killed holds nothing
        pass


def test_what_keeps_a_run_from_writing_is_said_in_a_sentence(folder):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sentence = str(file_error(full, folder.path, "resumes from step 50"))
    assert sentence == (
        f"{folder.path}: the disk is full; free space and rerun the command: it resumes from step "
        "50"
    )
    other = PermissionError(errno.EACCES, "Permission denied", "/run/x")
    assert str(file_error(other, folder.path, "starts anew")) == (
        "/run/x: can't be used (Permission denied); mend that, or choose another --out"
    )


#: Keys of a run's files, and others.
NAMES = [
    *("step", "steps", "validation", "suites", "files", "in_distribution", "setup", "course"),
    *("code", "starts", "key", "policy/x", "../x", ""),
]
TEXTS = st.one_of(
    st.binary(max_size=80),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(NAMES),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(text=TEXTS, name=st.sampled_from(["result", "code", "provenance", "config", "metrics"]))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path, text, name):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir(exist_ok=True)
    config = build({"name": "x", "stages": []}, RunConfig)
    path = folder.path / (f"{name}.jsonl" if name == "metrics" else f"{name}.json")
    path.write_bytes(text + b"\n")
    try:
        assert folder.result is None or isinstance(folder.result["suites"], dict)
        folder.check(config)
        folder.open(config)
        folder.check(config)
    except UpgeError as error:
        assert "\n" not in str(error) and str(folder.path) in str(error)
    assert [line["step"] for line in folder.metrics()] == list(range(1, folder.recorded + 1))
    for file in folder.path.iterdir():
        file.unlink()


@pytest.mark.parametrize("line", ["3", "{}", '{"step": 1}', '{"step": 3}', '{"step": "2"}'])
def test_a_line_that_is_not_the_next_step_is_done_again(folder, line):
    folder.append({"step": 1})
    with folder.metrics_path.open("a") as file:
        file.write(line + '\n{"step": 3}\n')
    assert folder.metrics() == [{"step": 1}]
    assert folder.recorded == 1


def test_provenance_that_was_edited_is_begun_anew(folder):
    write_json(folder.path / "provenance.json", {"starts": 3})
    folder.open(build({"name": "x", "stages": []}, RunConfig))
    record = json.loads((folder.path / "provenance.json").read_text())
    assert len(record["starts"]) == 1
