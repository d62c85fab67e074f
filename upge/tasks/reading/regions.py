"""Sets of real numbers as intervals: what inequalities, intervals and unions have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

from upge.tasks.reading.grammar import (
    Answer,
    Combined,
    Items,
    Named,
    Quantity,
    Relation,
    Sequence_,
)
from upge.tasks.reading.values import Tree, real, symbols

#: An end of an interval: its place (None at infinity) and whether it belongs to it.
_Piece = tuple[Any, bool, Any, bool]


class Region(NamedTuple):
    """A set of real numbers.

    Args:
        pieces: disjoint intervals from left to right: left end, whether it is in, right end, whether
            it is in. Ends at infinity are None.
        name: of what it is said, if of something; empty if it is a set by itself.
    """

    pieces: tuple[_Piece, ...]
    name: str = ""


_ALL: tuple[_Piece, ...] = ((None, False, None, False),)


def as_region(answer: Answer) -> Region | None:
    """The set of numbers that an answer is; None if it is none, or its ends aren't numbers."""
    if isinstance(answer, Named):
        return {"ℝ": Region(_ALL), "∅": Region(())}.get(answer.name)
    if isinstance(answer, Sequence_):
        return _interval(answer)
    if isinstance(answer, Items) and answer.braces:
        return _points(answer)
    if isinstance(answer, Combined):
        return _combination(answer)
    if isinstance(answer, Relation):
        return _condition(answer)
    return None


