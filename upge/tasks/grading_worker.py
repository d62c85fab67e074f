"""The processes that answers are compared in, run as a script that imports nothing of the package.

A server, which grades batches: a line of JSON in, ``[[gold, answer], …]``, a line out, one verdict
each. It forks workers, which keep what they have imported, and forks another wherever one ends.
A worker is ended by the kernel when it has used its processor time (by SIGPROF, which no arithmetic
of large integers can put off), and can't get more memory than its limit nor write to any file.

Grading in threads is impossible (math-verify takes signals), and unsafe: nothing ends a thread.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, NamedTuple

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Pow, binomial, factorial, factorial2, gamma, postorder_traversal, subfactorial

#: Wall time over processor time that a worker may take: on a busy machine it only waits.
_PATIENCE = 600

#: When so many comparisons of a batch have used up their time, each later one has this part of it.
_LATE, _HURRY = 8, 0.25


class Limits(NamedTuple):
    """What one comparison may take: processor seconds, and bytes of memory."""

    seconds: float
    memory: int


# ------------------------------------------------------------------------------------------ compare

#: The largest number that is worked out, in bits, and the largest whose factorial is.
_BITS, _FACTORIAL = 100_000, 10_000

_FACTORIALS = (binomial, factorial, factorial2, gamma, subfactorial)

#: Relative distance of numbers that are equal. math-verify's is absolute: to it 1e-27 is 0.
_DISTANCE = 1e-5


def equal(gold: str, answer: str) -> bool:
    """Whether an answer, in LaTeX, says the same as the gold answer."""
    units = _has_units(gold)
    wanted, given = _gold(gold, units), _parsed(answer, units)
    if any(map(_is_oversized, given)) or _contradicts_itself(answer, units):
        return False
    same = verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=True)
    return same and ("%" in gold + answer or _are_near(wanted, given))


def _parsed(text: str, units: bool) -> list[Any]:
    """The expression, if it is one, and the text; ``units`` are left out."""
    normalization = NormalizationConfig(
        basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="all"
    )
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)
    parsed: list[Any] = parse(f"\\boxed{{{text}}}", [config], parsing_timeout=None)
    return parsed


_gold = lru_cache(maxsize=4096)(_parsed)


@lru_cache(maxsize=4096)
def _has_units(gold: str) -> bool:
    """Whether letters behind a number can be units; not those of 6m, where m is the problem's."""
    if any(command in gold for command in ("\\text", "\\mbox", "\\mathrm", "\\%", "\\$")):
        return True
    return not any(getattr(value, "free_symbols", ()) for value in _parsed(gold, units=False))


def _is_oversized(value: Any) -> bool:
    """Whether some number in it is too large to work out; nothing is worked out to see that."""
    if isinstance(value, str):
        return False
    try:
        return any(map(_is_large, postorder_traversal(value)))
    except OverflowError:
        return True
    except (TypeError, ValueError, AttributeError):  # of no number
        return False


def _is_large(node: Any) -> bool:
    if isinstance(node, _FACTORIALS):
        return any(arg.is_number and abs(complex(arg)) > _FACTORIAL for arg in node.args)
    if not isinstance(node, Pow) or not node.is_number:
        return False
    base, exponent = abs(complex(node.base)), abs(complex(node.exp))
    return base > 0 and exponent * max(abs(math.log2(base)), 1e-9) > _BITS


#: Relative distance of numbers of which one may be the other, rounded.
_ROUNDING = 0.01

#: Numbers and what is worked out of them, without units.
_PLAIN = re.compile(
    r"(?:[\d\s.,+\-*/^(){}!]|\\(?:[dt]?frac|sqrt|cdot|times|div|left|right|pi|[,;:! ]))+"
)


def _contradicts_itself(answer: str, units: bool) -> bool:
    """Whether neighbours in a chain of equations are different numbers: math-verify reads its end.

    So that 6=5 is not 5, nor is 1=2=3=4=5.
    """
    if "=" not in answer:
        return False
    values = [_number(side, units) for side in answer.split("=")]
    return any(
        abs(a - b) > _ROUNDING * max(abs(a), abs(b))
        for a, b in pairwise(values)
        if a is not None and b is not None
    )


def _number(text: str, units: bool) -> complex | None:
    """The number that a text is, if it is one."""
    if not _PLAIN.fullmatch(text):
        return None
    values = _parsed(text, units)
    try:
        return None if any(map(_is_oversized, values)) else complex(values[0])
    except Exception:
        return None


def _are_near(wanted: list[Any], given: list[Any]) -> bool:
    """Whether two small numbers are near by their own size; what is no number passes."""
    try:
        gold, answer = complex(wanted[0]), complex(given[0])
    except Exception:
        return True
    return abs(gold) >= 1 or abs(gold - answer) <= _DISTANCE * abs(gold)


# --------------------------------------------------------------------------------------------- work


def _work(tasks: Connection, others: list[Connection], limits: Limits) -> None:
    """Compare what comes until nothing can come any more."""
    for other in others:  # else none of the workers would see the server's end
        other.close()
    _confine(limits)
    while True:
        try:
            gold, answer, seconds = json.loads(tasks.recv_bytes())
        except EOFError:
            os._exit(0)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict = _verdict(gold, answer)
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


def _verdict(gold: str, answer: str) -> str:
    try:
        return "right" if equal(gold, answer) else "wrong"
    except Exception:  # an answer that breaks the parser, or needs more memory, is no answer
        return "wrong"


# -------------------------------------------------------------------------------------------- serve


class _Worker:
    """A process, with the task it has and the time by which it has to be done."""

    def __init__(self, limits: Limits, others: list[_Worker]) -> None:
        context = get_context("fork")
        self.tasks, theirs = context.Pipe()
        inherited = [self.tasks, *(worker.tasks for worker in others)]
        self.process = context.Process(target=_work, args=(theirs, inherited, limits), daemon=True)
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
    def __init__(self, count: int, limits: Limits) -> None:
        self.limits, self.owner, self.late = limits, os.getppid(), 0
        self.workers: list[_Worker] = []
        for _ in range(count):
            self.workers.append(_Worker(limits, self.workers))

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
            self.workers[place] = _Worker(self.limits, others)


def serve(count: int, limits: Limits) -> None:
    """Grade the batches of standard input until it ends."""
    logging.disable(logging.CRITICAL)
    equal("1", "2")  # what is made on first use is made before the forks
    pool = _Pool(count, limits)
    for line in sys.stdin:
        print(json.dumps(pool.grade(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Limits(float(sys.argv[2]), int(sys.argv[3])))
