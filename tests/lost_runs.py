"""Runs of two processes, one of which is killed: ``python lost_runs.py FOLDER CONFIG SEED KILLS``.

With ``stop`` in place of SEED and KILLS each process once stops answering, in a step, for good;
with ``terminate`` one or both get a SIGTERM, as a scheduler sends it.

What a launcher does is done here: soon after one process has died, the other gets a SIGTERM. Then
the run is started again, and compared with one that was left alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random

import forks
import strategy_runs
import tiny_runs

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.training import launch as launching
from upge.training import loop, processes
from upge.training.config import RunConfig
from upge.training.gradient import GradientAccumulator
from upge.training.loop import Trainer
from upge.training.records import RunFolder
from upge.training.update import Updater

#: Seconds that processes wait for one that has stopped.
PATIENCE = 5

#: Calls in which a process is killed, and how many of these a run makes at least.
MOMENTS = {
    "a step": (Trainer, "step", 6),
    "a micro-batch": (GradientAccumulator, "_likelihood", 12),
    "an update": (Updater, "_apply", 6),
    "a checkpoint": (Trainer, "_save", 3),
    "before a step": (Trainer, "_open_policy", 1),
}


def train(config, folder, kind, victim, moment, call, by=signal.SIGKILL):
    """Train; the victim is killed, or stopped, in that call of the moment's function."""
    rank = os.environ["RANK"]
    with Path(f"{folder}-{rank}.err").open("w") as file:
        os.dup2(file.fileno(), 2)
    if rank == str(victim) or victim == "both":
        owner, name, _ = MOMENTS[moment]
        setattr(owner, name, killing(getattr(owner, name), call, by))
    if kind == "single":
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            del os.environ[name]
    loop.open_accelerator = partial(strategy_runs.opened, kind)
    try:
        trainer = Trainer(config, RunFolder(folder))
        trainer.run()
    except KeyboardInterrupt:
        if trainer.reports():
            print(f"interrupted: it {trainer.resumes}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except UpgeError as error:
        print(f"upge: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def killing(function, call, by):
    calls = []

    def killed(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), by)
        return function(*args, **kwargs)

    return killed


def launch(config, folder, patience=0.0, kind="ddp", **kill):
    """Exit codes by rank, seconds from the first death to the last, and what was said.

    ``kind`` is one of :mod:`strategy_runs`, or ``single``.
    """
    kill = {"victim": None, "moment": "", "call": 0} | kill
    processes = strategy_runs.processes(kind)
    run = partial(train, config, folder, kind, **kill)
    pids = forks.start(processes, run, strategy_runs.environment(kind))
    first, status = os.wait()
    died, codes = time.monotonic(), {first: os.waitstatus_to_exitcode(status)}
    for other in set(pids) - {first}:
        if codes[first]:
            time.sleep(patience)
            os.kill(other, signal.SIGKILL if kill.get("by") == signal.SIGSTOP else signal.SIGTERM)
        codes[other] = os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
    said = [Path(f"{folder}-{rank}.err").read_text() for rank in range(processes)]
    return [codes[pid] for pid in pids], time.monotonic() - died, said


def stop(folder, config):
    """Stop each process once; those that are left have missed it soon, and a run goes on."""
    launching.TIMEOUT = processes.TIMEOUT = timedelta(seconds=PATIENCE)
    found = []
    for victim in (0, 1):
        path = Path(folder) / f"stopped-{victim}"
        kill = {"victim": victim, "moment": "a step", "call": 3, "by": signal.SIGSTOP}
        started = time.monotonic()
        codes, _, said = launch(config, path, **kill)
        seconds = time.monotonic() - started
        again = launch(config, path)[0]
        found.append({"codes": codes, "seconds": seconds, "said": said, "again": again})
    return found


def terminate(folder, config):
    """Send SIGTERM in several moments, and resume each run."""
    whole = RunFolder(Path(folder) / "whole")
    assert launch(config, whole.path)[0] == [0, 0]
    found = []
    for victim in (0, 1, "both"):
        for moment, call in (("a step", 4), ("an update", 3), ("a checkpoint", 1)):
            stopped = RunFolder(Path(folder) / f"{victim}-{call}")
            kill = {"victim": victim, "moment": moment, "call": call, "by": signal.SIGTERM}
            codes, _, said = launch(config, stopped.path, **kill)
            again = launch(config, stopped.path)[0]
            same = tiny_runs.weights(stopped) == tiny_runs.weights(whole) and (
                tiny_runs.numbers(stopped) == tiny_runs.numbers(whole)
            )
            found.append({"codes": codes, "said": said, "again": again, "same": same} | kill)
    return found


def kill_many(folder, run, random, kills):
    """Kill so many runs at moments drawn at random, and go on with each."""
    whole = RunFolder(Path(folder) / "whole")
    assert launch(run, whole.path)[0] == [0, 0]
    found = []
    for number in range(kills):
        moment = random.choice(sorted(MOMENTS))
        kill = {
            "victim": number % 2,
            "moment": moment,
            "call": random.randint(1, MOMENTS[moment][2]),
        }
        patience = random.choice([0.0, 0.1, 3.0])  # of the launcher: SIGTERM comes first, or late
        killed = RunFolder(Path(folder) / f"killed-{number}")
        codes, seconds, said = launch(run, killed.path, patience, **kill)
        steps = killed.recorded
        again = launch(run, killed.path)[0]
        same = tiny_runs.numbers(killed) == tiny_runs.numbers(whole) and (
            tiny_runs.weights(killed) == tiny_runs.weights(whole)
        )
        found.append(
            {"codes": codes, "seconds": seconds, "said": said, "again": again, "same": same}
            | {"patience": patience, "recorded": steps}
            | kill
        )
    return found


def main(folder: str, config: str, seed: str, kills: str = "") -> None:
    """Kill so many runs, or stop two, and report."""
    run = build(json.loads(Path(config).read_text()), RunConfig)
    if seed in ("stop", "terminate"):
        found = {"stop": stop, "terminate": terminate}[seed](folder, run)
    else:
        found = kill_many(folder, run, Random(seed), int(kills))
    (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(*sys.argv[1:])
