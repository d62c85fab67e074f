"""Runs as training leaves them: a folder each, with every step and every sampled response."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run import (
    ANSWER_COLUMNS,
    PROBLEM,
    STEP_COLUMNS,
    Found,
    Run,
    Trial,
    check_accuracy,
    check_columns,
)
from experiments.records import NAMED, read_checked, read_choices
from upge.common.errors import UpgeError
from upge.training.config import current_names

_TRIALS, _COMPARISON = "selection", "comparison.json"
_REMEDY = "delete the run and make it again"

#: What tables need of each sampled response.
_SAMPLED = ("level", "prompt", "reward", "tokens")


class RunFolder(Run):
    """A run in its own folder."""

    def metrics(self) -> pd.DataFrame:
        """See :meth:`Run.metrics`; a last line that was cut short is left out."""
        return _metrics(self.path / "metrics.jsonl")

    def answers(self) -> pd.DataFrame:
        """See :meth:`Run.answers`."""
        frames = [self._suite(name, accuracy) for name, accuracy in self.suites.items()]
        if not frames:
            return pd.DataFrame(columns=list(ANSWER_COLUMNS))
        return pd.concat(frames).sort_values(list(PROBLEM), ignore_index=True)

    def _suite(self, name: str, accuracy: float) -> pd.DataFrame:
        path = self.path / "evaluation" / f"{name}.parquet"
        try:
            frame = pd.read_parquet(path, columns=list(_SAMPLED))
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UpgeError(f"{path}: can't be read ({reason}); {_REMEDY}") from error
        check_columns(frame, _SAMPLED, path, _REMEDY)
        frame["suite"] = name  # what its problems call themselves may be finer
        frame["right"] = (frame["reward"] > 0).astype(int)
        answers = frame.groupby(list(PROBLEM), as_index=False).agg(
            right=("right", "sum"), samples=("right", "size"), tokens=("tokens", "sum")
        )
        check_accuracy(answers, accuracy, str(path), _REMEDY)
        return answers


def read_folders(folder: Path) -> Found:
    """The runs of a comparison, which its ``comparison.json`` names, or those in a plain folder."""
    named = read_checked(folder / _COMPARISON, NAMED)
    runs = folder if named is None else folder.parent
    finished: list[Run] = []
    unfinished: dict[str, tuple[str, int] | None] = {}
    for path in _folders(runs, named and named.runs):
        config = current_names(read_json(path / "config.json"))
        result = read_json(path / "result.json")
        known = config or {}
        told = isinstance(known.get("name"), str) and isinstance(known.get("seed"), int)
        if told and result is not None:
            finished.append(RunFolder(path, known, _starts(path), result))
        elif config is not None or (path / "metrics.jsonl").exists():
            unfinished[path.name] = (known["name"], known["seed"]) if told else None
    trials = list(_trials(_folders(runs / _TRIALS, named and named.trials)))
    return Found(finished, unfinished, read_choices(folder / "selection.json"), trials)


def _folders(folder: Path, names: Sequence[str] | None) -> list[Path]:
    """The run folders of these names below ``folder``; all, without names."""
    paths = sorted(p for p in folder.glob("*") if p.is_dir() and p.name != _TRIALS)
    return [path for path in paths if names is None or path.name in names]


def _trials(paths: Iterable[Path]) -> Iterator[Trial]:
    for path in paths:
        config = current_names(read_json(path / "config.json"))
        if config is not None:
            yield Trial(path.name, config, _starts(path), _validation(path / "metrics.jsonl"))


def _validation(path: Path) -> dict[str, float]:
    frame = _metrics(path)
    if "validation" not in frame:
        return {}
    validated = frame.dropna(subset="validation")
    steps = map(str, validated["step"])
    return dict(zip(steps, validated["validation"].tolist(), strict=True))


def _metrics(path: Path) -> pd.DataFrame:
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


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
