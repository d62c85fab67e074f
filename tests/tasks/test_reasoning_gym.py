"""Problems that reasoning-gym generates, and its grading of answers, hostile ones included."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from upge import UpgeError
from upge.common.optional import available

if not available("reasoning_gym"):
    pytest.skip("reasoning_gym is not installed", allow_module_level=True)

from upge.tasks import confined_reasoning_gym, reasoning_gym
from upge.tasks.confined import Settings
from upge.tasks.problem import Problem
from upge.tasks.reasoning_gym import WORD_PROBLEMS, ScoredAnswer, load

SETTINGS = Settings(workers=1)

#: Those whose answers the library evaluates, by ``eval`` and by ``parse_expr``, and others.
BY_EVAL = ("binary_matrix", "spiral_matrix", "string_insertion", "n_queens")
BY_PARSE_EXPR = ("countdown", "puzzle24", "simple_integration", "intermediate_integration")
OTHERS = ("gsm_symbolic", "chain_sum", "leg_counting", "aiw", "coin_flip", "gcd", "base_conversion")


def verifier(name: str, count: int = 2, **config: Any) -> tuple[ScoredAnswer, list[Problem]]:
    """What grades problems of a data set, and these."""
    graded = load(name, {"size": count, **config}, "train")
    sealed = {(problem.prompt, problem.answer): text for problem, text in graded}
    return ScoredAnswer("####", sealed, SETTINGS), [problem for problem, _ in graded]


# ---------------------------------------------------------------------------------------- problems


def test_problems_are_those_of_the_library() -> None:
    from reasoning_gym import create_dataset

    theirs = create_dataset("gsm_symbolic", seed=7, size=20)
    ours = load("gsm_symbolic", {"seed": 7, "size": 20}, "test")
    for entry, (problem, _) in zip(theirs, ours, strict=True):
        assert problem == Problem(
            entry["question"],
            entry["answer"],
            entry["metadata"]["answer_cot"],
            "gsm_symbolic",
            split="test",
        )


def test_splits_have_other_seeds_by_default() -> None:
    prompts = [
        {problem.prompt for problem, _ in load("gsm_symbolic", {"size": 50}, split)}
        for split in ("train", "validation", "test")
    ]
    assert not prompts[0] & prompts[1] and not prompts[1] & prompts[2]


def test_a_data_set_without_solutions_has_no_demonstrations() -> None:
    assert all(problem.demonstration is None for problem, _ in load("chain_sum", {}, "train"))


def test_word_problems_are_those_of_the_split() -> None:
    graded = load(WORD_PROBLEMS, {"parts": ["unseen", "aiw"], "size": 20}, "validation")
    assert {problem.split for problem, _ in graded} == {"validation"}
    assert {problem.family.split()[0] for problem, _ in graded} == {"unseen", "aiw"}


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gsm_simbolic", {}, "unknown data set of reasoning-gym 'gsm_simbolic'; did you mean 'gsm"),
        ("composite", {}, "unknown data set of reasoning-gym 'composite'"),
        ("chain_sum", {"max_term": 3}, "unknown key of chain_sum 'max_term'; did you mean 'max_te"),
        ("chain_sum", {"max_terms": 1}, "chain_sum: can't make problems of this configuration"),
        ("chain_sum", {"max_terms": "x"}, "chain_sum: can't make problems of this configuration"),
        ("chain_sum", {"size": 0}, "chain_sum.size: got 0, wanted a whole number of at least 1"),
        ("chain_sum", {"seed": None}, "chain_sum.seed: got None, wanted a whole number"),
        ("aiw", {"task_types": ["x"]}, "aiw: can't make problems of this configuration"),
        (WORD_PROBLEMS, {"part": ["bare"]}, "unknown key of word_problems 'part'; did you mean"),
        (WORD_PROBLEMS, {"parts": "bare"}, "word_problems.parts: got 'bare', wanted a list of"),
        (WORD_PROBLEMS, {"parts": ["bore"]}, "unknown part 'bore'; did you mean 'bare'"),
    ],
)
def test_what_can_be_no_data_set(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError, match=re.escape(message)):
        load(name, config, "train")


def test_problems_that_differ_by_process_want_a_fixed_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(UpgeError, match=r"word_ladder: .*; set PYTHONHASHSEED=0"):
        load("word_ladder", {"size": 1}, "train")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert load("word_ladder", {"size": 1}, "train")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UpgeError, match=r"reasoning_gym.*pip install 'upge\[reasoning\]'"):
        load("chain_sum", {}, "train")


def test_the_library_is_imported_when_it_is_needed() -> None:
    script = "import sys, upge.training.data; print('reasoning_gym' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "False\n", found.stderr


# ----------------------------------------------------------------------------------------- grading


@pytest.mark.parametrize("name", [*BY_EVAL, *BY_PARSE_EXPR, *OTHERS])
def test_right_answers_are_worth_one(name: str) -> None:
    grade, problems = verifier(name)
    assert grade([f"So it is.\n#### {p.answer}" for p in problems], problems) == [1.0, 1.0]
    assert grade([p.answer for p in problems], problems) == [0.0, 0.0]


def test_the_last_marker_counts() -> None:
    grade, (problem, _) = verifier("chain_sum")
    right, wrong = f"#### {problem.answer}", f"#### {int(problem.answer) + 1}"
    responses = [f"{wrong} {right}", f"{right} {wrong}", "####", "", f"{right}\n#### "]
    assert grade(responses, [problem] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_only_full_marks_count() -> None:
    from reasoning_gym import get_score_answer_fn

    for name, answer in (("gsm_symbolic", "-1"), ("leg_counting", "about {}")):
        grade, (problem, _) = verifier(name)
        said = answer.format(problem.answer)
        entry = {"answer": problem.answer}
        assert 0 < get_score_answer_fn(name)(said, entry) < 1  # the library's consolation
        assert grade([f"#### {said}"], [problem]) == [0.0]
    grade, (problem, _) = verifier("spiral_matrix")  # a list gets .1 there
    assert grade([f"#### [{', '.join(problem.answer.split())}]"], [problem]) == [0.0]


def test_word_problems_are_graded_by_what_they_come_from() -> None:
    graded = load(WORD_PROBLEMS, {"parts": ["worked", "chain_sum"], "size": 38}, "test")
    grade = ScoredAnswer("####", {(p.prompt, p.answer): text for p, text in graded}, SETTINGS)
    problems = [problem for problem, _ in graded]
    assert grade([f"#### {p.answer}" for p in problems], problems) == [1.0] * 38
    assert sum(grade([f"#### {p.answer}1" for p in problems], problems)) == 0
    # gsm_symbolic takes the first number, whatever its unit.
    assert grade([f"#### {problems[0].answer} muffins."], problems[:1]) == [1.0]


def hostile(canary: Path) -> list[str]:
    """What would write a file if it were evaluated, and what never ends or is too large."""
    write = f"open({str(canary)!r}, 'w').write('x')"
    return [
        write,
        f"[{write}]",
        f"__import__('os').system('touch {canary}')",
        f"exec({write!r})",
        f"(lambda: {write})()",
        f"[x for x in ({write},)]",
        f"sympify({write!r})",
        "[].__class__.__base__.__subclasses__()",
        "exit()",
        "9**9**9**9",
        "gamma(10**9)",
        "1e999999999",
        "(" * 5000,
        "[" * 5000,
        "9" * 15_000,
        "x" * 30_000,
        "\x00\ud800",
        "nan",
        "None",
    ]


@pytest.mark.parametrize("name", [*BY_EVAL, *BY_PARSE_EXPR, "coin_flip", "gsm_symbolic"])
def test_hostile_answers_are_wrong_and_evaluate_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    grade, (problem, other) = verifier(name)
    responses = [f"#### {answer}" for answer in hostile(canary)]
    grade = ScoredAnswer("####", grade.sealed, SETTINGS._replace(seconds=0.3))
    assert grade(responses, [problem] * len(responses)) == [0.0] * len(responses)
    assert not canary.exists()
    assert grade([f"#### {other.answer}"], [other]) == [1.0]


def test_all_that_the_library_evaluates_is_known() -> None:
    spec = find_spec("reasoning_gym")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    by_eval, by_parse_expr = set(), set()
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if re.search(r"\b(?:eval|exec)\(answer", text):
            by_eval.add(module)
        if re.search(r"(?:parse_expr|sympify)\(answer", text) and "sympy" in text:
            by_parse_expr.add(module.rpartition(".")[2])
    assert by_eval == {*confined_reasoning_gym.EVALUATING}
    assert by_parse_expr == {*BY_PARSE_EXPR, "polynomial_multiplication"}


def test_arithmetic_is_all_that_is_parsed() -> None:
    parse = confined_reasoning_gym.parse_arithmetic
    for text in ("(82 + 20)*67 - 1/3", "-X**5/7 + 2.5*sin(X) + C", "exp(x)*log(x)", " 1 "):
        parse(text)
    for text in ("x.y", "'a'", "x_y", "eval(1)", "f(x)[0]", "x = 1", "{1}", "opens(x)"):
        with pytest.raises(ValueError, match="no arithmetic"):
            parse(text)


def test_a_load_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    load("bf", {"size": 6, "seed": 3}, "train")
    assert capsys.readouterr().out == ""
    assert reasoning_gym.load("gcd", {"size": 1}, "train")
