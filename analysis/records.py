"""Records: what tables and figures need of runs, small enough to be committed.

runs.jsonl       a line a run: folder, configuration with its key, provenance, result (null if the
                 run is not finished)
trials.jsonl     the same of the trials that learning rates were chosen by, with their validation
selection.json   the choice
steps.parquet    what was measured at each step of each run
answers.parquet  correct answers, samples and tokens of each test problem of each run
code.json        digests of the modules that made runs, by what a run's line calls them

No digit is lost: tables and figures from records equal those from the runs, bit for bit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
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
    Runs,
    Trial,
    check_columns,
    check_run,
)
from experiments.records import CHOICES
from upge.common.code import digest
from upge.common.errors import UpgeError
from upge.common.files import atomic_write_all, make_folder, read_json
from upge.training.config import current_names

_RUNS, _TRIALS, _SELECTION = "runs.jsonl", "trials.jsonl", "selection.json"
_STEPS, _ANSWERS, _CODE = "steps.parquet", "answers.parquet", "code.json"
_REMEDY = "restore it, or make the comparison again, which writes its records"

#: Old names of columns.
_RENAMED = {"term_norms": "per_term_grad_norm"}

#: Measurements with hardly two equal values; all other columns are dictionary-encoded.
_CONTINUOUS = ("entropy", "seconds", "cpu_seconds")


class _Known(BaseModel):
    """What is kept of the configuration of an unfinished run."""

    name: str
    seed: int


class _Finished(BaseModel):
    folder: str
    config: _Known
    starts: list[dict[str, str]]
    result: dict[str, Any]
    code: str | None = None


class _Unfinished(BaseModel):
    folder: str
    config: _Known | None
    result: None


_RUN, _TRIAL = TypeAdapter[Any](_Finished | _Unfinished), TypeAdapter[Any](Trial)


def is_recorded(folder: Path) -> bool:
    """Whether a folder holds records rather than run folders."""
    return (folder / _RUNS).exists()


def write_records(runs: Runs, folder: Path) -> list[Path]:
    """Write the records of runs, all files or none.

    Raises:
        UpgeError: the folder can't be written to.
    """
    codes = {digest(dict(run.code)): dict(run.code) for run in runs.finished if run.code}
    lines: list[Mapping[str, Any]] = [
        {"folder": r.path.name, "config": r.config, "starts": r.starts, "result": r.result}
        | ({"code": digest(dict(r.code))} if r.code else {})
        for r in runs.finished
    ]
    for name, known in runs.unfinished.items():
        config = known and {"name": known[0], "seed": known[1]}
        lines.append({"folder": name, "config": config, "result": None})
    steps = _frame({run.path.name: run.steps for run in runs.finished}, STEP_COLUMNS)
    answers = _frame({run.path.name: run.answers for run in runs.finished}, ANSWER_COLUMNS)
    make_folder(folder)
    files: dict[Path, str | bytes] = {
        folder / _RUNS: _lines(lines),
        folder / _TRIALS: _lines(asdict(trial) for trial in runs.trials),
        folder / _SELECTION: _lines([runs.selection]),
        folder / _STEPS: _parquet(steps),
        folder / _ANSWERS: _parquet(answers),
    }
    if codes:
        files[folder / _CODE] = json.dumps(codes, indent=1, sort_keys=True) + "\n"
    return atomic_write_all(files)


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _frame(parts: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """The rows of all runs, each with its run's name."""
    frames = [frame.assign(run=name) for name, frame in parts.items() if len(frame)]
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


def read_records(folder: Path) -> Runs:
    """The runs that records hold.

    Raises:
        UpgeError: a file that can't be read, or files of different runs.
    """
    steps = _by_run(folder / _STEPS, ["run", "step"])
    answers = _by_run(folder / _ANSWERS, ["run", *ANSWER_COLUMNS])
    nothing = pd.DataFrame(columns=list(ANSWER_COLUMNS))
    codes = read_json(folder / _CODE) or {}
    finished: list[Run] = []
    unfinished: dict[str, tuple[str, int] | None] = {}
    for line in _read_lines(folder / _RUNS, _RUN):
        name, config = line["folder"], current_names(line["config"])
        if line["result"] is None:
            unfinished[name] = config and (config["name"], config["seed"])
            continue
        frames = steps.get(name, pd.DataFrame()), answers.get(name, nothing)
        code = codes.get(str(line.get("code")), {})
        run = Run(folder / name, config, line["starts"], line["result"], *frames, code)
        if (name in steps) != bool(config.get("stages")) or (name in answers) != bool(run.suites):
            raise _mixed(folder, name)
        finished.append(run)
    if odd := (steps.keys() | answers.keys()) - {run.path.name for run in finished}:
        raise _mixed(folder, min(odd))
    for run in finished:
        check_run(run, _REMEDY)
    (selection,) = _read_lines(folder / _SELECTION, CHOICES) or [{}]
    trials = [Trial(**line) for line in _read_lines(folder / _TRIALS, _TRIAL)]
    return Runs(finished, unfinished, selection, trials, folder)


def _mixed(folder: Path, name: str) -> UpgeError:
    return UpgeError(f"{folder}: its files are of different runs (see {name}); {_REMEDY}")


def _read_lines(path: Path, kind: TypeAdapter[Any]) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            kind.validate_python(line)
    except OSError as error:
        raise UpgeError(f"{path}: can't be read ({error}); {_REMEDY}") from error
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise UpgeError(f"{path}: is damaged ({reason}); {_REMEDY}") from error
    return lines


def _by_run(path: Path, needed: Sequence[str]) -> dict[str, pd.DataFrame]:
    try:
        frame = pd.read_parquet(path).rename(columns=_RENAMED)
    except (OSError, ValueError) as error:
        raise UpgeError(f"{path}: can't be read ({error}); {_REMEDY}") from error
    if len(frame):
        check_columns(frame, needed, path, _REMEDY)
    by_run = frame.groupby("run", sort=False)
    return {str(name): part.drop(columns="run").reset_index(drop=True) for name, part in by_run}
