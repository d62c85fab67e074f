"""``upge`` under real launchers, two processes on a CPU; one of them may be killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]

ACCELERATE = ("accelerate.commands.launch", "--num_processes=2", "--main_process_port=0")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")

#: What every launcher is told here, and those without DeepSpeed: there is no GPU.
ON_CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
PLAIN = {"ACCELERATE_USE_CPU": "true"}


@dataclass(frozen=True)
class Ended:
    """A command under a launcher: its exit code, its output, and seconds since the kill."""

    code: int
    output: str
    seconds: float


def with_file(name):
    """The launcher's command with one of experiments/launch, or another file."""
    return (*ACCELERATE, f"--config_file={ROOT / 'experiments' / 'launch' / name}")


def launch(launcher, *command, victim=None, when=lambda: False, timeout=280, **environment):
    """Run ``upge`` with that command; rank ``victim`` is killed as soon as ``when`` is true."""
    started = subprocess.Popen(
        [sys.executable, "-m", *launcher, "-m", "upge.cli", *map(str, command)],
        cwd=ROOT,
        env=os.environ | ON_CPU | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killed = time.monotonic()
    try:
        if victim is not None:
            while started.poll() is None and not when():
                time.sleep(0.002)
            of_rank(started.pid, victim).kill()
            killed = time.monotonic()
        output, _ = started.communicate(timeout=timeout)
    finally:
        if started.poll() is None:
            for process in psutil.Process(started.pid).children(recursive=True):
                process.kill()
            started.kill()
    return Ended(started.returncode, output, time.monotonic() - killed)


def of_rank(launcher, rank):
    """The process of that rank."""
    for process in psutil.Process(launcher).children(recursive=True):
        with suppress(psutil.Error):
            if process.environ().get("RANK") == str(rank):
                return process
    raise AssertionError(f"no process of rank {rank}")
