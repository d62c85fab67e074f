r"""What an answer is: a quantity, a tuple or interval, a set or list, a matrix, a text.

:func:`read` splits an answer at its outermost separators, then at relations and operations on sets,
and reads each part as what its brackets, words and signs make of it. What has no place raises
:class:`~upge.tasks.reading.lexer.Unread`; nothing is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

from upge.tasks.reading.expressions import NAMED_SETS, expression, is_separator, split
from upge.tasks.reading.lexer import Lexer, Token, Tokens, Unread, ascii_latex, canonical
from upge.tasks.reading.units import (
    DEGREE,
    HALVES_OF_DAY,
    LEADING,
    LETTER_UNITS,
    NO_UNIT,
    SCALES,
    Unit,
    cardinal,
    is_known,
    phrase,
    unit_named,
)
from upge.tasks.reading.values import Tree, number, symbols

#: What a gold answer may be declared to be.
Kind = Literal[
    "choice", "number", "tuple", "set", "interval", "matrix", "expression", "text", "list"
]
KINDS: tuple[str, ...] = get_args(Kind)

#: Kinds of several values, which a comma separates.
SEVERAL = ("tuple", "set", "interval", "list")


@dataclass(frozen=True)
class Text:
    """Words, in small letters."""

    words: str


@dataclass(frozen=True)
class Quantity:
    """An expression, with the unit that it has; ``parts`` counts those of 3 hours 20 minutes."""

    tree: Tree
    unit: Unit | None = None
    parts: int = 1


@dataclass(frozen=True)
class Based:
    """Digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True)
class Time:
    """A time of day, in seconds since midnight, and the half of the day if it says one."""

    seconds: int
    half: str


@dataclass(frozen=True)
class Ratio:
    """Numbers of which only the ratio counts."""

    terms: tuple[Tree, ...]


@dataclass(frozen=True)
class Bracketed:
    """A tuple, or an interval unless ``is_tuple``: items in brackets."""

    brackets: str
    items: tuple[Answer, ...]
    is_tuple: bool = False


@dataclass(frozen=True)
class Items:
    """Several answers in any order, in braces or not."""

    items: tuple[Answer, ...]
    braces: bool = False


@dataclass(frozen=True)
class Named:
    """A set with a name, as ℝ."""

    name: str


@dataclass(frozen=True)
class Combined:
    """Sets or conditions joined by ∪, ∩ or ∖."""

    operation: str
    operands: tuple[Answer, ...]


@dataclass(frozen=True)
class Relation:
    """Sides with a sign between neighbors; a side that is only a name may be None."""

    sides: tuple[Answer | None, ...]
    signs: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Answer, ...], ...]


Answer = (
    Text
    | Quantity
    | Based
    | Time
    | Ratio
    | Bracketed
    | Items
    | Named
    | Combined
    | Relation
    | Matrix
)


def read(text: str, kind: str = "", units: bool = True, commas: bool = True) -> Answer:
    """What an answer is.

    Args:
        text: the answer, as LaTeX or plain text.
        kind: what it is declared to be, one of :data:`KINDS`; empty to infer it.
        units: whether letters behind a number can be a unit; not where the problem has symbols.
        commas: whether 1,000 is a number rather than two.

    Raises:
        Unread: it can't be read, or is not of this kind.
        TooMuch: it is nested too deep.
    """
    lexer = Lexer(ascii_latex(text), commas and kind not in SEVERAL)
    if kind == "text":
        return _text(lexer.words())
    answer = _Reader(units and kind != "expression").answer(lexer.tokens())
    if kind == "number" and (not isinstance(answer, Quantity | Relation) or unknowns(answer)):
        raise Unread("no number")
    if kind == "tuple" and isinstance(answer, Bracketed):
        return replace(answer, is_tuple=True)
    return answer


def unknowns(answer: Answer | None) -> set[str]:
    """The symbols that an answer depends on; not the name of its value."""
    match answer:
        case Quantity():
            return symbols(answer.tree)
        case Ratio():
            return set().union(*map(symbols, answer.terms))
        case Relation():
            return set().union(*map(unknowns, answer.sides[1:]))
        case Bracketed() | Items():
            return set().union(*map(unknowns, answer.items))
        case Combined():
            return set().union(*map(unknowns, answer.operands))
        case Matrix():
            return set().union(*(unknowns(entry) for row in answer.rows for entry in row))
    return set()


