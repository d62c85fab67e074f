"""Synthetic suites: digit-wise arithmetic modulo 10 on three-digit strings, in several steps.

A problem of level L takes L steps. Every state and answer is one of the 1,000 strings 000 … 999, at
every level, so that guessing does not pay and no level can be told by its answers.

A worked solution names each state, then the answer behind ``#``:

    prompt ``316-705-730+311=``, demonstration ``316-705=611-730=981+311=292#292``.

========  ============================================  =======================================
family    prompt                                        what is asked
========  ============================================  =======================================
sum       ``316-705-730+311=``                          + and −
aff       ``667*7-538*3=``                              ×3, ×7, ×9 alternating with ±
perm      ``230r+123<=``                                r reverse, < rotate left, alternating with ±
cond      ``316^705-730=``                              ^: + where the left digit is even, else −
inv       ``?-875*3-810=148``                           the start: undone from the right, : undoes *
post      ``316,705-730+=``                             ± in postfix notation
mix       ``930-566+876*9?``                            out of distribution: all operations
alt       ``153,510,272,658;``                          out of distribution: implied +, −, +, …
========  ============================================  =======================================

Splits are disjoint by construction: a hash of the prompt says which one a problem may belong to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Literal, NamedTuple

from upge.common.errors import UpgeError, unknown
from upge.tasks.problem import Problem

Split = Literal["pretraining", "train", "validation", "test"]

LEVELS = (1, 2, 3, 4, 5)
ANSWER_MARKER = "#"
ALPHABET = "0123456789+-*:r<^,;=?#/"

#: Per mille of all prompts that belong to each split.
_SHARES: dict[Split, int] = {"pretraining": 600, "train": 250, "validation": 50, "test": 100}

#: Units modulo 10, so that multiplication is a bijection, and their inverses.
_INVERSE = {3: 7, 7: 3, 9: 9}


class Step(NamedTuple):
    """One operation: its symbol, and its operand as text, if it has one."""

    symbol: str
    operand: str = ""

    @property
    def text(self) -> str:
        """As prompts and solutions write it."""
        return self.symbol + self.operand

    def __call__(self, state: str) -> str:
        """The state after it."""
        return _OPERATIONS[self.symbol](state, self.operand)


def _digits(rule: Callable[[int, int], int]) -> Callable[[str, str], str]:
    def operate(state: str, operand: str) -> str:
        pairs = zip(state, operand, strict=True)
        return "".join(str(rule(int(a), int(b)) % 10) for a, b in pairs)

    return operate


def _scale(state: str, operand: str) -> str:
    return "".join(str(int(a) * int(operand) % 10) for a in state)


_OPERATIONS: dict[str, Callable[[str, str], str]] = {
    "+": _digits(lambda a, b: a + b),
    "-": _digits(lambda a, b: a - b),
    "^": _digits(lambda a, b: a - b if a % 2 else a + b),
    "*": _scale,
    ":": lambda state, operand: _scale(state, str(_INVERSE[int(operand)])),
    "r": lambda state, _: state[::-1],
    "<": lambda state, _: state[1:] + state[0],
}

_UNDO = {"+": "-", "-": "+", "*": ":"}


def _number(random: Random) -> str:
    return f"{random.randrange(1000):03}"


def _draw(symbols: str, random: Random) -> Step:
    symbol = random.choice(symbols)
    if symbol in "r<":
        return Step(symbol)
    return Step(symbol, str(random.choice((3, 7, 9))) if symbol == "*" else _number(random))


def _chain(start: str, steps: list[Step]) -> Iterator[str]:
    """The states: ``start``, and the one after each step."""
    yield start
    for step in steps:
        start = step(start)
        yield start


def _worked(start: str, steps: list[Step]) -> tuple[str, str]:
    """The solution that names every state, and the answer."""
    states = list(_chain(start, steps))
    links = (f"{step.text}={state}" for step, state in zip(steps, states[1:], strict=True))
    return f"{start}{''.join(links)}{ANSWER_MARKER}{states[-1]}", states[-1]


class _Text(NamedTuple):
    prompt: str
    solution: str
    answer: str


def _forward(*symbols: str, end: str = "=") -> Callable[[int, Random], _Text]:
    """Problems whose i-th step is one of ``symbols[i % len(symbols)]``."""

    def make(level: int, random: Random) -> _Text:
        start = _number(random)
        steps = [_draw(symbols[i % len(symbols)], random) for i in range(level)]
        return _Text(start + "".join(s.text for s in steps) + end, *_worked(start, steps))

    return make


def _inverse(level: int, random: Random) -> _Text:
    start = _number(random)
    steps = [_draw("+-" if i % 2 == 0 else "+-*", random) for i in range(level)]
    *_, result = _chain(start, steps)
    undo = [Step(_UNDO[symbol], operand) for symbol, operand in reversed(steps)]
    prompt = f"?{''.join(step.text for step in steps)}={result}"
    return _Text(prompt, *_worked(result, undo))


def _postfix(level: int, random: Random) -> _Text:
    start = _number(random)
    steps = [_draw("+-", random) for _ in range(level)]
    written = "".join(step.operand + step.symbol for step in steps)
    return _Text(f"{start},{written}=", *_worked(start, steps))


def _alternating(level: int, random: Random) -> _Text:
    start = _number(random)
    steps = [Step("+-"[i % 2], _number(random)) for i in range(level)]
    prompt = ",".join([start, *(step.operand for step in steps)]) + ";"
    return _Text(prompt, *_worked(start, steps))


#: Families by name: those trained on, and those out of distribution.
IN_DISTRIBUTION: dict[str, Callable[[int, Random], _Text]] = {
    "sum": _forward("+-"),
    "aff": _forward("*", "+-"),
    "perm": _forward("r<", "+-"),
    "cond": _forward("^", "+-^"),
    "inv": _inverse,
    "post": _postfix,
}
OUT_OF_DISTRIBUTION: dict[str, Callable[[int, Random], _Text]] = {
    "mix": _forward("+-*^r<", end="?"),
    "alt": _alternating,
}
FAMILIES = IN_DISTRIBUTION | OUT_OF_DISTRIBUTION


def split_of(prompt: str) -> Split:
    """The only split that a problem with this prompt can be in."""
    place = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % 1000
    for split, share in _SHARES.items():
        place -= share
        if place < 0:
            return split
    raise AssertionError("the shares add up to 1000")


def draw(family: str, level: int, split: Split, random: Random) -> Problem:
    """A random problem of a family, level and split.

    Raises:
        UpgeError: a family, level or split that is not known.
    """
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    if level not in LEVELS:
        raise UpgeError(f"level: got {level!r}, wanted one of {', '.join(map(str, LEVELS))}")
    if split not in _SHARES:
        raise unknown("split", split, _SHARES)
    while True:
        text = FAMILIES[family](level, random)
        if split_of(text.prompt) == split:
            return Problem(text.prompt, text.answer, text.solution, family, level, split)


def suite(family: str, split: Split, per_level: int, seed: int = 0) -> list[Problem]:
    """``per_level`` distinct problems of each level of a family, the same for the same seed.

    A larger suite holds the smaller ones of the same seed.

    Raises:
        UpgeError: more problems are asked for than a level of the split has.
    """
    return [
        problem
        for level in LEVELS
        for problem in _distinct(
            family, level, split, per_level, Random(f"{seed} {family} {level} {split}")
        )
    ]


#: Draws without a new problem after which a level counts as exhausted.
_PATIENCE = 200


def _distinct(family: str, level: int, split: Split, count: int, random: Random) -> list[Problem]:
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < count:
        problem = draw(family, level, split, random)
        misses = misses + 1 if problem.prompt in found else 0
        if misses > _PATIENCE:
            raise UpgeError(
                f"{family}, level {level}, {split}: got {count} asked for, but there are only "
                f"about {len(found)} such problems"
            )
        found.setdefault(problem.prompt, problem)
    return list(found.values())
