"""Problems trained on and tested on: the same but for spelling, or with a passage in common."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from upge.tasks.problem import Problem

#: Words of a passage that two problems share by no chance (as for GPT-3, arXiv 2005.14165).
WORDS = 13

#: Signs that make one problem another, however much of it is the same. LaTeX has words for more.
OPERATORS = "+-*/^=<>"

#: Other ways to write them.
_SIGNS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "≤": "<=", "≥": ">="})

#: What looks like an operator but isn't: the hyphen of a word, a longer dash, and emphasis.
_NONE = re.compile(r"(?<=\w)-(?=[^\W\d_]{2})|-{2,}|\*{2,}")

_WORD = re.compile(rf"[^\W_]+|[{re.escape(OPERATORS)}]")


class Overlap(NamedTuple):
    """A training problem that a test has too.

    Args:
        train: its place in the training set.
        suite: the test suite.
        test: the place in it.
        kind: whether all of it is the same, or a passage.
    """

    train: int
    suite: str
    test: int
    kind: Literal["same", "passage"]


def words(text: str) -> tuple[str, ...]:
    """The words, numbers and operators of a text: no punctuation, spacing, case, width, accents."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.replace("≠", " ne "))  # else it becomes an =
        text = "".join(letter for letter in text if not unicodedata.combining(letter))
        text = text.translate(_SIGNS)
    return tuple(_WORD.findall(_NONE.sub(" ", text.casefold())))


def overlaps(
    train: Sequence[Problem], tests: Mapping[str, Sequence[Problem]], n: int = WORDS
) -> list[Overlap]:
    """The training problems that are in a test suite, each once.

    Args:
        train: training problems.
        tests: test suites by name.
        n: words in a row, operators aside, that make a passage.
    """
    same: dict[tuple[str, ...], tuple[str, int]] = {}
    passages: dict[tuple[str, ...], tuple[str, int]] = {}
    for suite, problems in tests.items():
        for place, problem in enumerate(problems):
            own = words(problem.prompt)
            same.setdefault(own, (suite, place))
            for passage in _passages(own, n):
                passages.setdefault(passage, (suite, place))
    return list(_found(train, same, passages, n))


def _found(
    train: Sequence[Problem],
    same: Mapping[tuple[str, ...], tuple[str, int]],
    passages: Mapping[tuple[str, ...], tuple[str, int]],
    n: int,
) -> Iterator[Overlap]:
    for place, problem in enumerate(train):
        own = words(problem.prompt)
        if own in same:
            yield Overlap(place, *same[own], "same")
        elif (hit := next((p for p in _passages(own, n) if p in passages), None)) is not None:
            yield Overlap(place, *passages[hit], "passage")


def _passages(own: tuple[str, ...], n: int) -> Iterator[tuple[str, ...]]:
    """Without operators, whose short sequences, as x + y = 1, problems share by chance."""
    own = tuple(word for word in own if word not in OPERATORS)
    return (own[i : i + n] for i in range(len(own) - n + 1))
