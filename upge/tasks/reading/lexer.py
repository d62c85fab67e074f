r"""An answer as tokens: LaTeX, plain text and signs outside ASCII in one spelling.

Commands that only lay out or style are dropped; texts become words; a fraction, a root, a power
hold the tokens of their arguments. What has no place here raises :class:`Unread`: nothing is left
out because it isn't known. The time is linear in the length of an answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from upge.tasks.reading.units import CURRENCIES, is_word, names


class Unread(Exception):
    """An answer that can't be read."""


class TooMuch(Exception):
    """An answer that is nested too deep, or has too large a number."""


class Token(NamedTuple):
    """One token.

    Args:
        kind: number, symbol, word, sign, relation, separator, set (an operation on sets) or
            function; or what has parts: group, fraction, root, binomial, power, index, repeating,
            based, matrix.
        text: its text, in one spelling; of a group, its brackets.
        parts: the tokens of each argument, entry or row.
        space: whether a blank stands before it.
        upright: whether it is set upright, as text is.
    """

    kind: str
    text: str
    parts: tuple[tuple[Token, ...], ...] = ()
    space: bool = False
    upright: bool = False


Tokens = tuple[Token, ...]

#: The deepest nesting in an answer; the benchmarks' have 4 levels.
DEEPEST = 12

# -------------------------------------------------------------------------------------------- signs

_GREEK = names(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega"
)
_UPPER_GREEK = names("Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega")

#: Signs outside ASCII and the commands that they stand for.
_COMMANDS = dict(zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ", _GREEK + _UPPER_GREEK, strict=True)) | {
    **{"·": "cdot", "⋅": "cdot", "∙": "cdot", "•": "cdot", "×": "times", "±": "pm", "∓": "mp"},
    **{"≤": "le", "≥": "ge", "⩽": "le", "⩾": "ge", "≠": "ne", "≈": "approx", "∈": "in"},
    **{"∪": "cup", "∩": "cap", "∖": "setminus", "∧": "land", "∨": "lor", "∅": "emptyset"},
    **{"⟨": "langle", "⟩": "rangle", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil"},
    **{"√": "wholesqrt", "∛": "wholecbrt", "∞": "infty", "…": "ldots", "°": "degree"},
    **{"º": "degree", "∠": "angle", "△": "triangle", "ℏ": "hbar", "ϕ": "phi"},
}
_FULL_WIDTH = dict(zip("（）［］｛｝，；：％＋－＝＜＞／．＄", "()[]{},;:%+-=<>/.$", strict=True))
_FRACTIONS = dict(
    zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", names("12 13 23 14 34 15 25 35 45 16 56 18 38 58 78"), strict=True)
)
_TRANSLATION = str.maketrans(
    {sign: rf"\{command} " for sign, command in _COMMANDS.items()}
    | {sign: rf"\frac{digits} " for sign, digits in _FRACTIONS.items()}
    | {sign: rf"\mathbb{{{letter}}}" for sign, letter in zip("ℂℕℚℝℤ", "CNQRZ", strict=True)}
    | _FULL_WIDTH
    | dict.fromkeys("−–—‐‑‒", "-")
    | dict.fromkeys("∕⁄÷", "/")
    | dict.fromkeys("\u00a0\u2002\u2003\u2005\u2009\u200a\u202f", " ")
    | {"∗": "*", "′": "'", "″": "''", "’": "'"}
)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉₊₋₍₎"
_SCRIPTS = str.maketrans(_RAISED + _LOWERED, "0123456789+-()ni0123456789+-()")
_SCRIPT = re.compile(f"([{_RAISED}]+)|[{_LOWERED}]+")
_ONE_DOLLAR = re.compile(r"(?<!\\)\$")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z{}])")


