"""Makes runs in worker processes, a few at a time with one thread each."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from upge.common.errors import UpgeError
from upge.training.config import RunConfig
from upge.training.records import RunFolder, run_folder

#: Processes at a time: on two cores neither a third process nor a second thread each is faster.
WORKERS = 2

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Job:
    """A run to make.

    Args:
        config: what to run.
        runs: where its folder goes.
    """

    config: RunConfig
    runs: Path

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return run_folder(self.runs, self.config)

    @property
    def steps_done(self) -> int:
        """Steps that the run's records show."""
        if self.folder.result is not None:
            return self.config.steps
        lines = last_lines(self.folder.metrics_path)
        return int(lines[-1]["step"]) if lines else 0


#: Bytes that are read from the end of a file of records.
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
    """Processes of one thread each, which end with this one, and are killed if it fails."""
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


def as_finished(
    jobs: Sequence[Job],
    pool: ProcessPoolExecutor,
    workers: int,
    tick: Callable[[Sequence[Job]], None] = lambda jobs: None,
) -> Iterator[tuple[Job, Failure | None]]:
    """Make the runs in this order, and yield each when it ends, with its failure if it failed.

    Finished runs are not repeated; they come first.

    Args:
        jobs: the runs.
        pool: where they are made.
        workers: how many at a time.
        tick: called about twice a second while there is work, with the jobs under way.

    Raises:
        UpgeError: a worker was killed from outside.
    """
    waiting = [job for job in jobs if job.folder.result is None]
    yield from ((job, None) for job in jobs if job.folder.result is not None)
    running: dict[Future[str | None], Job] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            running[pool.submit(_work, job)] = job
        done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        tick(list(running.values()))
        for future in done:
            job = running.pop(future)
            reason = outcome(future)
            yield job, None if reason is None else Failure(job, reason)


def outcome(future: Future[Outcome]) -> Outcome:
    """What a worker returned.

    Raises:
        UpgeError: the worker was killed from outside.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UpgeError(
            "a worker process was killed, perhaps for lack of memory; rerun the command to resume"
        ) from error


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
    """Make one run; return the message of a user's mistake or of a diverged policy."""
    from upge.training.loop import Trainer

    try:
        Trainer(job.config, job.folder).run()
    except UpgeError as error:
        return str(error)
    return None
