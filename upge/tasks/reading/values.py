r"""What an expression is worth: exactly, where it is rational, else to many digits at some points.

An expression is a tree of tuples:

- ``("number", value, places)``: a Fraction, and how many digits stand after its point, if any do;
- ``("symbol", name)``;
- ``("+" | "*", …)``, ``("/" | "^", left, right)``, ``("-", operand)``;
- ``(name, …)``: a function of the operands. One that is not worked out here, as a sum or a function
  f of the problem's, has a value that depends on its name and its operands' values alone.

Two expressions are the same if their values are, to 80 digits, at several points; symbols are
positive numbers drawn by their names. Nothing is expanded or simplified, so the time is bounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial, prod
from threading import local
from typing import Any

from upge.tasks.reading.lexer import TooMuch
from upge.tasks.reading.units import names

Tree = tuple[Any, ...]

#: The largest number that is worked out, in bits, and the largest whose factorial is exactly.
BITS = 20_000
_FACTORIAL = 1000

#: Digits that values are worked out to, of which so many have to agree.
_DIGITS, _AGREEING = 120, 80

#: Points at which expressions with symbols are compared.
_POINTS = 4

CONSTANTS = ("pi", "e", "i", "infty")


def number(value: int | str | Fraction) -> Tree:
    """A number as a tree."""
    return ("number", Fraction(value), None)


def symbols(tree: Tree) -> set[str]:
    """The names of the symbols in a tree that are no constants."""
    if tree[0] == "symbol":
        return set() if tree[1] in CONSTANTS else {tree[1]}
    return set().union(*(symbols(operand) for operand in tree[1:] if isinstance(operand, tuple)))


# -------------------------------------------------------------------------------------------- exact


def exact(tree: Tree) -> Fraction | None:
    """The value of a tree that is rational by its arithmetic alone; None for any other.

    Raises:
        TooMuch: a number is too large.
    """
    if tree[0] == "number":
        value: Fraction = tree[1]
        return value
    rule = _EXACT.get(tree[0])
    operands = [exact(operand) for operand in tree[1:]] if rule else [None]
    if rule is None or None in operands:
        return None
    result = rule(*operands)
    if result is not None and _bits(result) > BITS:
        raise TooMuch("a number")
    return result


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        root = _root(base, Fraction(exponent.denominator)) if base >= 0 else None
        return None if root is None else _power(root, Fraction(exponent.numerator))
    if abs(base) == 1:
        return base ** int(exponent % 2)
    if base == 0 and exponent < 0:
        return None
    if abs(exponent) * _bits(base) > BITS:
        raise TooMuch("a power")
    return base ** int(exponent)


def _root(base: Fraction, degree: Fraction) -> Fraction | None:
    if degree not in (2, 3, 4, 5, 6) or (base < 0 and degree % 2 == 0):
        return None
    top, bottom = (
        _whole_root(part, int(degree)) for part in (abs(base.numerator), base.denominator)
    )
    if top is None or bottom is None:
        return None
    return Fraction(top if base >= 0 else -top, bottom)


def _whole_root(value: int, degree: int) -> int | None:
    if value.bit_length() > 1000:
        return None
    mp = _context(400)
    guess = int(mp.nint(mp.root(value, degree)))
    return guess if guess**degree == value else None


def _factorial(value: Fraction) -> Fraction | None:
    is_whole = value.denominator == 1 and 0 <= value <= _FACTORIAL
    return Fraction(factorial(int(value))) if is_whole else None


def _choose(n: Fraction, k: Fraction) -> Fraction | None:
    are_whole = n.denominator == k.denominator == 1 and 0 <= k <= n <= _FACTORIAL
    return Fraction(comb(int(n), int(k))) if are_whole else None


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


def _context(digits: int) -> Any:
    """Arithmetic to so many digits, of this thread."""
    contexts: dict[int, Any] = _here.__dict__.setdefault("contexts", {})
    if digits not in contexts:
        import mpmath  # takes a while

        contexts[digits] = mpmath.MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


class _Undefined(Exception):
    """There is no value at a point."""


def _value(tree: Tree, point: int = 0, signed: bool = False, digits: int = _DIGITS) -> Any:
    """The value of a tree at a point, where symbols are positive, or of either sign if ``signed``.

    Raises:
        TooMuch: a number is too large.
        _Undefined: there is none.
    """
    mp = _context(digits)
    if tree[0] == "number":
        return mp.mpf(tree[1].numerator) / tree[1].denominator
    if tree[0] == "symbol":
        return _symbol(mp, tree[1], point, signed)
    operands = [_value(operand, point, signed, digits) for operand in tree[1:]]
    try:
        result = _NUMERIC.get(tree[0], _unknown(tree[0]))(mp, *operands)
    except (ArithmeticError, ValueError, mp.NoConvergence) as error:
        raise _Undefined from error
    if not mp.isfinite(result):
        raise _Undefined
    if result and abs(mp.mag(result)) > BITS:
        raise TooMuch("a number")
    return result


def _symbol(mp: Any, name: str, point: int, signed: bool) -> Any:
    if name == "infty":
        raise _Undefined
    if name in CONSTANTS:
        return mp.mpc(0, 1) if name == "i" else +getattr(mp, name)
    drawn = _drawn(mp, f"{name} {point}")
    return -drawn if signed and _drawn(mp, f"sign {name} {point}") < 1.25 else drawn


def _drawn(mp: Any, name: str) -> Any:
    """A number between 1/2 and 2, by a name."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])
    return mp.mpf(1) / 2 + mp.mpf(3 * digest) / mp.mpf(2**129)