# ----------------------------------------------------------------------------------------- choices

_GOLD_CHOICE = re.compile(r"(?:\\text(?:bf|it|rm)?\s*\{\s*)?\(?\s*([A-J])\s*\)?[.:]?\s*\}?[.:]?")
_LABEL = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|final\s+)?(?:answer|option|choice)(?:\s+is)?[\s:]+)?"
    r"(?:[(\[]\s*([A-J])\s*[)\]]|([A-J]))(?:\s*[.:)]|\s*$|\s+-(?=\s)|(?=\s+\()|(?<=[)\]])(?=\s))",
    re.IGNORECASE,
)
#: Another choice in the text of one: its letter alone, marked, or behind a conjunction.
_OTHER_LABEL = re.compile(
    r"^\s*\(?[A-Ja-j][.):]?\s*$|\([A-Ja-j]\)|(?<![\w'])[A-J](?=[):]|\.\s*\S)"
    r"|(?<![\w'])[a-j](?=\)\s*[^\s).])|(?:\b(?:or|and|nor)\b|[,;/&])\s*\(?[A-Ja-j][.)]?\s*$"
    r"|^\s*(?:or|and|nor)\b"
)
_WRAPPER = re.compile(
    r"\\(?:text\w*|mbox|mathrm|mathbf|boldsymbol|operatorname)\s*(?=\{)|\\(?:left|right)|\*\*"
)
_LAYOUT = re.compile(r"[{}$~]|\\[,;:! ]|\\q?quad(?![a-z])")


def gold_choice(text: str) -> str | None:
    """The letter, if a gold answer is that of a choice and nothing else."""
    letter = _GOLD_CHOICE.fullmatch(text.strip("$ "))
    return letter[1] if letter else None


def choice(text: str) -> str:
    r"""The choice that an answer names: C of ``(C)``, ``Option C``, ``C. 5 cm`` or ``C - planet``.

    Raises:
        Unread: it names none, or more than one.
    """
    plain = _LAYOUT.sub(" ", _WRAPPER.sub("", ascii_latex(text))).strip().rstrip(".")
    label = _LABEL.match(plain)
    if label is None or _OTHER_LABEL.search(plain[label.end() :]):
        raise Unread("a choice")
    return (label[1] or label[2]).upper()


# ------------------------------------------------------------------------------------------ answers

_TUPLES = frozenset(("<>", "()", "[]", "(]", "[)"))


