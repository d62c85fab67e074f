"""Run folders as training writes them, with made-up numbers; readers of what follows from them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

SUITES = ("sum", "aff", "perm", "cond", "inv", "post", "mix", "alt")
START = {
    "upge": "0.1.0",
    "commit": "0123456789ab",
    "python": "3.11.7",
    "torch": "2.13.0",
    "hardware": "x86_64, 2 cores, no GPU",
    "date": "2026-11-24 14:04 UTC",
}


def config(method: str, seed: int, *, rate: float = 1e-3, steps: int = 20) -> dict[str, Any]:
    """A resolved configuration; the base model's has no stages."""
    stage = {"algorithm": method, "options": {}, "steps": steps, "lr": rate}
    return {
        "key": f"{crc32(f'{method} {rate}'.encode()):012x}",
        "name": method,
        "model": "tiny",
        "data": {"kind": "synthetic", "supply": {"problems": 900}, "test": 2},
        "stages": [] if method == "base" else [stage],
        "evaluation": {"every": 5, "test_samples": 4, "temperature": 0.6, "top_p": 0.95},
        "seed": seed,
        "max_tokens": 64,
    }


def stages(*algorithms: str, rate: float = 1e-3, steps: int = 10, **more: Any) -> dict[str, Any]:
    """The change of a configuration that makes it a pipeline."""
    shared = {"options": {}, "steps": steps, "lr": rate, **more}
    return {"stages": [{"algorithm": name, **shared} for name in algorithms]}


def metrics(
    *, steps: int = 20, every: int = 5, offline: float = 0.5, accuracy: float = 0.5, **more: float
) -> list[dict[str, Any]]:
    """One line a step; accuracy and offline ratio move towards their ends."""
    lines = []
    for step in range(1, steps + 1):
        line = {
            "step": step,
            "stage": 0,
            "offline_ratio": offline * (1 - step / (2 * steps)),
            "demonstrations": 4.0,
            "tokens_computed": 1000.0,
            "tokens_sampled": 500.0,
            "flops": 1e9,
            "seconds": 0.25,
            "cpu_seconds": 0.5,
            **more,
        }
        if step % every == 0:
            line["validation"] = 0.3 + (accuracy - 0.3) * step / steps
        lines.append(line)
    return lines


def noisy(seed: int, *names: str, **more: Any) -> list[dict[str, Any]]:
    """Steps with random numbers of all their digits in these columns."""
    random = np.random.default_rng(seed)
    return [line | {name: random.random() for name in names} for line in metrics(**more)]


def responses(
    suite: str, accuracy: float, random: np.random.Generator, per_level: int = 2
) -> pd.DataFrame:
    """Four samples to each problem of five levels."""
    rows = []
    for level in range(1, 6):
        chance = np.clip(accuracy + 0.1 * (3 - level), 0, 1)
        for number in range(per_level):
            for sample in range(4):
                reward = float(random.random() < chance)
                prompt = f"{suite}{level}-{number}="
                rows.append((suite, level, prompt, "1", sample, "#1", reward, 3))
    names = ["suite", "level", "prompt", "answer", "sample", "response", "reward", "tokens"]
    return pd.DataFrame(rows, columns=names)


def write_run(
    runs: Path,
    method: str,
    seed: int,
    *,
    accuracy: float = 0.5,
    finished: bool = True,
    steps: Sequence[Mapping[str, Any]] | None = None,
    starts: Sequence[Mapping[str, str]] = (START,),
    per_level: int = 2,
    given: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A run folder: ``given`` replaces keys of :func:`config`, which takes ``more``."""
    settings = config(method, seed, **more) | dict(given or {})
    folder = runs / f"{method}-s{seed}-{settings['key']}"
    folder.mkdir(parents=True)
    _json(folder / "config.json", settings)
    _json(folder / "provenance.json", {"starts": list(starts)})
    if method != "base":
        lines = metrics(accuracy=accuracy) if steps is None else steps
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    if finished:
        random = np.random.default_rng([seed, *method.encode()])
        _evaluate(folder, accuracy, random, per_level)
    return folder


def _evaluate(folder: Path, accuracy: float, random: np.random.Generator, per_level: int) -> None:
    (folder / "evaluation").mkdir()
    suites = {}
    for suite in SUITES:
        ahead = 0.0 if suite in SUITES[:6] else -0.2
        frame = responses(suite, accuracy + ahead, random, per_level)
        frame.to_parquet(folder / "evaluation" / f"{suite}.parquet")
        suites[suite] = frame["reward"].mean()
    _json(folder / "result.json", {"suites": suites})


def write_selection(runs: Path, methods: Sequence[str], rate: float = 1e-3) -> None:
    """``selection.json``, with a grid of two."""
    grid = {f"{rate:g}": 0.6, f"{3 * rate:g}": None}
    _json(runs / "selection.json", {method: {"lr": rate, "grid": grid} for method in methods})


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


# -------------------------------------------------------------------------- reading what was made


def part(document: str, start: str) -> str:
    """The section of a Markdown document whose heading starts so."""
    return next(p for p in document.split("\n## ") if p.startswith(start))


def cells(section: str) -> dict[str, list[str]]:
    """The lines of a section's table by their first cell."""
    lines = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {line[0]: line for line in lines if line[0] != "---"}


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(text)))
