"""Whether answers say the same as mathematics, by math-verify; for the grading worker.

:mod:`upge.tasks.grading_worker` loads this file by its path: it imports nothing of the package.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Pow, binomial, factorial, factorial2, gamma, postorder_traversal, subfactorial

#: The largest number that is worked out, in bits, and the largest whose factorial is.
_BITS, _FACTORIAL = 100_000, 10_000

_FACTORIALS = (binomial, factorial, factorial2, gamma, subfactorial)

#: Relative distance of numbers that are equal. math-verify's is absolute: to it 1e-27 is 0.
_DISTANCE = 1e-5


def equal(gold: str, answer: str) -> bool:
    """Whether an answer, in LaTeX, says the same as the gold answer."""
    units = _has_units(gold)
    wanted, given = _gold(gold, units), _parsed(answer, units)
    if any(map(_is_oversized, given)) or _contradicts_itself(answer, units):
        return False
    same = verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=True)
    return same and ("%" in gold + answer or _are_near(wanted, given))


def _parsed(text: str, units: bool) -> list[Any]:
    """The expression, if it is one, and the text; ``units`` are left out."""
    normalization = NormalizationConfig(
        basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="all"
    )
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)
    parsed: list[Any] = parse(f"\\boxed{{{text}}}", [config], parsing_timeout=None)
    return parsed


_gold = lru_cache(maxsize=4096)(_parsed)


@lru_cache(maxsize=4096)
def _has_units(gold: str) -> bool:
    """Whether letters behind a number can be units; not those of 6m, where m is the problem's."""
    if any(command in gold for command in ("\\text", "\\mbox", "\\mathrm", "\\%", "\\$")):
        return True
    return not any(getattr(value, "free_symbols", ()) for value in _parsed(gold, units=False))


def _is_oversized(value: Any) -> bool:
    """Whether some number in it is too large to work out; nothing is worked out to see that."""
    if isinstance(value, str):
        return False
    try:
        return any(map(_is_large, postorder_traversal(value)))
    except OverflowError:
        return True
    except (TypeError, ValueError, AttributeError):  # of no number
        return False


def _is_large(node: Any) -> bool:
    if isinstance(node, _FACTORIALS):
        return any(arg.is_number and abs(complex(arg)) > _FACTORIAL for arg in node.args)
    if not isinstance(node, Pow) or not node.is_number:
        return False
    base, exponent = abs(complex(node.base)), abs(complex(node.exp))
    return base > 0 and exponent * max(abs(math.log2(base)), 1e-9) > _BITS


#: Relative distance of numbers of which one may be the other, rounded.
_ROUNDING = 0.01

#: Numbers and what is worked out of them, without units.
_PLAIN = re.compile(
    r"(?:[\d\s.,+\-*/^(){}!]|\\(?:[dt]?frac|sqrt|cdot|times|div|left|right|pi|[,;:! ]))+"
)


def _contradicts_itself(answer: str, units: bool) -> bool:
    """Whether neighbours in a chain of equations are different numbers: math-verify reads its end.

    So that 6=5 is not 5, nor is 1=2=3=4=5.
    """
    if "=" not in answer:
        return False
    values = [_number(side, units) for side in answer.split("=")]
    return any(
        abs(a - b) > _ROUNDING * max(abs(a), abs(b))
        for a, b in pairwise(values)
        if a is not None and b is not None
    )


def _number(text: str, units: bool) -> complex | None:
    """The number that a text is, if it is one."""
    if not _PLAIN.fullmatch(text):
        return None
    values = _parsed(text, units)
    try:
        return None if any(map(_is_oversized, values)) else complex(values[0])
    except Exception:
        return None


def _are_near(wanted: list[Any], given: list[Any]) -> bool:
    """Whether two small numbers are near by their own size; what is no number passes."""
    try:
        gold, answer = complex(wanted[0]), complex(given[0])
    except Exception:
        return True
    return abs(gold) >= 1 or abs(gold - answer) <= _DISTANCE * abs(gold)


def prepare(gold: str) -> str:
    """The gold answer as :func:`equal` takes it."""
    return gold


def warm_up() -> None:
    """Have made what is made on first use, before workers are forked."""
    equal("1", "2")