class _Reader:
    """Reads tokens.

    Args:
        units: whether a letter apart behind a number can be a unit.
    """

    def __init__(self, units: bool) -> None:
        self.units = units

    def answer(self, tokens: Tokens) -> Answer:
        """All of an answer."""
        tokens = _trimmed(tokens)
        whole = cardinal([token.text for token in tokens])
        if whole is not None:
            return Quantity(number(whole))
        groups = split(tokens, lambda token: token.kind == "separator" and token.text == ";")
        if len(groups) > 1 and all(any(map(is_separator, group)) for group in groups):
            # p=5,q=2; p=7,q=2
            return Items(tuple(Bracketed("()", self._parts(group)) for group in groups))
        parts = self._parts(tokens)
        if len(parts) == 1:
            return parts[0]
        words = {token.text for token in tokens if is_separator(token) and token.text.isalpha()}
        conditions = [part for part in parts if isinstance(part, Relation)]
        are_conditions = any(set(part.signs) - {"="} for part in conditions)
        if are_conditions and len(conditions) == len(parts) and len(words) == 1:
            return Combined("∪" if words == {"or"} else "∩", parts)
        return _listed(parts, "or" in words)

    def _parts(self, tokens: Tokens) -> tuple[Answer, ...]:
        """What stands between separators; what has ± twice, with either sign."""
        answers: list[Answer] = []
        for part in filter(None, split(tokens, is_separator)):
            if any(map(_has_plus_minus, part)):
                answers += [self._part(_signed(part, signs)) for signs in ("+-", "-+")]
            else:
                answers.append(self._part(part))
        if not answers:
            raise Unread("nothing")
        return tuple(answers)

    def _part(self, tokens: Tokens) -> Answer:
        tokens = _trimmed(tokens)
        places = [place for place, token in enumerate(tokens) if token.kind == "relation"]
        signs = [tokens[place].text for place in places]
        sides = [tokens[a + 1 : b] for a, b in pairwise([-1, *places, len(tokens)])]
        if signs[:1] == ["="] and not sides[0]:  # = 5
            sides, signs = sides[1:], signs[1:]
        if not all(sides):
            raise Unread("a side is missing")
        if not signs:
            return self._side(sides[0])
        values = [self._named_side(side) for side in sides[:-1]]
        last = self._side(sides[-1]) if values[-1] is None else self._named_side(sides[-1])
        return Relation((*values, last), tuple(signs), tuple(map(canonical, sides)))

    def _named_side(self, tokens: Tokens) -> Answer | None:
        """A side of a relation; None if it is a name that is no expression."""
        try:
            return self._side(tokens)
        except Unread:
            return None

    def _side(self, tokens: Tokens) -> Answer:
        """What has no relation and no separator outside brackets."""
        if not tokens:
            raise Unread("nothing")
        operations = [token.text for token in tokens if token.kind == "set"]
        if operations:
            joined, *others = map(self._side, split(tokens, lambda token: token.kind == "set"))
            for operation, operand in zip(operations, others, strict=True):
                joined = Combined(operation, (joined, operand))
            return joined
        if len(tokens) == 1:
            token = tokens[0]
            if token.kind == "group":
                return self._group(token)
            if token.kind == "symbol" and token.text in NAMED_SETS:
                return Named(NAMED_SETS[token.text])
            if token.kind == "based":
                return Based(token.text, int(token.parts[0][0].text))
        if any(token.kind == "matrix" for token in tokens):
            return self._matrix(tokens)
        if time := _time(tokens):
            return time
        if any(map(_is_colon, tokens)):
            return Ratio(tuple(map(expression, split(tokens, _is_colon))))
        return self._quantity(tokens)

    def _group(self, token: Token) -> Answer:
        """What is in brackets."""
        (inner,) = token.parts
        if token.text == "⦃⦄" and (condition := _condition(inner)):
            return self.answer(condition)
        if token.text == "⦃⦄":
            return Items(self._parts(inner), braces=True) if inner else Named("∅")
        if token.text in ("()", "[]") and [part.kind for part in inner] == ["matrix"]:
            return self._matrix(inner)
        if token.text in _TUPLES:
            items = tuple(map(self._part, filter(None, split(inner, is_separator))))
            if len(items) > 1:
                return Bracketed(token.text.replace("<>", "()"), items)
        if token.text in ("", "()", "<>"):
            return self.answer(inner)
        return self._quantity((token,))

    def _matrix(self, tokens: Tokens) -> Answer:
        """A matrix, or a multiple of one."""
        *before, last = tokens
        if last.kind != "matrix" or len({len(row) for row in last.parts}) != 1:
            raise Unread("a matrix")
        rows = [[self._part(entry.parts[0]) for entry in row] for row in last.parts]
        if before:
            one = Token("group", "()", ((Token("number", "1"),),))  # -A is -(1) A
            rows = [[_multiple(expression((*before, one)), entry) for entry in row] for row in rows]
        return Matrix(tuple(map(tuple, rows)))

    # ----------------------------------------------------------------------------------- quantities

    def _quantity(self, tokens: Tokens) -> Answer:
        """Numbers and expressions with the words behind them, or words alone."""
        runs = self._runs(tokens)
        wordy = [is_words for is_words, _ in runs]
        if wordy == [True]:
            return _in_words(runs[0][1])
        if wordy == [False]:
            return _measured(runs[0][1])
        if wordy[0]:
            return _led(runs)
        if not wordy[-1]:
            raise Unread("an expression behind words")
        pairs = zip(runs[::2], runs[1::2], strict=True)
        return _compound([_with_unit(expression(run), words) for (_, run), (_, words) in pairs])

    def _runs(self, tokens: Tokens) -> list[tuple[bool, Tokens]]:
        """Alternating runs of mathematics and of words."""
        runs: list[tuple[bool, list[Token]]] = [(False, [])]
        for place, token in enumerate(tokens):
            after = tokens[place + 1] if place + 1 < len(tokens) else Token("end", "")
            wordy = self._is_word(token, tokens[:place], after) or (
                runs[-1][0] and self._continues(token, tokens[place - 1], after)
            )
            if runs[-1][0] != wordy:
                runs.append((wordy, []))
            runs[-1][1].append(token)
        return [(wordy, tuple(run)) for wordy, run in runs if run]

    def _is_word(self, token: Token, before: Tokens, after: Token) -> bool:
        """Whether a token is a word or unit rather than mathematics."""
        alone = not before and after.kind == "end"
        if token.kind == "word":
            return alone or token.upright or len(token.text) > 3 or is_known(token.text)
        if not before:
            return token.text == "%"
        if token.kind == "sign":
            is_scale = after.upright or (self.units and after.text in ("C", "F"))
            return token.text == "%" or (token.text == "°" and is_scale)  # °C
        if token.kind == "fraction":  # m/s
            return all(part and all(t.kind == "word" for t in part) for part in token.parts)
        if token.kind != "symbol" or token.text not in LETTER_UNITS or token.parts:
            return False
        if token.upright and before[-1].kind in ("number", "word"):
            return True
        stands_apart = token.space and before[-1].kind in ("number", "fraction", "root", "group")
        return self.units and stands_apart and (after.kind in ("end", "power") or after.text == "/")

    def _continues(self, token: Token, before: Token, after: Token) -> bool:
        """Whether a token that is no word belongs to the unit before it: ^2, or / and h of km/h."""
        if token.kind == "power":
            return True
        if token.kind == "symbol" and token.text in LETTER_UNITS and not token.parts:
            return token.upright or (self.units and (before.kind == "sign" or token.space))
        if token.kind == "number":  # m2, in a text
            return token.upright and not token.space and token.text in "23"
        is_operator = token.kind == "sign" and token.text in "/*"
        return is_operator and (after.kind == "word" or after.text in LETTER_UNITS)


