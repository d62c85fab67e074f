"""Whether two answers are the same, by what they are."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from upge.tasks.reading.grammar import (
    Answer,
    Based,
    Combined,
    Items,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Relation,
    Sequence_,
    Text,
    Time,
)
from upge.tasks.reading.regions import as_region, same_region
from upge.tasks.reading.units import PERCENT, Unit
from upge.tasks.reading.values import Tree, equal, exact, number, proportional, size, symbols

#: Relative distance of neighbors in a chain of equations that may be one number, rounded.
_ROUNDING = 0.01


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer is the gold answer.

    Raises:
        TooMuch: a number is too large.
    """
    gold, answer = _spread(gold), _spread(answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation) and _both(gold, answer):
        return True
    if (wanted := as_region(gold)) and (found := as_region(answer)):
        return same_region(wanted, found)
    if isinstance(answer, Relation):
        if isinstance(gold, Relation):
            return False
        return any(same(gold, value) for value in _values(answer))
    if isinstance(gold, Relation):
        return _is_name(gold) and any(same(value, answer) for value in _values(gold))
    rule = _RULES.get((type(gold), type(answer)))
    return rule is not None and bool(rule(gold, answer))


# ----------------------------------------------------------------------------------------- equations


def _spread(answer: Answer) -> Answer:
    """(x, y) = (3, 1) as x = 3, y = 1."""
    if isinstance(answer, Relation) and answer.signs == ("=",):
        left, right = answer.sides
        if isinstance(left, Sequence_) and isinstance(right, Sequence_):
            if len(left.items) == len(right.items):
                names = answer.names[0].split("{", 1)[-1].rsplit("}", 1)[0].split(" , ")
                pairs = zip(left.items, right.items, names, strict=True)
                return Items(tuple(Relation((a, b), ("=",), (name, "")) for a, b, name in pairs))
    return answer


def _both(gold: Relation, answer: Relation) -> bool:
    """Whether two relations say the same of the same names, or are multiples of one another."""
    wanted, found = _directed(gold), _directed(answer)
    if wanted.signs == found.signs and len(wanted.signs) > 1 and "=" not in wanted.signs:
        return _all_same(wanted.sides, found.sides)
    if set(gold.signs) <= {"=", "≈"} and set(answer.signs) <= {"=", "≈"}:
        if _named(gold) == _named(answer):
            return any(same(a, b) for a in _values(gold) for b in _values(answer))
    if wanted.signs != found.signs or len(wanted.signs) != 1:
        return False
    left, right = _difference(wanted), _difference(found)
    return left is not None and right is not None and proportional(
        left, right, positive=wanted.signs[0] in "<≤"
    )


def _all_same(wanted: Sequence[Answer | None], found: Sequence[Answer | None]) -> bool:
    return all(
        a is not None and b is not None and same(a, b) for a, b in zip(wanted, found, strict=True)
    )


_FLIPPED = {">": "<", "≥": "≤"}


def _directed(relation: Relation) -> Relation:
    """The relation with > and ≥ turned round."""
    if relation.signs[0] not in _FLIPPED:
        return relation
    signs = tuple(_FLIPPED.get(sign, "?") for sign in reversed(relation.signs))
    return Relation(relation.sides[::-1], signs, relation.names[::-1])


def _difference(relation: Relation) -> Tree | None:
    """Left minus right."""
    left, right = relation.sides
    if not isinstance(left, Quantity) or not isinstance(right, Quantity):
        return None
    tree = ("+", left.tree, ("-", right.tree))
    return tree if left.unit is None and right.unit is None and symbols(tree) else None


def _named(relation: Relation) -> str:
    """The name that a value is given."""
    return relation.names[-1] if _is_reversed(relation) else relation.names[0]


def _is_reversed(relation: Relation) -> bool:
    """Whether it is 9 = m."""
    first, last = relation.sides[0], relation.sides[-1]
    return (
        relation.signs == ("=",)
        and first is not None
        and isinstance(last, Quantity)
        and last.tree[0] == "symbol"
        and not (isinstance(first, Quantity) and symbols(first.tree))
    )


