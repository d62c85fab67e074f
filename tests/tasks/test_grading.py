"""The verdict on an answer: what is the same, what isn't, and no harm from hostile ones."""

from __future__ import annotations

import time
from fractions import Fraction
from math import gcd

import pytest
from forms_of_answers import DIFFERENT, EQUAL, KINDS
from hypothesis import assume, example, given
from hypothesis import strategies as st

from upge.tasks.grading import LONGEST, Verdict, grade, is_number
from upge.tasks.reading.grammar import KINDS as KIND_NAMES


def graded(answers: list[str], gold: str, kind: str = "") -> dict[str, bool]:
    return {answer: grade(gold, answer, kind) is Verdict.RIGHT for answer in answers}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind(kind: str) -> None:
    for gold, (right, wrong) in KINDS[kind].items():
        wanted = dict.fromkeys(right, True) | dict.fromkeys(wrong, False)
        assert graded([*right, *wrong], gold) == wanted, gold


@pytest.mark.parametrize("name", EQUAL)
def test_forms_that_say_the_same(name: str) -> None:
    for gold, forms in EQUAL[name].items():
        assert graded(forms, gold) == dict.fromkeys(forms, True), gold


@pytest.mark.parametrize("name", DIFFERENT)
def test_forms_that_do_not(name: str) -> None:
    for gold, forms in DIFFERENT[name].items():
        assert graded(forms, gold) == dict.fromkeys(forms, False), gold


# ----------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("5", "5", Verdict.RIGHT),
        ("5", "6", Verdict.WRONG),
        ("5", r"6\text{ cm}", Verdict.WRONG),
        ("5", r"5\text{ or more}", Verdict.WRONG),
        ("5", r"5\text{ less than }x", Verdict.UNREAD),
        ("5", r"5\ldots", Verdict.UNREAD),
        ("5", r"\unknown{5}", Verdict.UNREAD),
        ("5", "(5", Verdict.UNREAD),
        ("5", "5 5", Verdict.UNREAD),
        ("C", "5", Verdict.UNREAD),
        ("$t(0,4]$", "(0,4]", Verdict.UNREAD),  # nobody can say what the gold answer is
        ("$t(0,4]$", "t(0, 4]", Verdict.RIGHT),
        ("5", "1" * (LONGEST + 1), Verdict.REFUSED),
        ("5", "(" * 20 + "5" + ")" * 20, Verdict.REFUSED),
        ("5", "9^{9^{9}}", Verdict.REFUSED),
        ("5", r"\frac{1}{3}^{10^9}", Verdict.REFUSED),
        ("5", "(10^9)!", Verdict.REFUSED),
    ],
)
def test_verdicts(gold: str, answer: str, verdict: Verdict) -> None:
    assert grade(gold, answer) is verdict


#: What asks for a computation rather than giving its result.
@pytest.mark.parametrize(
    ("gold", "question"),
    [
        ("204", r"\gcd(204,408)"),
        ("12", r"\lcm(4,6)"),
        ("12", r"\operatorname{lcm}(4,6)"),
        ("12", r"29 \mod 17"),
        ("-2", r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        ("-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        ("7", r"\lfloor7.5\rfloor"),
        ("7", r"\left\lceil 6.5\right\rceil"),
        ("7", r"\max\left(3,7\right)"),
        ("5", "|-5|"),
        ("5", r"\lvert 3-8\rvert"),
        ("5050", r"\sum_{k=1}^{100} k"),
        ("2x", r"\frac{d}{dx} x^2"),
        ("x", r"\frac{d}{dx} x^2"),
        ("(-2,2)", "x^2<4"),
        (r"\{-2,2\}", "x^2=4"),
        (
            r"\begin{pmatrix}4\\6\end{pmatrix}",
            r"\begin{pmatrix}1\\2\end{pmatrix}+\begin{pmatrix}3\\4\end{pmatrix}",
        ),
    ],
)
def test_a_question_is_not_its_answer(gold: str, question: str) -> None:
    assert grade(gold, question) is not Verdict.RIGHT


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("6", r"\gcd(12,18)=6"),
        ("6", r"\sum_{k=1}^{3} k = 6"),
        ("6", "3!"),
        ("6", r"x_{\max}=6"),
        ("6", r"\log_2 64"),
        ("5", "2+3=5"),
        ("5", "x = 10/2 = 5"),
        ("3.14", r"\frac{22}{7} = 3.14"),
        (r"m n-\lfloor m / 2\rfloor", r"mn - \left\lfloor\frac{m}{2}\right\rfloor"),
        (r"\sum_{i=1}^{n} i^i", r"\sum_{i=1}^n i^{i}"),
    ],
)
def test_signs_of_a_computation_are_no_question(gold: str, answer: str) -> None:
    assert grade(gold, answer) is Verdict.RIGHT


