r"""An answer as tokens: LaTeX, plain text and signs outside ASCII in one spelling.

Commands that only lay out or style are dropped; texts become words; a fraction, a root, an exponent
hold the tokens of their arguments. What has no place here raises :class:`Unread`: nothing is left
out because it isn't known. All of it is linear in the length of an answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from upge.tasks.reading.units import CURRENCIES, is_word


class Unread(Exception):
    """An answer that can't be read."""


class TooMuch(Unread):
    """An answer that is nested too deep, or has numbers too large to be worked out."""


class Token(NamedTuple):
    """One token.

    Args:
        kind: number, symbol, word, sign, relation, separator, set (an operation on sets), function,
            or what has arguments: group, fraction, root, binomial, power, based, matrix.
        text: its text in one spelling; of a group, its brackets.
        parts: the tokens of each argument.
        space: whether a blank stands before it.
        upright: whether it is text or set upright.
    """

    kind: str
    text: str
    parts: tuple[tuple[Token, ...], ...] = ()
    space: bool = False
    upright: bool = False


Tokens = tuple[Token, ...]

#: The deepest brackets in an answer; those of the benchmarks are 4 deep.
DEEPEST = 10

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega"
).split()
_UPPER_GREEK = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()

#: Signs outside ASCII, as LaTeX.
_SIGNS = (
    dict(zip("αβγδεζηθικλμνξπρστυφχψω", (rf"\{name} " for name in _GREEK), strict=True))
    | dict(zip("ΓΔΘΛΞΠΣΥΦΨΩ", (rf"\{name} " for name in _UPPER_GREEK), strict=True))
    | dict.fromkeys("−–—‐‑‒", "-")
    | dict.fromkeys("·⋅∙•", r"\cdot ")
    | dict.fromkeys("∕⁄÷", "/")
    | dict.fromkeys("\u00a0\u2002\u2003\u2005\u2009\u200a\u202f", " ")
    | dict.fromkeys("∖⧵", r"\setminus ")
    | dict(zip("（）［］｛｝，；：％＋－＝＜＞／．＄", "()[]{},;:%+-=<>/.$", strict=True))
    | {"×": r"\times ", "∗": "*", "⟨": r"\langle ", "⟩": r"\rangle ", "′": "'", "″": "''", "’": "'"}
    | {"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx "}
    | {"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "∞": r"\infty "}
    | {"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"}
    | {"ℂ": r"\mathbb{C}", "√": r"\wholesqrt ", "∛": r"\wholecbrt ", "±": r"\pm ", "∓": r"\mp "}
    | {"°": r"\degree ", "º": r"\degree ", "…": r"\ldots ", "∠": r"\angle ", "△": r"\triangle "}
    | {"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil "}
    | {"∧": r"\land ", "∨": r"\lor ", "ℏ": r"\hbar ", "ϕ": r"\phi ", "ε": r"\epsilon "}
    | {"½": r"\frac12 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "¼": r"\frac14 ", "¾": r"\frac34 "}
    | {"⅕": r"\frac15 ", "⅖": r"\frac25 ", "⅗": r"\frac35 ", "⅘": r"\frac45 ", "⅙": r"\frac16 "}
    | {"⅚": r"\frac56 ", "⅛": r"\frac18 ", "⅜": r"\frac38 ", "⅝": r"\frac58 ", "⅞": r"\frac78 "}
)
_TRANSLATION = str.maketrans(_SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z{}])")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+")


def ascii_latex(text: str) -> str:
    """The text with the signs outside ASCII that have a spelling in LaTeX in that spelling.

    Doubled backslashes before a command, as of a text that was quoted twice, become one.
    """
    text = re.sub(r"\bper cent\b", "percent", text)
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: f"^{{{run[0].translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda run: f"_{{{run[0].translate(_LOWERED)}}}", text)
    text = text.translate(_TRANSLATION)
    if any(letter.isnumeric() and not letter.isascii() for letter in text):
        raise Unread("digits of another script")
    return text


