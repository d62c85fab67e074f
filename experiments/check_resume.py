"""Kills a run with SIGKILL again and again, and compares its results with an undisturbed run's.

    python -m experiments.check_resume --kills 20

After each kill the same ``upge train`` resumes it. Some kills come at a random time, others are
aimed: into the writing of a checkpoint, right after it, into a step, into the last evaluations and
files. Results have to be equal bit for bit.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from pyarrow import parquet

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.models.tiny import build_model, build_tokenizer
from upge.tasks.synthetic import ALPHABET
from upge.training.config import RunConfig
from upge.training.records import RunFolder, run_folder

#: What no two runs share.
_CLOCKS = ("seconds", "cpu_seconds")

#: Seconds between two looks at a run's folder.
_POLL = 2e-4

#: Most seconds between the moment that is aimed at and the kill.
_DELAY = 4e-3


def make_model(folder: Path) -> None:
    """A random tiny model over the synthetic suites' characters."""
    tokenizer = build_tokenizer(ALPHABET)
    build_model(len(tokenizer), hidden=32, layers=2, heads=2, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def smoke(model: str, steps: int) -> RunConfig:
    """SFT, then HPT with two updates a step; checkpoints and validations at odd intervals."""
    shared = {"prompts_per_step": 8, "group_size": 4, "lr": 1e-3}
    values = {
        "name": "check-resume",
        "model": model,
        "data": {
            "kind": "synthetic",
            "supply": {"problems": 60, "demonstrations": 40},
            "validation": 1,
            "test": 1,
        },
        "stages": [
            shared | {"algorithm": "sft", "steps": steps // 3},
            shared | {"algorithm": "hpt", "steps": steps - steps // 3, "minibatches": 2},
        ],
        "evaluation": {"every": 5, "validation_samples": 1, "test_samples": 2},
        "checkpoint_every": 3,
        "norms_every": 4,
    }
    return build(values, RunConfig)


@dataclass
class RunProcess:
    """A run of ``upge train`` in a separate process.

    Args:
        config: the run.
        out: where its folder goes.
    """

    config: RunConfig
    out: Path
    folder: RunFolder = field(init=False)

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.folder = run_folder(self.out, self.config)
        self.config_path = self.out / "config.json"
        self.config_path.write_text(self.config.model_dump_json(), encoding="utf-8")

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.folder.result is not None

    def start(self) -> subprocess.Popen[str]:
        """Start or resume it."""
        command = [sys.executable, "-m", "upge.cli", "train", str(self.config_path), "--quiet"]
        return subprocess.Popen(
            [*command, "--out", str(self.out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def complete(self) -> float:
        """Run it to its end; return the seconds it took."""
        started = time.perf_counter()
        process = self.start()
        _, errors = process.communicate()
        if process.returncode:
            raise UpgeError(f"the run failed before it was killed: {errors.strip()[-500:]}")
        return time.perf_counter() - started

    def kill(self, moment: Callable[[], bool], delay: float) -> str | None:
        """Start it, and kill it ``delay`` seconds after ``moment`` is true.

        Returns:
            What the kill interrupted; None if the run had ended by then.
        """
        before = self.traces()
        process = self.start()
        while process.poll() is None and not moment():
            time.sleep(_POLL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise UpgeError(f"the run failed before it was killed: {errors.strip()[-500:]}")
        if process.returncode == 0:
            return None
        after = self.traces()
        return next((place for place in after if after[place] - before[place]), "at its start")

    def traces(self) -> dict[str, set[Trace]]:
        """Files whose change tells what a kill interrupted, the most specific first."""
        folder = self.folder
        return {
            "inside a checkpoint": _traces(folder.checkpoints, "*.partial"),
            "inside another file": _traces(folder.path, "*.partial"),
            "while the policy and the result were written": _traces(folder.policy, "*"),
            "during the last evaluations": _traces(folder.evaluation, "*"),
            "between or within steps": _traces(folder.path, "metrics.jsonl"),
        }


#: A file's name, inode and time of change.
Trace = tuple[str, int, int]


def _traces(folder: Path, pattern: str) -> set[Trace]:
    traces = set()
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            stat = path.stat()
            traces.add((path.name, stat.st_ino, stat.st_mtime_ns))
    return traces


def aims(run: RunProcess, seconds: float, random: Random) -> dict[str, tuple[Moment, float]]:
    """Moments to kill at, with the delay after them."""
    folder = run.folder

    def new(place: Path, pattern: str) -> Moment:
        known = _traces(place, pattern)
        return lambda: bool(_traces(place, pattern) - known)

    lines = random.randint(1, 6)
    at = time.perf_counter() + random.uniform(0, seconds)
    return {
        "at any time": (lambda: time.perf_counter() >= at, 0.0),
        "into a step": (_grows(folder.metrics_path, lines), random.uniform(0, 0.1)),
        "into a checkpoint": (new(folder.checkpoints, "*.partial"), random.uniform(0, _DELAY)),
        "after a checkpoint": (new(folder.checkpoints, "*[0-9]"), random.uniform(0, _DELAY)),
        "into an evaluation": (new(folder.evaluation, "*"), random.uniform(0, 0.1)),
        "into the last files": (new(folder.policy, "*"), random.uniform(0, _DELAY)),
    }


Moment = Callable[[], bool]


def _grows(path: Path, lines: int) -> Moment:
    """Whether the file has grown by so many lines since its shortest."""
    least = math.inf

    def grown() -> bool:
        nonlocal least
        count = path.read_bytes().count(b"\n") if path.exists() else 0
        least = min(least, count)  # a resumed run first drops the lines after its checkpoint
        return count >= least + lines

    return grown


def differences(one: RunFolder, other: RunFolder) -> dict[str, bool]:
    """What is compared of two runs, and whether they differ in it."""
    names = sorted(path.name for path in other.evaluation.glob("*.parquet"))
    files = ["model.safetensors", "config.json", "tokenizer.json"]
    return {
        f"metrics of {len(other.metrics())} steps, but the clocks": _numbers(one)
        != _numbers(other),
        "result.json": _bytes(one, "result.json") != _bytes(other, "result.json"),
        "names of the evaluations": names
        != sorted(path.name for path in one.evaluation.glob("*.parquet")),
        f"responses and rewards of {len(names)} evaluations": any(
            not _same_table(one.evaluation / name, other.evaluation / name) for name in names
        ),
        f"trained policy ({', '.join(files)})": any(
            _bytes(one, f"policy/{name}") != _bytes(other, f"policy/{name}") for name in files
        ),
    }


def _numbers(folder: RunFolder) -> list[str]:
    return [
        json.dumps({key: value for key, value in line.items() if key not in _CLOCKS})
        for line in folder.metrics()
    ]


def _bytes(folder: RunFolder, name: str) -> bytes:
    return (folder.path / name).read_bytes()


def _same_table(one: Path, other: Path) -> bool:
    return one.exists() and parquet.read_table(one).equals(parquet.read_table(other))


def check(
    folder: Path, kills: int, seed: int, model: str | None = None, steps: int = 18
) -> tuple[Counter[str], list[dict[str, bool]]]:
    """Kill runs until there are enough kills.

    Args:
        folder: where everything goes.
        kills: how many, at least.
        seed: of the times to kill at.
        model: what is trained; a random tiny model by default.
        steps: of the run.

    Returns:
        Kills by aim and place, and the differences of each killed run from an undisturbed one.
    """
    if model is None:
        model = str(folder / "base")
        make_model(Path(model))
    config = smoke(model, steps)
    undisturbed = RunProcess(config, folder / "whole")
    seconds = undisturbed.complete()
    random = Random(seed)
    landed: Counter[str] = Counter()
    compared: list[dict[str, bool]] = []
    while sum(landed.values()) < kills:
        run = RunProcess(config, folder / f"killed-{len(compared)}")
        while not run.finished and sum(landed.values()) < kills:
            aim, (moment, delay) = random.choice(list(aims(run, seconds, random).items()))
            if (place := run.kill(moment, delay)) is not None:
                landed[f"aimed {aim}, came {place}"] += 1
        if not run.finished:
            run.complete()
        compared.append(differences(run.folder, undisturbed.folder))
    return landed, compared


def main(
    kills: Annotated[int, typer.Option(help="How many, at least.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the times to kill at.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="The model that is trained. Default: a random tiny one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where runs go, and stay. Default: a temporary folder.")
    ] = None,
) -> None:
    """Kill a run again and again, and compare its results with an undisturbed run's."""
    folder = Path(tempfile.mkdtemp(prefix="check-resume-")) if out is None else out
    print(f"Killing a run {kills} times: about {kills // 8 + 1} minutes.", flush=True)
    try:
        landed, compared = check(folder, kills, seed, model)
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(landed.values())} kills in {len(compared)} runs:")
    for place, count in sorted(landed.items()):
        print(f"{count:>4}  {place}")
    print("Compared with an undisturbed run:")
    for what in compared[0]:
        bad = sum(run[what] for run in compared)
        print(f"  {f'DIFFERS in {bad}' if bad else 'equal'}: {what}")
    if any(any(run.values()) for run in compared):
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