@pytest.mark.parametrize("answer", ["6=5", "1=2=3=4=5", "x=6=5", r"\frac{12}{2} = 5"])
def test_what_contradicts_itself_is_wrong(answer: str) -> None:
    assert grade("5", answer) is Verdict.WRONG


# ----------------------------------------------------------------------------------- declared kinds


@pytest.mark.parametrize(
    ("kind", "gold", "right", "wrong"),
    [
        ("choice", "B", ["B", "(b)", "B) cells"], ["A", "5", "A or B"]),
        ("number", "033", ["33", "33.0", r"33\text{ ways}"], ["x", "3,3", "(33)_8"]),
        ("number", "7", ["7", r"\text{seven}"], ["7x", "n", r"\{7, 8\}"]),
        ("tuple", "(1,3)", ["(1,3)", "1, 3", "(1.0, 3)"], ["1<x<3", "(3,1)", r"\{1,3\}"]),
        ("interval", "(1,3)", ["(1,3)", "1<x<3", r"x\in(1,3)"], ["(1,3]", "3<x<1"]),
        ("set", "100,200", [r"\{100,200\}", "200, 100"], ["100200", "(100,200,300)"]),
        ("list", "100,200", ["200, 100", "100 and 200"], ["100200", "100"]),
        ("expression", "9 m", ["9m", r"m\cdot 9"], ["9", r"9\text{ km}"]),
        ("text", "abc", ["abc", "ABC", r"\text{abc}"], ["cba", "acb"]),
        ("text", "12", ["12"], ["12.0", r"\text{twelve}"]),
        (
            "matrix",
            r"\begin{pmatrix}1\\2\end{pmatrix}",
            [r"\begin{bmatrix}1\\2\end{bmatrix}"],
            ["1"],
        ),
    ],
)
def test_what_a_data_set_declares(kind: str, gold: str, right: list[str], wrong: list[str]) -> None:
    wanted = dict.fromkeys(right, True) | dict.fromkeys(wrong, False)
    assert graded([*right, *wrong], gold, kind) == wanted


# --------------------------------------------------------------------------------------- properties

whole = st.integers(-(10**7), 10**7)
fractions = st.fractions(min_value=-50, max_value=50, max_denominator=60)


def grouped(n: int, separator: str) -> str:
    return f"{n:,}".replace(",", separator)


#: How a whole number may be written.
WRITTEN = [
    str,
    lambda n: f"{n}.0",
    lambda n: f"{n}.",
    lambda n: f"${n}$",
    lambda n: grouped(n, ","),
    lambda n: grouped(n, r"\,"),
    lambda n: grouped(n, "{,}"),
    lambda n: grouped(n, r",\!"),
    lambda n: grouped(n, " "),
    lambda n: rf"\mathbf{{{n}}}",
    lambda n: rf"\frac{{{2 * n}}}{{2}}",
    lambda n: rf"{n}\text{{ cm}}",
    lambda n: rf"{n}~\mathrm{{km}}",
    lambda n: f"{n} dollars",
    lambda n: rf"\text{{{n} students}}",
    lambda n: f"x = {n}",
    lambda n: f"{n} = x",
    lambda n: f"  {n} ",
    lambda n: f"{n}".replace("-", "−"),
    lambda n: f"{n}\u00a0",
    lambda n: rf"\displaystyle {n}",
    lambda n: f"{Fraction(n, 1000)} thousand" if n % 1000 == 0 else str(n),
    lambda n: rf"{n // 1000}\text{{ thousand}}" if n % 1000 == 0 and n > 0 else str(n),
]


@given(n=whole, other=whole, form=st.sampled_from(WRITTEN))
@example(n=1000, other=1, form=WRITTEN[-1])
def test_whole_numbers(n: int, other: int, form: object) -> None:
    written = form(n)  # type: ignore[operator]
    assert grade(str(n), written) is Verdict.RIGHT, written
    assert grade(written, str(n)) is Verdict.RIGHT, written
    assert (grade(str(other), written) is Verdict.RIGHT) == (n == other), written