#: Blanks, and what only lays out.
_SPACE = re.compile(
    r"(?:[\s~]|\\[,;:>\s]|\\q?quad|\\(?:(?:en|thin|med|thick)space|space|hfill)(?![a-zA-Z])"
    r"|\\(?:[hm]space\*?|phantom)\s*\{[^{}]*\})+"
)
_SILENT = re.compile(
    r"(?:\\(?:(?:left|right)\s*\.|(?:displaystyle|textstyle|(?:no)?limits|left|right|[bB]igg?[lrm]?"
    r"|bf|rm|it|tiny|small|large|Large|LARGE|huge|Huge|mathstrut|strut)(?![a-zA-Z])|[!()\[\]])|\$)+"
)

#: Digits in groups of three, as 1,000 or 1{,}000 or 1\,000 or 1 000; the first only where no comma
#: separates numbers.
_APART = r"(?:\{,\}|,\\!\s*|\\[,;: ]|~|\ )"
_GROUPED = rf"\d{{1,3}}(?:{_APART}\d{{3}})+(?!\d)"
_COMMAS = r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,]\d)"
_PLAIN = r"\d+(?:\.\d*)?|\.\d+"
_SCIENTIFIC = r"(?:[eE][+-]?\d+(?![\w{]))?"
_NUMBER = re.compile(rf"(?:{_GROUPED}(?:\.\d+)?|{_PLAIN}){_SCIENTIFIC}")
_LONG_NUMBER = re.compile(rf"(?:(?:{_COMMAS}|{_GROUPED})(?:\.\d+)?|{_PLAIN}){_SCIENTIFIC}")

#: 0.1\overline{6}, 0.\dot{3}
_REPEATING = re.compile(r"(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))(?!\s*\\dot|\d)")

#: 52_8, 2A_{16}
_BASED = re.compile(r"(?:\((\d[\dA-F]*)\)|(\d[\dA-F]*))\s*_\s*(?:\{\s*(\d+)\s*\}|(\d))")

