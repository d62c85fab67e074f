r"""What an answer is: a choice, a quantity, a tuple or interval, a set or list, a matrix, a text, ….

:func:`read` splits an answer at its outermost separators, then at relations and operations on sets,
and reads each part as what its brackets, words and signs make of it. Whatever has no place raises
:class:`Unread`; nothing is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, get_args

from upge.tasks.reading.lexer import OPERATORS, Lexer, Token, Tokens, Unread, ascii_latex, canonical
from upge.tasks.reading.units import (
    DEGREE,
    HALVES_OF_DAY,
    LEADING,
    LETTER_UNITS,
    PERCENT,
    SCALES,
    Unit,
    cardinal,
    is_known,
    phrase,
    times,
    unit_named,
)
from upge.tasks.reading.values import Tree, exact, number, symbols

#: What a gold answer may be declared to be.
Kind = Literal[
    "choice", "number", "tuple", "set", "interval", "matrix", "expression", "text", "list"
]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Choice:
    """The letter of a choice."""

    letter: str


@dataclass(frozen=True)
class Text:
    """Words, in small letters."""

    words: str


@dataclass(frozen=True)
class Quantity:
    """A number or expression, with its unit if it has one; of a compound one, each part's.

    Args:
        tree: the expression.
        unit: of the whole; None for a bare number.
        parts: how many parts a compound quantity has.
    """

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
    """A time of day: seconds since midnight, and whether it says which half of the day."""

    seconds: int
    half: str


@dataclass(frozen=True)
class Ratio:
    """Two or more numbers of which only the ratio counts."""

    terms: tuple[Tree, ...]


@dataclass(frozen=True)
class Sequence_:
    """A tuple, or an interval: items in brackets; ``is_point`` if it can be no interval."""

    brackets: str
    items: tuple[Answer, ...]
    is_point: bool = False


@dataclass(frozen=True)
class Items:
    """Several answers, in any order; ``braces`` if it is written as a set."""

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
    """Sides with relations between neighbors.

    Args:
        sides: the expressions.
        signs: one fewer.
        names: the sides' tokens.
    """

    sides: tuple[Answer | None, ...]
    signs: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple[Answer, ...], ...]


Answer = (
    Choice | Text | Quantity | Based | Time | Ratio | Sequence_ | Items | Named | Combined
    | Relation | Matrix
)


def read(text: str, kind: str = "", units: bool = True) -> Answer:
    """What an answer is.

    Args:
        text: the answer, as LaTeX or plain text.
        kind: what it is declared to be, one of :data:`KINDS`; empty to infer it.
        units: whether letters behind a number can be a unit; not where the problem has symbols.

    Raises:
        Unread: it can't be read, or is not of this kind.
    """
    separate = kind in ("tuple", "set", "interval", "list")
    tokens = Lexer(ascii_latex(text), commas=not separate).tokens()
    if kind == "text":
        return Text(_words(tokens))
    found = _Reader(units and kind != "expression").answer(tokens)
    if kind == "number" and (not isinstance(found, Quantity) or unknowns(found)):
        raise Unread("no number")
    if kind == "tuple" and isinstance(found, Sequence_):
        found = replace(found, is_point=True)
    return found


def unknowns(answer: Answer) -> set[str]:
    """The symbols that an answer depends on; not the one that a value is given to."""
    match answer:
        case Quantity():
            return symbols(answer.tree)
        case Ratio():
            return set().union(*map(symbols, answer.terms))
        case Relation():
            known = [side for side in answer.sides[1:] if side is not None]
            return set().union(*map(unknowns, known))
        case Sequence_() | Items():
            return set().union(*map(unknowns, answer.items))
        case Combined():
            return set().union(*map(unknowns, answer.operands))
        case Matrix():
            return set().union(*(unknowns(entry) for row in answer.rows for entry in row))
    return set()


# ----------------------------------------------------------------------------------------- choices

_LABEL = re.compile(
    r"(?:(?:the\s+)?(?:correct\s+|final\s+)?(?:answer|option|choice)(?:\s+is)?[\s:]+)?"
    r"(?:[(\[]\s*([A-Ja-j])\s*[)\]]|([A-Ja-j]))(?:\s*[.:)]|\s*$|\s+-(?=\s)|(?<=[)\]])(?=\s))",
    re.IGNORECASE,
)
#: Another choice in the text of one: its letter alone, or marked.
_OTHER_LABEL = re.compile(
    r"^\s*\(?[A-Ja-j][.):]?\s*$|\([A-Ja-j]\)|(?<![\w'])[A-J](?=[):]|\.\s*\S)"
    r"|(?<![\w'])[a-j](?=\)\s*[^\s).])|(?:\b(?:or|and|nor)\b|[,;/&])\s*\(?[A-Ja-j][.)]?\s*$"
    r"|^\s*(?:or|and|nor)\b"
)
_CHOICE_GOLD = re.compile(r"(?:\\text(?:bf|it|rm)?\s*\{\s*)?\(?\s*([A-J])\s*\)?[.:]?\s*\}?[.:]?")
_WRAPPER = re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf|boldsymbol|operatorname)\s*(?=\{)|\\(?:left|right)|\*\*")


def gold_choice(text: str) -> str | None:
    """The letter, if a gold answer is that of a choice and nothing else."""
    found = _CHOICE_GOLD.fullmatch(text.strip().strip("$").strip())
    return found[1] if found else None


def choice(text: str) -> Choice:
    r"""The choice that an answer names: C of ``(C)``, ``Option C``, ``C. 5 cm`` or ``C - a planet``.

    Raises:
        Unread: it names none, or more than one.
    """
    plain = _WRAPPER.sub("", ascii_latex(text))
    plain = re.sub(r"[{}$~]|\\[,;:! ]|\\q?quad(?![a-z])", " ", plain).strip().rstrip(".")
    label = _LABEL.match(plain)
    if label is None or _OTHER_LABEL.search(plain[label.end() :]):
        raise Unread("a choice")
    return Choice((label[1] or label[2]).upper())


# ------------------------------------------------------------------------------------------ answers

_INEQUALITIES = frozenset("<>≤≥≠∈")
_NAMED_SETS = frozenset("∅ℂℕℚℝℤ")
_PREFIXES = frozenset("+-")


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
        if not tokens:
            raise Unread("nothing")
        if (whole := cardinal([token.text for token in tokens])) is not None:
            return Quantity(number(whole))
        groups = _split(tokens, lambda token: token.kind == "separator" and token.text == ";")
        if len(groups) > 1 and all(any(t.kind == "separator" for t in group) for group in groups):
            # p=5,q=2; p=7,q=2: one tuple a group
            return Items(tuple(Sequence_("()", self._parts(group)[0]) for group in groups))
        parts, joints = self._parts(tokens)
        if len(parts) == 1:
            return parts[0]
        if all(isinstance(part, Relation | Combined) for part in parts) and any(
            map(_is_condition, parts)
        ):
            if set(joints) == {"or"}:
                return Combined("∪", parts)
            if set(joints) == {"and"}:
                return Combined("∩", parts)
        return _listed(parts, joints)

    def _parts(self, tokens: Tokens) -> tuple[tuple[Answer, ...], list[str]]:
        """What stands between separators, and the separators."""
        parts: list[Answer] = []
        joints: list[str] = []
        start = 0
        for place, token in enumerate([*tokens, Token("separator", "")]):
            if token.kind != "separator":
                continue
            part = tokens[start:place]
            start = place + 1
            if part:
                parts += self._alternatives(part)
            if parts and token.text and (len(joints) < len(parts)):
                joints.append(token.text)
            elif joints and token.text in ("and", "or"):  # , and
                joints[-1] = token.text
        return tuple(parts), joints[: len(parts) - 1]

    def _alternatives(self, tokens: Tokens) -> list[Answer]:
        """One part, or the two that ± makes of it."""
        if not any(map(_has_sign, tokens)):
            return [self._part(tokens)]
        found = [self._part(_with_sign(tokens, "+", "-")), self._part(_with_sign(tokens, "-", "+"))]
        if all(isinstance(one, Relation) and one.signs == ("=",) for one in found):
            first, second = found
            assert isinstance(first, Relation) and isinstance(second, Relation)
            if first.names[0] == second.names[0]:
                return found
        return found

    def _part(self, tokens: Tokens) -> Answer:
        tokens = _trimmed(tokens)
        if any(token.kind == "relation" for token in tokens):
            return self._relation(tokens)
        return self._side(tokens)

    def _relation(self, tokens: Tokens) -> Answer:
        places = [i for i, token in enumerate(tokens) if token.kind == "relation"]
        bounds = [-1, *places, len(tokens)]
        sides = [tokens[a + 1 : b] for a, b in zip(bounds, bounds[1:], strict=False)]
        signs = [tokens[place].text for place in places]
        if not sides[0] and signs[0] == "=":  # = 5
            sides, signs = sides[1:], signs[1:]
            if not signs:
                return self._side(sides[0])
        if not all(sides):
            raise Unread("a side is missing")
        values: list[Answer | None] = []
        for place, side in enumerate(sides):
            try:
                values.append(self._side(side))
            except Unread:
                if place == len(sides) - 1 and place > 0 and values[-1] is None:
                    raise
                values.append(None)
        if all(value is None for value in values):
            raise Unread("no side")
        return Relation(tuple(values), tuple(signs), tuple(map(_name, sides)))

    def _side(self, tokens: Tokens) -> Answer:
        """What has no relation and no separator outside brackets."""
        tokens = _trimmed(tokens)
        if any(token.kind == "set" for token in tokens):
            return self._sets(tokens)
        if len(tokens) == 1:
            token = tokens[0]
            if token.kind == "group":
                return self._group(token)
            if token.kind == "symbol" and token.text in _NAMED_SETS:
                return Named(token.text)
            if token.kind == "based":
                return Based(token.text, int(token.parts[0][0].text))
        if any(token.kind == "matrix" for token in tokens):
            return self._matrix(tokens)
        if found := _time(tokens):
            return found
        if any(token == Token("sign", ":", space=token.space) for token in tokens):
            terms = _split(tokens, lambda token: token.kind == "sign" and token.text == ":")
            return Ratio(tuple(_expression(term) for term in terms))
        return self._quantity(tokens)

    def _sets(self, tokens: Tokens) -> Answer:
        """Sets joined by operations, from left to right."""
        operations = [token.text for token in tokens if token.kind == "set"]
        operands = [self._side(part) for part in _split(tokens, lambda t: t.kind == "set")]
        found = operands[0]
        for operation, operand in zip(operations, operands[1:], strict=True):
            found = Combined(operation, (found, operand))
        return found

    def _group(self, token: Token) -> Answer:
        """What is in brackets."""
        (inner,) = token.parts
        if token.text in ("<>", "()", "[]", "(]", "[)"):
            if any(part.kind == "separator" for part in inner):
                items = [self._part(part) for part in _split(inner, _is_separator) if part]
                if len(items) > 1:
                    return Sequence_(token.text.replace("<>", "()"), tuple(items))
            if token.text in ("()", "<>"):
                return self.answer(inner)
        if token.text == "⦃⦄":
            if not inner:
                return Named("∅")
            parts, _ = self._parts(inner)
            return Items(parts, braces=True)
        if token.text == "":
            return self.answer(inner)
        return self._quantity((token,))

    def _matrix(self, tokens: Tokens) -> Answer:
        """A matrix, or a multiple of one."""
        place = next(i for i, token in enumerate(tokens) if token.kind == "matrix")
        rows = tuple(
            tuple(self._part(entry.parts[0]) for entry in row) for row in tokens[place].parts
        )
        if len({len(row) for row in rows}) != 1:
            raise Unread("a matrix with rows of several lengths")
        if place + 1 < len(tokens):
            raise Unread("something behind a matrix")
        if place == 0:
            return Matrix(rows)
        before = tokens[:place]
        if before[-1].kind == "sign" and before[-1].text == "*":
            before = before[:-1]
        scale = number(-1) if canonical(before) == "-" else _expression(before)
        return Matrix(tuple(tuple(_scaled(scale, entry) for entry in row) for row in rows))

    # ------------------------------------------------------------------------------------ quantities

    def _quantity(self, tokens: Tokens) -> Answer:
        """Numbers and expressions with the words behind them, or words alone."""
        runs = self._runs(tokens)
        if len(runs) == 1:
            (is_words, run) = runs[0]
            return _in_words(run) if is_words else _measured(run)
        if runs[0][0]:
            return self._led(runs)
        if len(runs) % 2:
            raise Unread("an expression behind words")
        pairs = list(zip(runs[::2], runs[1::2], strict=True))
        found = [_with_unit(_expression(run), words) for (_, run), (_, words) in pairs]
        return _compound(found)

    def _led(self, runs: list[tuple[bool, Tokens]]) -> Answer:
        """A number behind the sign or the name of a currency."""
        words, rest = runs[0][1], runs[1:]
        unit = unit_named(words[0].text)
        if len(words) != 1 or words[0].text.lower() not in LEADING or unit is None:
            raise Unread("words before a number")
        quantity = Quantity(_expression(rest[0][1]), unit)
        if len(rest) == 1:
            return quantity
        if len(rest) > 2:
            raise Unread("words behind a number")
        more = _with_unit(quantity.tree, rest[1][1])
        if more.unit is not None and more.unit != unit:
            raise Unread("two units")
        return Quantity(more.tree, unit)

    def _runs(self, tokens: Tokens) -> list[tuple[bool, Tokens]]:
        """Alternating runs of mathematics and of words."""
        runs: list[tuple[bool, list[Token]]] = []
        for place, token in enumerate(tokens):
            after = tokens[place + 1] if place + 1 < len(tokens) else None
            wordy = self._is_wordy(token, tokens[:place], after)
            if runs and runs[-1][0] and not wordy:
                wordy = self._continues(token, runs[-1][1][-1], after)
            if runs and runs[-1][0] == wordy:
                runs[-1][1].append(token)
            else:
                runs.append((wordy, [token]))
        return [(wordy, tuple(run)) for wordy, run in runs]

    def _is_wordy(self, token: Token, before: Tokens, after: Token | None) -> bool:
        if token.kind == "word":
            alone = not before and after is None
            return alone or token.upright or len(token.text) > 3 or is_known(token.text)
        if token.kind == "sign":
            return token.text == "%" or (
                token.text == "°" and after is not None and after.upright and bool(before)
            )
        if token.kind == "fraction" and before:
            return all(part and all(t.kind == "word" for t in part) for part in token.parts)
        if token.kind != "symbol" or token.text not in LETTER_UNITS or token.parts or not before:
            return False
        if token.upright and before[-1].kind in ("number", "word"):
            return True
        stands_apart = token.space and before[-1].kind in ("number", "fraction", "root", "group")
        ends = after is None or after.kind == "power" or after.text == "/"
        return self.units and stands_apart and ends

    def _continues(self, token: Token, before: Token, after: Token | None) -> bool:
        """Whether a token that is no word belongs to the unit before it: ^2, or the / and h of km/h."""
        if token.kind == "power":
            return True
        if token.kind == "symbol" and token.text in LETTER_UNITS and not token.parts:
            return token.upright or (self.units and before.kind == "sign")
        if token.kind == "number" and token.upright and not token.space:  # m2
            return token.text in ("2", "3")
        if token.kind != "sign" or token.text not in "/*" or after is None:
            return False
        return after.kind == "word" or after.text in LETTER_UNITS



def _in_words(tokens: Tokens) -> Answer:
    """A number in words, or a text."""
    words = [token.text for token in tokens]
    if all(token.kind == "word" for token in tokens):
        for end in range(len(words), 0, -1):
            if (value := cardinal(words[:end])) is not None:
                if end == len(words):
                    return Quantity(number(value))
                return _with_unit(number(value), tokens[end:])
    return Text(_words(tokens))


def _words(tokens: Tokens) -> str:
    """Tokens as the words of a text.

    Raises:
        Unread: there is none.
    """
    text = " ".join(token.text + "".join(map(canonical, token.parts)) for token in tokens)
    text = text.strip(" .").casefold()
    if not text:
        raise Unread("nothing")
    return text


def _measured(tokens: Tokens) -> Quantity:
    """An expression, whose last sign may be °."""
    tree = _expression(tokens)
    negative = False
    while tree[0] == "-" and tree[1][0] in ("-", "degree"):
        tree, negative = tree[1], not negative
    if tree[0] == "degree":
        inner = tree[1]
        return Quantity(("-", inner) if negative else inner, DEGREE)
    if tree[0] == "*" and tree[-1][0] == "degree":  # 2x°
        return Quantity((*tree[:-1], tree[-1][1]), DEGREE)
    return Quantity(("-", tree) if negative else tree)


def _with_unit(tree: Tree, words: Tokens) -> Quantity:
    """A number with the words behind it: factors as thousand, then a unit."""
    place = 0
    while place < len(words) and (scale := SCALES.get(_singular(words[place].text))):
        tree = ("*", tree, number(scale))
        place += 1
    if place == len(words):
        return Quantity(tree)
    return Quantity(tree, _unit(words[place:]))


def _singular(word: str) -> str:
    return word.lower().removesuffix("s")


def _unit(tokens: Tokens) -> Unit:
    """The unit that words, powers and fraction bars say.

    Raises:
        Unread: they say none.
    """
    whole = Unit(frozenset())
    sign, words, power = 1, [], 1

    def finish() -> None:
        nonlocal whole, words, power
        if not words and power == 1:
            return
        unit = phrase(words) if words else None
        if unit is None:
            raise Unread(" ".join(words))
        whole = times(whole, unit, sign * power)
        words, power = [], 1

    for token in tokens:
        if token.kind == "power" or (token.kind == "number" and token.upright):
            raised = canonical(token.parts[0]) if token.parts else token.text
            if not words or not re.fullmatch(r"(?:- )?[1-4]", raised):
                raise Unread("a power")
            power = int(raised.replace(" ", ""))
            finish()
        elif token.kind == "sign" and token.text in "%°":
            words.append(token.text)
        elif token.kind == "fraction":
            finish()
            top, bottom = map(_unit, token.parts)
            whole = times(times(whole, top, sign), bottom, -sign)
        elif token.kind == "sign":
            finish()
            sign = -1 if token.text == "/" else sign
        elif token.text.lower() == "per":
            finish()
            sign = -1
        elif token.kind in ("word", "symbol"):
            words.append(token.text)
        else:
            raise Unread(token.text)
    finish()
    if not whole.dimensions:
        raise Unread("a unit")
    return whole


def _compound(found: list[Quantity]) -> Quantity:
    """One quantity of parts, from the largest unit down.

    Raises:
        Unread: their units differ in kind, or don't go down.
    """
    if len(found) == 1:
        return found[0]
    units = [quantity.unit for quantity in found]
    first = units[0]
    if first is None or any(
        unit is None or unit.dimensions != first.dimensions or unit.factor >= before.factor
        for before, unit in zip([first, *units[1:]], units[1:], strict=False)
        if before is not None
    ):
        raise Unread("several quantities")
    terms = [
        ("*", quantity.tree, number(quantity.unit.factor / first.factor))
        for quantity in found
        if quantity.unit is not None
    ]
    return Quantity(("+", *terms), first, len(found))


def _listed(parts: tuple[Answer, ...], joints: Sequence[str]) -> Answer:
    """Several answers: a compound quantity, the values of one symbol, or a list."""
    if "or" not in joints and all(isinstance(part, Quantity) and part.unit for part in parts):
        try:
            return _compound([part for part in parts if isinstance(part, Quantity)])
        except Unread:
            pass
    first, *others = parts
    if isinstance(first, Relation) and first.signs == ("=",):
        last = first.sides[-1]
        if last is not None and not any(isinstance(other, Relation) for other in others):
            return Relation((first.sides[0], Items((last, *others))), ("=",), (first.names[0], ""))
    return Items(parts)


def _scaled(scale: Tree, entry: Answer) -> Answer:
    if not isinstance(entry, Quantity) or entry.unit is not None:
        raise Unread("a multiple")
    return Quantity(("*", scale, entry.tree))


def _time(tokens: Tokens) -> Time | None:
    """9:10 a.m., 21:10, 9 a.m. or noon."""
    digits = [token.text for token in tokens if token.kind == "number"]
    words = [token.text.lower() for token in tokens if token.kind == "word"]
    shape = "".join({"number": "n", "word": "w", "sign": token.text}.get(token.kind, "?")[:1] for token in tokens)
    if not re.fullmatch(r"(?:n(?::n){0,2})?w{0,2}", shape):
        return None
    half = words[0] if words else ""
    if words and (half not in HALVES_OF_DAY or len(words) > 1):
        return None
    if not digits and half not in ("noon", "midnight"):
        return None
    if not words and len(digits) < 2:
        return None
    if not all(re.fullmatch(r"\d\d?" if i == 0 else "[0-5][0-9]", d) for i, d in enumerate(digits)):
        return None
    hour, minute, second = (int(digit) for digit in [*digits, "0", "0", "0"][:3])
    if not digits:
        hour = 12
    if hour > 24 or (words and not 1 <= hour <= 12):
        return None
    if half in ("am", "midnight"):
        hour %= 12
    elif half in ("pm", "noon"):
        hour = hour % 12 + 12
    return Time(3600 * hour + 60 * minute + second, half)


# -------------------------------------------------------------------------------------- expressions


def _expression(tokens: Tokens) -> Tree:
    """The tree of an expression.

    Raises:
        Unread: it is none.
    """
    parser = _Parser(tuple(_spelled_out(tokens)))
    tree = parser.sum()
    if parser.place < len(parser.tokens):
        raise Unread(parser.tokens[parser.place].text)
    return tree


def _spelled_out(tokens: Tokens) -> Sequence[Token]:
    """Short words that are no unit here as the product of their letters; one upright letter."""
    found: list[Token] = []
    for token in tokens:
        if token.kind != "word":
            found.append(token)
        elif len(token.text) <= (3 if not token.upright else 1):
            found += [Token("symbol", letter) for letter in token.text]
        else:
            raise Unread(token.text)
    return found


class _Parser:
    """Reads an expression from tokens, by precedence."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.place = tokens, 0

    def _here(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else Token("end", "")

    def _sign(self, signs: str) -> str:
        """A sign that stands here, which is passed; empty if none of these does."""
        token = self._here()
        if token.kind == "sign" and token.text in signs:
            self.place += 1
            return token.text
        return ""

    def sum(self) -> Tree:
        terms = [self._term()]
        while sign := self._sign("+-"):
            term = self._term()
            terms.append(("-", term) if sign == "-" else term)
        return terms[0] if len(terms) == 1 else ("+", *terms)

    def _term(self) -> Tree:
        negative = False
        while sign := self._sign("+-"):
            negative ^= sign == "-"
        tree = self._product()
        return _negated(tree) if negative else tree

    def _product(self) -> Tree:
        tree = self._factor()
        while True:
            if sign := self._sign("*/"):
                factor = self._signed_factor()
                tree = ("/", tree, factor) if sign == "/" else _product(tree, factor)
            elif self._here().kind == "function" and self._here().text == "mod":
                self.place += 1
                tree = ("mod", tree, self._factor())
            elif self._starts_factor():
                before = self.tokens[self.place - 1]
                if self._here().kind == "number" and before.kind in ("number", "symbol", "repeating"):
                    raise Unread("two numbers side by side")
                tree = _product(tree, self._factor())
            else:
                return tree

    def _signed_factor(self) -> Tree:
        if sign := self._sign("+-"):
            factor = self._signed_factor()
            return _negated(factor) if sign == "-" else factor
        return self._factor()

    def _starts_factor(self) -> bool:
        token = self._here()
        if token.kind in ("number", "repeating", "symbol", "fraction", "root", "binomial", "function"):
            return True
        return token.kind == "group" and token.text not in ("", "⦃⦄")

    def _factor(self) -> Tree:
        """An atom with what stands behind it: powers, ! and °."""
        tree = self._atom()
        while True:
            token = self._here()
            if token.kind == "power":
                self.place += 1
                tree = ("^", tree, _expression(token.parts[0]))
            elif self._sign("!"):
                tree = ("!", tree)
            elif self._sign("°"):
                tree = ("degree", tree)
            else:
                return tree

    def _atom(self) -> Tree:
        token = self._here()
        self.place += 1
        if token.kind == "number":
            return self._mixed(_decimal(token.text))
        if token.kind == "repeating":
            return _repeating(token)
        if token.kind == "fraction":
            return _fraction(token)
        if token.kind == "root":
            radicand, index = token.parts
            degree = _expression(index) if index else number(2)
            return ("root", _expression(radicand), degree)
        if token.kind == "binomial":
            return ("binomial", *map(_expression, token.parts))
        if token.kind == "symbol":
            return self._symbol(token)
        if token.kind == "function":
            return self._function(token)
        if token.kind == "group":
            return _bracketed(token)
        if token.kind == "sign" and token.text == "|":
            return self._absolute()
        raise Unread(token.text or "an end")

    def _mixed(self, whole: Tree) -> Tree:
        r"""1 3/4 and 1\frac{3}{4}; a number as it is where none of these follows."""
        if whole[2] is not None or whole[1].denominator != 1:
            return whole
        token = self._here()
        part: Tree | None = None
        if token.kind == "fraction":
            part = exact_fraction(token)
            ahead = 1
        elif token.kind == "number" and token.space and canonical((self._here(1),)) == "/":
            top, bottom = token.text, self._here(2)
            if bottom.kind == "number" and top.isdigit() and bottom.text.isdigit() and int(bottom.text):
                part, ahead = number(Fraction(int(top), int(bottom.text))), 3
        if part is None:
            return whole
        if part[1] >= 1:
            raise Unread("a mixed number")
        self.place += ahead
        return number(whole[1] + part[1])

    def _symbol(self, token: Token) -> Tree:
        if token.text in _NAMED_SETS:
            raise Unread(token.text)
        after = self._here()
        index = token.parts[0] if token.parts else ()
        if token.text in "CAP" and index and after.kind == "power":
            top, bottom = _tried(index), _tried(after.parts[0])
            whole = top is not None and bottom is not None and (
                token.upright or (exact(top) is not None and exact(bottom) is not None)
            )
            if whole and top is not None and bottom is not None:
                self.place += 1
                chosen = ("binomial", top, bottom)
                return chosen if token.text == "C" else ("*", chosen, ("!", bottom))
        name = canonical((token._replace(space=False),))
        if after.kind == "group" and after.text == "()" and name not in ("pi", "e", "i"):
            (inner,) = after.parts
            arguments = _split(inner, _is_separator)
            if len(arguments) > 1 or (len(inner) == 1 and inner[0].kind in ("number", "symbol")):
                self.place += 1  # f(x), not the product of n and n+1
                return (f"function {name}", *map(_expression, arguments))
        return ("symbol", name)

    def _absolute(self) -> Tree:
        start = self.place
        while self._here().kind != "end" and self._here() != Token("sign", "|", space=self._here().space):
            self.place += 1
        if self._here().kind == "end":
            raise Unread("|")
        inner = self.tokens[start : self.place]
        self.place += 1
        return _absolute(_expression(inner))

    # ------------------------------------------------------------------------------------- functions

    def _function(self, token: Token) -> Tree:
        name = token.text
        if name in OPERATORS:
            return self._operator(token)
        power: Tree | None = None
        if self._here().kind == "power":
            power = _expression(self._here().parts[0])
            self.place += 1
        arguments = self._arguments(name)
        if name in ("log", "ln"):
            base = number(10)
            if token.parts:
                base = _expression(token.parts[0])
            if len(arguments) != 1:
                raise Unread(name)
            tree: Tree = ("ln", *arguments) if name == "ln" else ("log", *arguments, base)
        elif token.parts:
            raise Unread(name)
        elif name == "sqrt":
            tree = ("root", *arguments, number(2))
        elif len(arguments) != 1 and name not in ("gcd", "lcm", "max", "min"):
            raise Unread(name)
        else:
            tree = (name, *arguments)
        if power is None:
            return tree
        if exact(power) == -1:
            if name not in ("sin", "cos", "tan"):
                raise Unread(f"{name}^-1")
            return (f"arc{name}", *arguments)
        return ("^", tree, power)

    def _arguments(self, name: str) -> list[Tree]:
        """What a function is of: brackets, or factors up to the next function or operator."""
        token = self._here()
        if token.kind == "group" and token.text in ("()", "[]"):
            self.place += 1
            return [_expression(part) for part in _split(token.parts[0], _is_separator)]
        negative = bool(self._sign("-"))
        tree = self._factor()
        while self._starts_factor() and self._here().kind not in ("function", "group"):
            tree = _product(tree, self._factor())
        return [_negated(tree) if negative else tree]

    def _operator(self, token: Token) -> Tree:
        """A sum, product, integral or limit: of its bounds and of all that follows in the term."""
        bounds = [canonical(part) for part in token.parts]
        if self._here().kind == "power":
            bounds.append(canonical(self._here().parts[0]))
            self.place += 1
        return (f"{token.text} {' '.join(bounds)}", self._product())


def _tried(tokens: Tokens) -> Tree | None:
    try:
        return _expression(tokens)
    except Unread:
        return None


def _negated(tree: Tree) -> Tree:
    return ("-", tree)


def _product(left: Tree, right: Tree) -> Tree:
    return (*left, right) if left[0] == "*" else ("*", left, right)


def _decimal(text: str) -> Tree:
    """A number as it is written, with how many digits stand behind its point."""
    if len(text) > 1000:
        raise Unread("a number")
    mantissa, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > 10_000:
        raise Unread("a number")
    places = len(mantissa.partition(".")[2]) if "." in mantissa else None
    return ("number", Fraction(text), None if exponent else places)


def _repeating(token: Token) -> Tree:
    digits = token.parts[0][0].text
    fixed = token.text.partition(".")[2]
    period = Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(fixed))
    return number(Fraction(token.text.rstrip(".") or 0) + period)


