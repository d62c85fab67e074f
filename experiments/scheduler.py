"""Runs many runs, two at a time, one thread each; what is finished is left as it is."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from upge.common.errors import UpgeError
from upge.training.config import RunConfig
from upge.training.records import RunFolder, run_folder

#: Processes at a time. On two cores more than two don't pay off; a second thread each neither.
WORKERS = 2

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Job:
    """A run to be made.

    Args:
        config: what to run.
        runs: the folder that its folder is in.
    """

    config: RunConfig
    runs: Path

    @property
    def folder(self) -> RunFolder:
        """Where its records go."""
        return run_folder(self.runs, self.config)

    @property
    def steps_done(self) -> int:
        """Steps that the records show."""
        if self.folder.result is not None:
            return self.config.steps
        lines = last_lines(self.folder.metrics_path)
        return int(lines[-1]["step"]) if lines else 0


#: Bytes at the end of a file of records that hold its latest lines.
_TAIL = 65536


def last_lines(path: Path) -> list[dict[str, Any]]:
    """The last whole lines of a JSON Lines file."""
    try:
        with path.open("rb") as file:
            start = max(path.stat().st_size - _TAIL, 0)
            file.seek(start)
            lines = file.read().decode().split("\n")
        return [json.loads(line) for line in lines[1 if start else 0 : -1]]
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error."""

    job: Job
    reason: str


@contextmanager
def worker_pool(workers: int = WORKERS) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each, which end with this one, and at once if it fails."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield pool
    except BaseException:
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class Scheduler:
    """Makes runs in worker processes, which end with this one.

    Args:
        workers: processes.
        tick: called about twice a second while there is work, with the jobs that are under way.
    """

    def __init__(
        self, workers: int = WORKERS, tick: Callable[[Sequence[Job]], None] = lambda jobs: None
    ) -> None:
        self.workers, self.tick = workers, tick
        self._stack = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Scheduler:
        self._pool = self._stack.enter_context(worker_pool(self.workers))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def as_finished(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Failure | None]]:
        """Make the runs, in this order, and give each when it ends, with its failure if it failed.

        Those that are finished cost nothing.

        Raises:
            UpgeError: a worker was killed from outside.
        """
        assert self._pool is not None
        waiting = [job for job in jobs if job.folder.result is None]
        yield from ((job, None) for job in jobs if job.folder.result is not None)
        running: dict[Future[str | None], Job] = {}
        while waiting or running:
            while waiting and len(running) < self.workers:
                job = waiting.pop(0)
                running[self._pool.submit(_work, job)] = job
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            self.tick(list(running.values()))
            for future in done:
                job = running.pop(future)
                reason = outcome(future)
                yield job, None if reason is None else Failure(job, reason)


def outcome(future: Future[Outcome]) -> Outcome:
    """What a worker returned.

    Raises:
        UpgeError: the worker was ended from outside.
    """
    try:
        return future.result()
    except multiprocessing.ProcessError as error:
        raise UpgeError(f"a worker process failed ({error}); run the same command again") from error
    except Exception as error:
        if type(error).__name__ == "BrokenProcessPool":
            raise UpgeError(
                "a worker process was ended from outside, perhaps for lack of memory; run the same "
                "command again: it goes on where it stood"
            ) from error
        raise


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job) -> str | None:
    """Make one run; a user's mistake or a diverged policy is returned as a sentence."""
    from upge.training.loop import Trainer

    try:
        Trainer(job.config, job.folder).run()
    except UpgeError as error:
        return str(error)
    return None