def ascii_latex(text: str) -> str:
    """The text with signs outside ASCII as LaTeX writes them.

    Doubled backslashes before a command, as of a text that was quoted twice, become one. A single
    ``$``, which encloses nothing, is a dollar.

    Raises:
        Unread: it has digits of another script.
    """
    text = text.replace("per cent", "percent")
    if len(_ONE_DOLLAR.findall(text)) == 1:
        text = _ONE_DOLLAR.sub(r"\\$", text)
    for quotes in ('"', "**"):
        if text.startswith(quotes) and text.endswith(quotes):
            text = text.removeprefix(quotes).removesuffix(quotes)
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    if text.isascii():
        return text
    text = _SCRIPT.sub(
        lambda run: f"{'^' if run[1] else '_'}{{{run[0].translate(_SCRIPTS)}}}", text
    )
    text = text.translate(_TRANSLATION)
    if any(letter.isnumeric() and not letter.isascii() for letter in text):
        raise Unread("digits of another script")
    return text


def _script(run: re.Match[str]) -> str:
    return f"{'^' if run[1] else '_'}{{{run[0].translate(_SCRIPTS)}}}"


# ----------------------------------------------------------------------------------------- patterns

_SPACE = re.compile(
    r"(?:[\s~]|\\[,;:>\s]|\\q?quad|\\(?:(?:en|thin|med|thick)space|space|hfill)(?![a-zA-Z])"
    r"|\\(?:[hm]space\*?|phantom)\s*\{[^{}]*\})+"
)
_SILENT = re.compile(
    r"(?:\\(?:(?:left|right)\s*\.|(?:displaystyle|textstyle|(?:no)?limits|left|right|[bB]igg?[lrm]?"
    r"|bf|rm|it|tiny|small|large|Large|LARGE|huge|Huge|mathstrut|strut)(?![a-zA-Z])|[!()\[\]])"
    r"|\\(?:begin|end)\s*\{(?:cases|gathered)\}|\$)+"
)

#: Digits in groups of three, as 1{,}000, 1\,000 or 1 000; or 1,000, where no comma separates.
_GROUPED = r"\d{1,3}(?:(?:\{,\}|,\\!\s*|\\[,;: ]|~|\ )\d{3})+(?!\d)"
_COMMAS = r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,]\d)"
_TAIL = r"(?:[eE][+-]?\d+(?![\w{]))?"
#: A point behind all digits is a full stop, or that of -1./3.
_POINT = r"\.(?=\s*(?:[-+*/)\]},;$]|\\[)\]]|$))"
_NUMBER = re.compile(rf"(?:{_GROUPED}(?:\.\d+)?|\d+(?:\.\d+|{_POINT})?|\.\d+){_TAIL}")
_WITH_COMMAS = re.compile(rf"(?:{_COMMAS}|{_GROUPED})(?:\.\d+)?{_TAIL}")
#: 0.1\overline{6}, 0.\dot{3}, 0.\dot{1}2\dot{3}, 0.(6)
_REPEATING = re.compile(
    r"(\d*)\.(\d*)\s*(?:\\dot\s*\{?(\d)\}?\s*(\d*)\s*\\dot\s*\{?(\d)\}?"
    r"|\\(?:overline|bar|dot)\s*\{?(\d+)\}?|\((\d+)\))(?!\s*\\dot|\d)"
)
_BASED = re.compile(r"(?:\((\d[\dA-F]*)\)|(\d[\dA-F]*))\s*_\s*(?:\{\s*(\d+)\s*\}|(\d))")
_SCRIPT_NUMBER = re.compile(r"([+-]?)(\d+)(?![\d.]*\d)")

_COMMAND = re.compile(r"\\(?:([a-zA-Z]+)\*?|(.))", re.DOTALL)
_HALF_OF_DAY = re.compile(r"([apAP])\.\s?[mM](?:\.|(?![a-zA-Z]))")
_LETTERS = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"((?:[^\W\d_]\.)+[^\W\d_])\.?(?![^\W\d_])|([^\W\d_]+(?:['-][^\W\d_]+)*)\.?")
_MATRIX = re.compile(r"\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array)\*?\}\s*(?:\{[clr|\s]*\})?")
_CELL_END = re.compile(r"&|\\\\|\\end\s*\{[a-zA-Z]*\*?\}")
_BRACE_END = re.compile(r"\}")

