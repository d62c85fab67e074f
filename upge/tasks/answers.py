r"""The answer in a response: the last ``\boxed{…}`` that isn't empty, and how answers are written.

All of it is linear in the length of an answer, and looks at no more than :data:`LONGEST` characters
of one; nothing here evaluates anything.

Left to math-verify and to convention, so that they are worth 1: another unit than the gold answer's
(units are left out), a set for a pair of the same numbers, ``5 6`` for 56, and values as powers,
roots, logarithms, factorials, binomials or of trigonometric functions, worked out or not. Worth 0:
``50\%`` for 0.5 and for 50, as the benchmarks' percentages have their sign or no sign at will, and
digits of other scripts, or as wide as a Chinese character.
"""

from __future__ import annotations

import re

#: The longest answer that is looked at, in characters; the longest of the benchmarks has 210.
LONGEST = 1000

#: The deepest brackets in one; those of the benchmarks are 4 deep. Parsing takes exponential time.
DEEPEST = 10

#: Empty boxes from the end, at most, as in repetitions of "put your answer within \boxed{}".
_TRIES = 16

_BOX = "\\boxed"


def boxed(response: str) -> str | None:
    r"""What is in the last box that isn't empty; None if that one doesn't end, or there is none."""
    place = len(response)
    for _ in range(_TRIES):
        place = response.rfind(_BOX, 0, place)
        if place < 0:
            return None
        start = place + len(_BOX)
        answer = _braced(response[start : start + LONGEST + 2])
        if answer is None or answer.strip():
            return answer
    return None


def _braced(text: str) -> str | None:
    """What is between the brace that the text begins with and the one that closes it."""
    text = text.lstrip()
    if not text.startswith("{"):
        return None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return text[1 : brace.start()]
    return None


_TEXT = r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|mathbf)\s*\{"

#: What the answers of the benchmarks write in ways that LaTeX doesn't know, and how it would.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\$", ""),  # inside a box all is mathematics already
        (rf"^\s*({_TEXT})\s*(-?\d(?:[\d.,]*\d)?)(?=\s+[A-Za-z])", r"\2\1"),  # \text{7 apples}
        (rf"(^|[=(\[{{,;+*/-])\s*{_TEXT}\s*(-?\d[\d.,]*)\s*\}}", r"\1\2"),  # \text{7}
        (r"(?<=\d)[eE]([+-]?\d+)(?![\w{])", r" \\times 10^{\1}"),  # 4.5e33
        (r"(?<=\d)\.(?!\d)", ""),  # -1./3, and a full stop
        (r"\bnp\.(?=[a-z])", r"\\"),  # np.arcsin(10/13)
        (r"(?<!\\)%", r"\\%"),
        (r"\\(?:max|min)\s*(?=\})", "m"),  # m_{\max }
        (r"^\s*[a-zA-Z]\s*\\in(?![a-z])", ""),  # x \in [-2,7]
        # Of these math-verify makes Euler's number and the gamma function.
        (r"(?<![A-Za-z\\])E(?=_)", r"\\Xi"),
        (r"\\gamma(?![a-zA-Z_(])", r"\\xi_{g}"),
    )
]


def spelled(answer: str) -> str:
    """An answer as LaTeX."""
    for pattern, replacement in _SPELLINGS:
        answer = pattern.sub(replacement, answer)
    return answer.strip().rstrip(".").strip()


#: Spaces and sizes, which say nothing.
_SILENT = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|quad)(?![a-zA-Z])|[\s~]+")


def letters(answer: str) -> str:
    """An answer without what says nothing: equal letters are equal answers."""
    return re.sub(r"\\[dt]frac", r"\\frac", _SILENT.sub("", answer))


#: A choice, bare or in brackets, maybe with its text behind it.
_CHOICE = re.compile(
    rf"(?:{_TEXT})?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)[\s~:]+)?\(?([A-Ja-j])(?:[).:}}].*)?",
    re.DOTALL,
)
#: A small letter is one where something follows it, as in "a) 5, b) 6", or where it ends what a
#: conjunction begins: "vitamin c." is no choice.
_OTHER_CHOICE = re.compile(
    r"(?<![A-Za-z\\])(?:[A-J](?=[).:},]|\s*$)|(?:or|and)\s+\(?[a-j]\)?\s*$"
    r"|(?<=[\s,;])\(?[a-j](?=[).:]\s*[^\s)}.]))"
)


