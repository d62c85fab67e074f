"""Two processes share an evaluation, and either may be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_benchmarks import contents
from launched import ON_CPU, ROOT, TORCHRUN, of_rank

from upge import UpgeError
from upge.evaluation.ranks import Ranks
from upge.evaluation.responses import read_table

pytest.importorskip("pyarrow")

#: The command; the processes named in WAITING wait before their second part until a file is there.
SCRIPT = """
import os, time
from pathlib import Path
from upge.cli import main as cli
from upge.evaluation.run import Evaluator

sample, calls = Evaluator._sample, iter(range(99))

def waiting(*given):
    if next(calls) == 1 and os.environ.get("RANK", "none") in os.environ["WAITING"]:
        while not Path(os.environ["GO"]).exists():
            time.sleep(0.01)
    return sample(*given)

Evaluator._sample = waiting
cli.main()
"""

#: 8 suites of 5 problems, a problem a part: 40 parts.
COMMAND = ("evaluate", "tiny", "--per-level", "1", "-k", "3", "--max-tokens", "8", "--out")


@contextmanager
def launched(out: Path, waiting: str = "", processes: int = 2) -> Iterator[subprocess.Popen[str]]:
    script = out.with_suffix(".py")
    script.write_text(SCRIPT, encoding="utf-8")
    launcher = ("-m", *TORCHRUN) if processes > 1 else ()
    go = {"WAITING": waiting, "GO": str(out.with_suffix(".go")), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, *launcher, str(script), *COMMAND, str(out)],
        env=os.environ | ON_CPU | go,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(process: subprocess.Popen[str], met: Callable[[], bool]) -> None:
    while not met():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def parts(out: Path) -> list[Path]:
    return list(out.glob("*.parts/*.parquet"))


def rows(text: str) -> Any:
    return json.loads(text[text.index("{") :])["rows"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Any]:
    """What one process keeps and prints."""
    out = tmp_path_factory.mktemp("alone") / "out"
    with launched(out, processes=1) as process:
        printed, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return contents(out), rows(printed)


@pytest.mark.slow
def test_neither_waits_for_the_other_and_the_results_are_those_of_one(
    tmp_path: Path, alone: tuple[dict[str, bytes], Any]
) -> None:
    out = tmp_path / "out"
    with launched(out, waiting="1") as process:
        until(process, lambda: len(parts(out)) == 21)  # its own 20, and one of the other's
        shares = [len(list(folder.glob("*"))) for folder in out.glob("*.parts")]
        assert sorted(shares)[0] >= 2  # of every suite
        out.with_suffix(".go").touch()
        printed, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert contents(out) == alone[0] and rows(printed) == alone[1]
    assert err.count("Results and responses are in") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "resumed_by"), [(1, 1), (0, 2)])
def test_a_killed_process_loses_what_was_under_way(
    tmp_path: Path, alone: tuple[dict[str, bytes], Any], victim: int, resumed_by: int
) -> None:
    out = tmp_path / "out"
    with launched(out, waiting="01") as process:
        until(process, lambda: len(parts(out)) == 2)
        of_rank(process.pid, victim).kill()
        _, err = process.communicate(timeout=300)
        assert process.returncode != 0 and err.count("upge: ") == 0, err
    kept = {path: path.read_bytes() for path in parts(out)}
    assert len(kept) == 2 and all(read_table(path) is not None for path in kept)
    with launched(out, processes=resumed_by) as process:
        printed, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "2 of 40 problems have responses, resuming" in err
    assert contents(out) == alone[0] and rows(printed) == alone[1]


@pytest.mark.slow
def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "out").write_text("in the way")
    with launched(out) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode != 0 and err.count("upge: --out") == 1, err
    assert "rerun the command" not in err


def test_launchers_that_say_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks.launched() == Ranks(0, 1)
    for name, value in (("WORLD_SIZE", "two"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
        with pytest.raises(UpgeError, match="processes can't be opened as the launcher says"):
            Ranks.launched()
