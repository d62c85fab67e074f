"""The matrix of versions: what is pinned, how a row is read, and what is said of one not made."""

import sys
from pathlib import Path

import pytest

from experiments import matrix
from experiments.matrix import Job, Setting

#: Of two passed, one failed, one in error and one skipped test.
JUNIT = '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>'


def job(tmp_path: Path, **interpreters: str) -> Job:
    file = tmp_path / "upge-0.0-py3-none-any.whl"
    return Job(tmp_path, file, file, interpreters, lambda text: None)


def test_the_lower_bounds_become_pins(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [project]
        dependencies = ["torch>=2.6"]
        [project.optional-dependencies]
        cli = ["typer>=0.16"]
        train = ["upge[cli]", "transformers>=5.5.4,!=5.6.0", "pillow"]
        theory = ["math-verify[antlr4-9-3]>=0.9"]
        trl = ["transformers>=5.5.4,!=5.6.0"]
        verl = []
        analysis = ["pandas>=3"]
        """
    )
    assert matrix.lowest(tmp_path) == [
        "torch==2.6",
        "typer==0.16",
        "transformers==5.5.4",
        "math-verify==0.9",
    ]


def test_a_lock_is_read_with_its_markers(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text(
        "# torch==1.0 is too old\ntorch==2.13.0\nverl==0.9.1; python_version < '3.13'\n"
    )
    assert matrix.pins(lock) == {"torch": "2.13.0", "verl": "0.9.1"}


def test_results_are_counted() -> None:
    assert matrix.summary(JUNIT) == "2 passed, 2 failed, 1 skipped"
    assert matrix.summary(JUNIT.replace("5", "3")) == "2 failed, 1 skipped"


def test_a_python_that_is_missing_is_a_note(tmp_path: Path) -> None:
    row = job(tmp_path).row("newest", Setting("3.99", "the newest", []))
    assert row["note"] == "no Python 3.99 on this machine"
    assert row.keys() == {"setting", "python", "installed", "note"}


@pytest.mark.slow
def test_what_cannot_be_installed_is_a_note_and_leaves_nothing(tmp_path: Path) -> None:
    row = job(tmp_path, **{"3.11": sys.executable}).row("lowest", Setting("3.11", "", []))
    assert row["note"].startswith("ERROR: ") and "upge-0.0-py3-none-any.whl" in row["note"]
    assert not (tmp_path / "environment").exists()


def test_rows_are_kept_and_shown(tmp_path: Path) -> None:
    made = {"commit": "abc", "date": "today", "installed": "the newest"}
    rows = [
        made | {"setting": "one", "python": "3.11", "torch": "2.6.0", "core": "3 passed"},
        made | {"setting": "two", "python": "3.14", "note": "no Python 3.14 on this machine"},
    ]
    matrix.write(rows, tmp_path)
    assert [{k: v for k, v in row.items() if v} for row in matrix.read(tmp_path)] == rows
    text = (tmp_path / "matrix.md").read_text(encoding="utf-8")
    (one,) = (line for line in text.splitlines() if line.startswith("| one "))
    assert [cell.strip() for cell in one.split("|")[1:4]] == ["one", "3.11", "2.6.0"]
    assert one.count("–") == len(matrix.groups()) - 1 + len(matrix._SHOWN) - 1
    assert "**two**: the newest; commit abc, today. no Python 3.14 on this machine" in text


def test_an_interpreter_is_asked_for_its_version(tmp_path: Path) -> None:
    assert matrix._version(sys.executable) == "{}.{}".format(*sys.version_info)
    assert matrix._version(str(tmp_path / "python3.11")) == ""
