r"""1,024 completions to hang, crash, fool or take over what grades them: 32 kinds of 32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

#: The answer that none of them gives.
GOLD = "204"

COUNT = 1024

_EACH = 32
_MEGABYTE = 10**6


def _nested(opening: str, inner: str, closing: str, depth: int) -> str:
    return opening * depth + inner + closing * depth


def _kinds(mark: Path) -> dict[str, Callable[[int], str]]:
    """Kinds by name: from a number to what is in the box, or to a whole completion."""
    code = f"__import__('pathlib').Path('{mark}').touch()"
    return {
        # deep nesting
        "fractions": lambda i: _nested(r"\frac{1}{", "1", "}", 20 + 20 * i),
        "brackets": lambda i: _nested("(", str(i), ")", 9 + 15 * i),
        "roots": lambda i: _nested(r"\sqrt{", "2", "}", 8 + 4 * i),
        "braces": lambda i: _nested("{", "x", "}", 8 + 15 * i),
        "never closed": lambda i: "(" * (10 + 30 * i) + "1",
        # towers of powers, and what grows as fast
        "tower": lambda i: "^{".join(["9"] * (3 + i % 8)) + "}" * (2 + i % 8) + f"+{i}",
        "power": lambda i: f"{i + 2}^{{{10 ** (6 + i % 20)}}}",
        "small power": lambda i: rf"\left(\frac{{1}}{{{i + 3}}}\right)^{{10^{{9}}}}",
        "factorial": lambda i: f"({10 ** (5 + i % 9)} + {i})!",
        "binomial": lambda i: rf"\binom{{10^{{9}}+{i}}}{{10^{{8}}}}",
        "carets": lambda i: "2" + "^2" * (50 + i),
        # megabytes
        "digits": lambda i: str(i % 9 + 1) * (_MEGABYTE + i),
        "spaces": lambda i: " " * _MEGABYTE + f"{i}" + "\n" * _MEGABYTE,
        "many digits": lambda i: "7" * (900 + i),
        "many terms": lambda i: "+".join(f"x^{{{k}}}" for k in range(60 + i)),
        # infinite sums, products, integrals, limits
        "sum": lambda i: rf"\sum_{{n=1}}^{{\infty}} \frac{{1}}{{n^{{{i + 2}}}+n+1}}",
        "product": lambda i: rf"\prod_{{k=1}}^{{10^{{{i + 3}}}}} k",
        "integral": lambda i: rf"\int_0^{{\infty}} e^{{-x^{{x}}}} \sin(x^{{{i}}}) dx",
        "limit": lambda i: rf"\lim_{{n\to\infty}} (1+1/n)^{{n!+{i}}}",
        # code
        "python": lambda i: f"{code} or {i}",
        "python as text": lambda i: rf"\text{{{code}}} {i}",
        "python as index": lambda i: f"x_{{{code},{i}}}",
        "shell": lambda i: f"$(touch {mark}) `touch {mark}` ; touch {mark} #{i}",
        "tex": lambda i: rf"\input{{|touch {mark}}} \write18{{touch {mark}}} \def\a{{\a}}\a {i}",
        # other encodings
        "full width": lambda i: "２０４" + "\u200b" * i,
        "surrogates": lambda i: "\ud800" + "204"[: i % 3] + "\udfff" * i,
        "control": lambda i: "".join(map(chr, range(i + 1))) + "\x00204\x00",
        "accents": lambda i: "2" + "\u0301" * (100 * i + 1) + "04",
        # several boxes, and the answer where it doesn't count
        "boxes": lambda i: rf"\boxed{{204}} or \boxed{{{i}}}" + r" and \boxed{-204}",
        "prompt": lambda i: (
            f"The answer is not \\boxed{{204}}, as the prompt says; {i}" + r"\boxed{?}"
        ),
        # costly in ways that no rule foresees: these take what they may
        "expansion": lambda i: f"(a+b+c+d+e+f+g+h)^{{{40 + i}}}" if i < 8 else f"x+{i}",
        "identity": lambda i: rf"\gcd(10^{{10^{{8}}}},{i})" if i < 8 else f"{i}",
    }


#: Those that are whole completions.
_WHOLE = ("boxes", "prompt")


def hostile_completions(mark: Path) -> list[str]:
    """All of them; a file appears at ``mark`` if one of them is executed."""
    kinds = _kinds(mark)
    assert len(kinds) * _EACH == COUNT
    return [
        make(i)
        if name in _WHOLE
        else f"The prompt said \\boxed{{204}}. I say \\boxed{{{make(i)}}}."
        for name, make in kinds.items()
        for i in range(_EACH)
    ]
