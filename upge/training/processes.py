"""What the processes of one run do together, and what is said when one of them is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.optional import require

T = TypeVar("T")

#: How long a process waits for another, as while a checkpoint is written: then it is lost. Gloo
#: raises an error by then; NCCL's own watchdog ends the process, and the launcher says so.
TIMEOUT = timedelta(minutes=30)

#: Seconds that the main process has to report an error that the others may have met too.
MAIN_FIRST = 10.0

#: What the errors of gloo, and of sockets below NCCL, have in them.
_BROKEN = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


def sum_over_processes(accelerator: Any, x: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if accelerator.num_processes == 1:
        return x
    total: Tensor = accelerator.reduce(x, reduction="sum")
    return total


def gather(accelerator: Any, value: T) -> list[T]:
    """The value of each process, in the order of their ranks."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[T] = require("accelerate", "train").utils.gather_object([value])
    return values


def check_same(accelerator: Any, value: object, fault: str) -> None:
    """Refuse processes in which ``value`` differs.

    Raises:
        UpgeError: "the processes of this run ``fault``", in all of them.
    """
    if any(other != value for other in gather(accelerator, value)):
        raise UpgeError(f"the processes of this run {fault}")


class LostProcess(UpgeError):
    """Another process of the run has ended, or doesn't answer."""


@contextmanager
def main_first(is_main: bool) -> Iterator[None]:
    """Hold back an error that the main process reports too: the launcher then ends the others."""
    try:
        yield
    except LostProcess:  # which one process alone raises
        raise
    except UpgeError:
        if not is_main:
            time.sleep(MAIN_FIRST)
        raise


@contextmanager
def reporting_loss(speaks: Callable[[], bool], resumes: Callable[[], str]) -> Iterator[None]:
    """Turn a collective that failed into one sentence.

    Args:
        speaks: whether it is on this process to report it; the others end silently.
        resumes: where the run resumes.

    Raises:
        LostProcess: in the process that speaks.
        SystemExit: in the others.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_broken(error):
            raise
        if not speaks():
            raise SystemExit(1) from error
        raise LostProcess(
            "another process of this run has ended (killed, or out of memory) or hasn't answered "
            f"for {TIMEOUT.total_seconds() / 60:g} minutes; rerun the command: it {resumes()}"
        ) from error


def is_broken(error: BaseException) -> bool:
    """Whether an error is that of processes that can't reach each other."""
    if not isinstance(error, RuntimeError):
        return False
    distributed: Any = torch.distributed
    return isinstance(error, distributed.DistError) or any(b in str(error) for b in _BROKEN)
