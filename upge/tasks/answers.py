r"""The answer in a response: what is in its last box, and no part of its thinking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from upge.tasks.grading import LONGEST

#: Boxes from the end that are looked at, at most.
_TRIES = 64

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")

#: Tags around what isn't the answer, and how they end.
_THINKING = re.compile(
    r"<(/?)(?:think|thinking|thought|reasoning|scratchpad)>"
    r"|<\|(?:begin_of_(?:thought)|(end)_of_thought)\|>|◁(/?)think▷",
    re.IGNORECASE,
)

#: A box without braces, as \boxed 2 or \boxed\frac12, at the end of its formula.
_BARE = re.compile(
    r"([+-]?(?:\d[\d,]*(?:\.\d+)?|\\[dt]?frac\s*(?:\d\s*\d|\{[^{}]*\}\s*\{[^{}]*\})"
    r"|[a-zA-Z](?=\s*(?:\$|\\[)\]]|$))))(?![\w{(!]|\s*[+*/^_=-]|\s*\\(?![)\]]))"
)

#: The most characters between two boxes of one answer.
_GAP = 80

#: What may stand there: separators, the ends of formulas, "and", "or", and what the next box says.
_NAME = r"(?:(\\?[a-zA-Z]+(?:_(?:\w|\{\w+\}))?(?:\([a-zA-Z]\))?\s*=)\s*\$?\s*)?"
_JOINT = re.compile(
    r"(?:[\s~$,;&]|\\[,;:!\s()\[\]\\]|\\q?quad|\\(?:text|mbox|textrm)\s*\{[\s,]*(?:and|or)?[\s,]*\}"
    rf"|\band\b|\bor\b)*{_NAME}"
)
_NAME_BEFORE = re.compile(rf"(?:^|[\s$({{,]){_NAME}$")


def final_part(response: str) -> str:
    """The response without its thinking; of one that ends within it, what stands before."""
    start, stop = 0, len(response)
    for tag in _THINKING.finditer(response):
        if tag[1] or tag[2] or tag[3]:
            start, stop = tag.end(), len(response)
        else:
            stop = min(stop, tag.start())
    return response[start:stop]


class _Box(NamedTuple):
    """Where a box begins and ends, and what it holds."""

    start: int
    end: int
    content: str


def boxed(response: str) -> str | None:
    r"""What the last box that isn't empty says, or the last ones that are one answer.

    Boxes are one answer if nothing but separators, "and", "or" and names such as ``y =`` stand
    between them: ``\boxed{2}, \boxed{4} and \boxed{9}`` is ``2, 4, 9``.

    Returns:
        None if there is none outside of thinking, or the last doesn't end.
    """
    text = final_part(response)
    boxes: list[_Box] = []
    for start, end in _commands(text):
        if boxes and not _is_beside(text, start, end, boxes[0]):
            break
        box = _box(text, start, end)
        if box is not None and box.content.strip():
            boxes.insert(0, box)
        elif boxes:
            break
        elif box is None and text.startswith("{", end):
            return None  # cut off
    if not boxes:
        return None
    if len({box.content for box in boxes}) == 1:
        return boxes[0].content
    return ", ".join(f"{_name_before(text, box.start)}{box.content}" for box in boxes)


def _commands(text: str) -> Iterator[tuple[int, int]]:
    r"""Where each \boxed begins and its argument does, from the last."""
    place = len(text)
    for _ in range(_TRIES):
        place = max(text.rfind(name, 0, place) for name in (r"\boxed", r"\fbox"))
        if place < 0:
            return
        if command := _BOX.match(text, place):
            yield place, command.end()


def _is_beside(text: str, start: int, end: int, after: _Box) -> bool:
    box = _box(text, start, end)
    return (
        box is not None
        and 0 <= after.start - box.end <= _GAP
        and _JOINT.fullmatch(text, box.end, after.start) is not None
    )


def _box(text: str, start: int, end: int) -> _Box | None:
    """The box whose argument begins at ``end``; None if it has none, or that doesn't end."""
    if not text.startswith("{", end):
        bare = _BARE.match(text, end)
        return bare and _Box(start, bare.end(1), bare[1].rstrip(","))
    depth = 0
    for brace in _BRACE.finditer(text, end, end + LONGEST + 3):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return _Box(start, brace.end(), text[end + 1 : brace.start()])
    return None


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _name_before(text: str, place: int) -> str:
    name = _NAME_BEFORE.search(text[max(place - 40, 0) : place])
    return name[1] if name and name[1] else ""
