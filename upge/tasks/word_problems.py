"""English word problems: templates of reasoning-gym's ``gsm_symbolic``, and tasks unlike them.

Of the templates these are taken: in 400 draws of each (seeds 0–399), every problem has a solution
that ends in ``#### answer``, question and solution have at most 530 characters, no number exceeds
3,000, no answer makes up a quarter of all, and in 3,000 draws more than 100 sets of numbers occur.
That leaves 36 (:data:`TEMPLATES`). By number, of every four the first two are ``worked`` (the base
model ``words`` has seen their solutions), the third is ``bare`` (it has seen answers alone) and the
fourth ``unseen`` (it has seen nothing of it).

The tasks (:data:`TASKS`) are unlike the templates in kind; the base has seen their answers alone.

Splits are disjoint by construction: a hash of a template's number and of the numbers in a problem
says which split it belongs to, so that no problem of another split has its numbers under other
names. For the tasks it is a hash of the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random
from typing import Any

from upge.common.errors import UpgeError, unknown
from upge.common.optional import require
from upge.tasks.problem import Problem
from upge.tasks.synthetic import Split, split_of

#: What the answer stands behind.
MARKER = "####"

#: The templates by what the base model ``words`` has seen of them.
TEMPLATES: dict[str, tuple[int, ...]] = {
    "worked": (4, 6, 10, 14, 20, 24, 34, 39, 43, 44, 50, 51, 58, 64, 72, 75, 82, 83),
    "bare": (8, 16, 30, 40, 47, 54, 67, 78, 95),
    "unseen": (9, 18, 31, 41, 48, 57, 69, 80, 99),
}

#: Other data sets of reasoning-gym, in configurations that are as short, by name.
TASKS: dict[str, dict[str, int]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2},
    "leg_counting": {
        "min_animals": 1,
        "max_animals": 3,
        "min_instances": 1,
        "max_instances": 9,
    },
    "simple_equations": {"min_value": 1, "max_value": 30},
    "aiw": {"max_entities": 6},
    "family_relationships": {},
}

PARTS = (*TEMPLATES, *TASKS)

#: The longest question of a task, in characters; longer ones are drawn again.
_LONGEST = 330

#: Draws without a new problem after which a template counts as exhausted.
_PATIENCE = 200

#: The items of a task that problems are drawn from.
_ITEMS = 2**31

_NUMBER = re.compile(r"\d[\d.,]*")


@cache
def _templates() -> dict[int, Callable[[Random, float], dict[str, Any]]]:
    gym = require("reasoning_gym", "reasoning")
    generators: dict[int, Any] = gym.create_dataset("gsm_symbolic", seed=0, size=1).generators
    return generators


@cache
def _task(name: str) -> Any:
    return require("reasoning_gym", "reasoning").create_dataset(name, seed=0, **TASKS[name])


def draw(part: str, split: Split, random: Random) -> Problem:
    """A random problem of a part of :data:`PARTS` and a split.

    Raises:
        UpgeError: a part that is not known, or reasoning-gym is missing.
    """
    return _draw(random.choice(_kinds(part)), split, random)


def suite(parts: Sequence[str], split: Split, count: int, seed: int = 0) -> list[Problem]:
    """``count`` distinct problems, as many of each template and task, the same for the same seed.

    A larger suite holds the smaller ones of the same seed.

    Raises:
        UpgeError: a part that is not known, more problems than there are, or reasoning-gym is
            missing.
    """
    kinds = [kind for part in parts for kind in _kinds(part)]
    streams = [_distinct(kind, split, Random(f"{seed} {kind} {split}")) for kind in kinds]
    return [next(streams[i % len(streams)]) for i in range(count)]


def _kinds(part: str) -> list[str]:
    """The templates of a part, as ``worked 4``; a task is its only one."""
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    return [f"{part} {number}" for number in TEMPLATES[part]] if part in TEMPLATES else [part]


def _distinct(kind: str, split: Split, random: Random) -> Iterator[Problem]:
    found: set[str] = set()
    misses = 0
    while misses <= _PATIENCE:
        problem = _draw(kind, split, random)
        misses = misses + 1 if problem.prompt in found else 0
        if not misses and not _is_ungradable(problem):
            found.add(problem.prompt)
            yield problem
    raise UpgeError(f"{kind}, {split}: has only about {len(found)} problems; ask for fewer")


def _is_ungradable(problem: Problem) -> bool:
    """Whether ``gsm_symbolic`` would grade the right answer as wrong: it reads no sign."""
    return problem.demonstration is not None and problem.answer.startswith("-")


def _draw(kind: str, split: Split, random: Random) -> Problem:
    part, _, number = kind.partition(" ")
    while True:
        entry = _templates()[int(number)](random, 1.0) if number else _item(part, random)
        question = entry["question"].strip()
        key = f"{number}: {' '.join(_NUMBER.findall(question))}" if number else question
        if split_of(key) == split and (number or len(question) <= _LONGEST):
            solution = entry["metadata"].get("answer_cot")
            return Problem(f"{question}\n", entry["answer"], solution, kind, split=split)


def _item(task: str, random: Random) -> dict[str, Any]:
    entry: dict[str, Any] = _task(task)[random.randrange(_ITEMS)]
    return entry