# --------------------------------------------------------------------------------------- vocabulary

_TEXTS = frozenset(names("text textbf textit textrm textsf texttt textnormal mbox hbox emph"))
_STYLES = frozenset(
    names(
        "boldsymbol bm mathit mathsf mathtt mathcal mathscr mathfrak pmb underline uline boxed "
        "fbox ensuremath mathord"
    )
)
_UPRIGHT = frozenset(names("mathrm mathbf operatorname mathup"))
_ACCENTS = frozenset(
    names("overline bar vec hat tilde dot ddot widehat widetilde overrightarrow overleftrightarrow")
)
_TWO_PARTS = {"frac": "fraction", "dfrac": "fraction", "tfrac": "fraction", "cfrac": "fraction"}
_TWO_PARTS |= dict.fromkeys(("binom", "dbinom", "tbinom"), "binomial")

#: Operations that nothing here works out.
OPERATORS = frozenset(names("sum prod int iint oint lim"))
_FUNCTIONS = {
    name: name
    for name in names(
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt gcd lcm max "
        "min mod det"
    )
} | {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log"}
_CONSTANTS = {"pi": "pi"} | dict.fromkeys(names("infty infinity inf oo"), "infty")
_CONNECTIVES = {"and": "and", "or": "or"}


def _tokens(kind: str, **texts: str) -> dict[str, Token]:
    return {name: Token(kind, text) for text, group in texts.items() for name in names(group)}


#: Commands without arguments.
_PLAIN = {
    **{name: Token("symbol", name) for name in [*_GREEK, *_UPPER_GREEK]},
    **{name: Token("symbol", name) for name in names("hbar ell partial nabla angle triangle odot")},
    **{name: Token("symbol", name) for name in names("oplus star perp circ prime")},
    **{name: Token("symbol", text) for name, text in _CONSTANTS.items()},
    **_tokens("symbol", epsilon="varepsilon", theta="vartheta", phi="varphi", i="imath"),
    **_tokens("symbol", **{"∅": "emptyset varnothing", "ℝ": "reals"}),
    **_tokens("relation", **{"=": "coloneqq", "<": "lt", ">": "gt", "≈": "approx thickapprox"}),
    **_tokens("relation", **{"≤": "le leq leqslant leqq", "≥": "ge geq geqslant geqq"}),
    **_tokens("relation", **{"≠": "ne neq", "∈": "in"}),
    **_tokens("set", **{"∪": "cup", "∩": "cap", "∖": "setminus backslash"}),
    **_tokens("sign", **{"*": "cdot times ast", "/": "div", "±": "pm", "∓": "mp", ":": "colon"}),
    **_tokens("sign", **{"|": "vert mid", "°": "degree deg", "%": "percent"}),
    **_tokens("separator", **{"and": "land wedge", "or": "lor vee"}),
    **{name: Token("function", text) for name, text in _FUNCTIONS.items()},
    **{name: Token("function", name) for name in OPERATORS},
    **_tokens("function", mod="bmod pmod"),
    **{name: Token("word", text) for name, text in CURRENCIES.items() if name.isalpha()},
}
#: Escaped signs.
_ESCAPED = {"%": Token("sign", "%"), "$": Token("word", "dollar"), "|": Token("sign", "|")}
_ESCAPED["\\"] = Token("separator", ";")
#: Signs of one and of two characters.
_PAIRS = _tokens("relation", **{"≤": "<= =<", "≥": ">=", "≠": "!=", "=": ":= ==", "≈": "~="})
_SINGLES = {
    **{sign: Token("relation", sign) for sign in "=<>"},
    **{sign: Token("separator", sign) for sign in ",;"},
    **{sign: Token("sign", sign) for sign in "+-*/!:|'%."},
    **{sign: Token("word", text) for sign, text in CURRENCIES.items() if len(sign) == 1},
}

#: What opens a group: its sign in a token, and how it closes. Round brackets close each other.
_ROUND = re.compile(r"[)\]]")
_OPENING = {
    "(": ("(", _ROUND),
    "[": ("[", _ROUND),
    "{": ("⦃⦄", re.compile(r"\\(?:\}|rbrace(?![a-zA-Z]))")),
    "lbrace": ("⦃⦄", re.compile(r"\\(?:\}|rbrace(?![a-zA-Z]))")),
    "langle": ("<>", re.compile(r"\\rangle(?![a-zA-Z])")),
    "lfloor": ("⌊⌋", re.compile(r"\\rfloor(?![a-zA-Z])")),
    "lceil": ("⌈⌉", re.compile(r"\\rceil(?![a-zA-Z])")),
    "lvert": ("||", re.compile(r"\\rvert(?![a-zA-Z])")),
}


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
            Unread: a sign or command that isn't known, or brackets that don't match.
            TooMuch: it is nested too deep.
        """
        return self._sequence(None)

    def words(self) -> Tokens:
        """All of them, of a text: letters are words."""
        return self._sequence(None, prose=True)

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What matches here, which is passed."""
        match = pattern.match(self.text, self.place)
        self.place = match.end() if match else self.place
        return match

    def _expect(self, pattern: re.Pattern[str]) -> str:
        match = self._take(pattern)
        if match is None:
            raise Unread(f"{pattern.pattern} is missing")
        return match[0]

    def _blanks(self) -> None:
        while self._take(_SPACE) or self._take(_SILENT):
            pass

    def _sequence(self, end: re.Pattern[str] | None, prose: bool = False) -> Tokens:
        """The tokens up to what closes them, which is left to the caller."""
        sequence: list[Token] = []
        space = False
        self.depth += 1
        if self.depth > DEEPEST:
            raise TooMuch("brackets")
        while self.place < len(self.text):
            if self._take(_SPACE):
                space = True
            elif not self._take(_SILENT):
                if end is not None and end.match(self.text, self.place):
                    break
                tokens = self._word() if prose else self._token()
                sequence += [token._replace(space=space) for token in tokens[:1]] + list(tokens[1:])
                space = False
        self.depth -= 1
        return _folded(sequence)

    # -------------------------------------------------------------------------------------- a token

    def _token(self) -> Tokens:
        sign = self.text[self.place]
        if number := self._number(sign):
            return (number,)
        if sign == "\\":
            return self._command()
        if half := self._take(_HALF_OF_DAY):
            return (Token("word", f"{half[1]}m"),)
        if letters := self._take(_LETTERS):
            return self._letters(letters[0])
        self.place += 1
        if sign == "{":
            return self._braces()
        if sign in "([":
            return (self._group(sign),)
        if sign in "^_":
            return (Token("power" if sign == "^" else "index", sign, (self._script(),)),)
        pair = sign + self.text[self.place : self.place + 1]
        if pair in _PAIRS:
            self.place += 1
            return (_PAIRS[pair],)
        if sign not in _SINGLES or pair == "..":
            raise Unread(pair)
        return (_SINGLES[sign],)

    def _number(self, sign: str) -> Token | None:
        if sign not in "(.0123456789":
            return None
        based = _BASED.match(self.text, self.place)
        if based:
            digits, base = based[1] or based[2], int(based[3] or based[4])
            if 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits):
                self.place = based.end()
                return Token("based", digits, ((Token("number", str(base)),),))
        if repeating := self._take(_REPEATING):
            whole, fixed, *digits = repeating.groups(default="")
            period = (Token("number", "".join(digits)),)
            return Token("repeating", f"{whole or 0}.{fixed}", (period,))
        number = (self.commas and self._take(_WITH_COMMAS)) or self._take(_NUMBER)
        if not number:
            return None
        digits = re.sub(r"[^\d.eE+-]", "", number[0])
        if digits.endswith(".") and self.text.startswith(".", self.place):
            raise Unread("an ellipsis")
        return Token("number", digits.rstrip("."))

    def _letters(self, run: str) -> Tokens:
        """A run of letters: a function, a word, or symbols side by side."""
        if run == "np" and self.text.startswith(".", self.place):  # np.arcsin
            self.place += 1
            return ()
        if run.lower() in _CONNECTIVES:
            return (Token("separator", run.lower()),)
        if run in _FUNCTIONS:
            return (Token("function", _FUNCTIONS[run]),)
        if run in _CONSTANTS:
            return (Token("symbol", _CONSTANTS[run]),)
        if is_word(run):
            self._take(re.compile(r"\.(?!\.)"))  # of an abbreviation, or a full stop
            return (Token("word", run),)
        return tuple(Token("symbol", letter) for letter in run)

    def _word(self) -> Tokens:
        """A token of a text."""
        word = self._take(_WORD)
        if word is None:
            return self._token()
        name = word[2] or word[1].replace(".", "")
        if name.lower() in _CONNECTIVES:
            return (Token("separator", name.lower()),)
        return (Token("word", name),)

    def _braces(self) -> Tokens:
        """A group that TeX doesn't show: its tokens, or a list of them."""
        inner = self._sequence(_BRACE_END)
        self._expect(_BRACE_END)
        if any(token.kind == "separator" for token in inner):
            return (Token("group", "", (inner,)),)
        return inner

    def _group(self, opening: str) -> Token:
        brackets, end = _OPENING[opening]
        commas, self.commas = self.commas, False
        inner = self._sequence(end)
        self.commas = commas
        closing = self._expect(end)
        return Token("group", brackets + closing if end is _ROUND else brackets, (inner,))

    # ------------------------------------------------------------------------------------ arguments

    def _argument(self) -> Tokens:
        """One argument as TeX takes it: a group in braces, a command, or one letter or digit."""
        self._blanks()
        sign = self.text[self.place : self.place + 1]
        if sign == "\\":
            return self._command()
        self.place += 1
        if sign == "{":
            inner = self._sequence(_BRACE_END)
            self._expect(_BRACE_END)
            return inner
        if sign.isascii() and sign.isalnum():
            return (Token("number" if sign.isdigit() else "symbol", sign),)
        raise Unread("an argument is missing")

    def _script(self) -> Tokens:
        """A power or index; without braces a whole number is one too, and what is in brackets."""
        self._blanks()
        if number := self._take(_SCRIPT_NUMBER):
            sign = (Token("sign", number[1]),) if number[1] else ()
            return (*sign, Token("number", number[2]))
        if self._take(re.compile(r"\(")):
            return self._group("(").parts[0]
        return self._argument()

    # ------------------------------------------------------------------------------------- commands

    def _command(self) -> Tokens:
        if self._take(_MATRIX):
            return (self._matrix(),)
        command = self._take(_COMMAND)
        if command is None:
            raise Unread("\\")
        name, sign = command.groups()
        if sign:
            if sign == "{":
                return (self._group("{"),)
            if sign not in _ESCAPED:
                raise Unread(command[0])
            return (_ESCAPED[sign],)
        if name in _TEXTS:
            return self._prose()
        if name in _STYLES:
            return self._argument()
        if name in _UPRIGHT:
            return _joined(self._argument())
        if name in ("textcolor", "color"):
            self._argument()
            return self._argument() if name == "textcolor" else ()
        if name in _TWO_PARTS:
            return (Token(_TWO_PARTS[name], "", (self._argument(), self._argument())),)
        if name in ("sqrt", "wholesqrt", "wholecbrt"):
            return (self._root(name),)
        if name in _ACCENTS:
            return (Token("symbol", f"{name} {canonical(self._argument())}"),)
        if name == "mathbb":
            return (Token("symbol", f"mathbb {canonical(self._argument())}"),)
        if name in _OPENING:
            return (self._group(name),)
        if name not in _PLAIN:
            raise Unread(command[0])
        return (_PLAIN[name],)

    def _prose(self) -> Tokens:
        """The argument of a text command, as words, numbers and signs."""
        self._expect(re.compile(r"\s*\{"))
        commas, self.commas = self.commas, True
        inner = self._sequence(_BRACE_END, prose=True)
        self.commas = commas
        self._expect(_BRACE_END)
        return tuple(token._replace(upright=True) for token in inner)

    def _root(self, name: str) -> Token:
        self._blanks()
        index: Tokens = (Token("number", "3"),) if name == "wholecbrt" else ()
        if name == "sqrt" and self._take(re.compile(r"\[")):
            index = self._sequence(_ROUND)
            self._expect(_ROUND)
            self._blanks()
        if self._take(re.compile(r"\(")):  # sqrt(3)
            return Token("root", "", (self._group("(").parts[0], index))
        if name != "sqrt" and (number := self._take(_NUMBER)):
            return Token("root", "", ((Token("number", number[0]),), index))
        if re.compile(r"\d\d").match(self.text, self.place):
            raise Unread("a root of the first digit, or of all")
        return Token("root", "", (self._argument(), index))

    def _matrix(self) -> Token:
        rows: list[list[Token]] = [[]]
        end = ""
        while not end.startswith("\\end"):
            rows[-1].append(Token("group", "", (self._sequence(_CELL_END),)))
            end = self._expect(_CELL_END)
            if end == "\\\\":
                rows.append([])
        if rows[-1] == [Token("group", "", ((),))]:  # the last line may end in \\
            rows.pop()
        return Token("matrix", "", tuple(map(tuple, rows)))


