"""The verdict on an answer.

It depends on the two answers and the declared kind alone: not on time, memory or what else is
graded, so training and evaluation give the same one. Nothing is evaluated as code, and the work is
bounded by the length of an answer.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from upge.tasks.reading.equality import same
from upge.tasks.reading.grammar import (
    SEVERAL,
    Answer,
    Items,
    Quantity,
    choice,
    gold_choice,
    read,
    unknowns,
)
from upge.tasks.reading.lexer import Lexer, TooMuch, Unread, ascii_latex, canonical

#: The longest answer that is read, in characters; the longest of the benchmarks has 210.
LONGEST = 1000


class Verdict(StrEnum):
    """What became of an answer: but for the first, all are worth 0."""

    RIGHT = "right"
    WRONG = "wrong"
    UNREAD = "unread"  # it, or the gold answer, can't be read
    UNBOXED = "unboxed"  # there is none: no box, no marker, or one that doesn't end
    REFUSED = "refused"  # too long, nested too deep, or with too large a number


_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def grade(gold: str, answer: str, kind: str = "") -> Verdict:
    """The verdict on an answer.

    Args:
        gold: the right answer.
        answer: what is graded.
        kind: what the gold answer is, one of :data:`~upge.tasks.reading.grammar.KINDS`; empty to
            infer it.
    """
    gold, answer = gold.strip(), answer.strip()
    if kind in ("", "number") and _WHOLE.fullmatch(gold) and _WHOLE.fullmatch(answer):
        return Verdict.RIGHT if int(gold) == int(answer) else Verdict.WRONG
    if len(answer) > LONGEST or len(gold) > LONGEST:
        return Verdict.REFUSED
    try:
        return Verdict.RIGHT if _is_right(gold, answer, kind) else Verdict.WRONG
    except (TooMuch, RecursionError):
        return Verdict.REFUSED
    except Unread:
        return Verdict.UNREAD


def _is_right(gold: str, answer: str, kind: str) -> bool:
    commas = kind not in SEVERAL
    if gold == answer or _letters(gold, commas) == _letters(answer, commas):
        return True
    letter = gold_choice(gold) if kind in ("", "choice") else None
    if letter is not None:
        return choice(answer) == letter
    wanted = _gold(gold, kind)
    if wanted is None:
        raise Unread(gold)
    units = not unknowns(wanted)
    if same(wanted, read(answer, kind, units)):
        return True
    # In a list 100,200 are two.
    return isinstance(wanted, Items) and same(wanted, read(answer, kind, units, commas=False))


@lru_cache(maxsize=4096)
def _gold(gold: str, kind: str) -> Answer | None:
    try:
        return read(gold, kind)
    except Unread:
        return None


def _letters(text: str, commas: bool = True) -> str:
    """An answer without what says nothing; as it is where it can't be read."""
    try:
        return canonical(Lexer(ascii_latex(text), commas).tokens()).rstrip(" .")
    except Unread:
        return text


def is_number(text: str) -> bool:
    """Whether a text is a number as it is written, with or without a unit, and no calculation."""
    if len(text) > LONGEST:
        return False
    try:
        answer = read(text, "number")
    except (Unread, TooMuch):
        return False
    tree = answer.tree if isinstance(answer, Quantity) else ("",)
    if tree[0] == "-":
        tree = tree[1]
    return {part[0] for part in (tree[1:] if tree[0] == "/" else [tree])} == {"number"}