def same_region(gold: Region, answer: Region) -> bool:
    """Whether two sets are the same, and said of the same if of something."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    return len(gold.pieces) == len(answer.pieces) and all(
        a[1] == b[1] and a[3] == b[3] and _meet(a[0], b[0]) and _meet(a[2], b[2])
        for a, b in zip(gold.pieces, answer.pieces, strict=True)
    )


def _end(answer: Answer | None) -> tuple[Any, int] | None:
    """An end: its value, or None and the sign of the infinity."""
    if not isinstance(answer, Quantity) or answer.unit is not None:
        return None
    tree, sign = answer.tree, 1
    while tree[0] == "-" and tree[1][0] in ("symbol", "-"):
        tree, sign = tree[1], -sign
    if tree == ("symbol", "infty"):
        return None, sign
    found = real(answer.tree)
    return None if found is None else (found, 0)


def _interval(answer: Sequence_) -> Region | None:
    if len(answer.items) != 2 or answer.is_point:
        return None
    ends = [_end(item) for item in answer.items]
    if ends[0] is None or ends[1] is None:
        return None
    (left, before), (right, after) = ends
    if before > 0 or after < 0 or (left is not None and right is not None and left >= right):
        return None
    closed = answer.brackets[0] == "[", answer.brackets[1] == "]"
    return Region(((left, closed[0] and left is not None, right, closed[1] and right is not None),))


def _points(answer: Items) -> Region | None:
    found: tuple[_Piece, ...] = ()
    for item in answer.items:
        end = _end(item)
        if end is None or end[1]:
            return None
        found = _union(found, ((end[0], True, end[0], True),))
    return Region(found)


def _combination(answer: Combined) -> Region | None:
    found: Region | None = None
    for operand in answer.operands:
        region = as_region(operand) or _value(operand)
        if region is None:
            return None
        if found is None:
            found = region
            continue
        if found.name and region.name and found.name != region.name:
            return None
        pieces = _COMBINING[answer.operation](found.pieces, region.pieces)
        found = Region(pieces, found.name or region.name)
    return found


def _condition(relation: Relation) -> Region | None:
    """The numbers that one name may be, if that is what a relation says."""
    if relation.signs == ("∈",):
        side = relation.sides[1]
        region = None if side is None else as_region(side)
        return region and Region(region.pieces, region.name or relation.names[0])
    places = [i for i, side in enumerate(relation.sides) if _is_unknown(side)]
    if len(places) != 1 or len(relation.sides) > 3 or "∈" in relation.signs:
        return None
    if len(relation.sides) == 2 and relation.signs == ("=",):
        return None
    (place,) = places
    pieces: tuple[_Piece, ...] = _ALL
    for neighbor in (place - 1, place + 1):
        if not 0 <= neighbor < len(relation.sides):
            continue
        end = _end(relation.sides[neighbor])
        if end is None:
            return None
        sign = relation.signs[min(place, neighbor)]
        if neighbor < place:
            sign = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}.get(sign, sign)
        half = _half(sign, *end)
        if half is None:
            return None
        pieces = _intersection(pieces, half)
    return Region(pieces, relation.names[place]) if place == 1 or len(relation.sides) == 2 else None


def _value(operand: Answer) -> Region | None:
    """x = 2 among conditions."""
    if not isinstance(operand, Relation) or operand.signs != ("=",):
        return None
    name, end = operand.sides[0], _end(operand.sides[1])
    if not _is_unknown(name) or end is None or end[1]:
        return None
    return Region(((end[0], True, end[0], True),), operand.names[0])


def _is_unknown(side: Answer | None) -> bool:
    return isinstance(side, Quantity) and side.unit is None and _is_one_name(side.tree)


def _is_one_name(tree: Tree) -> bool:
    return (tree[0] == "symbol" and bool(symbols(tree))) or tree[0].startswith("function ")


def _half(sign: str, place: Any, infinity: int) -> tuple[_Piece, ...] | None:
    """The numbers that are <, ≤, >, ≥ or ≠ a place."""
    if infinity:
        return _ALL if (sign in "<≠" and infinity > 0) or (sign in ">≠" and infinity < 0) else None
    if sign in "<≤":
        return ((None, False, place, sign == "≤"),)
    if sign in ">≥":
        return ((place, sign == "≥", None, False),)
    if sign == "≠":
        return _complement(((place, True, place, True),))
    return None


# -------------------------------------------------------------------------------------- on intervals


def _meet(a: Any, b: Any) -> bool:
    """Whether two places are the same but for rounding."""
    if a is None or b is None:
        return a is b
    return bool(abs(a - b) <= (abs(a) + abs(b)) * 10**-80)


def _union(left: tuple[_Piece, ...], right: tuple[_Piece, ...]) -> tuple[_Piece, ...]:
    pieces = sorted(
        left + right, key=lambda piece: (piece[0] is not None, piece[0] or 0, not piece[1])
    )
    found: list[_Piece] = []
    for piece in pieces:
        if found and _touches(found[-1], piece):
            found[-1] = _joined(found[-1], piece)
        else:
            found.append(piece)
    return tuple(found)


def _touches(left: _Piece, right: _Piece) -> bool:
    """Whether a piece that begins no earlier leaves no gap behind another."""
    if left[2] is None or right[0] is None:
        return True
    if _meet(left[2], right[0]):
        return left[3] or right[1]
    return bool(right[0] < left[2])


def _joined(left: _Piece, right: _Piece) -> _Piece:
    starts_in = left[1] or (right[1] and left[0] is not None and _meet(left[0], right[0]))
    if left[2] is None or right[2] is None:
        return (left[0], starts_in, None, False)
    if _meet(left[2], right[2]):
        return (left[0], starts_in, left[2], left[3] or right[3])
    last = left if left[2] > right[2] else right
    return (left[0], starts_in, last[2], last[3])


def _complement(pieces: tuple[_Piece, ...]) -> tuple[_Piece, ...]:
    found: list[_Piece] = []
    place, closed, started = None, False, False
    for left, left_in, right, right_in in pieces:
        if left is not None:
            found.append((place, closed, left, not left_in))
        place, closed, started = right, not right_in, True
        if right is None:
            return tuple(found)
    found.append((place, closed, None, False) if started else _ALL[0])
    return tuple(found)


def _intersection(left: tuple[_Piece, ...], right: tuple[_Piece, ...]) -> tuple[_Piece, ...]:
    return _complement(_union(_complement(left), _complement(right)))


_COMBINING = {
    "∪": _union,
    "∩": _intersection,
    "∖": lambda left, right: _intersection(left, _complement(right)),
}
