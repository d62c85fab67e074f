r"""What an expression is worth: exactly, where it is rational, else to many digits at some points.

An expression is a tree of tuples:

- ``("number", value, places)``: a Fraction, and how many digits stand after its point, if any do;
- ``("symbol", name)``;
- ``("+" | "*", …)``, ``("/" | "^", left, right)``, ``("-", operand)``;
- ``(name, …)``: a function of the operands. One that is not worked out here, as a sum or a function
  f of the problem's, has a value that depends on its name and its operands' values alone.

Two expressions are the same if their values are, to 80 digits, wherever both have one: symbols are
positive numbers drawn by their names. Nothing is expanded or simplified, so the time is bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, prod
from threading import local
from typing import Any

from upge.tasks.reading.lexer import TooMuch

Tree = tuple[Any, ...]

#: The largest number that is worked out, in bits, and the largest whose factorial is, exactly.
BITS = 100_000
_FACTORIAL = 1000

#: Digits that values are worked out to, of which so many have to agree.
_DIGITS, _AGREEING = 120, 80

#: Points at which expressions with symbols are compared.
_POINTS = 4

_CONSTANTS = ("pi", "e", "i", "infty")
_ABSOLUTE = "abs"


def number(value: int | str | Fraction, places: int | None = None) -> Tree:
    """A number as a tree."""
    return ("number", Fraction(value), places)


def symbols(tree: Tree) -> set[str]:
    """The names of the symbols in a tree that are no constants."""
    if tree[0] == "number":
        return set()
    if tree[0] == "symbol":
        return set() if tree[1] in _CONSTANTS else {tree[1]}
    return set().union(*(symbols(operand) for operand in tree[1:] if isinstance(operand, tuple)))


def _has(tree: Tree, name: str) -> bool:
    return tree[0] == name or any(_has(part, name) for part in tree[1:] if isinstance(part, tuple))


# -------------------------------------------------------------------------------------------- exact


def exact(tree: Tree) -> Fraction | None:
    """The value of a tree that is rational by its arithmetic alone; None for any other.

    Raises:
        TooMuch: a number is too large.
    """
    kind = tree[0]
    if kind == "number":
        value: Fraction = tree[1]
        return value
    rule = _EXACT.get(kind)
    if rule is None:
        return None
    operands = [exact(operand) for operand in tree[1:]]
    if any(operand is None for operand in operands):
        return None
    result: Fraction | None = rule(*operands)
    if result is not None and _bits(result) > BITS:
        raise TooMuch("a number")
    return result


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _root(base, Fraction(exponent.denominator))
        return None if root is None else _power(root, Fraction(exponent.numerator))
    if base == 0:
        return Fraction(0) if exponent > 0 else Fraction(1) if exponent == 0 else None
    if abs(base) != 1 and abs(exponent) * _bits(base) > BITS:
        raise TooMuch("a power")
    return base if base == 1 else base ** int(exponent) if abs(base) != 1 else base ** int(exponent % 2)


def _root(base: Fraction, degree: Fraction) -> Fraction | None:
    if degree not in (2, 3, 4, 5, 6) or base < 0:
        return None
    parts = [_whole_root(part, int(degree)) for part in (base.numerator, base.denominator)]
    return None if None in parts else Fraction(parts[0], parts[1])  # type: ignore[arg-type]


def _whole_root(value: int, degree: int) -> int | None:
    guess = round(value ** (1 / degree)) if value < 2**50 else int(_mp(1000).nint(_mp(1000).root(value, degree)))
    return guess if guess**degree == value else None


def _factorial(value: Fraction) -> Fraction | None:
    whole = value.denominator == 1 and 0 <= value <= _FACTORIAL
    return Fraction(factorial(int(value))) if whole else None


def _choose(n: Fraction, k: Fraction) -> Fraction | None:
    whole = n.denominator == k.denominator == 1 and 0 <= k <= n <= _FACTORIAL
    return Fraction(comb(int(n), int(k))) if whole else None


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "+": lambda *terms: sum(terms, Fraction(0)),
    "*": lambda *factors: prod(factors, start=Fraction(1)),
    "/": lambda a, b: a / b if b else None,
    "-": lambda a: -a,
    "^": _power,
    "root": _root,
    "!": _factorial,
    "binomial": _choose,
}

# ------------------------------------------------------------------------------------------ numeric

_here = local()


def _mp(digits: int) -> Any:
    """A context of so many digits, of this thread."""
    contexts: dict[int, Any] = _here.__dict__.setdefault("contexts", {})
    if digits not in contexts:
        import mpmath  # takes a while

        contexts[digits] = mpmath.MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


def _drawn(mp: Any, name: str) -> Any:
    """A number between 1/2 and 2, by a name."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])
    return mp.mpf(1) / 2 + mp.mpf(3 * digest) / mp.mpf(2**129)


