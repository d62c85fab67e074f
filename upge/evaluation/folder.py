"""Where an evaluation keeps its responses, so that rerunning the command resumes it.

evaluation.json          what determines the responses, and where they were sampled
NAME.parquet             a finished suite; see :mod:`upge.evaluation.responses`
NAME.parts/              of an unfinished one: files of whole problems, each written atomically
results.json             what was measured last
lock                     held by the process that writes, the first of several

A part that can't be read, as after a power failure, is sampled again.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from upge.common.errors import UpgeError
from upge.common.files import locked, make_folder, write_json
from upge.common.provenance import provenance
from upge.evaluation.responses import Responses, merge_tables, read_table, write_table
from upge.evaluation.run import Answers, Part
from upge.evaluation.suites import Suite

_RECORD = "evaluation.json"


class UnkeptError(UpgeError):
    """A file can't be written; of responses the folder object has them in memory."""


class Held(BaseModel):
    """A suite of an evaluation: the digest and the number of all its problems."""

    digest: str
    problems: int = 0


class Record(BaseModel):
    """What was evaluated and how, as ``evaluation.json`` has it.

    Args:
        model: as the user named it.
        settings: what determines the responses, whatever the suite.
        suites: by name.
        starts: where and when the evaluation was started and resumed.
        code: digests of the modules that sampled and graded.
    """

    model: str
    settings: dict[str, Any]
    suites: dict[str, Held] = Field(validation_alias=AliasChoices("suites", "benchmarks"))
    starts: list[dict[str, str]]
    code: dict[str, str] = {}

    def changed(self, code: Mapping[str, str]) -> list[str]:
        """Names of the modules in which this code differs."""
        names = self.code.keys() | code.keys()
        return sorted(name for name in names if self.code.get(name) != code.get(name))


class EvaluationFolder:
    """An evaluation's folder.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unkept: dict[str, list[Any]] = {}

    @property
    def record(self) -> Record | None:
        """What was evaluated and how; None if nothing was.

        Raises:
            UpgeError: it can't be read.
        """
        path = self.path / _RECORD
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UpgeError(f"{path}: can't be read ({error.strerror})") from error
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise UpgeError(
                f"{path}: is damaged{place and f' ({place})'}; restore it, or choose another --out"
            ) from error

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second process from working on the same evaluation.

        Raises:
            UpgeError: one does; or the folder can't be written to.
        """
        make_folder(self.path)
        return locked(self.path, "evaluation")

    def open(
        self,
        model: str,
        settings: Mapping[str, Any],
        suites: Iterable[Suite],
        code: Mapping[str, str],
        keep: bool = False,
    ) -> None:
        """Record what is to be evaluated, or check that the folder holds the same.

        Args:
            model: as the user names it.
            settings: what determines the responses, whatever the suite.
            suites: what is asked; the folder may hold others already.
            code: digests of the modules that sample and grade.
            keep: whether responses by other code will do.

        Raises:
            UpgeError: the folder holds responses of another model, with other settings, to other
                problems or by other code, or can't be written to.
        """
        record = self.record or Record(
            model=model, settings=dict(settings), suites={}, starts=[], code=dict(code)
        )
        self._check(record, settings, model)
        if changed := record.changed(code):
            if not keep:
                raise UpgeError(
                    f"{self.path}: was sampled by other code ({', '.join(changed)}); choose "
                    "another --out, or give --keep"
                )
            record.code |= dict.fromkeys(changed, "several versions")
        for suite in suites:
            held = record.suites.setdefault(suite.name, Held(digest=suite.digest))
            held.problems = suite.of
            if held.digest != suite.digest:
                raise UpgeError(
                    f"{self.path}: its {suite.name} is not the one of now (problems or answers "
                    "differ); choose another --out"
                )
        record.starts.append(provenance())
        with _writing(self.path / _RECORD):
            write_json(self.path / _RECORD, record.model_dump())

    def _check(self, record: Record, settings: Mapping[str, Any], model: str) -> None:
        held = record.settings
        name = next((name for name in settings if held.get(name) != settings[name]), None)
        if name == "weights":
            raise UpgeError(
                f"{self.path}: holds responses of {record.model}, and {model} is another model or "
                "has other weights now; choose another --out"
            )
        if name is not None:
            raise UpgeError(
                f"{self.path}: was sampled with {name} {held.get(name)!r}, not {settings[name]!r}; "
                "choose another --out, or the same setting"
            )

    # ------------------------------------------------------------------------------------ responses

    def table(self, name: str) -> Any:
        """All responses to a suite, as a pyarrow table in the order of its problems."""
        files = [*sorted(self._parts(name).glob("*.parquet")), self._whole(name)]
        tables = [*self._unkept.get(name, []), *map(read_table, files)]
        return merge_tables(table for table in tables if table is not None)

    def responses(self, name: str) -> Responses:
        """All responses to a suite."""
        return Responses.of_table(self.table(name))

    def done(self, name: str, samples: int) -> set[int]:
        """The places of the problems that have all their responses."""
        counts = Counter(self.table(name)["problem"].to_pylist())
        return {place for place, count in counts.items() if count == samples}

    def add(self, part: Part, answers: Answers) -> None:
        """Keep the responses to a part; in memory at least, for :meth:`table`.

        Raises:
            UnkeptError: they can't be written.
        """
        table = Responses(part.problems, answers, part.places).table(part.suite)
        self._write(self._parts(part.suite) / f"{part.places[0]:08d}.parquet", table, part.suite)

    def finish(self, name: str, count: int, samples: int) -> None:
        """Make one file of the parts, once the first ``count`` problems have their responses.

        Raises:
            UnkeptError: it can't be written.
        """
        parts = self._parts(name)
        if parts.exists() and self.done(name, samples).issuperset(range(count)):
            self._write(self._whole(name), self.table(name), name)
            shutil.rmtree(parts)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Keep what was measured.

        Raises:
            UnkeptError: it can't be written.
        """
        with _writing(self.path / "results.json"):
            write_json(self.path / "results.json", results)

    def _write(self, path: Path, table: Any, name: str) -> None:
        try:
            with _writing(path):
                path.parent.mkdir(exist_ok=True)
                write_table(path, table)
        except UnkeptError:
            self._unkept.setdefault(name, []).append(table)
            raise

    def _whole(self, name: str) -> Path:
        return self.path / f"{name}.parquet"

    def _parts(self, name: str) -> Path:
        return self.path / f"{name}.parts"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnkeptError(
            f"{path}: can't be written ({error.strerror}); mend that and rerun the "
            "command to resume"
        ) from error


def is_evaluation(path: Path) -> bool:
    """Whether a folder holds an evaluation."""
    return (path / _RECORD).is_file()
