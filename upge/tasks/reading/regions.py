"""Sets of real numbers: what inequalities, intervals and unions have in common.

A set is given by its cuts, from left to right: where it begins and ends, in turn. A cut is a place
and whether it lies behind it rather than before: (0, 1] begins at (0, True) and ends at (1, True).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from upge.tasks.reading.grammar import (
    Answer,
    Bracketed,
    Combined,
    Items,
    Named,
    Quantity,
    Relation,
)
from upge.tasks.reading.values import Tree, real, symbols

_Cut = tuple[Fraction | float, bool]
_Cuts = tuple[_Cut, ...]

_ALL: _Cuts = ((-math.inf, True), (math.inf, False))


class Region(NamedTuple):
    """A set of real numbers.

    Args:
        cuts: where it begins and ends.
        name: of what it is said; empty if it is a set by itself.
    """

    cuts: _Cuts
    name: str = ""


def as_region(answer: Answer | None) -> Region | None:
    """The set of numbers that an answer is; None if it is none, or its ends aren't numbers."""
    match answer:
        case Named():
            return {"ℝ": Region(_ALL), "∅": Region(())}.get(answer.name)
        case Bracketed():
            return _interval(answer)
        case Items(braces=True):
            ends = {_end(item) for item in answer.items}
            cuts = {(end, behind) for end in ends if end is not None for behind in (False, True)}
            return None if ends & {None, math.inf, -math.inf} else Region(tuple(sorted(cuts)))
        case Combined():
            return _joined(answer.operation, [_operand(operand) for operand in answer.operands])
        case Relation():
            return _condition(answer)
    return None


def same_region(gold: Region, answer: Region) -> bool:
    """Whether two sets are the same, and said of the same if of something."""
    return gold.cuts == answer.cuts and len({gold.name, answer.name} - {""}) < 2


def _end(answer: Answer | None) -> Fraction | float | None:
    if not isinstance(answer, Quantity) or answer.unit is not None:
        return None
    tree, sign = answer.tree, 1
    while tree[0] in ("-", "+") and len(tree) == 2:
        tree, sign = tree[1], -sign
    return sign * math.inf if tree == ("symbol", "infty") else real(answer.tree)


def _interval(answer: Bracketed) -> Region | None:
    ends = list(map(_end, answer.items))
    if len(ends) != 2 or answer.is_tuple or ends[0] is None or ends[1] is None:
        return None
    left = (ends[0], answer.brackets[0] != "[" or ends[0] == -math.inf)
    right = (ends[1], answer.brackets[1] == "]" and ends[1] != math.inf)
    return Region((left, right)) if ends[0] < ends[1] else None


def _point(answer: Answer | None) -> _Cuts | None:
    end = _end(answer)
    return None if end is None or math.isinf(end) else ((end, False), (end, True))


def _operand(answer: Answer) -> Region | None:
    """A set or condition; among conditions x = 2 is one too."""
    if isinstance(answer, Relation) and answer.signs == ("=",) and _is_name(answer.sides[0]):
        cuts = _point(answer.sides[1])
        return None if cuts is None else Region(cuts, answer.names[0])
    return as_region(answer)


def _condition(relation: Relation) -> Region | None:
    """The numbers that one name may be, if that is what a relation says."""
    if relation.signs == ("∈",):
        region = as_region(relation.sides[1])
        return region and Region(region.cuts, relation.names[0])
    places = [place for place, side in enumerate(relation.sides) if _is_name(side)]
    if len(places) != 1 or len(relation.sides) > 3 or relation.signs == ("=",):
        return None
    (place,) = places
    halves: list[Region | None] = []
    if place > 0:
        halves.append(_half(_FLIPPED.get(relation.signs[place - 1]), relation.sides[place - 1]))
    if place + 1 < len(relation.sides):
        halves.append(_half(relation.signs[place], relation.sides[place + 1]))
    joined = _joined("∩", halves) if len(halves) == len(relation.signs) else None
    return joined and Region(joined.cuts, relation.names[place])


_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}


def _is_name(side: Answer | None) -> bool:
    return isinstance(side, Quantity) and side.unit is None and _is_one_name(side.tree)


def _is_one_name(tree: Tree) -> bool:
    return tree[0].startswith("function ") or (tree[0] == "symbol" and bool(symbols(tree)))


def _half(sign: str | None, side: Answer | None) -> Region | None:
    """The numbers that are <, ≤, >, ≥ or ≠ an end."""
    end = _end(side)
    if end is None or sign is None or sign not in _FLIPPED:
        return None
    before, behind = (end, False), (end, True)
    if sign == "≠":
        return Region((_ALL[0], before, behind, _ALL[1]))
    if sign in "<≤":
        return Region((_ALL[0], behind if sign == "≤" and end < math.inf else before))
    return Region((before if sign == "≥" and end > -math.inf else behind, _ALL[1]))


# ------------------------------------------------------------------------------------------ combine

_RULES: dict[str, Callable[[bool, bool], bool]] = {
    "∪": lambda a, b: a or b,
    "∩": lambda a, b: a and b,
    "∖": lambda a, b: a and not b,
}


def _joined(operation: str, regions: list[Region | None]) -> Region | None:
    """Several sets as one; None if one is none, or they are said of different things."""
    known = [region for region in regions if region is not None]
    said_of = {region.name for region in known} - {""}
    if len(known) < len(regions) or len(said_of) > 1:
        return None
    cuts = known[0].cuts
    for region in known[1:]:
        cuts = _combined(_RULES[operation], cuts, region.cuts)
    return Region(cuts, "".join(said_of))


def _combined(rule: Callable[[bool, bool], bool], left: _Cuts, right: _Cuts) -> _Cuts:
    cuts: list[_Cut] = []
    for cut in sorted({*left, *right}):
        inside = [sum(other <= cut for other in one) % 2 == 1 for one in (left, right)]
        if rule(*inside) != (len(cuts) % 2 == 1):
            cuts.append(cut)
    return tuple(cuts)
