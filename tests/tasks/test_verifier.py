"""The verifier: what stands behind the last marker, and no harm from hostile text."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem
from upge.tasks.verifier import MarkedAnswer

verify = MarkedAnswer("#", exact=True)
PROBLEM = Problem("316-705=", "611")


def grade(response: str, problem: Problem = PROBLEM, verifier: MarkedAnswer = verify) -> float:
    (reward,) = verifier([response], [problem])
    return reward


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("#611", 1.0),
        ("316-705=611#611", 1.0),
        ("# 611 \n", 1.0),
        ("nonsense#611", 1.0),
        ("#000#611", 1.0),  # the last mark counts
        ("#611#000", 0.0),
        ("#611#", 0.0),
        ("##611", 1.0),
        ("611", 0.0),
        ("", 0.0),
        ("#", 0.0),
        ("#6110", 0.0),
        ("#0611", 0.0),
        ("#611.0", 0.0),
        ("#6 11", 0.0),
        ("#-611", 0.0),
        ("#611 because", 0.0),
        ("#６１１", 0.0),  # full-width digits are other characters
        ("#٦١١", 0.0),  # Arabic ones too
        ("#6\u0661\u0661", 0.0),
        ("#61\u200b1", 0.0),
        ("#611\0", 0.0),
        ("＃611", 0.0),
        ("#\ud800611", 0.0),  # a lone surrogate
        ("#600+11", 0.0),
        ("#0o1143", 0.0),
    ],
)
def test_responses(response: str, reward: float) -> None:
    assert grade(response) == reward


def test_leading_zeros_count() -> None:
    assert grade("#049", Problem("", "049")) == 1.0
    assert grade("#49", Problem("", "049")) == 0.0


def test_an_answer_may_have_blanks() -> None:
    assert grade("#### a b", Problem("", " a b\n"), MarkedAnswer("####", exact=True)) == 1.0


def test_an_empty_answer_is_not_the_lack_of_one() -> None:
    assert grade("#", Problem("", "")) == 1.0
    assert grade("nothing", Problem("", "")) == 0.0


def test_a_mark_of_several_characters() -> None:
    verifier = MarkedAnswer("####", exact=True)
    assert grade("#### 611", verifier=verifier) == 1.0
    assert grade("### 611", verifier=verifier) == 0.0
    assert grade("##### 611", verifier=verifier) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "#" * 10**6,
        "#" + "9" * 10**6,
        "#611" * 250_000,
        " " * 10**6 + "#611",
        "#" + " " * 10**6 + "611" + "\n" * 10**6,
        "#" + "(" * 10**6,
        "#" + "\u0300" * 10**6,
    ],
    ids=["marks", "digits", "answers", "blanks", "far away", "brackets", "accents"],
)
def test_megabytes_are_graded_at_once(response: str) -> None:
    started = time.perf_counter()
    wanted = float(response.split("#")[-1].strip() == "611")
    assert grade(response) == wanted
    assert time.perf_counter() - started < 20


def test_nothing_is_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "evaluated"
    hostile = [
        f"#__import__('pathlib').Path({str(mark)!r}).touch()",
        f"#{{__import__('pathlib').Path({str(mark)!r}).touch()}}",
        f"#$(touch {mark})",
        "#%s%n",
        "#{0.__class__}",
        "#9**9**9**9",
        "#10**100**100",
    ]
    assert verify(hostile, [PROBLEM] * len(hostile)) == [0.0] * len(hostile)
    assert not mark.exists()


@given(
    response=st.text(),
    answer=st.text().filter(lambda text: "#" not in text),
    marker=st.sampled_from(["#", "####", "\\boxed"]),
)
def test_never_raises(response: str, answer: str, marker: str) -> None:
    verifier = MarkedAnswer(marker, exact=True)
    problem = Problem("", answer)
    assert grade(response, problem, verifier) in (0.0, 1.0)
    wanted = float(marker not in answer)
    assert grade(response + marker + answer, problem, verifier) == wanted


def test_each_response_meets_its_own_problem() -> None:
    problems = [Problem("", "1"), Problem("", "2")]
    assert verify(["#1", "#2"], problems) == [1.0, 1.0]
    assert verify(["#2", "#1"], problems) == [0.0, 0.0]
    assert verify([], []) == []
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        verify(["#1", "#1"], [problems[0]])


@pytest.mark.parametrize("marker", ["", " ", "\n\t"])
def test_a_mark_that_cannot_be_seen(marker: str) -> None:
    with pytest.raises(UpgeError, match=r"marker: got .*, wanted a visible text, as '####'"):
        MarkedAnswer(marker)


# ------------------------------------------------------------------------------------------ numbers


#: Gold answer → what behind "#### " is right, and what isn't.
NUMBERS: dict[str, tuple[list[str], list[str]]] = {
    "18": (
        [
            *(
                "18",
                "18.",
                "18.0",
                "18.00",
                "$18",
                "$18.00",
                r"\$18",
                "€18",
                "18 dollars",
                "18 eggs",
            ),
            *("**18**", "`18`", "018", "+18", "18,", " 18 ", "18\n\n#### 18", "17\n#### 18"),
            *("18\n\nQuestion: what is 2+2?", "18\nQ: 2+2?\n#### 4", "18 Question: 2+2?\n#### 4"),
        ],
        [
            *(
                "81",
                "1.8",
                "-18",
                "18.5",
                "1,8",
                "1 8",
                "18 or 19",
                "9+9",
                "18-19",
                "18!",
                "18x",
                "",
            ),
            *("18 million", "eighteen hundred", "18 because 9 and 9", "18\n#### 19", "18…"),
            *("١٨", "１８"),
        ],
    ),
    "18.0": (["18", "18.0", "$18.00"], ["18.1", "180"]),
    "70000": (
        ["70,000", "70000", "$70,000.00", "70 thousand", "70 000"],
        ["70,00", "7,0000", "70"],
    ),
    "1,024": (["1024", "1,024", "1024.0"], ["1.024", "1,024,000"]),
    "-3": (["-3", "−3", "-3.0"], ["3", "--3", "3-"]),
    "0.5": (["0.5", ".5", "1/2", "0.50"], ["5", "0,5"]),
    "1/2": (["0.5", "1/2", "2/4"], ["1", "2/1"]),
    "25%": (["25%", "25 percent", "25", "0.25"], ["2.5%", "75%"]),
    "$29": (["29", "$29.00", "29 dollars"], ["2900", "29 cents"]),
    # No numbers: compared letter by letter, on their line.
    "west": (["west", "west\n\nQuestion: which?"], ["West", "east", "west."]),
    "a b": (["a b"], ["ab", "b a"]),
    "2^10": (["2^10"], ["1024"]),
}


@pytest.mark.parametrize("gold", NUMBERS)
def test_numbers_are_compared_as_numbers(gold: str) -> None:
    right, wrong = NUMBERS[gold]
    wanted = dict.fromkeys(right, 1.0) | dict.fromkeys(wrong, 0.0)
    verifier = MarkedAnswer("####")
    found = {said: grade(f"so\n#### {said}", Problem("", gold), verifier) for said in wanted}
    assert found == wanted


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("<think>#### 3</think> #### 4", 0.0),
        ("<think>#### 4</think> #### 3", 1.0),
        ("<think>#### 3", 0.0),
        ("#### 3 </think> so", 0.0),
    ],
)
def test_a_number_inside_of_thinking_is_no_answer(response: str, reward: float) -> None:
    assert grade(response, Problem("", "3"), MarkedAnswer("####")) == reward


def test_verdicts() -> None:
    judge = MarkedAnswer("####").judge
    responses = ["#### 3", "#### 4", "#### 3 or so", "3"]
    assert judge(responses, [Problem("", "3")] * 4) == [
        Verdict.RIGHT,
        Verdict.WRONG,
        Verdict.UNREAD,
        Verdict.UNBOXED,
    ]


@given(n=st.integers(-(10**9), 10**9), other=st.integers(-(10**9), 10**9))
def test_any_number(n: int, other: int) -> None:
    verifier = MarkedAnswer("####")
    for written in (f"{n}", f"{n:,}", f"{n}.0", f"${n:,}.00", f"{n}."):
        assert grade(f"#### {written}", Problem("", str(n)), verifier) == 1.0
        assert grade(f"#### {written}", Problem("", f"{n}.0"), verifier) == 1.0
        assert grade(f"#### {written}", Problem("", str(other)), verifier) == float(n == other)


@given(response=st.text(), answer=st.text(max_size=30))
def test_numbers_never_raise(response: str, answer: str) -> None:
    problem = Problem("", answer)
    assert grade(f"{response}####{answer}", problem, MarkedAnswer("####")) in (0.0, 1.0)
