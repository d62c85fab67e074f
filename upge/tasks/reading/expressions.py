"""Expressions: from tokens to trees, by precedence (see :mod:`upge.tasks.reading.values`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from upge.tasks.reading.lexer import OPERATORS, Token, Tokens, Unread, canonical
from upge.tasks.reading.values import CONSTANTS, Tree, exact, number, symbols

NAMED_SETS = {"∅": "∅", "ℝ": "ℝ", **{f"mathbb {letter}": letter for letter in "CNQZ"}}
NAMED_SETS["mathbb R"] = "ℝ"

_START_FACTORS = frozenset(
    ("number", "repeating", "symbol", "fraction", "root", "binomial", "function", "group")
)
#: Functions of several arguments.
_OF_SEVERAL = frozenset(("gcd", "lcm", "max", "min"))
_BRACKETS = {"||": "abs", "⌊⌋": "floor", "⌈⌉": "ceiling"}


def expression(tokens: Tokens) -> Tree:
    """The tree of an expression.

    Raises:
        Unread: it is none.
    """
    parser = _Parser(tuple(piece for token in tokens for piece in _letters(token)))
    tree = parser.sum()
    if parser.place < len(parser.tokens):
        raise Unread(parser.tokens[parser.place].text)
    return tree


def is_separator(token: Token) -> bool:
    """Whether a token stands between answers."""
    return token.kind == "separator"


def split(tokens: Tokens, at: Callable[[Token], bool]) -> list[Tokens]:
    """The tokens between those that are ``at``."""
    pieces: list[list[Token]] = [[]]
    for token in tokens:
        if at(token):
            pieces.append([])
        else:
            pieces[-1].append(token)
    return list(map(tuple, pieces))


def _letters(token: Token) -> Tokens:
    """A short word that is no unit here as the product of its letters."""
    if token.kind != "word":
        return (token,)
    if len(token.text) > (1 if token.upright else 3):
        raise Unread(token.text)
    return tuple(Token("symbol", letter) for letter in token.text)


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.place = tokens, 0

    def _here(self, ahead: int = 0) -> Token:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else Token("end", "")

    def _sign(self, signs: str) -> str:
        """A sign that stands here, which is passed; empty if none of these does."""
        token = self._here()
        if token.kind != "sign" or token.text not in signs:
            return ""
        self.place += 1
        return token.text

    def sum(self) -> Tree:
        terms = [self._term()]
        while sign := self._sign("+-"):
            term = self._term()
            terms.append(("-", term) if sign == "-" else term)
        return terms[0] if len(terms) == 1 else ("+", *terms)

    def _term(self) -> Tree:
        return self._signed(self._product)

    def _signed(self, read: Callable[[], Tree]) -> Tree:
        negative = False
        while sign := self._sign("+-"):
            negative ^= sign == "-"
        return ("-", read()) if negative else read()

    def _product(self) -> Tree:
        tree = self._factor()
        while True:
            token, before = self._here(), self.tokens[self.place - 1]
            if sign := self._sign("*/"):
                factor = self._signed(self._factor)
                tree = ("/", tree, factor) if sign == "/" else _product(tree, factor)
            elif token == Token("function", "mod", space=token.space):
                self.place += 1
                tree = ("mod", tree, self._factor())
            elif token.kind in _START_FACTORS:
                if token.kind == "number" and before.kind in ("number", "symbol", "repeating"):
                    raise Unread("two numbers side by side")
                tree = _product(tree, self._factor())
            else:
                return tree

    def _factor(self) -> Tree:
        """An atom with a power, ! or ° behind it; 2^3^2 and 3!! are read in more ways than one."""
        tree, before = self._atom(), ""
        while True:
            sign = "^" if self._here().kind == "power" else self._sign("!°")
            if not sign:
                return tree
            if sign == before:
                raise Unread(sign)
            tree, before = (sign, tree), sign
            if sign == "^":
                tree = (*tree, expression(self._here().parts[0]))
                self.place += 1

    def _atom(self) -> Tree:
        token = self._here()
        self.place += 1
        if token.kind in ("fraction", "binomial"):
            return _of_two(token)
        match token.kind:
            case "number":
                return self._mixed(_decimal(token.text))
            case "repeating":
                return _repeating(token)
            case "root":
                radicand, index = token.parts
                return ("root", expression(radicand), expression(index) if index else number(2))
            case "symbol":
                return self._symbol(token)
            case "function":
                return self._function(token)
            case "group":
                return _grouped(token)
        if token.kind == "sign" and token.text == "|":
            return self._absolute()
        raise Unread(token.text or "an end")

    def _mixed(self, whole: Tree) -> Tree:
        r"""1 3/4 and 1\frac{3}{4}; a number as it is where none of these follows."""
        part, length = None, 1
        if self._here().kind == "fraction":
            part = _whole_ratio(*map(canonical, self._here().parts))
        elif self._here().kind == "number" and self._here().space and self._here(1).text == "/":
            part, length = _whole_ratio(self._here().text, self._here(2).text), 3
        if part is None or whole[1].denominator != 1 or whole[2] is not None:
            return whole
        if part >= 1:
            raise Unread("a mixed number")
        self.place += length
        return number(whole[1] + part)

    def _symbol(self, token: Token) -> Tree:
        if token.text in NAMED_SETS:
            raise Unread(token.text)
        if chosen := _choice_number(token, self._here()):
            self.place += 1
            return chosen
        name = canonical((token,))
        if self._here().kind == "group" and self._here().text == "()" and name not in CONSTANTS:
            (inner,) = self._here().parts
            arguments = split(inner, is_separator)
            if len(arguments) > 1 or (len(inner) == 1 and inner[0].kind in ("number", "symbol")):
                self.place += 1  # f(x), which is no product, as n(n+1) is
                return (f"function {name}", *map(expression, arguments))
        return ("symbol", name)

    def _absolute(self) -> Tree:
        start = self.place
        while not self._sign("|"):
            if self._here().kind == "end":
                raise Unread("|")
            self.place += 1
        return _absolute(expression(self.tokens[start : self.place - 1]))

    # ------------------------------------------------------------------------------------ functions

    def _function(self, token: Token) -> Tree:
        name, power = token.text, None
        if self._here().kind == "power":
            power = self._here().parts[0]
            self.place += 1
        if name in OPERATORS:  # of its bounds, and of all that follows in the term
            bounds = " ".join(map(canonical, [*token.parts, power or ()]))
            return (f"{name} {bounds}", self._product())
        arguments = self._arguments()
        if (len(arguments) > 1 and name not in _OF_SEVERAL) or (token.parts and name != "log"):
            raise Unread(name)
        tree: Tree = (name, *arguments)
        if name == "log":
            tree = (name, *arguments, expression(token.parts[0]) if token.parts else number(10))
        elif name == "sqrt":
            tree = ("root", *arguments, number(2))
        if power is None:
            return tree
        raised = expression(power)
        if exact(raised) == -1:
            if name not in ("sin", "cos", "tan"):
                raise Unread(f"{name}^-1")
            return (f"arc{name}", *arguments)
        return ("^", tree, raised)

    def _arguments(self) -> list[Tree]:
        """What a function is of: brackets, or the factors up to the next function or sign."""
        token = self._here()
        if token.kind == "group" and token.text in ("()", "[]"):
            self.place += 1
            return [expression(part) for part in split(token.parts[0], is_separator)]
        negative = bool(self._sign("-"))
        tree = self._factor()
        while self._here().kind in _START_FACTORS - {"function", "group"}:
            tree = _product(tree, self._factor())
        return [("-", tree) if negative else tree]


def _product(left: Tree, right: Tree) -> Tree:
    return (*left, right) if left[0] == "*" else ("*", left, right)


def _whole_ratio(top: str, bottom: str) -> Fraction | None:
    if not (top.isdigit() and bottom.isdigit() and int(bottom)):
        return None
    return Fraction(int(top), int(bottom))


def _decimal(text: str) -> Tree:
    """A number as it is written, with how many digits stand behind its point."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 5:
        raise Unread("a number")
    places = len(mantissa.partition(".")[2]) if "." in mantissa and not exponent else None
    return ("number", Fraction(text), places)