def _is_name(relation: Relation) -> bool:
    """Whether what is on the left is a name, so that the value alone is an answer too."""
    side = relation.sides[-1] if _is_reversed(relation) else relation.sides[0]
    if side is None or isinstance(side, Text | Ratio | Sequence_):
        return True
    return isinstance(side, Quantity) and side.unit is None and _is_monomial(side.tree)


def _is_monomial(tree: Tree) -> bool:
    """Symbols and functions, multiplied or divided: AB, f(x), NO/BO."""
    if tree[0] in ("*", "/"):
        return all(map(_is_monomial, tree[1:]))
    return tree[0] in ("symbol", "abs") or tree[0].startswith("function ")


def _values(relation: Relation) -> list[Answer]:
    """What a chain of equations gives as its value: its end; none if it contradicts itself."""
    signs, sides = relation.signs, relation.sides
    if _is_reversed(relation):
        first = sides[0]
        return [] if first is None else [first]
    if signs == ("∈",):
        return [] if sides[1] is None else [sides[1]]
    if any(sign != "=" for sign in signs[:-1]) or signs[-1] not in ("=", "≈"):
        return []
    sizes = [size(side.tree) if isinstance(side, Quantity) else None for side in sides]
    for a, b in pairwise(sizes):
        if a is not None and b is not None and abs(a - b) > _ROUNDING * max(abs(a), abs(b)):
            return []
    last, before = sides[-1], sides[-2]
    if last is None or (before is not None and _is_constant(before) and len(signs) == 1 and signs[0] == "≈"
                        and isinstance(before, Quantity) and before.tree[0] in ("number", "-")):
        return []
    values = [last]
    if signs[-1] == "≈" and isinstance(before, Quantity) and sizes[-2] is not None:
        if before.tree[0] == "number" or sizes[-1] is None:
            return []
        values.append(before)
    return values


def _is_constant(side: Answer) -> bool:
    return isinstance(side, Quantity) and not symbols(side.tree)


# -------------------------------------------------------------------------------------------- kinds


def _quantities(gold: Quantity, answer: Quantity) -> bool:
    wanted, found = gold.unit, answer.unit
    if wanted == found:
        return equal(gold.tree, answer.tree)
    if PERCENT in (wanted, found):
        if wanted is not None and found is not None:
            return False
        percent, bare = (gold, answer) if wanted == PERCENT else (answer, gold)
        return _percent(percent.tree, bare.tree)
    if wanted is None or found is None:  # a unit may be left out, but not those of a compound
        return max(gold.parts, answer.parts) == 1 and equal(gold.tree, answer.tree)
    return wanted.dimensions == found.dimensions and equal(
        _in_basic(gold.tree, wanted), _in_basic(answer.tree, found)
    )


def _in_basic(tree: Tree, unit: Unit) -> Tree:
    return tree if unit.factor == 1 else ("*", tree, number(unit.factor))


def _percent(percent: Tree, bare: Tree) -> bool:
    """40% is 0.4 and, as what is above 1 can be no share, 40 without its sign."""
    if equal(("/", percent, number(100)), bare):
        return True
    above = size(bare)
    return above is not None and abs(above) > 1 and equal(percent, bare)


def _sequences(gold: Sequence_, answer: Sequence_) -> bool:
    if len(gold.items) != len(answer.items):
        return False
    if len(gold.items) == 2 and gold.brackets != answer.brackets:
        return False
    return _all_same(gold.items, answer.items)


def _in_order(gold: Items | Sequence_, answer: Items | Sequence_) -> bool:
    """A tuple and a list: the same values in the same order."""
    for one in (gold, answer):
        if isinstance(one, Sequence_) and one.brackets != "()":
            return False
        if isinstance(one, Items) and one.braces:
            return False
    return len(gold.items) == len(answer.items) and _all_same(gold.items, answer.items)


def _items(gold: Items, answer: Items) -> bool:
    """The same answers in any order; in that of the gold answer if only its own have names."""
    wanted, found = list(gold.items), list(answer.items)
    if gold.braces or answer.braces or len(found) > len(wanted) == len(_distinct(wanted)):
        wanted, found = _distinct(wanted), _distinct(found)
    if len(wanted) != len(found):
        return False
    labels = {_label(item) for item in wanted}
    if len(labels) > 1 and not any(map(_label, found)):
        return not answer.braces and _all_same(wanted, found)
    for item in wanted:
        place = next((i for i, other in enumerate(found) if same(item, other)), None)
        if place is None:
            return False
        found.pop(place)
    return True


