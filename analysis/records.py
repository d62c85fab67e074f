"""Records: what tables and figures need of runs, small enough to be committed.

runs.jsonl       a line a run: folder, configuration with its key, provenance, result (null if the
                 run is not finished)
trials.jsonl     the same of the trials that learning rates were chosen by, with their validation
selection.json   the choice
steps.parquet    what was measured at each step of each run
answers.parquet  correct answers, samples and tokens of each test problem of each run

No digit is lost: tables and figures from records equal those from the runs, bit for bit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from pydantic import BaseModel, TypeAdapter

from analysis.run import (
    ANSWER_COLUMNS,
    STEP_COLUMNS,
    Run,
    RunSet,
    Trial,
    check_accuracy,
    check_columns,
)
from experiments.records import CHOICES
from upge.common.errors import UpgeError
from upge.common.files import atomic_write_all, make_folder
from upge.training.config import current_names

_RUNS, _TRIALS, _SELECTION = "runs.jsonl", "trials.jsonl", "selection.json"
_STEPS, _ANSWERS = "steps.parquet", "answers.parquet"
#: Old names of columns.
_RENAMED = {"term_norms": "per_term_grad_norm"}

_REMEDY = "restore it, or make the comparison again, which writes its records"

#: What is kept of the configuration of an unfinished run.
_KNOWN = ("name", "seed")


class _Known(BaseModel):
    name: str
    seed: int


class _Finished(BaseModel):
    folder: str
    config: _Known
    starts: list[dict[str, str]]
    result: dict[str, Any]


class _Unfinished(BaseModel):
    folder: str
    config: _Known | None
    result: None


_RUN = TypeAdapter[Any](_Finished | _Unfinished)
_TRIAL = TypeAdapter[Any](Trial)

#: Measurements with hardly two equal values; all other columns are dictionary-encoded.
_CONTINUOUS = ("entropy", "seconds", "cpu_seconds")


@dataclass(frozen=True)
class RecordedRun(Run):
    """A run whose numbers are kept in the records of its comparison.

    Args:
        steps: the run's rows of ``steps.parquet``.
        problems: the run's rows of ``answers.parquet``.
    """

    steps: pd.DataFrame
    problems: pd.DataFrame

    def metrics(self) -> pd.DataFrame:
        """See :meth:`Run.metrics`."""
        return self.steps

    def answers(self) -> pd.DataFrame:
        """See :meth:`Run.answers`."""
        for name, accuracy in self.suites.items():
            answers = self.problems[self.problems["suite"] == name]
            check_accuracy(answers, accuracy, f"{self.path}, {name}", _REMEDY)
        return self.problems


def is_recorded(folder: Path) -> bool:
    """Whether a folder holds records rather than run folders."""
    return (folder / _RUNS).exists()


def write_records(runs: RunSet, folder: Path) -> list[Path]:
    """Write the records of runs, all files or none.

    Raises:
        UpgeError: damaged runs, or a folder that can't be written to.
    """
    finished = [
        {"folder": r.path.name, "config": r.config, "starts": r.starts, "result": r.result}
        for r in runs.finished
    ]
    unfinished = [
        {"folder": name, "config": known and dict(zip(_KNOWN, known, strict=True)), "result": None}
        for name, known in runs.unfinished.items()
    ]
    steps = _frame(((r.path.name, r.metrics()) for r in runs.finished), STEP_COLUMNS)
    answers = _frame(((r.path.name, r.answers()) for r in runs.finished), ANSWER_COLUMNS)
    make_folder(folder)
    return atomic_write_all(
        {
            folder / _RUNS: _lines([*finished, *unfinished]),
            folder / _TRIALS: _lines(asdict(trial) for trial in runs.trials),
            folder / _SELECTION: _lines([runs.selection]),
            folder / _STEPS: _parquet(steps),
            folder / _ANSWERS: _parquet(answers),
        }
    )


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _frame(parts: Iterable[tuple[str, pd.DataFrame]], columns: Sequence[str]) -> pd.DataFrame:
    """The rows of all runs, each with its run's name."""
    frames = [frame.assign(run=name) for name, frame in parts if len(frame)]
    whole = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run"])
    return whole[["run", *(name for name in columns if name in whole)]]


def _parquet(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    continuous = [name for name in _CONTINUOUS if name in frame]
    buffer = io.BytesIO()
    parquet.write_table(
        table,
        buffer,
        compression="zstd",
        compression_level=19,
        use_dictionary=[_leaf(table, name) for name in frame if name not in continuous],
        use_byte_stream_split=continuous,
    )
    return buffer.getvalue()


def _leaf(table: pa.Table, name: str) -> str:
    """A column's path as Parquet has it: that of its elements, if it holds lists."""
    return f"{name}.list.element" if pa.types.is_list(table.schema.field(name).type) else name


def read_records(folder: Path) -> RunSet:
    """The runs that records hold.

    Raises:
        UpgeError: a file that can't be read, or files of different runs.
    """
    steps = _by_run(folder / _STEPS, ["run", "step"])
    answers = _by_run(folder / _ANSWERS, ["run", *ANSWER_COLUMNS])
    nothing = pd.DataFrame()
    finished: list[Run] = []
    unfinished: dict[str, tuple[str, int] | None] = {}
    for line in _read_lines(folder / _RUNS, _RUN):
        name, result = line["folder"], line["result"]
        config = current_names(line["config"])
        if result is None:
            unfinished[name] = config and (config["name"], config["seed"])
            continue
        frames = steps.get(name, nothing), answers.get(name, nothing)
        finished.append(RecordedRun(folder / name, config, line["starts"], result, *frames))
    _check_same(folder, finished, steps.keys(), answers.keys())
    (selection,) = _read_lines(folder / _SELECTION, CHOICES) or [{}]
    trials = [Trial(**line) for line in _read_lines(folder / _TRIALS, _TRIAL)]
    return RunSet(finished, unfinished, selection, trials)


def _check_same(folder: Path, finished: Iterable[Run], steps: Set[str], answers: Set[str]) -> None:
    """Check that steps and answers are those of the finished runs."""
    tested = {run.path.name for run in finished if run.suites}
    trained = {run.path.name for run in finished if run.config.get("stages")}
    if answers != tested or steps != trained:
        odd = min((answers ^ tested) | (steps ^ trained))
        raise UpgeError(f"{folder}: its files are of different runs (see {odd}); {_REMEDY}")


def _read_lines(path: Path, kind: TypeAdapter[Any]) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in _text(path).splitlines()]
        for line in lines:
            kind.validate_python(line)
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise UpgeError(f"{path}: is damaged ({reason}); {_REMEDY}") from error
    return lines


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UpgeError(f"{path}: can't be read ({error}); {_REMEDY}") from error


def _by_run(path: Path, needed: Sequence[str]) -> dict[str, pd.DataFrame]:
    try:
        frame = pd.read_parquet(path).rename(columns=_RENAMED)
    except (OSError, ValueError) as error:
        raise UpgeError(f"{path}: can't be read ({error}); {_REMEDY}") from error
    if len(frame):
        check_columns(frame, needed, path, _REMEDY)
    by_run = frame.groupby("run", sort=False)
    return {str(name): part.drop(columns="run").reset_index(drop=True) for name, part in by_run}