def mixed(value: Fraction) -> str:
    whole, rest = divmod(abs(value), 1)
    sign = "-" if value < 0 else ""
    if not whole or not rest:
        return str(value)
    return f"{sign}{whole} {rest.numerator}/{rest.denominator}"


def repeating(value: Fraction) -> str:
    """The decimals, with a line over those that repeat."""
    whole, rest = divmod(abs(value), 1)
    digits, seen = "", {}
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, 1)
        digits += str(digit)
    start = seen[rest]
    sign = "-" if value < 0 else ""
    return rf"{sign}{whole}.{digits[:start]}\overline{{{digits[start:]}}}"


RATIONAL = [
    lambda q: f"{q.numerator}/{q.denominator}",
    lambda q: rf"\frac{{{q.numerator}}}{{{q.denominator}}}",
    lambda q: rf"\dfrac{{{3 * q.numerator}}}{{{3 * q.denominator}}}",
    lambda q: mixed(q),
    lambda q: mixed(q).replace(" ", "~"),
    lambda q: repeating(q),
    lambda q: f"{100 * q.numerator}/{q.denominator}\\%",
    lambda q: rf"\left(\frac{{{q.denominator}}}{{{q.numerator}}}\right)^{{-1}}" if q else "0",
    lambda q: rf"{q.numerator} \div {q.denominator}",
]


@given(q=fractions, other=fractions, form=st.sampled_from(RATIONAL))
@example(q=Fraction(7, 4), other=Fraction(13, 4), form=RATIONAL[3])
@example(q=Fraction(1, 7), other=Fraction(1, 6), form=RATIONAL[5])
def test_fractions(q: Fraction, other: Fraction, form: object) -> None:
    written, plain = form(q), f"{q.numerator}/{q.denominator}"  # type: ignore[operator]
    assert grade(plain, written) is Verdict.RIGHT, written
    # Above 1 a percentage may lack its sign.
    assume("%" not in written or abs(other) <= 1)
    theirs = f"{other.numerator}/{other.denominator}"
    assert (grade(theirs, written) is Verdict.RIGHT) == (q == other), written


_ONES = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


