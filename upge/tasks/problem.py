"""Problems with answers and worked solutions, read from JSON Lines."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from upge.errors import UpgeError

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
    """

    prompt: str
    answer: str
    demonstration: str | None = None
    family: str = ""
    level: int = 0
    split: str = ""


def data_folder() -> Path:
    """The folder of local data sets: UPGE_DATA, or ``../shared/data``."""
    return Path(os.environ.get("UPGE_DATA", DEFAULT_DATA))


def load_problems(path: Path) -> list[Problem]:
    """Read a JSON Lines file with ``problem``, ``answer`` and, optionally, ``solution``.

    ``family`` (a text) and ``level`` (a whole number) are read too, where they are given.

    Raises:
        UpgeError: a file that is missing or empty, a line that is no such record.
    """
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
    problems = [_parse(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not problems:
        raise UpgeError(f"{path}: has no problems, wanted one JSON record a line")
    return problems


#: The fields of a record, the types that their values may have, and whether they may be missing.
_FIELDS: dict[str, tuple[tuple[type, ...], bool]] = {
    "problem": ((str,), False),
    "answer": ((str, int, float), False),
    "solution": ((str, NoneType), True),
    "family": ((str,), True),
    "level": ((int,), True),
}


def _parse(path: Path, number: int, line: str) -> Problem:
    try:
        record = json.loads(line)
        for name, (types, optional) in _FIELDS.items():
            _check_field(record, name, types, optional)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UpgeError(
            f"{path}, line {number}: wanted a JSON record with 'problem' and 'answer' ({error!r})"
        ) from error
    return Problem(
        record["problem"],
        str(record["answer"]),
        record.get("solution"),
        record.get("family", ""),
        record.get("level", 0),
    )


def _check_field(record: Any, name: str, types: tuple[type, ...], optional: bool) -> None:
    if optional and name not in record:
        return
    value = record[name]
    if not isinstance(value, types) or isinstance(value, bool):
        raise TypeError(f"{name!r} is {json.dumps(value)[:40]}")
    if not optional and not str(value).strip():
        raise ValueError(f"{name!r} is empty")
    if optional and isinstance(value, int) and abs(value) >= 2**31:
        raise ValueError(f"{name!r} is too large")
