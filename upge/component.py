"""What the estimator's components have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

from upge.common.errors import UpgeError, unknown


class Range(NamedTuple):
    """The numbers from ``low`` to ``high``; without both ends if ``is_open``."""

    low: float
    high: float = math.inf
    is_open: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low < value < self.high if self.is_open else self.low <= value <= self.high

    def __str__(self) -> str:
        if self.is_open:
            return f"a finite number > {self.low:g}"
        bound = math.isfinite(self.high)
        return (
            f"a number from {self.low:g} to {self.high:g}" if bound else f"a number ≥ {self.low:g}"
        )


AT_LEAST_0, POSITIVE, UNIT = Range(0), Range(0, is_open=True), Range(0, 1)

#: What each option of a component may be: a range, or one of several values.
Limits = Mapping[str, Range | tuple[object, ...]]


@dataclass(frozen=True)
class Component:
    """A part of the estimator: a function of the batch with named options.

    Attributes:
        symbol: how Table 1 of the paper (arXiv 2509.04419) writes it, in plain characters.
        choices: what the formula leaves open, as decided here, each with its origin.
        needs: the optional batch fields it reads.
        limits: of its options.
    """

    symbol: ClassVar[str] = ""
    choices: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    limits: ClassVar[Limits] = {}

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            value, option = getattr(self, name), f"{type(self).__name__}.{name}"
            if value in limit:
                continue
            if isinstance(limit, Range):
                raise UpgeError(f"{option}: got {value!r}, wanted {limit}")
            raise unknown(option, value, map(str, limit))

    @property
    def text(self) -> str:
        """:attr:`symbol`, where that depends on no option."""
        return self.symbol

    @property
    def label(self) -> str:
        """The component's name with its options, as code."""
        options = ", ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))
        return f"{type(self).__name__}({options})" if options else type(self).__name__
