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
    RunSet,
    Trial,
    check_accuracy,
    check_columns,
)
from experiments.records import NAMED, Named, read_checked, read_choices
from upge.common.errors import UpgeError
from upge.common.files import read_json
from upge.training.config import current_names

_TRIALS, _COMPARISON = "selection", "comparison.json"
_REMEDY = "delete the run and make it again"

#: What tables need of each sampled response.
_SAMPLED = ("level", "prompt", "reward", "tokens")


class RunFolder(Run):
    """A run in a folder of its own."""

    def metrics(self) -> pd.DataFrame:
        """See :meth:`Run.metrics`; an incomplete last line is left out."""
        return _metrics(self.path)

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


def read_folders(folder: Path) -> RunSet:
    """The runs of a comparison, which its ``comparison.json`` names, or those in a plain folder."""
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
            finished.append(RunFolder(path, config, _starts(path), result))
        elif config is not None or (path / "metrics.jsonl").exists():
            unfinished[path.name] = known
    trials = list(_trials(runs / _TRIALS, named.trials if named else None))
    return RunSet(finished, unfinished, read_choices(folder / "selection.json"), trials)


def _folders(folder: Path, names: Sequence[str] | None) -> list[Path]:
    """The run folders of these names below ``folder``; all, for None."""
    paths = sorted(p for p in folder.glob("*") if p.is_dir() and p.name != _TRIALS)
    return [path for path in paths if names is None or path.name in names]


def _trials(folder: Path, names: Sequence[str] | None) -> Iterator[Trial]:
    for path in _folders(folder, names):
        config = current_names(read_json(path / "config.json"))
        if config is not None:
            yield Trial(path.name, config, _starts(path), _validation(path))


def _validation(path: Path) -> dict[str, float]:
    frame = _metrics(path)
    if "validation" not in frame:
        return {}
    validated = frame.dropna(subset="validation")
    return dict(zip(map(str, validated["step"]), validated["validation"].tolist(), strict=True))


def _metrics(folder: Path) -> pd.DataFrame:
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
    provenance: Mapping[str, Any] = read_json(path / "provenance.json") or {}
    starts: Sequence[Mapping[str, str]] = provenance.get("starts", [])
    return starts
