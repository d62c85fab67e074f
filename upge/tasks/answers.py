r"""The answer in a response: the last ``\boxed{…}`` that isn't empty, and how answers are written.

All of it is linear in the length of an answer, and looks at no more than :data:`LONGEST` characters
of one; nothing here evaluates anything.
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


#: What the answers of the benchmarks write in ways that LaTeX doesn't know, and how it would.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\$", ""),  # inside a box all is mathematics already
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
_CHOICE = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?\(?([A-Ja-j])(?:[).:}].*)?", re.DOTALL)
_OTHER_CHOICE = re.compile(r"(?<![A-Za-z\\])[A-J](?=[).:},]|\s*$)")


def choice(answer: str) -> str | None:
    r"""The letter of a choice, C of ``(C)``, ``\text{C}`` or ``C. 5 cm``; None if not just one."""
    found = _CHOICE.fullmatch(answer.strip())
    if found is None or _OTHER_CHOICE.search(answer, found.end(1)):
        return None
    return found[1].upper()


#: What asks for a computation rather than giving its result.
_COMPUTATION = re.compile(r"\\(?:sum|prod|i*int|oint|lim(?:sup|inf)?|coprod)(?![a-zA-Z])")


def is_closed(answer: str, gold: str) -> bool:
    """Whether an answer has no sum, product, integral or limit that the gold answer hasn't.

    Else the question itself would pass for its answer, once the verifier has computed it.
    """
    return set(_COMPUTATION.findall(answer)) <= set(_COMPUTATION.findall(gold))


def is_shallow(answer: str) -> bool:
    """Whether brackets are nested at most :data:`DEEPEST` deep, and exponents are a few."""
    depth = deepest = 0
    for sign in answer:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest <= DEEPEST and answer.count("^") <= 4 * DEEPEST
