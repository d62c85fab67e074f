"""The processes that answers are compared in, run as a script that imports nothing of the package.

A server, which grades batches: a line of JSON in, ``[[gold, answer], …]``, a line out, one verdict
each. The file named by its last argument compares: ``prepare(gold)``, which is trusted, then
``equal(prepared, answer)``. It forks workers, which keep what they have imported, and forks another
wherever one ends. A worker is ended by the kernel when it has used its processor time (by SIGPROF,
which no arithmetic of large integers can put off), and can't get more memory than its limit nor
write to any file.

Grading in threads is impossible (math-verify takes signals), and unsafe: nothing ends a thread.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, NamedTuple

#: Wall time over processor time that a worker may take: on a busy machine it only waits.
_PATIENCE = 600

#: When so many comparisons of a batch have used up their time, each later one has this part of it.
_LATE, _HURRY = 8, 0.25


class Limits(NamedTuple):
    """What one comparison may take: processor seconds, and bytes of memory."""

    seconds: float
    memory: int


# --------------------------------------------------------------------------------------------- work


def _work(tasks: Connection, others: list[Connection], limits: Limits, comparison: Any) -> None:
    """Compare what comes until nothing can come any more."""
    for other in others:  # else none of the workers would see the server's end
        other.close()
    _confine(limits)
    while True:
        try:
            gold, answer, seconds = json.loads(tasks.recv_bytes())
        except EOFError:
            os._exit(0)
        prepared = comparison.prepare(gold)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict = _verdict(comparison, prepared, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        tasks.send_bytes(verdict.encode())


def _confine(limits: Limits) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _verdict(comparison: Any, prepared: Any, answer: str) -> str:
    try:
        return "right" if comparison.equal(prepared, answer) else "wrong"
    except Exception:  # an answer that breaks the parser, or needs more memory, is no answer
        return "wrong"


# -------------------------------------------------------------------------------------------- serve


class _Worker:
    """A process, with the task it has and the time by which it has to be done."""

    def __init__(self, limits: Limits, comparison: Any, others: list[_Worker]) -> None:
        context = get_context("fork")
        self.tasks, theirs = context.Pipe()
        inherited = [self.tasks, *(worker.tasks for worker in others)]
        given = theirs, inherited, limits, comparison
        self.process = context.Process(target=_work, args=given, daemon=True)
        self.process.start()
        theirs.close()
        self.task: int | None = None
        self.deadline = math.inf

    def give(self, task: int, pair: list[str], seconds: float) -> None:
        """Start on a task that may take so much processor time."""
        self.task, self.deadline = task, monotonic() + _PATIENCE * seconds
        self.tasks.send_bytes(json.dumps([*pair, seconds]).encode())

    def verdict(self) -> str:
        """What it says, or what its end means."""
        try:
            return self.tasks.recv_bytes().decode()
        except (EOFError, OSError):
            self.process.join()
            return "time" if self.process.exitcode == -signal.SIGPROF else "killed"

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.tasks.close()


class _Pool:
    def __init__(self, count: int, limits: Limits, comparison: Any) -> None:
        self.limits, self.comparison = limits, comparison
        self.owner, self.late = os.getppid(), 0
        self.workers: list[_Worker] = []
        for _ in range(count):
            self.workers.append(_Worker(limits, comparison, self.workers))

    def grade(self, pairs: list[list[str]]) -> list[str]:
        """The verdict on each pair."""
        verdicts = [""] * len(pairs)
        self.late = 0
        waiting = iter(range(len(pairs)))
        self._give(waiting, pairs, self.limits.seconds)
        while busy := [worker for worker in self.workers if worker.task is not None]:
            if os.getppid() != self.owner:  # nobody waits for the verdicts any more
                sys.exit()
            soonest = max(min(worker.deadline for worker in busy) - monotonic(), 0)
            done = wait([worker.tasks for worker in busy], min(soonest, 1))
            for worker in busy:
                if worker.tasks in done or worker.deadline <= monotonic():
                    self._take(worker, worker.tasks in done, verdicts)
            hurry = _HURRY if self.late >= _LATE else 1
            self._give(waiting, pairs, hurry * self.limits.seconds)
        return verdicts

    def _give(self, waiting: Iterator[int], pairs: list[list[str]], seconds: float) -> None:
        for worker in self.workers:
            if worker.task is None and (task := next(waiting, None)) is not None:
                worker.give(task, pairs[task], seconds)

    def _take(self, worker: _Worker, spoke: bool, verdicts: list[str]) -> None:
        task = worker.task
        assert task is not None
        verdicts[task] = worker.verdict() if spoke else "time"
        self.late += verdicts[task] == "time"
        worker.task = None
        if verdicts[task] not in ("right", "wrong"):
            worker.end()
            place = self.workers.index(worker)
            others = [other for other in self.workers if other is not worker]
            self.workers[place] = _Worker(self.limits, self.comparison, others)


def serve(count: int, limits: Limits, path: str) -> None:
    """Grade the batches of standard input until it ends, as the file at ``path`` compares."""
    logging.disable(logging.CRITICAL)
    spec = spec_from_file_location("comparison", path)
    assert spec is not None and spec.loader is not None
    comparison = module_from_spec(spec)
    spec.loader.exec_module(comparison)
    comparison.warm_up()
    pool = _Pool(count, limits, comparison)
    for line in sys.stdin:
        print(json.dumps(pool.grade(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Limits(float(sys.argv[2]), int(sys.argv[3])), sys.argv[4])