_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
_LETTERS = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_](?:\.[^\W\d_])+\.?(?![^\W\d_])|[^\W\d_]+(?:['-][^\W\d_]+)*")

_TEXTS = frozenset("text textbf textit textrm textsf texttt textnormal mbox hbox emph".split())
_STYLES = frozenset(
    "boldsymbol bm mathit mathsf mathtt mathcal mathscr mathfrak pmb underline uline boxed fbox "
    "ensuremath mathord".split()
)
_UPRIGHT = frozenset("mathrm mathbf operatorname mathup".split())
_ACCENTS = frozenset(
    "overline bar vec hat tilde dot ddot widehat widetilde overrightarrow overleftrightarrow".split()
)
_FRACTIONS = frozenset("frac dfrac tfrac cfrac".split())
_BINOMIALS = frozenset("binom dbinom tbinom".split())

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt "
    "gcd lcm max min mod det".split()
)
_FUNCTION_NAMES = {name: name for name in FUNCTIONS} | {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "lg": "log",
}
#: Operations that nothing here works out; two are the same if their arguments are.
OPERATORS = frozenset("sum prod int iint oint lim".split())

_RELATIONS = {
    **{"=": "=", "<": "<", ">": ">", "lt": "<", "gt": ">", "coloneqq": "=", "approx": "≈"},
    **{"le": "≤", "leq": "≤", "leqslant": "≤", "leqq": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥"},
    **{"geqq": "≥", "ne": "≠", "neq": "≠", "in": "∈", "sim": "≈", "simeq": "≈"},
}
_COMPOSED = {"<=": "≤", ">=": "≥", "!=": "≠", "=<": "≤", ":=": "=", "==": "=", "~=": "≈"}
_SET_OPERATIONS = {"cup": "∪", "cap": "∩", "setminus": "∖", "backslash": "∖"}
_PRODUCTS = {"cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "colon": ":"}
_SEPARATORS = {"and": "and", "or": "or", "land": "and", "wedge": "and", "lor": "or", "vee": "or"}
_NAMED_SETS = {"emptyset": "∅", "varnothing": "∅", "reals": "ℝ"}
_SYNONYMS = {
    "varepsilon": "epsilon",
    "vartheta": "theta",
    "varphi": "phi",
    "imath": "i",
    "infinity": "infty",
    "inf": "infty",
    "oo": "infty",
}
_SYMBOLS = frozenset(
    [*_GREEK, *_UPPER_GREEK, "hbar", "ell", "infty", "partial", "nabla", "angle", "triangle"]
    + ["odot", "oplus", "star", "perp", "parallel", "circ", "prime", "cdots"]
)
_OPENING = {"(": "(", "[": "[", r"\{": "⦃", "langle": "<", "lfloor": "⌊", "lceil": "⌈"}
_OPENING |= {"lvert": "|", "lbrace": "⦃", "lbrack": "[", "lparen": "("}
_CLOSING = {")": ")", "]": "]", r"\}": "⦄", "rangle": ">", "rfloor": "⌋", "rceil": "⌉"}
_CLOSING |= {"rvert": "|", "rbrace": "⦄", "rbrack": "]", "rparen": ")"}
#: The brackets that may close another than their own, as in [0,1).
_ROUND = frozenset("()[]")
_MATES = {"⦃": "⦄", "<": ">", "⌊": "⌋", "⌈": "⌉", "|": "|"}
_MATRIX = re.compile(r"\\begin\s*\{([pbB]?matrix|smallmatrix|array)\*?\}\s*(?:\{[clr|\s]*\})?")
_END = re.compile(r"\\end\s*\{[a-zA-Z]*\*?\}")


class Lexer:
    """Reads the tokens of one answer, from left to right.

    Args:
        text: the answer.
        commas: whether 1,000 is a number rather than two.
    """

    def __init__(self, text: str, commas: bool = True) -> None:
        self.text, self.place, self.depth, self.commas = text, 0, 0, commas

    def tokens(self) -> Tokens:
        """All of them.

        Raises:
            Unread: a sign that isn't known, brackets that don't match.
        """
        found = self._until(None)
        if self.place < len(self.text):
            raise Unread(self.text[self.place :])
        return found

    # ----------------------------------------------------------------------------------- sequences

    def _until(self, end: str | None, prose: bool = False) -> Tokens:
        """The tokens up to a closing brace, bracket or \\end, which is left to the caller."""
        found: list[Token] = []
        self.depth += 1
        if self.depth > DEEPEST:
            raise TooMuch("brackets")
        space = False
        while self.place < len(self.text):
            if blank := _SPACE.match(self.text, self.place):
                self.place, space = blank.end(), True
                continue
            if silent := _SILENT.match(self.text, self.place):
                self.place = silent.end()
                continue
            if end is not None and self._ends(end):
                break
            for token in self._word(end) if prose else self._next(found):
                found.append(token._replace(space=space or token.space))
                space = False
        self.depth -= 1
        return _folded(found)

    def _ends(self, end: str) -> bool:
        if end == "}":
            return self.text[self.place] == "}"
        if end == "&":
            return self.text.startswith(("&", "\\\\", "\\end"), self.place)
        closing = self._closing()
        return closing is not None and (closing[0] in ")]" if end in _ROUND else closing[0] == end)

    def _closing(self) -> tuple[str, int] | None:
        """A closing bracket that stands here, and where it ends."""
        text, place = self.text, self.place
        if text[place] in ")]":
            return text[place], place + 1
        if text.startswith(r"\}", place):
            return "⦄", place + 2
        command = _COMMAND.match(text, place)
        if command and command[1] in _CLOSING:
            return _CLOSING[command[1]], command.end()
        return None

    # ------------------------------------------------------------------------------------- one token

    def _next(self, before: list[Token]) -> Tokens:
        text, place = self.text, self.place
        sign = text[place]
        if sign.isdigit() or (sign == "." and re.match(r"\d|\\(?:overline|bar|dot)", text[place + 1 :])):
            return self._number()
        if text.startswith("..", place):
            raise Unread("an ellipsis")
        if sign == "(" and (based := self._based()):
            return based
        if sign == "\\":
            return self._command(before)
        if sign.isascii() and sign.isalpha():
            return self._letters()
        self.place += 1
        if sign == "{":
            return self._braces()
        if sign in "([":
            return (self._bracket(sign),)
        if sign in "^_":
            return (Token("power" if sign == "^" else "index", sign, (self._exponent(),)),)
        if (two := text[place : place + 2]) in _COMPOSED:
            self.place += 1
            return (Token("relation", _COMPOSED[two]),)
        if sign in _RELATIONS:
            return (Token("relation", _RELATIONS[sign]),)
        if sign in ",;":
            return (Token("separator", sign),)
        if sign in "+-*/!:|'%.":
            return (Token("sign", sign),)
        if sign in CURRENCIES:
            return (Token("word", CURRENCIES[sign]),)
        if sign == '"':
            return ()
        raise Unread(sign)

    def _number(self) -> Tokens:
        text, place = self.text, self.place
        if based := self._based():
            return based
        if repeating := _REPEATING.match(text, place):
            self.place = repeating.end()
            whole, fixed, many, one = repeating.groups()
            return (Token("repeating", f"{whole or 0}.{fixed}", ((Token("number", many or one),),)),)
        pattern = _LONG_NUMBER if self.commas else _NUMBER
        number = pattern.match(text, place)
        assert number is not None
        self.place = number.end()
        digits = re.sub(r"[^\d.eE+-]", "", number[0])
        if digits.endswith(".") and text.startswith(".", self.place):
            raise Unread("an ellipsis")
        return (Token("number", digits.rstrip(".")),)

    def _based(self) -> Tokens:
        """Digits with their base; nothing if none stand here."""
        match = _BASED.match(self.text, self.place)
        if match is None:
            return ()
        digits, base = match[1] or match[2], int(match[3] or match[4])
        if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits):
            return ()
        self.place = match.end()
        return (Token("based", digits, ((Token("number", str(base)),),)),)

    def _letters(self) -> Tokens:
        run = _LETTERS.match(self.text, self.place)
        assert run is not None
        self.place = run.end()
        name = run[0]
        if name == "np" and self.text.startswith(".", self.place):
            self.place += 1
            return ()
        tokens = _letters(name)
        if tokens[0].kind == "word" and self.text.startswith(".", self.place):
            self.place += 1  # of an abbreviation, or a full stop
        return tokens

    def _braces(self) -> Tokens:
        """A group in braces that TeX doesn't show: its tokens, or a list of them."""
        inner = self._until("}")
        self._take("}")
        if any(token.kind == "separator" for token in inner):
            return (Token("group", "", (inner,)),)
        return inner

    def _bracket(self, opening: str) -> Token:
        commas, self.commas = self.commas, False
        inner = self._until(opening if opening in _ROUND else _MATES[opening])
        self.commas = commas
        if self.place >= len(self.text):
            raise Unread("an open bracket")
        closing = self._closing()
        assert closing is not None
        self.place = closing[1]
        return Token("group", opening + closing[0], (inner,))

    def _take(self, sign: str) -> None:
        if not self.text.startswith(sign, self.place):
            raise Unread(f"{sign} is missing")
        self.place += len(sign)

    def _blanks(self) -> None:
        while blank := _SPACE.match(self.text, self.place) or _SILENT.match(self.text, self.place):
            self.place = blank.end()

    # ------------------------------------------------------------------------------------- arguments

    def _argument(self) -> Tokens:
        """One argument as TeX takes it: a group in braces, a command, or one letter or digit."""
        self._blanks()
        if self.text.startswith("{", self.place):
            self.place += 1
            inner = self._until("}")
            self._take("}")
            return inner
        if self.text.startswith("\\", self.place):
            return self._command([])
        sign = self.text[self.place : self.place + 1]
        self.place += 1
        if sign.isascii() and sign.isdigit():
            return (Token("number", sign),)
        if sign.isascii() and sign.isalpha():
            return (Token("symbol", sign),)
        raise Unread("an argument is missing")

    def _exponent(self) -> Tokens:
        """An exponent or index: without braces a whole number, signed or not, is one too."""
        self._blanks()
        if number := re.compile(r"[+-]?\d+(?![\d.]*\d)").match(self.text, self.place):
            self.place = number.end()
            return Lexer(number[0]).tokens()
        if self.text.startswith("*", self.place):
            self.place += 1
            return (Token("sign", "*"),)
        if self.text.startswith("(", self.place):
            self.place += 1
            return self._bracket("(").parts[0]
        return self._argument()

    def _prose(self) -> Tokens:
        """The argument of a text command, as words, numbers and signs."""
        self._blanks()
        self._take("{")
        commas, self.commas = self.commas, True
        inner = self._until("}", prose=True)
        self.commas = commas
        self._take("}")
        return tuple(token._replace(upright=True) for token in inner)

    def _word(self, end: str | None) -> Tokens:
        """The next token within a text."""
        text, place = self.text, self.place
        if word := _WORD.match(text, place):
            self.place = word.end()
            name = word[0].replace(".", "") if "." in word[0] else word[0]
            if name.lower() in _SEPARATORS:
                return (Token("separator", _SEPARATORS[name.lower()]),)
            if text.startswith(".", self.place):  # of an abbreviation, or a full stop
                self.place += 1
            return (Token("word", name),)
        return self._next([])

    # -------------------------------------------------------------------------------------- commands

    def _command(self, before: list[Token]) -> Tokens:
        text = self.text
        if matrix := _MATRIX.match(text, self.place):
            self.place = matrix.end()
            return (self._matrix(),)
        if text.startswith(r"\{", self.place):
            self.place += 2
            return (self._bracket("⦃"),)
        command = _COMMAND.match(text, self.place)
        if command is None:
            sign = text[self.place : self.place + 2]
            self.place += 2
            return self._escaped(sign)
        self.place, name = command.end(), command[1]
        if name in _TEXTS:
            return self._prose()
        if name in _STYLES:
            return self._argument()
        if name in _UPRIGHT:
            return self._upright()
        if name in ("textcolor", "color"):
            self._blanks()
            self._argument()
            return self._argument() if name == "textcolor" else ()
        if name in _FRACTIONS:
            return (Token("fraction", "", (self._argument(), self._argument())),)
        if name in _BINOMIALS:
            return (Token("binomial", "C", (self._argument(), self._argument())),)
        if name in ("sqrt", "wholesqrt", "wholecbrt"):
            return (self._root(name),)
        if name in _ACCENTS:
            return (Token("symbol", f"{name} {canonical(self._argument())}"),)
        if name == "mathbb":
            return (Token("symbol", "ℂℕℚℝℤ"["CNQRZ".index(self._only_letter("CNQRZ"))]),)
        if name in _OPENING:
            return (self._bracket(_OPENING[name]),)
        return (self._plain(name),)

    def _plain(self, name: str) -> Token:
        """A command without arguments."""
        name = _SYNONYMS.get(name, name)
        if name in _RELATIONS:
            return Token("relation", _RELATIONS[name])
        if name in _SET_OPERATIONS:
            return Token("set", _SET_OPERATIONS[name])
        if name in _PRODUCTS:
            return Token("sign", _PRODUCTS[name])
        if name in _SEPARATORS:
            return Token("separator", _SEPARATORS[name])
        if name in _NAMED_SETS:
            return Token("symbol", _NAMED_SETS[name])
        if name in ("bmod", "pmod"):
            return Token("function", "mod")
        if name in _FUNCTION_NAMES:
            return Token("function", _FUNCTION_NAMES[name])
        if name in OPERATORS:
            return Token("function", name)
        if name in ("degree", "deg"):
            return Token("sign", "°")
        if name in ("vert", "mid"):
            return Token("sign", "|")
        if name in _SYMBOLS:
            return Token("symbol", name)
        if name in ("pounds", "textsterling", "euro", "texteuro", "yen", "cent", "textcent"):
            return Token("word", CURRENCIES[name])
        if name == "percent":
            return Token("sign", "%")
        raise Unread(f"\\{name}")

    def _escaped(self, sign: str) -> Tokens:
        if sign == r"\%":
            return (Token("sign", "%"),)
        if sign == r"\$":
            return (Token("word", "dollar"),)
        if sign == "\\\\":
            return (Token("separator", ";"),)
        if sign == r"\|":
            return (Token("sign", "|"),)
        if sign in (r"\_", r"\&", r"\#"):
            raise Unread(sign)
        raise Unread(sign)

    def _upright(self) -> Tokens:
        """Letters set upright: a function, a word or unit, or a symbol."""
        self._blanks()
        if not self.text.startswith("{", self.place):
            return tuple(token._replace(upright=True) for token in self._argument())
        self.place += 1
        found: list[Token] = []
        for token in self._until("}"):
            if token.kind == "symbol" and found and found[-1].kind == "symbol" and not token.space:
                if len(token.text) == len(found[-1].text[-1:]) == 1:  # letters of one word
                    found[-1] = found[-1]._replace(text=found[-1].text + token.text)
                    continue
            found.append(token)
        self._take("}")
        words = (
            token._replace(kind="word") if token.kind == "symbol" and token.text.isalpha()
            and token.text.isascii() and 1 < len(token.text) and token.text not in _SYMBOLS else token
            for token in found
        )
        return tuple(token._replace(upright=True) for token in words)

    def _only_letter(self, allowed: str) -> str:
        name = canonical(self._argument())
        if len(name) != 1 or name not in allowed:
            raise Unread(name)
        return name

    def _root(self, name: str) -> Token:
        self._blanks()
        index: Tokens = (Token("number", "3"),) if name == "wholecbrt" else ()
        if name == "sqrt" and self.text.startswith("[", self.place):
            self.place += 1
            index = self._until("[")
            self._take("]")
        if name != "sqrt" or self.text.startswith("(", self.place):
            self._blanks()
            if self.text.startswith("(", self.place):  # sqrt(3)
                self.place += 1
                return Token("root", "", (self._bracket("(").parts[0], index))
            if number := _NUMBER.match(self.text, self.place):
                self.place = number.end()
                return Token("root", "", ((Token("number", number[0]),), index))
        elif re.compile(r"\d\d").match(self.text, self.place):
            raise Unread("a root of the first digit, or of all")
        return Token("root", "", (self._argument(), index))

    def _matrix(self) -> Token:
        rows: list[Tokens] = []
        row: list[Token] = []
        while True:
            row.append(Token("group", "", (self._until("&"),)))
            if end := _END.match(self.text, self.place):
                self.place = end.end()
                break
            if self.text.startswith("&", self.place):
                self.place += 1
            elif self.text.startswith("\\\\", self.place):
                self.place += 2
                rows.append(tuple(row))
                row = []
            else:
                raise Unread("an open matrix")
        if len(row) > 1 or row[0].parts[0]:  # a last line may end in \\
            rows.append(tuple(row))
        return Token("matrix", "", tuple(rows))


def _letters(run: str) -> Tokens:
    """A run of letters: the name of a function, a word, or symbols side by side."""
    if run.lower() in _SEPARATORS:
        return (Token("separator", _SEPARATORS[run.lower()]),)
    if run in _FUNCTION_NAMES:
        return (Token("function", _FUNCTION_NAMES[run]),)
    if run in ("pi", "infty", "infinity", "inf", "oo"):
        return (Token("symbol", _SYNONYMS.get(run, run)),)
    if is_word(run):
        return (Token("word", run),)
    if run.startswith("sqrt"):
        raise Unread(run)
    return tuple(Token("symbol", letter) for letter in run)


def _folded(tokens: list[Token]) -> Tokens:
    """Indices and primes as part of the symbol that they stand behind; ° of ^{\\circ}."""
    found: list[Token] = []
    for token in tokens:
        last = found[-1] if found else None
        if token.kind == "power" and (raised := canonical(token.parts[0])) in ("circ", "°"):
            found.append(Token("sign", "°"))
        elif token.kind == "power" and raised in ("prime", "prime prime", "'", "''"):
            found[-1:] = [_primed(last, raised.replace("prime", "'").replace(" ", ""))]
        elif token == Token("sign", "'"):
            found[-1:] = [_primed(last, "'")]
        elif token.kind == "index" and last is not None and last.kind in ("symbol", "function"):
            found[-1] = last._replace(text=last.text, parts=(*last.parts, token.parts[0]))
        else:
            found.append(token)
    return tuple(found)


def _primed(last: Token | None, primes: str) -> Token:
    if last is None or last.kind != "symbol":
        raise Unread("a prime")
    return last._replace(text=last.text + primes)


def canonical(tokens: Tokens) -> str:
    """The tokens as one text: equal texts are equal answers."""
    return " ".join(
        token.text + "".join(f"{{{canonical(part)}}}" for part in token.parts) for token in tokens
    )
