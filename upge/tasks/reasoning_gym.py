"""Problems that reasoning-gym (github.com/open-thought/reasoning-gym) generates and grades.

A data set is named as there and configured by its configuration's fields, of which ``size`` and
``seed`` say which problems it has. Beside these :data:`WORD_PROBLEMS` names the suites of
:mod:`upge.tasks.word_problems`, of the split that the problems are for.

A response's answer is what stands behind the last marker; a data set's own ``score_answer`` grades
it, in processes with limits, since some parse or even evaluate it. Only full marks are worth 1: the
library gives a few to any answer at all.
"""

from __future__ import annotations

import base64
import io
import os
import pickle
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from upge.common.errors import UpgeError, unknown
from upge.common.optional import require
from upge.tasks.answers import final_part
from upge.tasks.confined import Settings, compare
from upge.tasks.problem import Problem, worked
from upge.tasks.synthetic import Split
from upge.tasks.word_problems import PARTS, TASKS, TEMPLATES, suite

WORD_PROBLEMS = "word_problems"

#: Asks for other data sets as objects; several can be named at once without it.
_NOT_OFFERED = {"composite"}

#: Problems of these depend on how the process hashes texts (0.1.25): no run of them could resume.
HASH_DEPENDENT = {
    "isomorphic_strings",
    "knight_swap",
    "polynomial_multiplication",
    "ransom_note",
    "word_ladder",
}

#: Seeds where none is given. Problem i of seed s is often problem i + 1 of seed s − 1, so the seeds
#: of splits have to be far apart.
SEEDS: dict[Split, int] = {"train": 0, "validation": 1_000_000, "test": 2_000_000}

#: The longest answer that is graded, in characters; the largest grid of the data sets has 4,000.
_LONGEST = 20_000

#: Problems where no ``size`` is given.
_SIZE = 500


class Graded(NamedTuple):
    """A problem, and what grades it: see :func:`seal`."""

    problem: Problem
    sealed: str


def load(name: str, config: Mapping[str, Any], split: Split) -> list[Graded]:
    """The problems of a data set, with questions for prompts and worked solutions as they are.

    Args:
        name: of a data set.
        config: fields of its configuration.
        split: what the problems are for.

    Raises:
        UpgeError: reasoning-gym is missing, a name or field is not known, or a value is none that
            the data set takes.
    """
    given = {"seed": SEEDS[split] if name != WORD_PROBLEMS else 0, "size": _SIZE, **config}
    for field, least in (("seed", 0), ("size", 1)):
        if type(given[field]) is not int or given[field] < least:
            raise UpgeError(
                f"{name}.{field}: got {given[field]!r}, wanted a whole number of at least {least}"
            )
    if name == WORD_PROBLEMS:
        return _word_problems(given, split)
    dataset = _dataset(name, given)
    with redirect_stdout(io.StringIO()):  # some print what they do
        try:
            entries = [dataset[i] for i in range(given["size"])]
        except Exception as error:
            raise _unusable(name, error) from error
    return [Graded(_problem(name, split, entry), seal(name, given, entry)) for entry in entries]


def seal(name: str, config: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """A problem as text, for the processes that grade: its data set, and what that has made."""
    return base64.b64encode(pickle.dumps((name, pickle.dumps(dict(config)), dict(entry)))).decode()


def _problem(name: str, split: Split, entry: Mapping[str, Any]) -> Problem:
    # Where several answers are right, a data set may name none.
    answer = "" if entry["answer"] is None else str(entry["answer"])
    solution = worked(entry["metadata"].get("answer_cot"))
    return Problem(entry["question"], answer, solution, name, split=split)


def _dataset(name: str, given: Mapping[str, Any]) -> Any:
    registered = require("reasoning_gym.factory", "reasoning").DATASETS
    known = sorted({*registered, WORD_PROBLEMS} - _NOT_OFFERED)
    if name not in known:
        raise unknown("data set of reasoning-gym", name, known)
    if name in HASH_DEPENDENT and os.environ.get("PYTHONHASHSEED", "random") == "random":
        raise UpgeError(
            f"{name}: its problems depend on the seed of Python's hashes; set PYTHONHASHSEED=0"
        )
    _, config = registered[name]
    _check_fields(name, given, [field.name for field in fields(config)])
    try:
        with redirect_stdout(io.StringIO()):
            return require("reasoning_gym", "reasoning").create_dataset(name, **given)
    except Exception as error:
        raise _unusable(name, error) from error


def _check_fields(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for field in given:
        if field not in known:
            raise unknown(f"key of {name}", field, known)


def _unusable(name: str, error: Exception) -> UpgeError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return UpgeError(f"{name}: can't make problems of this configuration ({reason}); change it")


def _word_problems(given: Mapping[str, Any], split: Split) -> list[Graded]:
    _check_fields(WORD_PROBLEMS, given, ["parts", "seed", "size"])
    parts = given.get("parts", ["worked", "bare"])
    if not isinstance(parts, list) or not parts:
        raise UpgeError(
            f"{WORD_PROBLEMS}.parts: got {parts!r}, wanted a list of {', '.join(PARTS)}"
        )
    return [
        Graded(
            replace(problem, prompt=problem.prompt.rstrip("\n")),
            seal(*_grader(problem.family), {"answer": problem.answer, "metadata": {}}),
        )
        for problem in suite(tuple(parts), split, given["size"], given["seed"])
    ]


def _grader(family: str) -> tuple[str, dict[str, Any]]:
    """The data set that grades a word problem, and its configuration."""
    part = family.split()[0]
    return ("gsm_symbolic", {}) if part in TEMPLATES else (part, dict(TASKS[part]))


@dataclass(frozen=True)
class ScoredAnswer:
    """1 where the text behind the last marker gets full marks from the problem's data set.

    Args:
        marker: what the answer stands behind.
        sealed: what grades each problem, by prompt and answer.
        settings: time, memory and number of the processes that grade.
    """

    marker: str
    sealed: Mapping[tuple[str, str], str]
    settings: Settings

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        answers = {i: self._answer(response) for i, response in enumerate(responses)}
        pairs = {
            i: (self.sealed[problems[i].prompt, problems[i].answer], answer)
            for i, answer in answers.items()
            if answer and len(answer) <= _LONGEST
        }
        verdicts = dict(zip(pairs, compare(list(pairs.values()), self.settings), strict=True))
        return [float(verdicts.get(i) == "right") for i in range(len(responses))]

    def _answer(self, response: str) -> str:
        _, marker, answer = final_part(response).rpartition(self.marker)
        return answer.strip() if marker else ""
