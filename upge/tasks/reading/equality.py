"""Whether two answers are the same, by what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from upge.tasks.reading.grammar import (
    Answer,
    Based,
    Bracketed,
    Combined,
    Items,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Relation,
    Text,
    Time,
)
from upge.tasks.reading.regions import as_region, same_region
from upge.tasks.reading.units import PERCENT
from upge.tasks.reading.values import Tree, equal, exact, number, proportional, real, symbols

#: Relative distance of neighbors in a chain of equations that may be one number, rounded.
_ROUNDING = Fraction(1, 100)


def same(gold: Answer, answer: Answer) -> bool:
    """Whether an answer is the gold answer.

    Raises:
        TooMuch: a number is too large.
    """
    gold, answer = _spread(gold), _spread(answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation) and _relations(gold, answer):
        return True
    if (gold_region := as_region(gold)) and (region := as_region(answer)):
        return same_region(gold_region, region)
    if isinstance(answer, Relation):
        return not isinstance(gold, Relation) and any(same(gold, v) for v in _values(answer))
    if isinstance(gold, Relation):
        return _is_named(gold) and any(same(value, answer) for value in _values(gold))
    rule = _RULES.get((type(gold), type(answer)))
    return rule is not None and bool(rule(gold, answer))


def _all_same(golds: Sequence[Answer | None], answers: Sequence[Answer | None]) -> bool:
    return len(golds) == len(answers) and all(
        a is not None and b is not None and same(a, b) for a, b in zip(golds, answers, strict=True)
    )


# ---------------------------------------------------------------------------------------- relations


def _spread(answer: Answer) -> Answer:
    """(x, y) = (3, 1) as x = 3, y = 1."""
    if not isinstance(answer, Relation) or answer.signs != ("=",):
        return answer
    left, right = answer.sides
    if not (isinstance(left, Bracketed) and isinstance(right, Bracketed)):
        return answer
    names = answer.names[0].partition("{")[2].rpartition("}")[0].split(" , ")
    if not len(names) == len(left.items) == len(right.items):
        return answer
    values = zip(left.items, right.items, names, strict=True)
    return Items(tuple(Relation((a, b), ("=",), (name, "")) for a, b, name in values))


def _relations(gold: Relation, answer: Relation) -> bool:
    """Whether two relations say the same of one name, or are multiples of one another."""
    if {*gold.signs, *answer.signs} <= {"=", "≈"} and _name(gold) == _name(answer):
        return any(same(a, b) for a in _values(gold) for b in _values(answer))
    gold, answer = _directed(gold), _directed(answer)
    if gold.signs != answer.signs:
        return False
    if len(gold.signs) > 1:
        return "=" not in gold.signs and _all_same(gold.sides, answer.sides)
    left, right = _difference(gold), _difference(answer)
    return bool(left and right) and proportional(left, right, positive=gold.signs[0] in "<≤")


def _directed(relation: Relation) -> Relation:
    """The relation with > and ≥ turned round."""
    if relation.signs[0] not in ">≥":
        return relation
    signs = tuple({">": "<", "≥": "≤"}.get(sign, "?") for sign in reversed(relation.signs))
    return Relation(relation.sides[::-1], signs, relation.names[::-1])


def _difference(relation: Relation) -> Tree:
    """Left minus right; empty if that is no expression with symbols."""
    left, right = relation.sides
    if not (isinstance(left, Quantity) and isinstance(right, Quantity)) or left.unit or right.unit:
        return ()
    tree = ("+", left.tree, ("-", right.tree))
    return tree if symbols(tree) else ()


def _name(relation: Relation) -> str:
    """The name of a value."""
    return relation.names[-1 if _is_reversed(relation) else 0]


def _is_reversed(relation: Relation) -> bool:
    """Whether it is 9 = m."""
    first, last = relation.sides[0], relation.sides[-1]
    return (
        relation.signs == ("=",)
        and isinstance(last, Quantity)
        and last.tree[0] == "symbol"
        and first is not None
        and not (isinstance(first, Quantity) and symbols(first.tree))
    )


def _is_named(relation: Relation) -> bool:
    """Whether it gives a name a value, so that the value alone is an answer too."""
    side = relation.sides[-1 if _is_reversed(relation) else 0]
    if side is None or isinstance(side, Text | Ratio | Bracketed):
        return True
    return isinstance(side, Quantity) and side.unit is None and _is_monomial(side.tree)


def _is_monomial(tree: Tree) -> bool:
    """Symbols and functions, multiplied or divided: AB, f(x), NO/BO."""
    if tree[0] in ("*", "/"):
        return all(map(_is_monomial, tree[1:]))
    return tree[0] in ("symbol", "abs") or tree[0].startswith("function ")


def _values(relation: Relation) -> list[Answer]:
    """What a chain of equations gives as its value: its end, or also what that approximates.

    None if neighbors are different numbers, as in 6 = 5, or if it is an equation rather than the
    value of something, as x - y = 0.
    """
    before, last = relation.sides[-2:]
    *signs, sign = relation.signs
    if _is_reversed(relation):
        last = before
    elif set(signs) - {"="} or sign not in "=≈∈" or not _is_consistent(relation):
        return []
    if last is None or (_is_zero(last) and not _is_named(relation)):
        return []
    if isinstance(relation.sides[0], Ratio) and isinstance(last, Time) and _terms(last):
        last = Ratio(_terms(last))  # A:B = 5:12
    if sign != "≈" or not isinstance(before, Quantity) or symbols(before.tree):
        return [last]
    return [] if before.tree[0] in ("number", "-") else [before, last]


def _is_consistent(relation: Relation) -> bool:
    """Whether no neighbors are different numbers, but for rounding."""
    sizes = [real(side.tree) if isinstance(side, Quantity) else None for side in relation.sides]
    return all(
        a is None or b is None or abs(a - b) <= _ROUNDING * max(abs(a), abs(b))
        for a, b in pairwise(sizes)
    )


def _is_zero(side: Answer) -> bool:
    return isinstance(side, Quantity) and exact(side.tree) == 0


# -------------------------------------------------------------------------------------------- kinds


def _quantities(gold: Quantity, answer: Quantity) -> bool:
    gold_unit, unit = gold.unit, answer.unit
    if gold_unit == unit:
        return equal(gold.tree, answer.tree)
    if gold_unit is None or unit is None:  # a unit may be left out, but not those of a compound
        if PERCENT in (gold_unit, unit):
            return _percent(*((gold, answer) if unit is None else (answer, gold)))
        return gold.parts == answer.parts == 1 and equal(gold.tree, answer.tree)
    basic = [("*", q.tree, number(q.unit.factor)) for q in (gold, answer) if q.unit]
    return gold_unit.dimensions == unit.dimensions and equal(*basic)


def _percent(percent: Quantity, bare: Quantity) -> bool:
    """40% is 0.4 and, as what is above 1 can be no share, 40 without its sign."""
    if equal(("/", percent.tree, number(100)), bare.tree):
        return True
    size = real(bare.tree)
    return size is not None and abs(size) > 1 and equal(percent.tree, bare.tree)


def _brackets(gold: Bracketed, answer: Bracketed) -> bool:
    is_pair = len(gold.items) == 2
    return (gold.brackets == answer.brackets or not is_pair) and _all_same(gold.items, answer.items)


def _in_order(gold: Items | Bracketed, answer: Items | Bracketed) -> bool:
    """A tuple and a list: the same values in the same order.

    What can be an interval is a tuple only where the list names the values.
    """
    pair, listed = (gold, answer) if isinstance(gold, Bracketed) else (answer, gold)
    assert isinstance(pair, Bracketed) and isinstance(listed, Items)
    has_names = all(isinstance(item, Relation) for item in listed.items)
    is_tuple = pair.brackets == "()" and (has_names or as_region(pair) is None)
    return is_tuple and not listed.braces and _all_same(gold.items, answer.items)


def _items(gold: Items, answer: Items) -> bool:
    """The same answers in any order; in that of the gold answer if only those have names."""
    golds, answers = list(gold.items), list(answer.items)
    if len(answers) > 4 * len(golds):  # repeated or not
        return False
    if gold.braces or answer.braces or len(answers) > len(golds) == len(_distinct(golds)):
        golds, answers = _distinct(golds), _distinct(answers)
    if len(set(map(_label, golds))) > 1 and not any(map(_label, answers)):
        return not answer.braces and _all_same(golds, answers)
    for item in golds:
        place = next((i for i, other in enumerate(answers) if same(item, other)), None)
        if place is None:
            return False
        answers.pop(place)
    return not answers


def _distinct(items: list[Answer]) -> list[Answer]:
    kept: list[Answer] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _label(item: Answer) -> object:
    """What tells an item of a list from another: the name or unit of its value."""
    if isinstance(item, Relation):
        return _name(item)
    return item.unit if isinstance(item, Quantity) else None


def _times(gold: Time, answer: Time) -> bool:
    """Without its half of the day a gold time is in either; an answer is of 24 hours."""
    day = 86400 if gold.half or not answer.half else 43200
    return (gold.seconds - answer.seconds) % day == 0


def _ratios(gold: Ratio | Time, answer: Ratio | Time) -> bool:
    golds, terms = _terms(gold), _terms(answer)
    pairs = zip(pairwise(golds), pairwise(terms), strict=False)
    return len(golds) == len(terms) > 1 and all(
        equal(("*", a, d), ("*", b, c)) for (a, b), (c, d) in pairs
    )


def _terms(answer: Ratio | Time) -> tuple[Tree, ...]:
    """The terms of a ratio, as 4:30 may be one; 11:05 and what says a.m. is none."""
    if isinstance(answer, Ratio):
        return answer.terms
    minutes, seconds = divmod(answer.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return () if answer.half or seconds or minutes < 10 else (number(hours), number(minutes))


def _quotient(gold: Ratio | Time, answer: Quantity) -> bool:
    terms = _terms(gold)
    return len(terms) == 2 and answer.unit is None and equal(("/", *terms), answer.tree)


def _based(gold: Based, answer: Based) -> bool:
    return gold.base == answer.base and gold.digits.lstrip("0") == answer.digits.lstrip("0")


def _without_base(based: Based, bare: Quantity) -> bool:
    """Digits without their base, which the problem names."""
    return based.digits.isdigit() and exact(bare.tree) == Fraction(based.digits) and not bare.unit


def _matrices(gold: Matrix, answer: Matrix) -> bool:
    return len(gold.rows) == len(answer.rows) and all(map(_all_same, gold.rows, answer.rows))


def _combined(gold: Combined, answer: Combined) -> bool:
    """Sets whose ends are no numbers: the same operation on the same sets."""
    if gold.operation != answer.operation or gold.operation == "∖":
        return gold.operation == answer.operation and _all_same(gold.operands, answer.operands)
    return _items(Items(_flat(gold)), Items(_flat(answer)))


def _pieces(gold: Combined, answer: Items) -> bool:
    """A set, and its pieces one by one."""
    return not answer.braces and same(gold, Combined("∪", answer.items))


def _restated(gold: Quantity, answer: Items) -> bool:
    """A number written in several ways, as 1/2 or 0.5; not several values that are equal."""
    return all(isinstance(item, Quantity) and same(gold, item) for item in answer.items)


def _flat(combined: Combined) -> tuple[Answer, ...]:
    operands: list[Answer] = []
    for operand in combined.operands:
        is_more = isinstance(operand, Combined) and operand.operation == combined.operation
        operands += _flat(operand) if is_more and isinstance(operand, Combined) else [operand]
    return tuple(operands)


_RULES: dict[tuple[type, type], Callable[[Any, Any], bool]] = {
    (Text, Text): lambda gold, answer: gold == answer,
    (Named, Named): lambda gold, answer: gold == answer,
    (Quantity, Quantity): _quantities,
    (Quantity, Items): _restated,
    (Bracketed, Bracketed): _brackets,
    (Bracketed, Items): _in_order,
    (Items, Bracketed): _in_order,
    (Items, Items): _items,
    (Time, Time): _times,
    (Time, Ratio): _ratios,
    (Ratio, Time): _ratios,
    (Ratio, Ratio): _ratios,
    (Time, Quantity): _quotient,
    (Ratio, Quantity): _quotient,
    (Quantity, Ratio): lambda gold, answer: _quotient(answer, gold),
    (Based, Based): _based,
    (Based, Quantity): _without_base,
    (Quantity, Based): lambda gold, answer: answer.base == 10 and _without_base(answer, gold),
    (Matrix, Matrix): _matrices,
    (Combined, Combined): _combined,
    (Combined, Items): _pieces,
}