def _led(runs: list[tuple[bool, Tokens]]) -> Quantity:
    """A number behind the sign or the name of a currency."""
    (_, words), (_, run), *rest = runs
    unit = unit_named(words[0].text)
    if len(words) > 1 or words[0].text.lower() not in LEADING or unit is None or len(rest) > 1:
        raise Unread("words before a number")
    quantity = _with_unit(expression(run), rest[0][1]) if rest else Quantity(expression(run))
    if quantity.unit not in (None, unit):
        raise Unread("two units")
    return Quantity(quantity.tree, unit)


def _in_words(tokens: Tokens) -> Answer:
    """A number in words, with what it counts, or a text."""
    words = [token.text for token in tokens]
    for end in range(len(words), 0, -1):
        if (value := cardinal(words[:end])) is not None:
            return _with_unit(number(value), tokens[end:])
    return _text(tokens)


def _text(tokens: Tokens) -> Text:
    words = " ".join(token.text + "".join(map(canonical, token.parts)) for token in tokens)
    if not words.strip(" ."):
        raise Unread("nothing")
    return Text(words.strip(" .").casefold())


def _measured(tokens: Tokens) -> Quantity:
    """An expression, whose last sign may be °."""
    tree = expression(tokens)
    inner = tree[1] if tree[0] == "-" else tree
    if inner[0] == "°":
        return Quantity(("-", inner[1]) if inner is not tree else inner[1], DEGREE)
    if tree[0] == "*" and tree[-1][0] == "°":  # 2x°
        return Quantity((*tree[:-1], tree[-1][1]), DEGREE)
    return Quantity(tree)


def _with_unit(tree: Tree, words: Tokens) -> Quantity:
    """A number with the words behind it: factors, as million, and a unit."""
    for place, word in enumerate(words):
        scale = SCALES.get(word.text.lower().removesuffix("s"))
        if scale is None:
            return Quantity(tree, _unit(words[place:]))
        tree = number(tree[1] * scale) if tree[0] == "number" else ("*", tree, number(scale))
    return Quantity(tree)


def _unit(tokens: Tokens) -> Unit:
    """The unit that words, powers and / say.

    Raises:
        Unread: they say none.
    """
    whole, words, sign = NO_UNIT, list[str](), 1

    def finished(power: int = 1) -> Unit:
        if not words:
            return whole
        unit = phrase(words)
        if unit is None:
            raise Unread(" ".join(words))
        words.clear()
        return whole.times(unit, sign * power)

    for token in tokens:
        raised = canonical(token.parts[0]) if token.kind == "power" else token.text
        if token.kind in ("power", "number"):
            if not words or not re.fullmatch(r"(?:- )?[1-4]", raised):
                raise Unread("a power")
            whole = finished(int(raised.replace(" ", "")))
        elif token.kind == "fraction":
            top, bottom = map(_unit, token.parts)
            whole = finished().times(top, sign).times(bottom, -sign)
        elif raised in ("/", "*", "per"):
            whole = finished()
            sign = sign if raised == "*" else -1
        else:
            words.append(raised)
    whole = finished()
    if not whole.dimensions:
        raise Unread("a unit")
    return whole