def choice(answer: str) -> str | None:
    r"""The letter of a choice, C of ``(C)``, ``Option C`` or ``C. 5 cm``; None if not just one."""
    found = _CHOICE.fullmatch(answer.strip())
    if found is None or _OTHER_CHOICE.search(answer, found.end(1)):
        return None
    return found[1].upper()


#: Texts that are more than a unit: those with a number (m/s2 has none) or another answer.
_MORE = re.compile(
    rf"{_TEXT}(?!\s*or\s*\}})[^{{}}]*(?:(?<![A-Za-z^\d])\d|(?<![A-Za-z])or(?![A-Za-z]))"
)


def says_more(answer: str, gold: str) -> bool:
    r"""Whether texts have numbers or alternatives and the gold answer's haven't.

    The verifier leaves them out as units: of ``5\text{ or 6}`` it would take 5.
    """
    return _MORE.search(answer) is not None and _MORE.search(gold) is None


#: The base of a number: 8 of 52_8.
_BASE = re.compile(r"(?<=\d)\)?_\{?(\d+)(?!\d)")


def has_base(answer: str, gold: str) -> bool:
    """Whether an answer's base, if it names one, is the gold answer's, or else 10.

    The verifier leaves bases out.
    """
    named, wanted = _BASE.findall(letters(answer)), _BASE.findall(letters(gold))
    return not named or named[-1] == (wanted or ["10"])[-1]


_D = r"(?:d|\\partial|\\mathrm\s*\{\s*d\s*\})"

#: What asks for a computation rather than giving its result, one kind an entry.
_COMPUTATIONS = [
    re.compile(pattern)
    for pattern in (
        *(
            rf"\\(?:operatorname\*?\s*\{{\s*)?{name}(?![a-zA-Z])"
            for name in ("sum", "prod", "i*int", "oint", "lim(?:sup|inf)?", "coprod", "gcd", "lcm")
        ),
        r"\\(?:operatorname\*?\s*\{\s*)?[bp]?mod(?![a-zA-Z])",
        r"\\(?:operatorname\*?\s*\{\s*)?(?:[lr]?floor|[lr]?ceil)(?![a-zA-Z])",
        r"\\(?:operatorname\*?\s*\{\s*)?det(?![a-zA-Z])|\\begin\s*\{[vV]matrix",
        r"\\(?:max|min)\s*(?:\\left\s*)?\\?[({\[]",
        # The absolute value of a number.
        r"(?:\||\\l?vert)(?:[\d\s.,+\-*/(){}]|\\(?:left|right|cdot|[dt]?frac|sqrt|[,;:! ]))+"
        r"(?:\||\\r?vert)",
        # A derivative.
        rf"\\[dt]?frac\s*\{{\s*{_D}[^{{}}]*\}}\s*"
        rf"\{{\s*{_D}\s*[a-z]\s*(?:\^\{{?\d\}}?\s*)?\}}",
    )
]


def is_closed(answer: str, gold: str) -> bool:
    r"""Whether an answer has no sum, gcd, determinant, … that the gold answer hasn't.

    Else the question itself would pass for its answer, once the verifier has computed it. Of
    ``\gcd(12,18)=6`` the last side counts, as for the verifier.
    """
    result = answer if "=" in gold else _result(answer)
    return not any(kind.search(result) and not kind.search(gold) for kind in _COMPUTATIONS)


def _result(answer: str) -> str:
    """What stands behind the last = outside brackets; all of it if it is a list."""
    depth = place = 0
    for i, sign in enumerate(answer):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and sign in ",;":
            return answer
        if depth == 0 and sign == "=":
            place = i + 1
    return answer[place:]


def is_shallow(answer: str) -> bool:
    """Whether brackets are nested at most :data:`DEEPEST` deep, and exponents are a few."""
    depth = deepest = 0
    for sign in answer:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest <= DEEPEST and answer.count("^") <= 4 * DEEPEST
