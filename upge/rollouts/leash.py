"""What the worker of a vLLM engine is given besides its own methods (``worker_extension_cls``)."""

from __future__ import annotations

import os
import signal
import threading
import time

#: Seconds between two looks.
_EVERY = 2.0


class Leash:
    """Ends an engine whose owner was killed; vLLM's would wait for it for ever, holding memory."""

    def end_with(self, owner: int) -> None:
        """Watch the process ``owner`` from now on."""
        threading.Thread(target=_watch, args=(owner, os.getppid()), daemon=True).start()


def _watch(owner: int, parent: int) -> None:
    while _lives(owner):
        time.sleep(_EVERY)
    if parent not in (owner, 1) and os.getppid() == parent:  # the engine, where it isn't this one
        os.kill(parent, signal.SIGKILL)
    os._exit(1)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