def _distinct(items: list[Answer]) -> list[Answer]:
    kept: list[Answer] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _label(item: Answer) -> object:
    """What tells an item of a list from another: the name or unit of its value."""
    if isinstance(item, Relation):
        return _named(item)
    return item.unit if isinstance(item, Quantity) else None


def _times(gold: Time, answer: Time) -> bool:
    """Without its half of the day a gold time is of either; that of an answer is of 24 hours."""
    if gold.half or not answer.half:
        return gold.seconds == answer.seconds
    return (gold.seconds - answer.seconds) % 43200 == 0


def _ratios(gold: Ratio | Time, answer: Ratio | Time) -> bool:
    wanted, found = _terms(gold), _terms(answer)
    return len(wanted) == len(found) > 1 and all(
        equal(("*", a, d), ("*", b, c))
        for (a, b), (c, d) in zip(pairwise(wanted), pairwise(found), strict=True)
    )


def _terms(answer: Ratio | Time) -> tuple[Tree, ...]:
    if isinstance(answer, Ratio):
        return answer.terms
    hours, rest = divmod(answer.seconds, 3600)
    if answer.half or rest % 60 or rest < 600:  # 11:05 is no ratio
        return ()
    return (number(hours), number(rest // 60))


def _ratio_as_number(gold: Ratio | Time, answer: Quantity) -> bool:
    terms = _terms(gold)
    return len(terms) == 2 and equal(("/", *terms), answer.tree) and answer.unit is None


def _based(gold: Based, answer: Based) -> bool:
    return gold.base == answer.base and gold.digits.lstrip("0") == answer.digits.lstrip("0")


def _without_base(gold: Based, answer: Quantity) -> bool:
    """The base may be left out, as a unit may."""
    value = exact(answer.tree)
    return gold.digits.isdigit() and value == Fraction(gold.digits) and answer.unit is None


def _with_base(gold: Quantity, answer: Based) -> bool:
    return answer.base == 10 and exact(gold.tree) == Fraction(answer.digits)


def _matrices(gold: Matrix, answer: Matrix) -> bool:
    return [len(row) for row in gold.rows] == [len(row) for row in answer.rows] and all(
        _all_same(a, b) for a, b in zip(gold.rows, answer.rows, strict=True)
    )


def _combined(gold: Combined, answer: Combined) -> bool:
    """Sets whose ends are no numbers: the same operation on the same sets."""
    if gold.operation != answer.operation:
        return False
    if gold.operation == "∖":
        return _all_same(gold.operands, answer.operands)
    return _items(Items(_flat(gold)), Items(_flat(answer)))


def _flat(combined: Combined) -> tuple[Answer, ...]:
    found: list[Answer] = []
    for operand in combined.operands:
        inner = isinstance(operand, Combined) and operand.operation == combined.operation
        found += _flat(operand) if inner and isinstance(operand, Combined) else [operand]
    return tuple(found)


def _equal(gold: object, answer: object) -> bool:
    return gold == answer


_RULES = {
    (Quantity, Quantity): _quantities,
    (Sequence_, Sequence_): _sequences,
    (Sequence_, Items): _in_order,
    (Items, Sequence_): _in_order,
    (Items, Items): _items,
    (Text, Text): _equal,
    (Named, Named): _equal,
    (Time, Time): _times,
    (Time, Ratio): _ratios,
    (Ratio, Time): _ratios,
    (Ratio, Ratio): _ratios,
    (Ratio, Quantity): _ratio_as_number,
    (Time, Quantity): _ratio_as_number,
    (Quantity, Ratio): lambda gold, answer: _ratio_as_number(answer, gold),
    (Based, Based): _based,
    (Based, Quantity): _without_base,
    (Quantity, Based): _with_base,
    (Matrix, Matrix): _matrices,
    (Combined, Combined): _combined,
}