def _unknown(name: str) -> Callable[..., Any]:
    """A function whose value depends on its name and its operands' values alone."""
    return lambda mp, *operands: _drawn(mp, " ".join([name, *(mp.nstr(o, 40) for o in operands)]))


def _numeric_power(mp: Any, base: Any, exponent: Any) -> Any:
    if base and abs(mp.mag(base) or 1) * (abs(exponent) + 1) > BITS:
        raise TooMuch("a power")
    return mp.power(base, exponent)


def _numeric_root(mp: Any, base: Any, degree: Any) -> Any:
    """A root: of a negative number the real one, if it has one."""
    if mp.im(base) == 0 and mp.re(base) < 0 and degree % 2 == 1:
        return -_numeric_power(mp, -base, 1 / degree)
    return _numeric_power(mp, base, 1 / degree)


def _of_moderate(function: str) -> Callable[..., Any]:
    """A function of what is not too large: its value or its work would be."""

    def rule(mp: Any, *operands: Any) -> Any:
        if any(abs(operand) > BITS for operand in operands):
            raise TooMuch(function)
        return getattr(mp, function)(*operands)

    return rule


_NUMERIC: dict[str, Callable[..., Any]] = {
    "+": lambda mp, *terms: sum(terms),
    "*": lambda mp, *factors: prod(factors),
    "/": lambda mp, a, b: a / b,
    "-": lambda mp, a: -a,
    "^": _numeric_power,
    "root": _numeric_root,
    "log": lambda mp, a, base: mp.log(a) / mp.log(base),
    "ln": lambda mp, a: mp.log(a),
    "abs": lambda mp, a: abs(a),
    "°": lambda mp, a: a * mp.pi / 180,
    "!": _of_moderate("factorial"),
    "binomial": _of_moderate("binomial"),
    **{name: _of_moderate(name) for name in names("exp sin cos tan cot sec csc sinh cosh tanh")},
    **{f"arc{name}": _of_moderate(f"a{name}") for name in names("sin cos tan")},
}


