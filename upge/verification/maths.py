"""The maths of twins and published losses: over sympy's expressions, and over plain numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Protocol

import sympy

Scalar = Any  #: a sympy expression, or a float


class Where(sympy.Function):  # type: ignore[misc]
    """``yes`` where gap > 0, ``no`` where gap < 0; at gap = 0 nothing is claimed.

    sympy's Piecewise would do, were it not for the simplifications it tries on its own.
    """

    nargs = 3

    @classmethod
    def eval(cls, gap: Scalar, yes: Scalar, no: Scalar) -> Scalar | None:
        """Drop a choice that is none."""
        if yes == no:
            return yes
        if gap.is_number:
            return yes if gap > 0 else no
        return None

    def _eval_derivative(self, symbol: Scalar) -> Scalar:
        gap, yes, no = self.args
        return Where(gap, yes.diff(symbol), no.diff(symbol))


def exact(x: Scalar) -> Scalar:
    """The expression with every decimal (0.2, 3e-4) as the fraction that is meant."""
    if isinstance(x, float):
        return fraction(x)
    x = sympy.sympify(x)
    return x.xreplace({number: fraction(float(number)) for number in x.atoms(sympy.Float)})


def fraction(x: float) -> Scalar:
    """The fraction that a decimal was meant to be; the nearest of the floats' own if none is."""
    near = Fraction(x).limit_denominator(10**6)
    meant = near if math.isclose(float(near), x, rel_tol=1e-12) else Fraction(x)
    return sympy.Rational(meant.numerator, meant.denominator)


class Maths(Protocol):
    """What twins calculate with."""

    def number(self, x: float) -> Scalar:
        """A component's option."""

    def exp(self, x: Scalar) -> Scalar:
        """e^x."""

    def sqrt(self, x: Scalar) -> Scalar:
        """√x."""

    def where(self, gap: Scalar, yes: Scalar, no: Scalar) -> Scalar:
        """``yes`` where gap > 0, else ``no``."""


class SymbolicOps:
    """sympy for twins (:class:`Maths`) and for published losses (``published.Ops``)."""

    def __init__(self) -> None:
        self._detached: dict[Scalar, Scalar] = {}

    def number(self, x: float) -> Scalar:
        """An option as a fraction."""
        return exact(x)

    def exp(self, x: Scalar) -> Scalar:
        """e^x."""
        return sympy.exp(exact(x))

    def log(self, x: Scalar) -> Scalar:
        """The natural logarithm."""
        return sympy.log(exact(x))

    def sqrt(self, x: Scalar) -> Scalar:
        """√x."""
        return sympy.sqrt(exact(x))

    def sigmoid(self, x: Scalar) -> Scalar:
        """1/(1 + e^−x)."""
        return 1 / (1 + self.exp(-x))

    def where(self, gap: Scalar, yes: Scalar, no: Scalar) -> Scalar:
        """A choice left open."""
        return Where(exact(gap), exact(yes), exact(no))

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        """The smaller one."""
        return self.where(b - a, a, b)

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        """The larger one."""
        return self.where(a - b, a, b)

    def detach(self, x: Scalar) -> Scalar:
        """A symbol of its own in the place of x, which differentiation takes for a constant."""
        stopped = sympy.Dummy("sg")
        self._detached[stopped] = self.attach(exact(x))
        return stopped

    def attach(self, x: Scalar) -> Scalar:
        """The expression with what was detached put back."""
        return x.xreplace(self._detached)


class Floats:
    """Floating-point numbers for twins."""

    def number(self, x: float) -> float:
        """An option."""
        return float(x)

    def exp(self, x: float) -> float:
        """e^x."""
        return math.exp(x)

    def sqrt(self, x: float) -> float:
        """√x."""
        return math.sqrt(x)

    def where(self, gap: float, yes: float, no: float) -> float:
        """A choice made."""
        return yes if gap > 0 else no