def _repeating(token: Token) -> Tree:
    digits, fixed = token.parts[0][0].text, token.text.partition(".")[2]
    period = Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(fixed))
    return number(Fraction(token.text.rstrip(".")) + period)


def _of_two(token: Token) -> Tree:
    top, bottom = token.parts
    if token.kind == "binomial":
        return ("binomial", expression(top), expression(bottom))
    return _derivative(canonical(top), canonical(bottom)) or (
        "/",
        expression(top),
        expression(bottom),
    )


_DIFFERENTIAL = re.compile(r"(?:d|partial)(?: \^\{\d\})?(?: (.+))?")


def _derivative(top: str, bottom: str) -> Tree | None:
    r"""\frac{dx}{dt} and \frac{d^2 x}{dt^2}, as symbols."""
    above, below = _DIFFERENTIAL.fullmatch(top), _DIFFERENTIAL.fullmatch(bottom)
    if above is None or below is None or below[1] is None:
        return None
    if above[1] is None:
        raise Unread("a derivative to be taken")
    return ("symbol", f"{top} over {bottom}")


def _choice_number(token: Token, power: Token) -> Tree | None:
    r"""\mathrm{C}_8^2 and \mathrm{A}_8^2, as they are counted; in italics of numbers alone."""
    if token.text not in ("C", "A", "P") or not token.parts or power.kind != "power":
        return None
    n, k = expression(token.parts[0]), expression(power.parts[0])
    if not token.upright and (exact(n) is None or exact(k) is None):
        return None
    chosen: Tree = ("binomial", n, k)
    return chosen if token.text == "C" else ("*", chosen, ("!", k))


def _grouped(token: Token) -> Tree:
    tree = expression(token.parts[0])
    if token.text in ("()", "[]"):
        return tree
    if token.text == "||":
        return _absolute(tree)
    if token.text not in _BRACKETS:
        raise Unread(token.text)
    return (_BRACKETS[token.text], tree)


def _absolute(tree: Tree) -> Tree:
    """|x|; of a number it would be a computation rather than its result."""
    return ("abs" if symbols(tree) else "absolute value", tree)
