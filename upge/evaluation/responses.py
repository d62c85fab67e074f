"""Graded responses to problems, and their Parquet files.

A file has a row a response, in the order of problems and samples: problem (its place in the suite,
from 0), suite, family, level, prompt, answer, sample, response, reward, tokens, finished (whether
the response ended by itself) and verdict. Its pages have checksums.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.files import atomic_write
from upge.common.optional import require
from upge.tasks.problem import Problem

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


class Response(NamedTuple):
    """A graded response.

    Attributes:
        text: without special tokens.
        reward: from 0 to 1.
        tokens: its length, the end-of-sequence token included.
        finished: whether it ended by itself.
        verdict: ``right``, ``wrong``, or why a response counts as wrong without being compared.
    """

    text: str
    reward: float
    tokens: int
    finished: bool
    verdict: str


@dataclass(frozen=True)
class Responses:
    """Responses to P problems of a suite.

    Args:
        problems: P problems.
        answers: the responses to each, in the order of their samples.
        places: where in the suite the problems are; all of it by default.
    """

    problems: Sequence[Problem]
    answers: Sequence[Sequence[Response]]
    places: Sequence[int] = ()

    @property
    def texts(self) -> list[list[str]]:
        """The responses to each problem."""
        return [[response.text for response in own] for own in self.answers]

    @property
    def rewards(self) -> Tensor:
        """(P, k), float64, where each problem has k responses."""
        rewards = [[response.reward for response in own] for own in self.answers]
        return torch.tensor(rewards, dtype=torch.float64)

    def table(self, suite: str) -> Any:
        """As a pyarrow table, a row a response."""
        places = self.places or range(len(self.problems))
        rows = [
            (place, suite, p.family, p.level, p.prompt, p.answer, sample, *response)
            for place, p, own in zip(places, self.problems, self.answers, strict=True)
            for sample, response in enumerate(own)
        ]
        pyarrow = require("pyarrow", "train")
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in COLUMNS]
        return pyarrow.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema())

    @staticmethod
    def of_table(table: Any) -> Responses:
        """The responses in a table, whatever their number a problem."""
        problems: dict[int, Problem] = {}
        answers: dict[int, list[Response]] = {}
        for row in table.to_pylist():
            place, _, family, level, prompt, answer, _, *response = row.values()
            problems.setdefault(place, Problem(prompt, answer, family=family, level=level))
            answers.setdefault(place, []).append(Response(*response))
        return Responses(list(problems.values()), list(answers.values()), list(problems))

    def save(self, path: Path) -> None:
        """Write a file; its suite is called as the file.

        Raises:
            FileError: it can't be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, self.table(path.stem))

    @staticmethod
    def load(path: Path) -> Responses:
        """Read what :meth:`save` or an evaluation wrote; demonstrations and splits are not in it.

        Raises:
            UpgeError: a file that can't be read, or holds something else.
        """
        table = read_table(path)
        if table is None or not len(table):
            raise UpgeError(f"{path}: can't be read as responses; evaluate again")
        return Responses.of_table(table)


def schema() -> Any:
    """Names and types of the columns, as pyarrow has them."""
    pyarrow = require("pyarrow", "train")
    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])


def write_table(path: Path, table: Any) -> None:
    """Write a Parquet file atomically.

    Raises:
        FileError: it can't be written.
    """
    pyarrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink, write_page_checksum=True)
    atomic_write(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> Any:
    """A file's table; None if there is none, or it is damaged.

    Raises:
        UpgeError: a value is missing, or a reward is out of range.
    """
    pyarrow, parquet = require("pyarrow", "train"), require("pyarrow.parquet", "train")
    try:
        source = pyarrow.BufferReader(path.read_bytes())
        table = parquet.read_table(source, page_checksum_verification=True)
        table = table.select(list(COLUMNS)).cast(schema())
        table.validate(full=True)
    except (OSError, KeyError, pyarrow.ArrowException):
        return None
    for name in COLUMNS:
        _check_column(path, name, table[name])
    return table


def _check_column(path: Path, name: str, column: Any) -> None:
    compute, wanted = require("pyarrow.compute", "train"), "a value"
    wrong = compute.is_null(column)
    if name == "reward":
        wanted = "a number from 0 to 1"
        fits = compute.and_(compute.greater_equal(column, 0.0), compute.less_equal(column, 1.0))
        wrong = compute.invert(compute.fill_null(fits, False))
    row = compute.index(wrong, True).as_py()
    if row >= 0:
        value = column[row].as_py()
        raise UpgeError(
            f"{path}, row {row + 1}: {name} is {'null' if value is None else value}, wanted "
            f"{wanted}; delete the file and evaluate again"
        )


def merge_tables(tables: Iterable[Any]) -> Any:
    """One table in the order of problems and samples; of a problem in several the first counts."""
    pyarrow, compute = require("pyarrow", "train"), require("pyarrow.compute", "train")
    whole = schema().empty_table()
    for table in tables:
        known = compute.is_in(table["problem"], value_set=whole["problem"])
        whole = pyarrow.concat_tables([whole, table.filter(compute.invert(known))])
    return whole.sort_by([("problem", "ascending"), ("sample", "ascending")]).combine_chunks()
