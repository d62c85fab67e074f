"""What the worker of a vLLM engine is given besides its own methods (``worker_extension_cls``)."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

#: Seconds between two looks.
_EVERY = 2.0


class WorkerExtension:
    """Methods that the sampler calls by ``collective_rpc``."""

    def end_with(self, owner: int) -> None:
        """End when the process ``owner`` does: vLLM's engine would go on, holding memory."""
        threading.Thread(target=_watch, args=(owner, os.getppid()), daemon=True).start()

    def repack_head(self) -> None:
        """Pack the output embedding anew for the kernels of a CPU.

        Reloading does so for every layer that a checkpoint has weights for, which is not the output
        embedding where it is tied to the input's: it would go on with the packed old weights.
        """
        model: Any = self.model_runner.get_model()  # type: ignore[attr-defined]
        head = getattr(model, "lm_head", None)
        if head is not None:
            head.quant_method.process_weights_after_loading(head)


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
