"""Whether reasoning-gym gives an answer full marks; for the grading worker.

:mod:`upge.tasks.confined_worker` loads this file by its path: it imports nothing of the package.

Some data sets evaluate answers as Python: four by ``eval``, for a part of the marks, and five by
sympy's ``parse_expr``, for all of them. Here ``eval`` reads nothing but literals, and
``parse_expr`` nothing but arithmetic.
"""

from __future__ import annotations

import ast
import base64
import pickle
import re
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import sympy
from sympy.parsing import sympy_parser

#: Modules whose ``score_answer`` calls ``eval`` on the answer.
EVALUATING = (
    "reasoning_gym.algorithmic.binary_matrix",
    "reasoning_gym.algorithmic.spiral_matrix",
    "reasoning_gym.algorithmic.string_insertion",
    "reasoning_gym.games.n_queens",
)

_FUNCTIONS = (
    "Abs|acos|asin|atan|acosh|asinh|atanh|cos|cosh|cot|coth|csc|erf|exp|gamma|Integral|ln|log|pi|sec|"
    "sin|sinh|sqrt|tan|tanh"
)
#: Numbers, operators, brackets, variables of one letter and functions; neither a string nor an
#: attribute nor any other name, so that nothing but arithmetic can be evaluated.
_ARITHMETIC = re.compile(
    rf"(?:[\s+\-*/^(),]|\d+\.?\d*|\.\d+|(?<![A-Za-z])(?:[A-Za-z]|{_FUNCTIONS})(?![A-Za-z]))*"
)

_parse_expr = sympy_parser.parse_expr


def parse_arithmetic(text: str, *args: Any, **options: Any) -> Any:
    """``parse_expr`` of what is arithmetic.

    Raises:
        ValueError: the text is something else.
    """
    if not _ARITHMETIC.fullmatch(text):
        raise ValueError("no arithmetic")
    return _parse_expr(text, *args, **options)


class Task(NamedTuple):
    """A data set of reasoning-gym, and one of its problems."""

    dataset: Any
    entry: dict[str, Any]


@lru_cache(maxsize=4096)
def prepare(sealed: str) -> Task:
    """The problem that :func:`upge.tasks.reasoning_gym.seal` has made a text of."""
    name, config, entry = pickle.loads(base64.b64decode(sealed))
    return Task(_dataset(name, config), entry)


@lru_cache(maxsize=64)
def _dataset(name: str, config: bytes) -> Any:
    return import_module("reasoning_gym").create_dataset(name, **pickle.loads(config))


def equal(task: Task, answer: str) -> bool:
    """Whether an answer to the problem is worth full marks."""
    return float(task.dataset.score_answer(answer, task.entry)) >= 1


def warm_up() -> None:
    """Import the library, with what it evaluates by replaced, before workers are forked."""
    sympy.parse_expr = sympy_parser.parse_expr = parse_arithmetic
    import_module("reasoning_gym")
    for name in EVALUATING:
        import_module(name).eval = ast.literal_eval  # type: ignore[attr-defined]
