"""What the estimator's components have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

from upge.common.errors import UpgeError


@dataclass(frozen=True)
class Component:
    """A part of the estimator: a function of the batch with named options.

    Attributes:
        latex: the component as Table 1 of the paper (arXiv 2509.04419) would print it.
        text: the same in plain characters.
        choices: what the formula leaves open, as this package decides it, with the origin.
        needs: the optional batch fields it reads.
    """

    latex: ClassVar[str]
    text: ClassVar[str]
    choices: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def label(self) -> str:
        """The component's name with its options, for messages and tables."""
        options = ", ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))
        return f"{type(self).__name__}({options})" if options else type(self).__name__


def _number(component: Component, name: str) -> float:
    value = getattr(component, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UpgeError(f"{type(component).__name__}.{name}: got {value!r}, wanted a number")
    return value


def at_least(component: Component, low: float, *names: str) -> None:
    """Refuse options of ``component`` below ``low``, or NaN; infinity stands for no bound."""
    for name in names:
        value = _number(component, name)
        if not value >= low:
            raise UpgeError(
                f"{type(component).__name__}.{name}: got {value}, wanted a number ≥ {low:g}"
            )


def positive(component: Component, *names: str) -> None:
    """Refuse options of ``component`` that are not finite and above 0."""
    for name in names:
        value = _number(component, name)
        if not 0 < value < math.inf:
            raise UpgeError(
                f"{type(component).__name__}.{name}: got {value}, wanted a finite number > 0"
            )


def between(component: Component, low: float, high: float, *names: str) -> None:
    """Refuse options of ``component`` outside [low, high], or NaN."""
    for name in names:
        value = _number(component, name)
        if not low <= value <= high:
            raise UpgeError(
                f"{type(component).__name__}.{name}: got {value}, wanted a number from {low:g} "
                f"to {high:g}"
            )
