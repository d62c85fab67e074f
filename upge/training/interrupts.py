"""SIGINT, and SIGTERM as schedulers send it, as KeyboardInterrupt when no step is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns signals into KeyboardInterrupt while it is entered; at once, unless they are held.

    Outside of the main thread, where no signal can be handled, it changes nothing.
    """

    def __init__(self) -> None:
        self._held = self._pending = False
        self._any: Callable[[bool], bool] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._arrive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        if not self._held:
            raise KeyboardInterrupt

    def share(self, any_process: Callable[[bool], bool]) -> None:
        """Hold signals from now on until :meth:`release`, which all processes call together.

        Args:
            any_process: whether something is true in any process, known in all of them.
        """
        self._held, self._any = True, any_process

    def hold(self) -> None:
        """Hold signals until :meth:`release`."""
        self._held = True

    def free(self) -> None:
        """Deliver signals at once from now on, in this process alone.

        Raises:
            KeyboardInterrupt: one has arrived.
        """
        self._held, self._any = False, None
        self.release()

    def release(self) -> None:
        """Deliver what has arrived, and with one process whatever arrives from now on.

        Raises:
            KeyboardInterrupt: a signal has arrived, in this or another process.
        """
        if self._any is None:
            self._held = False
        if self._pending if self._any is None else self._any(self._pending):
            raise KeyboardInterrupt
