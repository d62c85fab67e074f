"""Problems with answers and worked solutions, read from JSON Lines or Parquet."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.tasks.reading.grammar import KINDS

Record = Mapping[str, Any]

#: Where local data sets lie unless the variable UPGE_DATA says otherwise.
DEFAULT_DATA = Path("../shared/data")


@dataclass(frozen=True)
class Problem:
    """A question q, its answer, a demonstration τ* if there is one, and where it belongs.

    Args:
        prompt: the question as the policy reads it.
        answer: what a verifier compares with.
        demonstration: a worked solution, as the policy would write it.
        family: the kind of problem; results are reported by it.
        level: difficulty, from 1; 0 if not known.
        split: the part of the data set that it was drawn for.
        kind: what the answer is (:data:`~upge.tasks.reading.grammar.KINDS`); empty if not known.
    """

    prompt: str
    answer: str
    demonstration: str | None = None
    family: str = ""
    level: int = 0
    split: str = ""
    kind: str = ""


def data_folder() -> Path:
    """The folder of local data sets: UPGE_DATA, or ``../shared/data``, which may be missing.

    Raises:
        UpgeError: UPGE_DATA is set, to no folder.
    """
    asked_for = os.environ.get("UPGE_DATA")
    if asked_for is not None and not Path(asked_for).is_dir():
        raise UpgeError(
            f"UPGE_DATA: got {asked_for!r}, which is no folder; set it to the folder of the data "
            f"sets, or unset it for {DEFAULT_DATA} and the hub"
        )
    return DEFAULT_DATA if asked_for is None else Path(asked_for)


def worked(solution: str | None) -> str | None:
    """A solution as a demonstration: None if it is blank."""
    return solution if solution and solution.strip() else None


def read_problem(record: Record) -> Problem:
    """A problem of a record in our own layout, as :func:`load_problems` describes it.

    Raises:
        KeyError, TypeError, ValueError: it is no such record.
    """
    for name, (types, optional) in _FIELDS.items():
        _check_field(record, name, types, optional)
    return Problem(
        record["problem"],
        str(record["answer"]),
        worked(record.get("solution")),
        record.get("family") or record.get("subject") or "",
        level_of(record.get("level")),
        kind=record.get("answer_kind") or "",
    )


def level_of(level: Any) -> int:
    """A level as a whole number: 5 of 5, 5.0, ``5`` or ``Level 5``; 0 of what has no number.

    Raises:
        ValueError: it is no whole number, or too large.
    """
    digits = re.search(r"\d+", str(level))
    whole = int(digits[0]) if digits else 0
    if isinstance(level, float) and math.isfinite(level) and whole != level:
        raise ValueError(f"'level' is {level}, which is no whole number")
    if whole >= 2**31:
        raise ValueError("'level' is too large")
    return whole


def load_problems(path: Path, read: Callable[[Any], Problem] = read_problem) -> list[Problem]:
    """Read a JSON Lines or Parquet file with ``problem``, ``answer`` and maybe ``solution``.

    ``family`` or ``subject`` (a text), ``level`` (5, 5.0 or ``Level 5``) and ``answer_kind``
    (:data:`~upge.tasks.reading.grammar.KINDS`) are read too, where they are given. Null, which
    Parquet writes into rows that lack a field, is as good as no such field, and so is a blank
    solution.

    Args:
        path: the file; a name that ends in ``.parquet`` is Parquet.
        read: makes a problem of a record in another layout.

    Raises:
        UpgeError: a file that is missing or empty, a line that is no such record.
    """
    records = _rows(path) if path.suffix == ".parquet" else _lines(path)
    problems = [_parse(path, place, record, read) for place, record in records]
    if not problems:
        raise UpgeError(f"{path}: has no problems, wanted one JSON record a line")
    return problems


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        # Not splitlines: texts may hold other line separators than the newline of JSON Lines.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UpgeError(f"{path}: is not UTF-8 text ({error.reason})") from error
    except (OSError, ValueError) as error:
        raise UpgeError(
            f"{path}: {getattr(error, 'strerror', error)}; name a file that is there, or set "
            "UPGE_DATA to the folder of the data sets"
        ) from error
    return ((f"line {i}", line) for i, line in enumerate(lines, 1) if line.strip())


def _rows(path: Path) -> Iterator[tuple[str, Record]]:
    require("pyarrow", "train")
    parquet = require("pyarrow.parquet", "train")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise UpgeError(f"{path}: can't be read as Parquet ({reason}); download it anew") from error
    return ((f"row {i}", row) for i, row in enumerate(rows, 1))


#: The fields of a record, the types that their values may have, and whether they may be missing.
_FIELDS: dict[str, tuple[tuple[type, ...], bool]] = {
    "problem": ((str,), False),
    "answer": ((str, int, float), False),
    "solution": ((str, NoneType), True),
    "family": ((str, NoneType), True),
    "subject": ((str, NoneType), True),
    "level": ((int, float, str, NoneType), True),
    "answer_kind": ((str, NoneType), True),
}


def _parse(path: Path, place: str, given: Any, read: Callable[[Any], Problem]) -> Problem:
    try:
        problem = read(json.loads(given) if isinstance(given, str) else given)
        _check_texts(problem)
        return problem
    except (ValueError, KeyError, TypeError, LookupError, RecursionError) as error:
        raise UpgeError(
            f"{path}, {place}: wanted a JSON record with 'problem' and 'answer' ({error!r})"
        ) from error


def _check_texts(problem: Problem) -> None:
    texts = {"problem": problem.prompt, "answer": problem.answer, "solution": problem.demonstration}
    for name, text in texts.items():
        if any("\ud800" <= letter <= "\udfff" for letter in text or ""):
            raise ValueError(f"{name!r} has half of a surrogate pair, which is no character")


def _check_field(record: Any, name: str, types: tuple[type, ...], optional: bool) -> None:
    if optional and name not in record:
        return
    value = record[name]
    if not isinstance(value, types) or isinstance(value, bool):
        raise TypeError(f"{name!r} is {json.dumps(value)[:40]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} is {value}, which is no number")
    if not optional and not str(value).strip():
        raise ValueError(f"{name!r} is empty")
    if name == "answer_kind" and value and value not in KINDS:
        raise ValueError(f"{name!r} is {value!r}, wanted one of {', '.join(KINDS)}")
