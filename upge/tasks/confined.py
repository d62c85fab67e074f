"""Grading by reasoning-gym in other processes: some of its graders evaluate a response as code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from upge.common.errors import UpgeError
from upge.common.optional import available, hint

#: Several processes of a training each have their own.
_MOST_WORKERS = 8

_SCRIPT = Path(__file__).with_name("confined_worker.py")


class Settings(NamedTuple):
    """How answers are compared.

    Args:
        seconds: processor time that one comparison may take; once 8 of a batch have taken it, a
            quarter of it. Most take milliseconds.
        megabytes: memory that it may take (macOS does not enforce it); an answer that needs more
            is wrong.
        workers: processes; 0 for one a core, at most 8.
    """

    seconds: float = 1.0
    megabytes: int = 1024
    workers: int = 0


class _Grader:
    """A server of :mod:`upge.tasks.confined_worker`, started when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        if not available("reasoning_gym"):
            raise UpgeError(
                "reasoning_gym, which grades answers, is not installed; install it with "
                f"{hint('reasoning_gym', 'reasoning')}"
            )
        self.settings = settings
        self.lock = Lock()
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, pairs: list[tuple[str, str]]) -> list[str]:
        with self.lock:
            for _ in range(2):  # a server that was killed meanwhile is started again
                if line := self._ask(json.dumps(pairs)):
                    verdicts: list[str] = json.loads(line)
                    return verdicts
        raise UpgeError(
            "the processes that compare answers can't be kept alive; see whether there is memory "
            "for them, and whether reasoning_gym can be imported"
        )

    def _ask(self, request: str) -> str:
        """The answer of the server; empty if it has ended."""
        if self.process is None:
            self.process = self._start()
        server = self.process
        assert server.stdin is not None and server.stdout is not None
        try:
            server.stdin.write(request + "\n")
            server.stdin.flush()
            line = server.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # interrupted: its answer would be taken for that to the next batch
            self.close()
            raise
        if not line:
            self.close()
        return line

    def _start(self) -> subprocess.Popen[str]:
        seconds, megabytes, workers = self.settings
        count = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
        return subprocess.Popen(
            # -P: beside the script lie modules of the package, which are not to be imported.
            [
                *(sys.executable, "-P", _SCRIPT, str(count), str(seconds), str(megabytes * 2**20)),
                _SCRIPT.with_name("confined_reasoning_gym.py"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # an interrupt from the keyboard is this process's affair
        )

    def close(self) -> None:
        """End the server, and with it its workers."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@lru_cache(maxsize=8)
def _grader(settings: Settings, process: int) -> _Grader:
    """One a process: a fork must not share its parent's."""
    return _Grader(settings)


def compare(pairs: list[tuple[str, str]], settings: Settings) -> list[str]:
    """The verdict on each sealed problem and answer: right, wrong, time or killed.

    Equal pairs are compared once. Servers end with this process.

    Raises:
        UpgeError: the library is not installed, or no process can be kept.
    """
    distinct = list(dict.fromkeys(pairs))
    if not distinct:
        return []
    verdicts = dict(zip(distinct, _grader(settings, os.getpid())(distinct), strict=True))
    return [verdicts[pair] for pair in pairs]
