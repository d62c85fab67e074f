"""When one of several processes dies, the others end too, and one of them says so.

A survivor finds out in one of two ways: what it does together with the dead one fails, or the
launcher ends it by SIGTERM, which can come first. Of the survivors that one speaks that gets the
lock of the run's folder. The main process holds it as long as it lives, and notes in it when it
ends by itself: whatever there was to say has then been said.

One that is cut off or stands still says nothing, and nothing fails for the twelve hours in which
the others may be waiting for the main process's evaluation. So each gives a sign of life every few
seconds, in the store through which they found each other, whatever else it does; where one gives
none for minutes, the others end, and the lowest of them speaks.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import IO, Any

import torch

from upge.common.errors import UpgeError
from upge.training.records import RunFolder

#: What the errors of gloo, and of sockets below NCCL, have in them.
_BROKEN = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")

#: Seconds that the kernel may take to give back the lock of a killed process.
_PATIENCE = 1.0

#: Seconds that another process leaves the main one to say what both of them found.
MAIN_FIRST = 10.0

#: Seconds between two signs of life, and how many may be missed.
PULSE, MISSED = 10.0, 60

#: Added to the count of one that ended with the run: negative, whatever it was.
_NEVER_MISSED = -(2**60)

_ENDED = "ended"


class LostProcess(UpgeError):
    """Another process of the run is gone."""


@contextmanager
def main_first(is_main: bool) -> Iterator[None]:
    """Hold back a sentence that the main process may say too: a launcher then ends the others.

    Args:
        is_main: whether this is the main process, which waits for nobody.
    """
    try:
        yield
    except LostProcess:  # of which one process alone speaks
        raise
    except UpgeError:
        if not is_main:
            time.sleep(MAIN_FIRST)
        raise


class Vigil:
    """Turns the death of another process into one sentence, while it is entered.

    Entered by the main process within the folder's lock.

    Args:
        folder: the run's.
        is_main: whether this is the main process.
        processes: how many there are; of a single one nothing is changed.

    Raises:
        LostProcess: on leaving, in the survivor that speaks; the others leave by SystemExit.
    """

    def __init__(self, folder: RunFolder, is_main: bool, processes: int) -> None:
        self.folder, self.is_main = folder, is_main
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._active = processes > 1 and in_main_thread  # only there signals can be handled
        self._held: IO[str] | None = None
        self._speaking = threading.Lock()

    def __enter__(self) -> Vigil:
        if self._active:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            # A handler in Python alone would wait until a blocked collective returns.
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._handler = signal.signal(signal.SIGTERM, _ignore)
            self._pulse = Pulse(self.folder.path.name)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not self._active:
            return
        if error is not None and is_broken(error):
            self._speaking.acquire()  # SIGTERM, on its way from the launcher, cuts nothing short
            if not self._speaks():
                raise SystemExit(1) from error
            raise LostProcess(self._sentence()) from error
        if self.is_main:
            self._note_end()
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        os.write(self._writer, b"\0")
        self._pulse.stop(whole=error is None)

    def _watch(self) -> None:
        """End the process on SIGTERM, and when another one gives no sign of life."""
        while True:
            if not select.select([self._reader], [], [], PULSE)[0]:
                if silent := self._pulse.count():
                    self._end(self._speaks_for(silent))
                continue
            byte = os.read(self._reader, 1)
            if byte == b"\0":
                return
            if byte[0] == signal.SIGTERM:
                self._end()

    def _end(self, speaks: bool | None = None) -> None:
        """Leave, without what the main thread is waiting for."""
        if self._speaking.acquire(blocking=False):
            if self._speaks() if speaks is None else speaks:
                print(f"upge: {self._sentence()}", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGTERM)

    def _speaks_for(self, silent: set[int]) -> bool:
        """Whether no lower process is there to say it: one that stands still keeps the lock."""
        if self.is_main:
            self._note_end()
        return set(range(self._pulse.rank)) <= silent

    def _speaks(self) -> bool:
        """Whether it is on this process to say what happened."""
        if self.is_main:
            self._note_end()
            return True
        try:
            self._held = (self.folder.path / "lock").open("a+")
        except OSError:
            return True
        return self._gets_lock() and self._is_first()

    def _gets_lock(self) -> bool:
        assert self._held is not None
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() > until:
                    return False
                time.sleep(0.02)

    def _is_first(self) -> bool:
        assert self._held is not None
        self._held.seek(0)
        if self._held.read():
            return False
        self._note_end()
        return True

    def _note_end(self) -> None:
        (self.folder.path / "lock").write_text(_ENDED)

    def _sentence(self) -> str:
        steps = [int(path.name[5:]) for path in self.folder.checkpoints.glob("step-*[0-9]")]
        where = f"goes on from step {max(steps)}" if steps else "starts anew, without a checkpoint"
        return (
            "another process of this run is gone (killed, out of memory, or cut off), or the "
            f"launcher was stopped; the same command {where}"
        )


class Pulse:
    """Signs of life of all processes, given and looked for in a thread of its own.

    Time is counted in looks, not by a clock: a run that is stopped as a whole, and goes on, has
    missed nothing.

    Args:
        name: what no other run in these processes is called.
    """

    def __init__(self, name: str) -> None:
        distributed: Any = torch.distributed
        self.rank = distributed.get_rank()
        self._name, self._over, self._whole = name, threading.Event(), False
        self._missed = dict.fromkeys(set(range(distributed.get_world_size())) - {self.rank}, 0)
        # A connection of its own: on the processes' one another thread may be waiting.
        self._store = distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
        )
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def count(self) -> set[int]:
        """Count a look at the others; those that have been silent for too long."""
        for rank in self._missed:
            self._missed[rank] += 1
        return {rank for rank, missed in self._missed.items() if missed > MISSED}

    def stop(self, whole: bool) -> None:
        """Give no more signs; where the run is whole, none is missed."""
        self._whole = whole
        self._over.set()
        self._thread.join(timeout=1.0)

    def _beat(self) -> None:
        last = dict.fromkeys(self._missed, 0)
        with suppress(RuntimeError):  # the store is gone: all are silent from now on
            while not self._over.is_set():
                self._store.add(f"{self._name}/{self.rank}", 1)
                for rank in last:
                    count = self._store.add(f"{self._name}/{rank}", 0)
                    if count != last[rank] or count < 0:
                        self._missed[rank], last[rank] = 0, count
                self._over.wait(PULSE)
            if self._whole:
                self._store.add(f"{self._name}/{self.rank}", _NEVER_MISSED)


def is_broken(error: BaseException) -> bool:
    """Whether an error is that of processes that can't reach each other."""
    if not isinstance(error, RuntimeError):
        return False
    distributed: Any = torch.distributed
    return isinstance(error, distributed.DistError) or any(b in str(error) for b in _BROKEN)


def _ignore(number: int, frame: FrameType | None) -> None:
    """What SIGTERM means is decided in :meth:`Vigil._watch`."""
