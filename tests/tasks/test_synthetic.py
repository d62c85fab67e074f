"""Synthetic suites: splits are disjoint, and the teacher is right by another calculation."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from random import Random
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.tasks.problem import Problem
from upge.tasks.synthetic import (
    ALPHABET,
    FAMILIES,
    IN_DISTRIBUTION,
    LEVELS,
    OUT_OF_DISTRIBUTION,
    Split,
    draw,
    split_of,
    suite,
)

SPLITS: tuple[Split, ...] = get_args(Split)
anything = {
    "family": st.sampled_from(list(FAMILIES)),
    "level": st.sampled_from(LEVELS),
    "seed": st.integers(0, 10**9),
}

# ------------------------------------------------------------- another calculation of the answers

#: An operation as prompts and solutions write it: symbol, operand.
Operation = tuple[str, str]
OPERATION = re.compile(r"([+\-^])(\d{3})|([*:])([379])|([r<])")

#: The order of operations that a family's prompts follow; ± stands for + or −.
PATTERNS = {
    "sum": "(±)*",
    "aff": r"(\*[379]±)*(\*[379])?",
    "perm": "([r<]±)*[r<]?",
    "cond": r"(\^\d{3}(±|\^\d{3}))*(\^\d{3})?",
    "inv": r"(±(±|\*[379]))*±?",
    "mix": r"(±|\*[379]|\^\d{3}|[r<])*",
}
ENDS = {"post": "=", "mix": "?", "alt": ";"}


def operations(text: str) -> list[Operation]:
    """The operations of a text that holds nothing else."""
    assert OPERATION.sub("", text) == "", text
    return [(a or c or e, b or d) for a, b, c, d, e in OPERATION.findall(text)]


def after(state: str, operation: Operation) -> str:
    """A state of three digits after an operation, in plain integers."""
    symbol, operand = operation
    x, y, z = (int(digit) for digit in state)
    if symbol == "r":
        return f"{z}{y}{x}"
    if symbol == "<":
        return f"{y}{z}{x}"
    others = [int(digit) for digit in operand] * (1 if len(operand) == 3 else 3)
    return "".join(str(_digit(symbol, a, b)) for a, b in zip((x, y, z), others, strict=True))


def _digit(symbol: str, a: int, b: int) -> int:
    if symbol == "^":
        symbol = "+" if a in (0, 2, 4, 6, 8) else "-"
    if symbol == "+":
        return (a + b) % 10
    if symbol == "-":
        return (a - b) % 10
    if symbol == "*":
        return (a * b) % 10
    (quotient,) = [q for q in range(10) if (q * b) % 10 == a]
    return quotient


def task(problem: Problem) -> tuple[str, list[Operation]]:
    """What a prompt asks for: a state, and what is to be done to it."""
    prompt, family = problem.prompt, problem.family
    body, end = prompt[:-1], prompt[-1]
    if family == "inv":
        opening, result = prompt.split("=")
        assert opening[0] == "?"
        asked = operations(opening[1:])
        matches(family, opening[1:])
        inverse = {"+": "-", "-": "+", "*": ":"}
        return result, [(inverse[symbol], operand) for symbol, operand in reversed(asked)]
    assert end == ENDS.get(family, "=")
    if family == "post":
        start, rest = body.split(",")
        found = re.findall(r"(\d{3})([+-])", rest)
        assert "".join(map("".join, found)) == rest
        return start, [(symbol, operand) for operand, symbol in found]
    if family == "alt":
        start, *operands = body.split(",")
        return start, [("-" if i % 2 else "+", operand) for i, operand in enumerate(operands)]
    matches(family, body[3:])
    return body[:3], operations(body[3:])


def matches(family: str, text: str) -> None:
    pattern = PATTERNS[family].replace("±", r"[+\-]\d{3}")
    assert re.fullmatch(pattern, text), (family, text)


def solve(start: str, steps: list[Operation]) -> str:
    for step in steps:
        start = after(start, step)
    return start


def test_the_other_calculation_by_hand() -> None:
    assert [after("316", ("-", "705")), after("611", ("-", "730"))] == ["611", "981"]
    assert after("981", ("+", "311")) == "292"
    assert [after("667", ("*", "7")), after("229", (":", "7"))] == ["229", "667"]
    assert [after("230", ("r", "")), after("230", ("<", ""))] == ["032", "302"]
    assert after("316", ("^", "705")) == "611"  # 3 − 7, 1 − 0, 6 + 5
    # 148 + 810 = 958, which is 3 · 356, and 356 + 875 = 121.
    assert solve(*task(Problem("?-875*3-810=148", "", family="inv"))) == "121"
    assert solve(*task(Problem("153,510,272,658;", "", family="alt"))) == "049"
    assert solve(*task(Problem("316,705-730+=", "", family="post"))) == "341"


@given(**anything, split=st.sampled_from(SPLITS))
def test_the_teacher_is_right(family: str, level: int, seed: int, split: Split) -> None:
    for problem in (draw(family, level, split, random) for random in [Random(seed)] * 20):
        start, steps = task(problem)
        assert len(steps) == level == problem.level
        assert solve(start, steps) == problem.answer
        assert problem.demonstration is not None
        first, *links = problem.demonstration.split("#")[0].split("=")
        assert problem.demonstration.count("#") == 1
        # Between two "=" stand the state so far and the next operation.
        states = [first[:3], *(link[:3] for link in links)]
        written = [first[3:], *(link[3:] for link in links)]
        assert [*operations("".join(written))] == steps and written[-1] == ""
        assert states[0] == start
        for state, step, reached in zip(states[:-1], steps, states[1:], strict=True):
            assert after(state, step) == reached
        assert problem.demonstration.split("#")[1] == states[-1] == problem.answer


@given(seed=st.integers(0, 10**9), level=st.sampled_from(LEVELS))
def test_an_inverse_problem_has_one_answer(seed: int, level: int) -> None:
    problem = draw("inv", level, "train", Random(seed))
    opening, result = problem.prompt[1:].split("=")
    forward = operations(opening)
    answers = [f"{n:03}" for n in range(1000) if solve(f"{n:03}", forward) == result]
    assert answers == [problem.answer]


# ------------------------------------------------------------------------------------------ splits


@given(**anything)
def test_a_prompt_belongs_to_one_split(family: str, level: int, seed: int) -> None:
    drawn = {split: draw(family, level, split, Random(seed)) for split in SPLITS}
    for split, problem in drawn.items():
        assert problem.split == split == split_of(problem.prompt)
        assert (problem.family, problem.level) == (family, level)
    assert len({problem.prompt for problem in drawn.values()}) == len(SPLITS)


@given(prompt=st.text())
def test_every_text_has_a_split(prompt: str) -> None:
    assert split_of(prompt) in SPLITS


def test_suites_of_different_splits_share_no_prompt() -> None:
    prompts = {
        split: Counter(p.prompt for family in FAMILIES for p in suite(family, split, 60))
        for split in SPLITS
    }
    # No two families share one either.
    assert all(set(count.values()) == {1} for count in prompts.values())
    assert all(len(count) == len(FAMILIES) * len(LEVELS) * 60 for count in prompts.values())
    for one, other in combinations(SPLITS, 2):
        assert not prompts[one].keys() & prompts[other].keys(), (one, other)


def test_shares_of_the_splits() -> None:
    count = Counter(split_of(f"{n:05}") for n in range(20_000))
    shares = {"pretraining": 0.6, "train": 0.25, "validation": 0.05, "test": 0.1}
    observed = torch.tensor([count[split] for split in shares], dtype=torch.float64)
    assert p_value(observed, torch.tensor(list(shares.values())) * 20_000) > 1e-4


def p_value(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's χ² test: how often counts so far from the expected ones come by chance."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(
        torch.tensor((len(observed) - 1) / 2, dtype=torch.float64), statistic.double() / 2
    ).item()


def test_the_chi_square_test_by_table() -> None:
    # The 5 % point of 9 degrees of freedom is 16.919; 10 cells of 100 with one pair ±a: 2a²/100.
    a = (16.919 * 50) ** 0.5
    observed = torch.tensor([100 + a, 100 - a] + [100.0] * 8, dtype=torch.float64)
    assert p_value(observed, torch.full((10,), 100.0)) == pytest.approx(0.05, abs=1e-4)


# ----------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_uniform_at_every_level(level: int) -> None:
    random, each = Random(level), 1500
    pooled = []
    for family in FAMILIES:
        answers = [draw(family, level, "pretraining", random).answer for _ in range(each)]
        assert all(re.fullmatch("[0-9]{3}", answer) for answer in answers)
        pooled += answers
        for place in range(3):
            digits = torch.tensor([int(answer[place]) for answer in answers])
            counts = digits.bincount(minlength=10).double()
            assert p_value(counts, torch.full((10,), each / 10)) > 1e-5, (family, place)
    counts = torch.tensor([int(answer) for answer in pooled]).bincount(minlength=1000).double()
    assert p_value(counts, torch.full((1000,), len(pooled) / 1000)) > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_short_and_of_the_alphabet(family: str) -> None:
    for problem in suite(family, "train", 40):
        assert len(problem.prompt + str(problem.demonstration)) <= 75
        assert set(problem.prompt + str(problem.demonstration)) <= set(ALPHABET)


def test_there_are_eight_families() -> None:
    assert list(IN_DISTRIBUTION) == ["sum", "aff", "perm", "cond", "inv", "post"]
    assert list(OUT_OF_DISTRIBUTION) == ["mix", "alt"]
    assert LEVELS == (1, 2, 3, 4, 5)


# ------------------------------------------------------------------------------------------ suites


@given(family=st.sampled_from(list(FAMILIES)), small=st.integers(0, 12), more=st.integers(0, 12))
def test_a_larger_suite_holds_the_smaller(family: str, small: int, more: int) -> None:
    for seed in (0, 1):
        whole = suite(family, "train", small + more, seed)
        for level in LEVELS:
            own = [p for p in whole if p.level == level]
            part = [p for p in suite(family, "train", small, seed) if p.level == level]
            assert len(own) == small + more and own[:small] == part


def test_the_seed_decides() -> None:
    assert suite("sum", "test", 5) == suite("sum", "test", 5, seed=0)
    assert suite("sum", "test", 5) != suite("sum", "test", 5, seed=1)


def test_a_suite_is_as_large_as_its_split() -> None:
    # Level 1 of perm has 2,000 prompts (a start, and r or <), so about 100 to validate on.
    every = [f"{n:03}{symbol}=" for n in range(1000) for symbol in "r<"]
    there = {prompt for prompt in every if split_of(prompt) == "validation"}
    enough = suite("perm", "validation", len(there) - 10)
    assert {p.prompt for p in enough if p.level == 1} < there
    with pytest.raises(UpgeError, match=r"perm, level 1, validation: got \d+ asked for, but"):
        suite("perm", "validation", len(there) + 1)


@pytest.mark.parametrize(
    ("family", "level", "split", "message"),
    [
        ("sums", 1, "train", "unknown family 'sums'; did you mean 'sum'?"),
        ("sum", 0, "train", "level: got 0, wanted one of 1, 2, 3, 4, 5"),
        ("sum", 6, "train", "level: got 6, wanted one of 1, 2, 3, 4, 5"),
        ("sum", 1, "tests", "unknown split 'tests'; did you mean 'test'?"),
    ],
)
def test_what_is_not_known(family: str, level: int, split: Split, message: str) -> None:
    with pytest.raises(UpgeError) as error:
        draw(family, level, split, Random(0))
    assert str(error.value) == message