def _compound(quantities: list[Quantity]) -> Quantity:
    """One quantity of parts, from the largest unit down.

    Raises:
        Unread: their units differ in kind, or don't go down.
    """
    first = quantities[0].unit
    if len(quantities) == 1 or first is None:
        return quantities[0]
    units = [quantity.unit or NO_UNIT for quantity in quantities]
    if {unit.dimensions for unit in units} != {first.dimensions} or not all(
        large.factor > small.factor for large, small in pairwise(units)
    ):
        raise Unread("several quantities")
    parts = zip(quantities, units, strict=True)
    terms = [("*", part.tree, number(unit.factor / first.factor)) for part, unit in parts]
    return Quantity(("+", *terms), first, len(quantities))


def _listed(parts: tuple[Answer, ...], are_alternatives: bool) -> Answer:
    """Several answers: a compound quantity, the values of one symbol, or a list."""
    quantities = [part for part in parts if isinstance(part, Quantity) and part.unit is not None]
    if len(quantities) == len(parts) and not are_alternatives:
        try:
            return _compound(quantities)
        except Unread:
            return Items(parts)
    first, *others = parts
    if not isinstance(first, Relation) or any(isinstance(other, Relation) for other in others):
        return Items(parts)
    value = first.sides[-1]
    if first.signs != ("=",) or value is None:
        return Items(parts)
    return Relation((first.sides[0], Items((value, *others))), ("=",), first.names)  # n = 1, 2, 3


def _multiple(scale: Tree, entry: Answer) -> Answer:
    if not isinstance(entry, Quantity) or entry.unit is not None:
        raise Unread("a multiple")
    return Quantity(("*", scale, entry.tree))


def _time(tokens: Tokens) -> Time | None:
    """9:10 a.m., 21:10, 9 a.m. or noon."""
    spelled = "".join(token.text for token in tokens).lower()
    half = next((word for word in HALVES_OF_DAY if spelled.endswith(word)), "")
    digits = re.fullmatch(r"(\d\d?)?(?::([0-5]\d))?(?::([0-5]\d))?", spelled.removesuffix(half))
    if digits is None or (not half and not digits[2]) or (not digits[1] and half not in _NOON):
        return None
    hour, minute, second = (int(digit) if digit else 0 for digit in digits.groups(default=""))
    hour = hour if digits[1] else 12
    if hour > 24 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + 12 * (half in ("pm", "noon"))
    return Time(3600 * hour + 60 * minute + second, half)


_NOON = ("noon", "midnight")


# ---------------------------------------------------------------------------------------- on tokens


def _condition(tokens: Tokens) -> Tokens:
    r"""The condition of \{x \mid x > 2\}; nothing if it is no such set."""
    if len(tokens) < 5 or tokens[0].kind != "symbol" or tokens[1].text not in ("|", ":"):
        return ()
    rest = tokens[2:]
    says_of_it = any(token._replace(space=False) == tokens[0] for token in rest)
    return rest if says_of_it and any(token.kind == "relation" for token in rest) else ()


def _is_colon(token: Token) -> bool:
    return token.kind == "sign" and token.text == ":"


def _trimmed(tokens: Tokens) -> Tokens:
    """Without separators and full stops at the end."""
    while tokens and (is_separator(tokens[-1]) or tokens[-1].text == "."):
        tokens = tokens[:-1]
    return tokens


def _has_plus_minus(token: Token) -> bool:
    return token.text in ("±", "∓") or any(
        _has_plus_minus(inner) for part in token.parts for inner in part
    )


def _signed(tokens: Tokens, signs: str) -> Tokens:
    """The tokens with the first sign for ± and the second for ∓."""
    texts = dict(zip("±∓", signs, strict=True))
    return tuple(
        token._replace(
            text=texts.get(token.text, token.text),
            parts=tuple(_signed(part, signs) for part in token.parts),
        )
        for token in tokens
    )