def _fraction(token: Token) -> Tree:
    top, bottom = token.parts
    if derivative := _derivative(top, bottom):
        return derivative
    return ("/", _expression(top), _expression(bottom))


def exact_fraction(token: Token) -> Tree | None:
    """A fraction of two whole numbers as one number."""
    top, bottom = (part[0].text if len(part) == 1 and part[0].kind == "number" else "" for part in token.parts)
    return number(Fraction(int(top), int(bottom))) if top.isdigit() and bottom.isdigit() and int(bottom) else None


_DIFFERENTIAL = re.compile(r"(?:d|partial)(?: \^\{\d\})?(?: (.+))?")


def _derivative(top: Tokens, bottom: Tokens) -> Tree | None:
    r"""\frac{dx}{dt} and \frac{d^2 x}{dt^2}, as symbols."""
    names = canonical(top), canonical(bottom)
    found = [_DIFFERENTIAL.fullmatch(name) for name in names]
    if not all(found) or found[1] is None or found[1][1] is None:
        return None
    if found[0] is None or (found[0][1] is None):
        raise Unread("a derivative to be taken")
    return ("symbol", f"{names[0]} over {names[1]}")


def _bracketed(token: Token) -> Tree:
    (inner,) = token.parts
    kind = {"()": "", "[]": "", "||": "abs", "⌊⌋": "floor", "⌈⌉": "ceiling"}.get(token.text)
    if kind is None:
        raise Unread(token.text)
    tree = _expression(inner)
    if kind == "abs":
        return _absolute(tree)
    return (kind, tree) if kind else tree