def _joined(tokens: Tokens) -> Tokens:
    """Letters set upright: side by side they are a word or unit, alone a symbol."""
    folded: list[Token] = []
    for token in tokens:
        is_letter = token.kind in ("symbol", "word") and token.text.isalpha() and not token.parts
        if is_letter and folded and folded[-1].kind == "word" and not token.space:
            folded[-1] = folded[-1]._replace(text=folded[-1].text + token.text)
        else:
            folded.append(token._replace(kind="word") if is_letter else token)
    return tuple(
        token._replace(
            upright=True,
            kind="symbol" if len(token.text) == 1 and token.kind == "word" else token.kind,
        )
        for token in folded
    )


def _folded(tokens: list[Token]) -> Tokens:
    r"""Indices and primes as part of what they stand behind, and ° for ^\circ."""
    folded: list[Token] = []
    for token in tokens:
        last = folded[-1] if folded else None
        raised = canonical(token.parts[0]) if token.kind == "power" else ""
        primes = "'" * raised.count("prime") if raised else token.text * (token.text == "'")
        if raised in ("circ", "°"):
            folded.append(Token("sign", "°"))
        elif primes or raised.strip("' ") == "" != raised:
            if last is None or last.kind != "symbol":
                raise Unread("a prime")
            folded[-1] = last._replace(text=last.text + (primes or raised.replace(" ", "")))
        elif token.kind == "index" and last is not None and last.kind in ("symbol", "function"):
            folded[-1] = last._replace(parts=(*last.parts, token.parts[0]))
        else:
            folded.append(token)
    return tuple(folded)


def canonical(tokens: Tokens) -> str:
    """The tokens as one text: answers with equal texts are equal."""
    return " ".join(
        token.text + "".join(f"{{{canonical(part)}}}" for part in token.parts) for token in tokens
    )