@given(n=st.integers(0, 999_999))
def test_numbers_in_words(n: int) -> None:
    ones, tens = ["", *_ONES.split()], _TENS.split()

    def small(n: int) -> str:
        if n < 20:
            return ones[n]
        if n < 100:
            return "-".join(filter(None, [tens[n // 10 - 2], ones[n % 10]]))
        return f"{ones[n // 100]} hundred" + (f" and {small(n % 100)}" if n % 100 else "")

    thousands, rest = divmod(n, 1000)
    parts = [f"{small(thousands)} thousand" if thousands else "", small(rest)]
    words = " ".join(filter(None, parts)) or "zero"
    assert grade(str(n), rf"\text{{{words}}}") is Verdict.RIGHT
    assert grade(str(n + 1), rf"\text{{{words}}}") is Verdict.WRONG


@given(
    values=st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True),
    data=st.data(),
)
def test_lists_are_unordered_and_tuples_are_not(values: list[int], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(values))
    plain, other = ", ".join(map(str, values)), ", ".join(map(str, shuffled))
    assert grade(plain, other) is Verdict.RIGHT
    assert grade(rf"\{{{plain}\}}", other) is Verdict.RIGHT
    assert (grade(f"({plain})", f"({other})") is Verdict.RIGHT) == (values == shuffled)
    assert grade(plain, ", ".join(map(str, values[1:]))) is not Verdict.RIGHT
    assert grade(plain, f"{other}, 100") is Verdict.WRONG
    names = [f"x_{i}" for i in range(len(values))]
    gold = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
    pairs = data.draw(st.permutations(list(zip(names, values, strict=True))))
    assert grade(gold, ", ".join(f"{name} = {value}" for name, value in pairs)) is Verdict.RIGHT
    wrong = ", ".join(f"{n} = {v}" for n, v in zip(names, shuffled, strict=True))
    assert (grade(gold, wrong) is Verdict.RIGHT) == (values == shuffled)
    assert (grade(gold, f"({other})") is Verdict.RIGHT) == (values == shuffled)


@given(
    ends=st.lists(st.integers(-9, 9), min_size=2, max_size=2, unique=True),
    closed=st.tuples(st.booleans(), st.booleans()),
)
def test_intervals_and_inequalities(ends: list[int], closed: tuple[bool, bool]) -> None:
    low, high = sorted(ends)
    interval = f"{'[' if closed[0] else '('}{low}, {high}{']' if closed[1] else ')'}"
    below, above = (r"\le" if closed[0] else "<"), (r"\le" if closed[1] else "<")
    forms = [
        f"{low} {below} x {above} {high}",
        f"{high} {above.replace('le', 'ge').replace('<', '>')} x "
        f"{below.replace('le', 'ge').replace('<', '>')} {low}",
        rf"x \in {interval}",
        rf"x {above} {high} \text{{ and }} {low} {below} x",
        rf"{interval} \cup {interval}",
    ]
    assert graded(forms, interval) == dict.fromkeys(forms, True)
    other = f"{'(' if closed[0] else '['}{low}, {high}{']' if closed[1] else ')'}"
    assert graded(forms, other) == dict.fromkeys(forms, False)
    outside = rf"(-\infty, {low}) \cup ({high}, \infty)"
    assert grade(outside, rf"x < {low} \text{{ or }} x > {high}") is Verdict.RIGHT
    assert grade(outside, rf"\mathbb{{R}} \setminus [{low}, {high}]") is Verdict.RIGHT
    assert grade(outside, f"[{low}, {high}]") is Verdict.WRONG


@given(hours=st.integers(0, 40), minutes=st.integers(1, 59), off=st.integers(-3, 3))
def test_compound_quantities(hours: int, minutes: int, off: int) -> None:
    compound = rf"{hours}\text{{ hours }}{minutes}\text{{ minutes}}"
    total = 60 * hours + minutes + off
    right = off == 0
    assert (grade(compound, rf"{total}\text{{ minutes}}") is Verdict.RIGHT) == right
    assert (grade(rf"{60 * total}\text{{ s}}", compound) is Verdict.RIGHT) == right
    assert grade(str(hours), compound) is Verdict.WRONG
    assert grade(compound, str(hours)) is Verdict.WRONG


@given(hour=st.integers(1, 12), minute=st.integers(0, 59), later=st.integers(0, 59))
def test_times_of_day(hour: int, minute: int, later: int) -> None:
    gold = rf"{hour}:{minute:02}\text{{ p.m.}}"
    assert grade(gold, f"{hour % 12 + 12}:{minute:02}") is Verdict.RIGHT
    assert grade(gold, rf"{hour}:{minute:02}\,\text{{PM}}") is Verdict.RIGHT
    assert grade(gold, rf"{hour}:{minute:02}\text{{ a.m.}}") is Verdict.WRONG
    other = grade(gold, rf"{hour}:{later:02}\text{{ p.m.}}")
    assert (other is Verdict.RIGHT) == (minute == later)


polynomials = st.lists(st.integers(-9, 9), min_size=1, max_size=5)


@given(left=polynomials, right=polynomials, data=st.data())
def test_polynomials(left: list[int], right: list[int], data: st.DataObject) -> None:
    def written(coefficients: list[int], order: list[int]) -> str:
        return " + ".join(f"({coefficients[i]}) x^{{{i}}} y" for i in order)

    def trimmed(coefficients: list[int]) -> list[int]:
        while coefficients and not coefficients[-1]:
            coefficients = coefficients[:-1]
        return coefficients

    gold = written(left, list(range(len(left))))
    shuffled = written(left, data.draw(st.permutations(range(len(left)))))
    assert grade(gold, shuffled) is Verdict.RIGHT
    assert grade(gold, f"y ({shuffled.replace(' y', '')})") is Verdict.RIGHT
    other = written(right, list(range(len(right))))
    assert (grade(gold, other) is Verdict.RIGHT) == (trimmed(left) == trimmed(right))


@given(a=st.integers(1, 60), b=st.integers(1, 60), c=st.integers(1, 60), d=st.integers(1, 60))
def test_ratios(a: int, b: int, c: int, d: int) -> None:
    gold, answer = f"A:B={a}:{b}", f"A:B = {c}:{d}"
    divisor = gcd(a, b)
    assert grade(gold, f"{a // divisor} : {b // divisor}") is Verdict.RIGHT
    assert (grade(gold, answer) is Verdict.RIGHT) == (a * d == b * c)


@given(exponent=st.integers(20, 300), off=st.sampled_from([-1, 1]))
def test_numbers_that_are_near_each_other(exponent: int, off: int) -> None:
    gold = rf"1-\frac{{1}}{{2^{{{exponent}}}}}"
    assert grade(gold, rf"\frac{{2^{{{exponent}}}-1}}{{2^{{{exponent}}}}}") is Verdict.RIGHT
    for other in (rf"1-2^{{-{exponent + off}}}", "1", f"1-2^{{-{exponent}}}+10^{{-99}}"):
        assert grade(gold, other) is Verdict.WRONG
    root = rf"\sqrt{{2}} + 10^{{-{exponent // 4}}}"
    assert grade(root, rf"\sqrt{{2}} + 10^{{-{exponent // 4 + off}}}") is Verdict.WRONG


# ------------------------------------------------------------------------------------------ hostile


@given(
    gold=st.text(max_size=40), answer=st.text(max_size=80), kind=st.sampled_from(["", *KIND_NAMES])
)
def test_any_text_is_graded(gold: str, answer: str, kind: str) -> None:
    assert grade(gold, answer, kind) in Verdict
    assert is_number(answer) in (True, False)


_PIECES = (
    r"\frac \sqrt \text{ \mathrm{ { } ( ) [ ] \{ \} | , ; : . = < > \le \in \cup \setminus \pm + - "
    r"* / ^ _ ! \% % $ ~ \, \quad \overline{ \dot{ \begin{pmatrix} \end{pmatrix} & \\ 1 2 10 0.5 "
    r"99999999 1e5 e i \pi x y n \infty \sin \log \ln \binom{ \sum \lim and or cm dollars million "
    r"west A B ° √ ² ½ – ∞ ' \circ \left( \right) \langle \rangle \lfloor \mod \gcd _8 a.m. noon "
    r"two hundred"
)


@given(pieces=st.lists(st.sampled_from(_PIECES.split()), max_size=30), gaps=st.booleans())
def test_any_latex_is_graded_and_is_itself(pieces: list[str], gaps: bool) -> None:
    answer = (" " if gaps else "").join(pieces)
    assert grade("5", answer) in Verdict
    assert grade(answer, answer) in (Verdict.RIGHT, Verdict.REFUSED)


@pytest.mark.parametrize(
    "answer",
    [
        "(" * 500,
        r"\frac{1}{" * 100,
        r"\sqrt" * 150 + "2",
        "-" * 990 + "5",
        "5" + "!" * 990,
        "+".join("1" * 480),
        "*".join("9" * 480),
        "9^9^9^9",
        "9^{9^{9^9}}",
        "1.000000001^{99999999}",
        "99999!" + "+99999!" * 100,
        r"\binom{99999}{50000}" * 40,
        r"\sin" * 200 + "1",
        r"\sin(10^{9999})",
        r"e^{99999}" * 80,
        "x^{99999}" * 80,
        "(a+b+c+d)^{99999}",
        ",".join("1" * 400),
        "=".join("1" * 400),
        "<".join("x" * 400),
        r"\pm 1" * 150,
        r"1 \pm 2, " * 90,
        r"\begin{pmatrix}" + "1&" * 300 + r"1\end{pmatrix}",
        r"\{" * 11 + "1" + r"\}" * 11,
        "0." + r"\overline{" + "9" * 900 + "}",
        r"\text{" + "two hundred " * 70 + "}",
        r"(0,1)\cup" * 90 + "(0,1)",
    ],
)
def test_no_answer_takes_long(answer: str) -> None:
    grade("x+1", "1+x")  # what is loaded on first use is loaded
    started = time.process_time()
    for gold in ("5", r"\sqrt{2}+x", "1,2", "(0,1)"):
        assert grade(gold, answer) in Verdict
    assert time.process_time() - started < 40


def test_what_a_verdict_does_not_depend_on() -> None:
    """Not on what else is graded, nor on how often."""
    pairs = [("x+1", "1+x"), (r"\sqrt{2}", "1.41"), ("C", "C) x"), ("5", r"5\ldots")]
    alone = [grade(*pair) for pair in pairs]
    assert [grade(*pair) for pair in reversed(pairs * 3)] == alone[::-1] * 3
