"""Word problems: which templates, disjoint splits, suites that hold each other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from upge import UpgeError
from upge.common.optional import available

if not available("reasoning_gym"):
    pytest.skip("reasoning_gym is not installed", allow_module_level=True)

from upge.tasks import word_problems
from upge.tasks.word_problems import MARKER, PARTS, TASKS, TEMPLATES, draw, suite

SPLITS = ("pretraining", "train", "validation", "test")


def numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]


def test_every_four_templates_are_split_alike() -> None:
    taken = sorted(number for part in TEMPLATES.values() for number in part)
    assert len(taken) == 36
    for start in range(0, 36, 4):
        one, two, three, four = taken[start : start + 4]
        assert {one, two} <= {*TEMPLATES["worked"]}
        assert three in TEMPLATES["bare"] and four in TEMPLATES["unseen"]


@pytest.mark.slow
def test_templates_are_those_that_the_rule_takes() -> None:
    import reasoning_gym
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

    generators = reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=1).generators

    def fits(number: int) -> bool:
        drawn = [generators[number](Random(seed), 1.0) for seed in range(3000)]
        for entry in drawn[:400]:
            question, solution = entry["question"], entry["metadata"].get("answer_cot", "")
            long = len(question) + len(solution) > 530
            ends = solution.endswith(f"\n{MARKER} {entry['answer']}")
            if long or not ends or max(numbers(f"{question} {solution}")) > 3000:
                return False
        most = Counter(entry["answer"] for entry in drawn[:400]).most_common(1)[0][1]
        sets = {tuple(numbers(entry["question"])) for entry in drawn}
        return most < 100 and len(sets) > 100

    assert [number for number in tasks_ok if fits(number)] == sorted(
        number for part in TEMPLATES.values() for number in part
    )


def test_no_numbers_of_a_template_are_in_two_splits() -> None:
    random = Random(0)
    for part in TEMPLATES:
        seen: dict[tuple[str, ...], str] = {}
        for split in SPLITS:
            for _ in range(400):
                problem = draw(part, split, random)
                assert problem.split == split
                key = (problem.family, *map(str, numbers(problem.prompt)))
                assert seen.setdefault(key, split) == split, key
    for task in TASKS:
        if task == "simple_equations":  # the slowest
            continue
        questions = [
            {draw(task, split, random).prompt for _ in range(100)} for split in ("train", "test")
        ]
        assert not questions[0] & questions[1]


def test_problems_are_short_and_end_in_their_answer() -> None:
    random = Random(1)
    for part in PARTS:
        for _ in range(20):
            problem = draw(part, "train", random)
            assert problem.prompt.endswith("\n") and not problem.prompt.endswith("\n\n")
            if part in TEMPLATES:
                assert problem.family.split()[0] == part
                assert str(problem.demonstration).endswith(f"\n{MARKER} {problem.answer}")
                assert len(problem.prompt + str(problem.demonstration)) <= 531
            else:
                assert problem.family == part and problem.demonstration is None
                assert len(problem.prompt) <= 331


def test_suites_hold_each_other_and_each_template_evenly() -> None:
    large = suite(["worked", "bare"], "train", 270)
    assert len({problem.prompt for problem in large}) == 270
    assert set(Counter(problem.family for problem in large).values()) == {10}
    assert large[:54] == suite(["worked", "bare"], "train", 54)
    assert suite(["bare"], "train", 9, seed=1) != suite(["bare"], "train", 9)


def test_suites_are_the_same_in_every_process() -> None:
    script = (
        "from upge.tasks.word_problems import PARTS, suite\n"
        "print(*(p.prompt for part in PARTS for p in suite([part], 'test', 3)))\n"
    )
    ours = "\n".join([" ".join(p.prompt for part in PARTS for p in suite([part], "test", 3)), ""])
    theirs = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
    )
    assert theirs.stdout == ours


def test_what_gsm_symbolic_would_grade_as_wrong_is_in_no_suite() -> None:
    # Of the template of the comet a few answers are negative.
    random = Random(0)
    drawn = [word_problems._draw("worked 24", "train", random).answer for _ in range(300)]
    assert any(answer.startswith("-") for answer in drawn)
    problems = suite(["worked"], "train", 18 * 40)
    assert not any(problem.answer.startswith("-") for problem in problems)


def test_unknown_parts_and_exhausted_templates() -> None:
    with pytest.raises(UpgeError, match="unknown part 'works'; did you mean 'worked'"):
        draw("works", "train", Random(0))
    with pytest.raises(UpgeError, match=r"worked \d+, validation: has only about \d+ problems"):
        suite(["worked"], "validation", 18 * 1000)