def real(tree: Tree) -> Fraction | None:
    """The real value of a tree without symbols, to 80 digits; None if it has none."""
    if symbols(tree) or not _is_worked_out(tree):
        return None
    value = exact(tree)
    if value is not None:
        return value
    try:
        numeric = _value(tree)
    except _Undefined:
        return None
    mp = _context(_AGREEING)
    is_real = abs(mp.im(numeric)) <= abs(numeric) * mp.mpf(10) ** -_AGREEING
    return Fraction(mp.nstr(mp.re(numeric), _AGREEING)) if is_real else None


def _is_worked_out(tree: Tree) -> bool:
    """Whether all its functions are worked out here."""
    if tree[0] in ("number", "symbol"):
        return True
    return tree[0] in _NUMERIC and all(map(_is_worked_out, tree[1:]))


# -------------------------------------------------------------------------------------------- equal


def equal(left: Tree, right: Tree) -> bool:
    """Whether two expressions are the same.

    Raises:
        TooMuch: a number is too large.
    """
    if left == right:
        return True
    a, b = exact(left), exact(right)
    if a is not None and b is not None:
        return a == b or _rounds(left, right) or _rounds(right, left)
    if not symbols(left) and not symbols(right):
        return bool(_same_at(left, right, 0)) or _rounds(left, right) or _rounds(right, left)
    signs = (False, True) if _has_absolute(left) or _has_absolute(right) else (False,)
    agree = [_same_at(left, right, 0, signed) for signed in signs]
    if False not in agree:
        agree += [_same_at(left, right, i, signed) for i in range(1, _POINTS) for signed in signs]
    return False not in agree and agree.count(True) >= _POINTS // 2


def _has_absolute(tree: Tree) -> bool:
    return tree[0] == "abs" or any(_has_absolute(part) for part in tree if isinstance(part, tuple))


def _same_at(left: Tree, right: Tree, point: int, signed: bool = False) -> bool | None:
    """Whether two values are the same; None where one has none."""
    mp = _context(_DIGITS)
    try:
        a, b = _value(left, point, signed), _value(right, point, signed)
        size = max(abs(a), abs(b))
        if abs(a - b) <= size * mp.mpf(10) ** -_AGREEING:
            return True
        if size > mp.mpf(10) ** (_AGREEING - _DIGITS):
            return False
        # Both are near 0: what is 0 but for rounding shrinks with more digits.
        c, d = (_value(tree, point, signed, 2 * _DIGITS) for tree in (left, right))
        return bool(max(abs(c), abs(d)) <= size * mp.mpf(10) ** (-_DIGITS // 2))
    except _Undefined:
        return None


def _rounds(decimal: Tree, other: Tree) -> bool:
    """Whether a decimal of at least six places and six digits is another number, rounded.

    Not if that one is as short as to be written itself.
    """
    sign = 1
    while decimal[0] == "-":
        decimal, sign = decimal[1], -sign
    if decimal[0] != "number" or decimal[2] is None or not 6 <= decimal[2] <= 300:
        return False
    value, rounded, unit = real(other), sign * decimal[1], Fraction(1, 10 ** decimal[2])
    ends = exact(other) is not None and _ends(exact(other))
    enough = abs(rounded) >= 10**5 * unit
    return value is not None and enough and not ends and abs(value - rounded) * 2 <= unit


def _ends(value: Fraction | None) -> bool:
    """Whether a number's decimals end."""
    rest = value.denominator if value is not None else 3
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def proportional(left: Tree, right: Tree, positive: bool) -> bool:
    """Whether an expression with symbols is a constant times another, a positive one if asked.

    Raises:
        TooMuch: a number is too large.
    """
    if symbols(left) != symbols(right):
        return False
    mp, ratios = _context(_DIGITS), []
    for point in range(2 * _POINTS):
        try:
            ratios.append(_value(left, point, True) / _value(right, point, True))
        except (_Undefined, ZeroDivisionError):
            continue
    if len(ratios) < _POINTS or not ratios[0] or (positive and mp.re(ratios[0]) < 0):
        return False
    near = abs(ratios[0]) * mp.mpf(10) ** -_AGREEING
    return all(abs(ratio - ratios[0]) <= near for ratio in ratios)
