"""Boxed answers: the benchmarks' own, shared cases, math-verify's, and hostile completions."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from forms_of_answers import DIFFERENT, EQUAL
from hostile_completions import COUNT, GOLD, hostile_completions
from math_verify_cases import CHECKOUT, Case, cases

from upge.tasks.answers import boxed
from upge.tasks.benchmarks import SOURCES
from upge.tasks.grading import Verdict, grade
from upge.tasks.math_verifier import BoxedAnswer
from upge.tasks.problem import Problem, data_folder, load_problems
from upge.tasks.reading.grammar import read
from upge.tasks.reading.lexer import Unread
from upge.tasks.verifier import MarkedAnswer

SETS = ("aime24", "aime25", "amc23", "minerva", "olympiadbench", "math500")
judge = BoxedAnswer().judge


def local(name: str) -> list[Problem]:
    path = data_folder() / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} isn't there; set UPGE_DATA to the folder of the data sets")
    return [SOURCES[name].declared(problem) for problem in load_problems(path)]


# --------------------------------------------------------------------------------------- benchmarks


def test_every_gold_answer_equals_itself() -> None:
    problems = [problem for name in SETS for problem in local(name)]
    assert len(problems) == 1546
    responses = [rf"Hence $x = \boxed{{{problem.answer}}}$." for problem in problems]
    assert Counter(judge(responses, problems)) == {Verdict.RIGHT: 1546}


@pytest.mark.parametrize("name", ["math500", "gsm8k_test", "arc_challenge", "svamp"])
def test_every_worked_solution_is_right(name: str) -> None:
    problems = local(name)
    responses = [
        problem.demonstration
        if boxed(problem.demonstration or "")
        else rf"So it is $\boxed{{{problem.answer}}}$."
        for problem in problems
    ]
    assert Counter(judge(map(str, responses), problems)) == {Verdict.RIGHT: len(problems)}  # type: ignore[arg-type]


def test_golds_that_are_unread() -> None:
    """By letters they still equal themselves; another answer to them can't be right."""
    unread = []
    for name in SETS:
        for problem in local(name):
            try:
                read(problem.answer, problem.kind)
            except Unread:
                unread.append((name, problem.answer))
    assert unread == [("olympiadbench", "$t(0,4]$")]


#: Gold answers that say the same in other letters.
SAME = [
    {"$k=3$", "3"},
    {"$k=1$", "1"},
    {"x=5", "5"},
    {"1,-2", "-2,1"},
]


def _said(gold: str) -> str:
    """A gold answer without its dollars, unit and spelling."""
    plain = (
        gold.strip("$. ").replace(r"^{\circ}", "").replace(r"^\circ", "").replace("dfrac", "frac")
    )
    try:
        return str(float(plain))
    except ValueError:
        return plain.replace(" ", "")


@pytest.mark.slow
def test_no_gold_answer_equals_another() -> None:
    golds = sorted({problem.answer for name in SETS for problem in local(name)})
    random, found = Random(0), []
    for _ in range(100_000):
        gold, other = random.sample(golds, 2)
        if grade(gold, other) is Verdict.RIGHT and _said(gold) != _said(other):
            found.append((gold, other))
    numbers = [{r"\frac{1}{2}", "0.5"}, {r"$\frac{8}{5}$", "1.6"}]
    assert all({gold, other} in SAME + numbers for gold, other in found), found


def test_forms_are_of_the_benchmarks() -> None:
    for name in SETS:
        answers = {problem.answer for problem in local(name)}
        unknown = {gold for lists in (EQUAL, DIFFERENT) for gold in lists[name]} - answers
        # A few golds of the lists are their set's in kind only.
        assert len(unknown) <= 3, (name, json.dumps(sorted(unknown)))


# -------------------------------------------------------------------------------------- other cases


def shared(name: str) -> list[dict[str, str]]:
    path = data_folder().parent / "cases" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} isn't there")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "verifier"), [("grading", BoxedAnswer()), ("marked", MarkedAnswer("####"))]
)
def test_shared_cases(name: str, verifier: BoxedAnswer | MarkedAnswer) -> None:
    rows = shared(name)
    rewards = verifier([r["response"] for r in rows], [Problem("", r["gold"]) for r in rows])
    wrong = [row for row, reward in zip(rows, rewards, strict=True) if reward != row["right"]]
    assert wrong == []


