"""Runs as training leaves them: a folder each, with every step and every sampled response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run import (
    ANSWER_COLUMNS,
    PROBLEM,
    STEP_COLUMNS,
    Run,
    Runs,
    Trial,
    check_columns,
    check_run,
)
from experiments.records import NAMED, Named, read_checked, read_choices
from upge.common.errors import UpgeError
from upge.common.files import read_json
from upge.training.config import current_names

_TRIALS, _COMPARISON = "selection", "comparison.json"
_REMEDY = "delete the run and make it again"

#: What tables need of each sampled response.
_SAMPLED = ("level", "prompt", "reward", "tokens")


def read_folders(folder: Path) -> Runs:
    """The runs of a comparison, which its ``comparison.json`` names, or those in a plain folder.

    Raises:
        UpgeError: files that can't be read, are damaged, or contradict each other.
    """
    named: Named | None = read_checked(folder / _COMPARISON, NAMED)
    runs = folder.parent if named else folder
    finished: list[Run] = []
    unfinished: dict[str, tuple[str, int] | None] = {}
    for path in _folders(runs, named.runs if named else None):
        config = current_names(read_json(path / "config.json"))
        result = read_json(path / "result.json")
        name, seed = (config or {}).get("name"), (config or {}).get("seed")
        known = (name, seed) if isinstance(name, str) and isinstance(seed, int) else None
        if config is not None and known and result is not None:
            finished.append(_run(path, config, result))
        elif config is not None or (path / "metrics.jsonl").exists():
            unfinished[path.name] = known
    trials = list(_trials(runs / _TRIALS, named.trials if named else None))
    return Runs(finished, unfinished, read_choices(folder / "selection.json"), trials, folder)


def _run(path: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> Run:
    suites = result.get("suites")
    frames = [_answers(path, name) for name in (suites if isinstance(suites, dict) else ())]
    answers = pd.concat(frames) if frames else pd.DataFrame(columns=list(ANSWER_COLUMNS))
    answers = answers.sort_values(list(PROBLEM), ignore_index=True)
    code = (read_json(path / "code.json") or {}).get("code", {})
    run = Run(path, config, _starts(path), result, _steps(path), answers, code)
    check_run(run, _REMEDY)
    return run


def _answers(folder: Path, suite: str) -> pd.DataFrame:
    path = folder / "evaluation" / f"{suite}.parquet"
    try:
        frame = pd.read_parquet(path, columns=list(_SAMPLED))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UpgeError(f"{path}: can't be read ({reason}); {_REMEDY}") from error
    check_columns(frame, _SAMPLED, path, _REMEDY)
    frame["suite"] = suite  # what its problems call themselves may be finer
    frame["right"] = (frame["reward"] > 0).astype(int)
    return frame.groupby(list(PROBLEM), as_index=False).agg(
        right=("right", "sum"), samples=("right", "size"), tokens=("tokens", "sum")
    )


def _folders(folder: Path, names: Sequence[str] | None) -> list[Path]:
    """The run folders of these names below ``folder``; all, for None."""
    paths = sorted(p for p in folder.glob("*") if p.is_dir() and p.name != _TRIALS)
    return [path for path in paths if names is None or path.name in names]


def _trials(folder: Path, names: Sequence[str] | None) -> Iterator[Trial]:
    for path in _folders(folder, names):
        config = current_names(read_json(path / "config.json"))
        if config is not None:
            steps = _steps(path)
            validated = steps.dropna(subset="validation") if "validation" in steps else steps[:0]
            values = validated.get("validation", pd.Series(dtype=float)).tolist()
            validation = dict(zip(map(str, validated.get("step", ())), values, strict=True))
            yield Trial(path.name, config, _starts(path), validation)


def _steps(folder: Path) -> pd.DataFrame:
    """Every step; an incomplete last line is left out."""
    path = folder / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        frame = pd.DataFrame([json.loads(line) for line in text.split("\n")[:-1] if line])
    except ValueError as error:
        raise UpgeError(f"{path}: is damaged ({error}); {_REMEDY}") from error
    if len(frame):
        check_columns(frame, ["step"], path, _REMEDY)
    return frame[[name for name in STEP_COLUMNS if name in frame]]


def _starts(path: Path) -> Sequence[Mapping[str, str]]:
    starts: Sequence[Mapping[str, str]] = (read_json(path / "provenance.json") or {}).get(
        "starts", []
    )
    return starts