def _absolute(tree: Tree) -> Tree:
    """|x|; of a number it is a computation rather than an answer."""
    return ("abs", tree) if symbols(tree) else ("absolute value", tree)


# ---------------------------------------------------------------------------------------- on tokens


def _is_separator(token: Token) -> bool:
    return token.kind == "separator"


def _split(tokens: Tokens, at: Callable[[Token], bool]) -> list[Tokens]:
    found: list[list[Token]] = [[]]
    for token in tokens:
        if at(token):
            found.append([])
        else:
            found[-1].append(token)
    return [tuple(part) for part in found]


def _trimmed(tokens: Tokens) -> Tokens:
    """Without separators and full stops at the end."""
    while tokens and (tokens[-1].kind == "separator" or tokens[-1] == Token("sign", ".", space=tokens[-1].space)):
        tokens = tokens[:-1]
    return tokens


def _name(tokens: Tokens) -> str:
    return canonical(tokens)


def _has_sign(token: Token) -> bool:
    return (token.kind == "sign" and token.text in "±∓") or any(
        _has_sign(inner) for part in token.parts for inner in part
    )


def _with_sign(tokens: Tokens, plus: str, minus: str) -> Tokens:
    """The tokens with one sign for ± and the other for ∓."""
    return tuple(
        token._replace(
            text={"±": plus, "∓": minus}.get(token.text, token.text) if token.kind == "sign" else token.text,
            parts=tuple(_with_sign(part, plus, minus) for part in token.parts),
        )
        for token in tokens
    )


def _is_condition(part: Answer) -> bool:
    return isinstance(part, Relation) and bool(_INEQUALITIES.intersection(part.signs))