#: Cases of math-verify's tests where we say something else, by name, and why.
OTHERWISE = {
    "3a26af24": "a comma separates two numbers, 1000 and 99",
    "3880eb1f": "a comma separates two numbers, 1 and 22",
    "ab0755a8": "a comma separates two numbers, 0 and 111",
    "da6d3ab5": "a chain of equations that contradicts itself, 7 = 11",
    "9218b9fc": "a chain of equations that contradicts itself, 6 = 2",
    "c0489670": "11 is no rounding of 1/3",
    "5e2c010c": "1.3 is no rounding of 1/3",
    "72bc74f5": "a command that nobody knows",
    "127c9dd6": "a sum of matrices is a question",
    "e93423af": "a product of matrices is a question",
    "07daad9d": "(1,3) may be an interval",
    "8c08eb62": "the answer isn't in the last box",
    "7b7cbcc3": "the boxes are joined by plus signs",
    "4dcb7138": "the boxes are joined by a sentence",
    "81ad56d7": "an inequality of |z|, not solved for z: ours is the worse verdict",
    "f0369509": "1 - 1/e is not 1 + 1/e: a slip in that test",
}


def test_cases_of_math_verify() -> None:
    if CHECKOUT not in os.environ:
        pytest.skip(f"{CHECKOUT} names no checkout of math-verify's repository")
    found = cases(Path(os.environ[CHECKOUT]))
    assert len(found) > 200
    assert {case.name for case in found if not case.agrees} <= OTHERWISE.keys()


def test_how_its_cases_are_read(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('gold,pred,expected', [\n"
        "    ('$5$', 'The answer is $ 5 $.', 1),\n"
        "    ('$5$', r'so \\boxed{6}, or \\boxed{7}', 0),\n"
        "    ('$5$', 'a long sentence that ends in 5', 1),\n"
        "    (f'{5}', '5', 1),\n"
        "])\n"
        "def test(gold, pred, expected): ...\n"
    )
    assert cases(tmp_path) == [Case("5", " 5 ", True), Case("5", "6, 7", False)]


# ------------------------------------------------------------------------------------------ hostile


@pytest.mark.spread(3)
@pytest.mark.parametrize("gold", [GOLD, "x+1", "1,2", "(0,1)", "west"])
def test_hostile_completions_take_milliseconds(gold: str, tmp_path: Path) -> None:
    """Twice, so that what is kept between answers does no harm either."""
    mark = tmp_path / "executed"
    completions = hostile_completions(mark)
    assert len(set(completions)) == COUNT == 1024
    problems = [Problem("", gold)] * COUNT
    started = time.process_time()
    first, again = judge(completions, problems), judge(completions, problems)
    assert first == again
    assert Verdict.RIGHT not in first
    assert not mark.exists()
    # 3 s in all on a slow machine; comparing them in sympy took a minute of two cores.
    assert time.process_time() - started < 60


# ----------------------------------------------------------------------------------------- verifier


def test_each_response_meets_its_own_problem() -> None:
    problems = [Problem("", r"\frac{1}{2}"), Problem("", "x+y")]
    verify = BoxedAnswer()
    assert verify([r"\boxed{0.5}", r"\boxed{y+x}"], problems) == [1.0, 1.0]
    assert verify([r"\boxed{y+x}", r"\boxed{0.5}"], problems) == [0.0, 0.0]
    assert verify([], []) == []
    assert pickle.loads(pickle.dumps(verify)) == verify
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        verify([r"\boxed{1}", r"\boxed{1}"], problems[:1])


def test_verdicts_are_what_rewards_come_from() -> None:
    responses = [r"\boxed{5}", r"\boxed{6}", r"\boxed{5\ldots}", "5", r"\boxed{9^{9^9}}"]
    problems = [Problem("", "5")] * 5
    assert judge(responses, problems) == [
        Verdict.RIGHT,
        Verdict.WRONG,
        Verdict.UNREAD,
        Verdict.UNBOXED,
        Verdict.REFUSED,
    ]
    assert BoxedAnswer()(responses, problems) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_declared_kind_is_heeded() -> None:
    assert judge([r"\boxed{B. cells}"], [Problem("", "B", kind="choice")]) == [Verdict.RIGHT]
    assert judge([r"\boxed{B. cells}"], [Problem("", "B", kind="expression")]) == [Verdict.UNREAD]
