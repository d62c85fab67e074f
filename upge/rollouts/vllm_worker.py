"""What the worker of a vLLM engine is given besides its own methods (``worker_extension_cls``).

The worker imports this module before it loads the model, and from then on watches the process that
has started the engine: when that one is killed, vLLM's own processes would go on, holding memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from typing import Any

#: Environment variables that name the process to end with, and the folder to remove then.
OWNER, FOLDER = "UPGE_VLLM_OWNER", "UPGE_VLLM_FOLDER"

#: Seconds between two looks.
_EVERY = 1.0


class WorkerExtension:
    """Methods that the sampler calls by ``collective_rpc``."""

    def repack_head(self) -> None:
        """Pack the output embedding anew for the kernels of a CPU.

        Reloading does so for every layer that a checkpoint has weights for, which is not the output
        embedding where it is tied to the input's: it would go on with the packed old weights.
        """
        model: Any = self.model_runner.get_model()  # type: ignore[attr-defined]
        head = getattr(model, "lm_head", None)
        if head is not None:
            head.quant_method.process_weights_after_loading(head)


def _end_with(owner: int, folder: str, parent: int) -> None:
    _wait(owner)
    if parent not in (owner, 1) and os.getppid() == parent:  # the engine, where it isn't this one
        os.kill(parent, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _wait(process: int) -> None:
    """Return when it has ended, whether or not its parent has taken note."""
    import psutil  # comes with vLLM

    with suppress(psutil.NoSuchProcess):
        watched = psutil.Process(process)
        while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_EVERY)


if OWNER in os.environ:
    threading.Thread(
        target=_end_with,
        args=(int(os.environ[OWNER]), os.environ[FOLDER], os.getppid()),
        daemon=True,
    ).start()
