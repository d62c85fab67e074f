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
from collections.abc import Callable
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
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    while True:
        problem, key = _template(part, random) if part in TEMPLATES else _of_task(part, random)
        if split_of(key) == split and (part in TEMPLATES or len(problem.prompt) <= _LONGEST):
            return Problem(
                problem.prompt, problem.answer, problem.demonstration, problem.family, split=split
            )


def _template(part: str, random: Random) -> tuple[Problem, str]:
    """A problem, and what its split depends on."""
    number = random.choice(TEMPLATES[part])
    entry = _templates()[number](random, 1.0)
    question = entry["question"]
    key = f"{number}: {' '.join(_NUMBER.findall(question))}"
    solution = entry["metadata"]["answer_cot"]
    return Problem(f"{question}\n", entry["answer"], solution, f"{part} {number}"), key


def _of_task(name: str, random: Random) -> tuple[Problem, str]:
    entry = _task(name)[random.randrange(_ITEMS)]
    return Problem(f"{entry['question'].strip()}\n", entry["answer"], None, name), entry["question"]