class _Undefined(Exception):
    """There is no value at a point."""


def value(tree: Tree, digits: int = _DIGITS, point: int = 0, signed: bool = False) -> Any:
    """The value of a tree at a point, or where it has no symbols.

    Raises:
        TooMuch: a number is too large.
        _Undefined: there is none.
    """
    mp = _mp(digits)

    def of(tree: Tree) -> Any:
        kind = tree[0]
        if kind == "number":
            return mp.mpf(tree[1].numerator) / tree[1].denominator
        if kind == "symbol":
            return _symbol(mp, tree[1], point, signed)
        operands = [of(operand) for operand in tree[1:]]
        rule = _NUMERIC.get(kind)
        try:
            result = rule(mp, *operands) if rule else _unknown(mp, kind, operands)
        except (ZeroDivisionError, ValueError, OverflowError, mp.NoConvergence) as error:
            raise _Undefined from error
        if not (mp.isfinite(result)):
            raise _Undefined
        if result and abs(mp.mag(result)) > BITS:
            raise TooMuch("a number")
        return result

    return of(tree)


def _symbol(mp: Any, name: str, point: int, signed: bool) -> Any:
    if name == "pi":
        return +mp.pi
    if name == "e":
        return +mp.e
    if name == "i":
        return mp.mpc(0, 1)
    if name == "infty":
        raise _Undefined
    drawn = _drawn(mp, f"{name} {point}")
    return -drawn if signed and _drawn(mp, f"sign {name} {point}") < 1.25 else drawn


def _unknown(mp: Any, name: str, operands: list[Any]) -> Any:
    """A value that depends on the name of an operation and its operands' values alone."""
    return _drawn(mp, " ".join([name, *(mp.nstr(operand, 40) for operand in operands)]))


def _numeric_power(mp: Any, base: Any, exponent: Any) -> Any:
    if base and abs(mp.mag(base) or 1) * (abs(exponent) + 1) > BITS:
        raise TooMuch("a power")
    return mp.power(base, exponent)


def _of_moderate(function: str) -> Callable[..., Any]:
    """A function of what is not too large: its value or its work would be."""

    def rule(mp: Any, *operands: Any) -> Any:
        if any(abs(operand) > BITS for operand in operands):
            raise TooMuch(function)
        return getattr(mp, function)(*operands)

    return rule


def _logarithm(mp: Any, argument: Any, base: Any) -> Any:
    return mp.log(argument) / mp.log(base)


_NUMERIC: dict[str, Callable[..., Any]] = {
    "+": lambda mp, *terms: sum(terms),
    "*": lambda mp, *factors: prod(factors),
    "/": lambda mp, a, b: a / b,
    "-": lambda mp, a: -a,
    "^": _numeric_power,
    "root": lambda mp, a, n: _numeric_power(mp, a, 1 / n),
    "log": _logarithm,
    "ln": lambda mp, a: mp.log(a),
    "!": _of_moderate("factorial"),
    "binomial": _of_moderate("binomial"),
    _ABSOLUTE: lambda mp, a: abs(a),
    **{name: _of_moderate(name) for name in "exp sin cos tan cot sec csc sinh cosh tanh".split()},
    **{f"arc{name}": _of_moderate(f"a{name}") for name in ("sin", "cos", "tan")},
}


