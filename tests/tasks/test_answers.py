r"""Which part of a response is its answer: boxes, boxes side by side, and no thinking."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upge.tasks.answers import boxed, final_part
from upge.tasks.grading import LONGEST


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"first \boxed{4}, then \boxed{5}", "5"),
        (r"\boxed{4}. Checking again, that was wrong: \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} and more", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} (I put the answer within \boxed{}.)", "5"),
        (r"\boxed{5} (As asked, inside \boxed.)", "5"),
        (r"\boxed{5} and \boxed{ }", "5"),
        (r"in \boxed a number", None),
        (r"\boxed{}", None),
        (r"\boxed{}" * 10_000, None),
        (r"\boxed{5} \boxed{6", None),  # cut off: what it would have said isn't known
        ("5", None),
        ("", None),
        (r"\boxed{" + "5" * LONGEST + "}", "5" * LONGEST),
        (r"\boxed{" + "5" * (LONGEST + 2) + "}", None),
    ],
)
def test_the_last_box_that_is_not_empty(response: str, answer: str | None) -> None:
    assert boxed(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"The answer is \boxed 2", "2"),
        (r"$\boxed 18$.", "18"),
        (r"$\boxed2$", "2"),
        (r"$\boxed 1,024$", "1,024"),
        (r"$\boxed -3.5$", "-3.5"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"$\boxed x$", "x"),
        (r"\boxed 2^{10}", None),  # in the box stands 2
        (r"\boxed 2 + 1", None),
        (r"\boxed 2 \sqrt 3", None),
        (r"\boxed I think", None),
    ],
)
def test_a_box_without_braces(response: str, answer: str | None) -> None:
    assert boxed(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{2}, \boxed{4} and \boxed{9}", "2, 4, 9"),
        (r"$\boxed{2}$, $\boxed{4}$, or $\boxed{9}$", "2, 4, 9"),
        (r"\boxed{2}\boxed{4}", "2, 4"),
        (r"\[\boxed{(3, 1)}, \quad \boxed{(1, 3)}\]", "(3, 1), (1, 3)"),
        (r"\boxed{2} \quad \text{or} \quad \boxed{4}", "2, 4"),
        (r"\(\boxed{2}\) and \(\boxed{4}\)", "2, 4"),
        (r"$x=\boxed{3}$ and $y=\boxed{1}$", "x=3, y=1"),
        (r"$x_1 = \boxed{3}, x_2 = \boxed{1}$", "x_1 =3, x_2 =1"),
        (r"\boxed{x=3}, \boxed{y=1}", "x=3, y=1"),
        (r"\boxed{4}, \boxed{4}", "4"),
        (r"\boxed{4} and so \boxed{5}", "5"),
        (r"\boxed{4} but not \boxed{5}", "5"),
        (r"\boxed{4}. \boxed{5}", "5"),
        (r"\boxed{4}" + " " * 200 + r"\boxed{5}", "5"),
        (r"$x = \boxed{5}$", "5"),
    ],
)
def test_boxes_side_by_side_are_one_answer(response: str, answer: str) -> None:
    assert boxed(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>\boxed{7}</think>\boxed{6}", "6"),
        (r"<think>maybe \boxed{6}? no.</think> It is **7**.", None),
        (r"<think>\boxed{6}", None),  # cut off
        (r"\boxed{7} </think> so \boxed{6}", "6"),  # the prompt opened it
        (r"\boxed{6}</think>", None),
        (r"<think>a</think>\boxed{5}<think>b</think>\boxed{6}", "6"),
        (r"<think>a</think>\boxed{6}<think>\boxed{5}", "6"),
        (r"<THINK>\boxed{6}</THINK> 7", None),
        (r"<thinking>\boxed{6}</thinking> 7", None),
        (r"<reasoning>\boxed{6}</reasoning> 7", None),
        (r"<|begin_of_thought|>\boxed{5}<|end_of_thought|> \boxed{6}", "6"),
        (r"◁think▷\boxed{5}◁/think▷ 7", None),
        (r"<answer>\boxed{6}</answer>", "6"),
        (r"I think \boxed{6}", "6"),
    ],
)
def test_a_box_inside_of_thinking_is_no_answer(response: str, answer: str | None) -> None:
    assert boxed(response) == answer


@given(st.text(), st.text(alphabet="12x+-/ ").filter(str.strip))
def test_a_box_at_the_end_is_found(before: str, answer: str) -> None:
    assert boxed(f"{before}. So \\boxed{{{answer}}}") == answer


@given(st.text(alphabet=r"\boxed{}[]5 "))
def test_what_is_found_is_balanced(text: str) -> None:
    answer = boxed(text)
    assert answer is None or answer.replace(r"\{", "").count("{") <= answer.count("}")


@given(st.text(), st.text())
def test_the_final_part_has_no_thinking(before: str, thought: str) -> None:
    assert "forty" not in final_part(f"{before}<think>forty {thought}")


@pytest.mark.parametrize(
    "filler",
    [
        r"\boxed{",
        r"\boxed{}",
        "{",
        "}",
        r"\boxed{\{",
        "\\",
        "\\boxed",
        " ",
        r"\boxed{1},",
        "<think>",
    ],
)
def test_megabytes_are_looked_through_at_once(filler: str) -> None:
    started = time.process_time()
    for _ in range(5):
        boxed(filler * (2**20 // len(filler)))
        boxed(r"\boxed{1}" + filler * (2**20 // len(filler)) + r"\boxed{2}")
    assert time.process_time() - started < 20
