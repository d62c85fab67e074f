"""Where responses to benchmarks are kept, so that a killed evaluation goes on.

evaluation.json          what determines the responses, and where they were sampled
NAME.parquet             a finished benchmark: a row a response
NAME.parts/              of an unfinished one: files of whole problems, each written as a whole
results.json             what was measured last
lock                     held by the process that writes

A row: problem (its place in the benchmark, from 0), suite, family, level, prompt, answer, sample,
response, reward, tokens, finished (whether the response ended by itself) and verdict
(:class:`~upge.tasks.grading.Verdict`). A part that can't be read, as after a power failure, is
sampled again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from upge.common.errors import UpgeError
from upge.common.files import atomic_write, locked, make_folder, sync
from upge.common.optional import require
from upge.common.provenance import provenance

#: Columns of a row, and their types as pyarrow calls them.
COLUMNS = {
    "problem": "int64",
    "suite": "string",
    "family": "string",
    "level": "int64",
    "prompt": "large_string",
    "answer": "large_string",
    "sample": "int64",
    "response": "large_string",
    "reward": "float64",
    "tokens": "int64",
    "finished": "bool_",
    "verdict": "string",
}

_RECORD = "evaluation.json"


class EvaluationFolder:
    """An evaluation's folder.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def about(self) -> dict[str, Any]:
        """What was evaluated and how; empty if nothing was.

        Raises:
            UpgeError: its record can't be read.
        """
        path = self.path / _RECORD
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UpgeError(f"{path}: can't be read ({error}); choose another --out") from error
        return dict(given)

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process from working on the same evaluation.

        Raises:
            UpgeError: one does; or the folder can't be written to.
        """
        make_folder(self.path)
        return locked(self.path, "run")

    def open(
        self, model: str, settings: Mapping[str, Any], benchmarks: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Note what is to be evaluated, or see that it is what the folder already holds.

        Args:
            model: as the user calls it.
            settings: what determines the responses, whatever the benchmark.
            benchmarks: of each, by name, the digest that determines them, and its number of
                problems; others may be there already.

        Raises:
            UpgeError: the folder holds responses of another model or of other settings.
        """
        about = self.about
        known = about.get("benchmarks", {})
        if about:
            self._check(about, settings, model)
        for name, own in benchmarks.items():
            self._check_benchmark(name, known.get(name, own), own)
        record = {
            "model": about.get("model", model),
            "settings": settings,
            "benchmarks": known | benchmarks,
            "starts": [*about.get("starts", []), provenance()],
        }
        atomic_write(self.path / _RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def _check(self, about: Mapping[str, Any], settings: Mapping[str, Any], model: str) -> None:
        held = about.get("settings", {})
        name = next((name for name in settings if held.get(name) != settings[name]), None)
        if name == "weights":
            raise UpgeError(
                f"{self.path}: holds responses of {about.get('model')}, and {model} is another "
                "model or has other weights now; choose another --out"
            )
        if name is not None:
            raise UpgeError(
                f"{self.path}: was sampled with {name} {held.get(name)!r}, not {settings[name]!r}; "
                "choose another --out, or the same setting"
            )

    def _check_benchmark(self, name: str, held: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        if held["digest"] != own["digest"]:
            raise UpgeError(
                f"{self.path}: its {name} is not the one of now (problems or answers differ); "
                "choose another --out"
            )

    # ------------------------------------------------------------------------------------ responses

    def table(self, name: str) -> Any:
        """All responses to a benchmark, as a pyarrow table in the order of its problems."""
        pyarrow = require("pyarrow", "train")
        kept = schema().empty_table()
        for path in [self._whole(name), *sorted(self._parts(name).glob("*.parquet"))]:
            if (own := _read(path)) is not None:
                kept = pyarrow.concat_tables([kept, _without(own, kept["problem"])])
        return kept.sort_by([("problem", "ascending"), ("sample", "ascending")]).combine_chunks()

    def done(self, name: str) -> set[int]:
        """The places of the problems that have their responses."""
        return set(self.table(name)["problem"].to_pylist())

    def add(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Keep the responses to some whole problems.

        Raises:
            UpgeError: they can't be written.
        """
        table = require("pyarrow", "train").table(dict(columns), schema=schema())
        folder = self._parts(name)
        make_folder(folder)
        self._write(folder / f"{columns['problem'][0]:08d}.parquet", table)

    def finish(self, name: str, count: int) -> None:
        """Make one file of the parts, once the first ``count`` problems have their responses."""
        parts = self._parts(name)
        if not parts.exists() or not self.done(name).issuperset(range(count)):
            return
        self._write(self._whole(name), self.table(name))
        sync(self._whole(name))
        shutil.rmtree(parts)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Keep what was measured.

        Raises:
            UpgeError: it can't be written.
        """
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        atomic_write(self.path / "results.json", text)

    def _write(self, path: Path, table: Any) -> None:
        pyarrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(table, sink)
        try:
            atomic_write(path, sink.getvalue().to_pybytes())
        except UpgeError as error:
            raise UpgeError(
                f"{error}; mend that, and the same command goes on with the problems that are left"
            ) from error

    def _whole(self, name: str) -> Path:
        return self.path / f"{name}.parquet"

    def _parts(self, name: str) -> Path:
        return self.path / f"{name}.parts"


def is_evaluation(path: Path) -> bool:
    """Whether a folder holds an evaluation."""
    return (path / _RECORD).is_file()


def schema(names: Iterable[str] = COLUMNS) -> Any:
    """Names and types of these columns, as pyarrow has them."""
    pyarrow = require("pyarrow", "train")
    return pyarrow.schema([(name, getattr(pyarrow, COLUMNS[name])()) for name in names])


def _read(path: Path) -> Any:
    """A file's table; None if it is not there, or is damaged."""
    pyarrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
    try:
        return parquet.read_table(path).select(list(COLUMNS)).cast(schema())
    except (OSError, KeyError, pyarrow.ArrowException):
        return None


def _without(table: Any, problems: Iterable[Any]) -> Any:
    """The rows of other problems: a kill may leave a part beside the file that was made of it."""
    compute = require("pyarrow.compute", "train")
    return table.filter(compute.invert(compute.is_in(table["problem"], value_set=problems)))