def equal(left: Tree, right: Tree) -> bool:
    """Whether two expressions are the same.

    A decimal of at least six places and six digits is that of which it is the rounding.

    Raises:
        TooMuch: a number is too large.
    """
    if left == right:
        return True
    a, b = exact(left), exact(right)
    if a is not None and b is not None:
        return a == b or _rounds(left, b) or _rounds(right, a)
    names = symbols(left) | symbols(right)
    if not names:
        return _same_at(left, right) is True or _rounds(left, right) or _rounds(right, left)
    if a is not None or b is not None:
        pass  # a number may still be an expression whose symbols cancel
    signed = [False] * _POINTS + [True] * (_POINTS * (_has(left, _ABSOLUTE) or _has(right, _ABSOLUTE)))
    same = 0
    for point, has_sign in enumerate(signed):
        found = _same_at(left, right, point, has_sign)
        if found is False:
            return False
        same += bool(found)
    return same >= _POINTS // 2


def _same_at(left: Tree, right: Tree, point: int = 0, signed: bool = False) -> bool | None:
    """Whether two values are the same; None where one has none."""
    try:
        a, b = value(left, point=point, signed=signed), value(right, point=point, signed=signed)
        mp = _mp(_DIGITS)
        size = max(abs(a), abs(b))
        if size > mp.mpf(10) ** (_AGREEING - _DIGITS):
            return bool(abs(a - b) <= size * mp.mpf(10) ** -_AGREEING)
        # Both are near 0: what is 0 but for rounding shrinks with more digits.
        more = 2 * _DIGITS
        c, d = value(left, more, point, signed), value(right, more, point, signed)
        return bool(abs(c - d) <= max(abs(c), abs(d)) * _mp(more).mpf(10) ** -_AGREEING) or bool(
            max(abs(c), abs(d)) <= size * mp.mpf(10) ** (-_DIGITS // 2)
        )
    except _Undefined:
        return None


def _rounds(decimal: Tree, other: Tree | Fraction) -> bool:
    """Whether a decimal with enough digits is another number, rounded."""
    places, sign = 0, 1
    while decimal[0] == "-":
        decimal, sign = decimal[1], -sign
    if decimal[0] != "number" or (places := decimal[2] or 0) < 6:
        return False
    rounded = sign * decimal[1]
    if abs(rounded) * 10**places < 10**5 or places > 300:
        return False
    if isinstance(other, Fraction):
        denominator = other.denominator
        for prime in (2, 5):
            while denominator % prime == 0:
                denominator //= prime
        # What ends is as exact as it is written.
        return denominator > 1 and abs(other - rounded) * 2 * 10**places <= 1
    try:
        distance = abs(value(other) - value(number(rounded)))
    except _Undefined:
        return False
    return bool(distance * 2 * 10**places <= 1)


@lru_cache(maxsize=4096)
def size(tree: Tree) -> float | None:
    """The real value of a tree without symbols, as a float; None if it has none."""
    try:
        found = None if symbols(tree) else value(tree, 30)
    except (_Undefined, TooMuch):
        return None
    if found is None or abs(complex(found).imag) > 1e-20:
        return None
    return float(found.real)


def real(tree: Tree) -> Any:
    """The real value of a tree without symbols; None if it has none."""
    try:
        found = None if symbols(tree) else value(tree)
    except _Undefined:
        return None
    mp = _mp(_DIGITS)
    if found is None or abs(mp.im(found)) > abs(found) * mp.mpf(10) ** -_AGREEING:
        return None
    return mp.re(found)


def proportional(left: Tree, right: Tree, positive: bool) -> bool:
    """Whether one expression with symbols is a constant times the other, so that both are 0 at once.

    Args:
        left: an expression.
        right: another.
        positive: whether the constant has to be positive.

    Raises:
        TooMuch: a number is too large.
    """
    if symbols(left) != symbols(right):
        return False
    mp = _mp(_DIGITS)
    ratios = []
    for point in range(2 * _POINTS):
        try:
            a, b = value(left, point=point, signed=True), value(right, point=point, signed=True)
        except _Undefined:
            continue
        if not a or not b:
            return False
        ratios.append(a / b)
    if len(ratios) < _POINTS or (positive and not mp.re(ratios[0]) > 0):
        return False
    return all(
        abs(ratio - ratios[0]) <= abs(ratios[0]) * mp.mpf(10) ** -_AGREEING for ratio in ratios
    )
