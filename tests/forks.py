"""Several processes that see each other as a launcher's do, forked: none imports anything again."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Mapping

import torch


def start(processes: int, run: Callable[[], None], environment: Mapping[str, str]) -> list[int]:
    """Ids of so many forked processes, which run that and end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        _fork(run, {**shared, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]


def _fork(run: Callable[[], None], environment: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= environment
        torch.set_num_threads(1)
        run()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def together(processes: int, run: Callable[[], None], **environment: str) -> list[int]:
    """Their exit codes, once all have ended."""
    pids = start(processes, run, environment)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
