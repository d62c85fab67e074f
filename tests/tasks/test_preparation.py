"""From data sets to what a run trains on: templates, lengths, overlaps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.tasks.answers import boxed
from upge.tasks.contamination import Overlap, overlaps, words
from upge.tasks.lengths import within
from upge.tasks.problem import Problem
from upge.tasks.templates import INSTRUCTION, TEMPLATES, demonstration, prompt

LONG = " ".join(f"word{i}" for i in range(30))


CHAT_TEMPLATE = (
    "{{ bos_token }}{{ messages[0].role }}: {{ messages[0].content }}"
    "{% if add_generation_prompt %}</s>{% endif %}"
)

TOKENIZER = SimpleNamespace(
    chat_template=CHAT_TEMPLATE,
    get_chat_template=lambda: CHAT_TEMPLATE,
    special_tokens_map={"bos_token": "<s>"},
    encode=lambda text, add_special_tokens: text.split(),
)


# --------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize("template", [*TEMPLATES, "chat"])
def test_every_template_asks_for_a_box_and_holds_the_problem_as_it_is(template: str) -> None:
    problem = r"Is {x} «problem» or $\frac{1}{2}$ {0}?"
    text = prompt(problem, template, TOKENIZER)
    assert problem in text and text.count(INSTRUCTION) == 1
    assert boxed(text) is None  # an empty box answers nothing


def test_templates_are_those_of_the_official_scripts() -> None:
    assert prompt("Q", "zero") == (
        "Question:\nQ\nPlease reason step by step, and put your final answer within \\boxed{}."
        "\nAnswer:\nLet's think step by step."
    )
    assert prompt("Q", "qwen") == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt("Q", "chat", TOKENIZER) == f"<s>user: Q\n{INSTRUCTION}</s>"


def test_templates_that_are_not_there() -> None:
    with pytest.raises(UpgeError, match="unknown template 'quen'; did you mean 'qwen'"):
        prompt("Q", "quen")
    with pytest.raises(UpgeError, match="no chat template of its own; take one of plain, qwen"):
        prompt("Q", "chat", SimpleNamespace(chat_template=None))


def test_a_demonstration_ends_in_its_box() -> None:
    assert demonstration(r"So \boxed{4}.", "4") == r"So \boxed{4}."
    assert demonstration("So 4.", "4") == "So 4.\nThe answer is \\boxed{4}."
    assert boxed(demonstration("So a half.", r"\frac{1}{2}")) == r"\frac{1}{2}"


# ----------------------------------------------------------------------------------------- lengths


def test_what_is_too_long_is_dropped_and_counted() -> None:
    problems = [
        Problem("a b", "1", "x y"),
        Problem("a b c", "1", "x"),
        Problem("a", "1", "x y z"),
        Problem("a", "1"),
    ]
    kept, dropped = within(problems, lambda text: len(text.split()), prompt=2, demonstration=3)
    assert kept == [problems[0], Problem("a", "1"), problems[3]]
    assert dropped == {
        "prompt of more than 2 tokens": 1,
        "demonstration of more than 3 tokens": 1,
    }
    assert within(problems, len, prompt=10) == (problems, Counter())


# ---------------------------------------------------------------------------------------- overlaps


def test_words_are_what_is_left_of_spelling() -> None:
    assert words("If  $x=1$,\nthen ２x is É!") == ("if", "x", "=", "1", "then", "2x", "is", "e")
    assert words("Straße") == words("STRASSE")


@pytest.mark.parametrize(
    "spellings",
    [
        ("What is 3 - 4?", "what is $3-4$", "What is 3−4?", "What is ３－４", "What is 3–4?"),
        ("A well-known 2-digit number", "a well known 2 digit number"),
        ("Note -- so --- so", "Note — so, so", "**Note** so so"),
        ("x^{2} / y", "$x^2/y$", "x^2÷y"),
        ("3×4", "3 * 4", "3·4"),
        ("If a <= b", "If a ≤ b"),
        ("x⁻1", "x-1"),
    ],
)
def test_spellings_of_one_problem(spellings: tuple[str, ...]) -> None:
    assert len({words(text) for text in spellings}) == 1, [words(text) for text in spellings]


def test_an_operator_makes_another_problem() -> None:
    signs = [
        "+",
        "-",
        "*",
        "/",
        "^",
        "=",
        "<",
        ">",
        "≤",
        "≥",
        "≠",
        r"\times ",
        r"\cdot ",
        r"\le ",
        "",
    ]
    problems = [Problem(f"What is $3{sign}4$?", "7") for sign in signs]
    assert len({words(problem.prompt) for problem in problems}) == len(signs)
    for place, problem in enumerate(problems):
        found = overlaps(problems, {"test": [problem]})
        assert found == [Overlap(place, "test", 0, "same")]


def test_operators_are_no_words_of_a_passage() -> None:
    """Formulas of a few letters are shared by chance; a passage is, whatever sign is in it."""
    train = [Problem("Let a + b = 1, a - b = 3 and a * b = c. Find c.", "")]
    tests = {"test": [Problem("Let a + b = 1, a - b = 3 and a * b = d. Find a.", "")]}
    assert overlaps(train, tests) == [] and len(words(train[0].prompt)) > 13
    story = [Problem(f"{LONG} + 1", "")]
    assert overlaps(story, {"test": [Problem(f"{LONG} - 1", "")]})[0].kind == "passage"


def test_problems_that_are_tested_on_too() -> None:
    train = [
        Problem("What is 1 + 1?", "2"),
        Problem(f"Before {LONG} after", "1"),
        Problem("What is 2 + 2?", "4"),
        Problem("what is $1+1$", "2"),
        Problem(LONG.replace("word12", "other"), "1"),
    ]
    tests = {"a": [Problem("What, is 1 + 1", "2")], "b": [Problem("Else", "1"), Problem(LONG, "1")]}
    same, passage = "same", "passage"
    assert overlaps(train, tests) == [
        Overlap(0, "a", 0, same),
        Overlap(1, "b", 1, passage),
        Overlap(3, "a", 0, same),
        Overlap(4, "b", 1, passage),
    ]
    assert [overlap.train for overlap in overlaps(train, tests, n=18)] == [0, 1, 3]
    assert overlaps(train, {}) == []


@given(
    st.lists(st.text(alphabet="ab ", max_size=12), max_size=6),
    st.lists(st.text(alphabet="ab ", max_size=12), max_size=6),
    st.integers(1, 4),
)
def test_overlaps_are_what_a_search_of_all_pairs_finds(
    train: list[str], test: list[str], n: int
) -> None:
    def grams(text: str) -> set[str]:
        own = text.split()
        return {" ".join(own[i : i + n]) for i in range(len(own)) if len(own) >= i + n}

    wanted = [
        i
        for i, a in enumerate(train)
        if any(a.split() == b.split() or grams(a) & grams(b) for b in test)
    ]
    found = overlaps([Problem(a, "") for a in train], {"t": [Problem(b, "") for b in test]}, n)
    assert [overlap.train for overlap in found] == wanted


# ------------------------------------------------------------------------------------ configuration


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def load_run(monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], **settings: Any) -> Any:
    from upge.common.config import build
    from upge.training import data as training_data
    from upge.training.config import RunConfig

    monkeypatch.setattr(training_data, "load_tokenizer", lambda name: TOKENIZER)
    config = {"name": "x", "stages": [], "data": {"kind": "benchmarks", **data}, **settings}
    return training_data.load_dataset(build(config, RunConfig))


def test_a_run_on_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train = [{"problem": f"What is {i}?", "answer": str(i), "solution": f"{i}."} for i in range(9)]
    train += [{"problem": LONG, "answer": "1"}, {"problem": "What is what?", "answer": "5"}]
    train += [{"problem": "What is long?", "answer": "6", "solution": LONG * 4}]
    data = {
        "train_set": write(tmp_path / "train.jsonl", *train),
        "validation_set": write(tmp_path / "other.jsonl", {"problem": "Why?", "answer": "0"}),
        "test_sets": [
            write(tmp_path / "arc_challenge.jsonl", {"problem": "what is 3", "answer": "B"})
        ],
        "template": "plain",
        "max_prompt": 25,
    }
    run = load_run(monkeypatch, data, long_demonstrations="drop")
    assert run.dropped == {
        "the same as in arc_challenge": 1,
        "prompt of more than 25 tokens": 1,
        "demonstration of more than 64 tokens": 1,
    }
    assert [problem.answer for problem in run.train] == [*"01245678", "5", "6"]
    assert run.train[0].prompt == f"What is 0?\n{INSTRUCTION}\n"
    assert run.train[-1].demonstration is None
    assert run.unseen == {"arc_challenge"}
    shown = [problem for problem in run.train if problem.demonstration]
    assert run.verifier([str(p.demonstration) for p in shown], shown) == [1.0] * 8
    with pytest.raises(
        UpgeError, match=r"overlap: 1 training problems .*\(arc_challenge, number 1"
    ):
        load_run(monkeypatch, data | {"overlap": "refuse"})
    assert len(load_run(monkeypatch, data | {"overlap": "keep"}).train) == 11


def test_a_set_of_which_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problems = [{"problem": f"What is {i}?", "answer": str(i)} for i in range(9)]
    train = write(tmp_path / "train.jsonl", *problems)
    test = write(tmp_path / "test.jsonl", *problems[:8])
    data = {"train_set": train, "test_sets": [test], "held_out": 1, "template": "qwen"}
    with pytest.raises(UpgeError) as error:
        load_run(monkeypatch, data | {"validation_set": write(tmp_path / "v.jsonl", problems[8])})
    assert str(error.value) == (
        "train_set: none of 9 problems is left to train on (dropped: 8 × the same as in test, 1 × "
        "the same as in the validation problems); take another one or other test_sets, or "
        "overlap: keep"
    )
    assert len(load_run(monkeypatch, data | {"overlap": "keep"}).train) == 8


def test_a_set_that_is_not_there_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UpgeError, match="unknown data set 'openr2'; did you mean 'openr1'"):
        load_run(monkeypatch, {"train_set": "openr2"})


def test_the_files_of_benchmarks_determine_the_run(tmp_path: Path) -> None:
    from upge.common.config import build
    from upge.training.config import RunConfig

    name = write(tmp_path / "train.jsonl", {"problem": "1?", "answer": "1"})
    config = {"name": "x", "stages": [], "data": {"kind": "benchmarks", "train_set": name}}
    before = build(config, RunConfig).key
    write(tmp_path / "train.jsonl", {"problem": "1?", "answer": "12"})
    assert build(config, RunConfig).key != before
