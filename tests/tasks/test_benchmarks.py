"""Data sets by name: from the hub, in its layouts, and from a folder, in its and in ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from upge import UpgeError
from upge.common import hub as hub_access
from upge.tasks.answers import boxed
from upge.tasks.benchmarks import (
    BENCHMARKS,
    IN_DISTRIBUTION,
    OUT_OF_DISTRIBUTION,
    SAMPLES,
    SOURCES,
    load,
    local_file,
)
from upge.tasks.problem import Problem, data_folder

QUESTION = "Which is right?"
OPTIONS = {"Correct Answer": " yes\n", **{f"Incorrect Answer {i}": f"no {i}" for i in (1, 2, 3)}}
LETTERED = f"{QUESTION}\n\nA) moon\nB) sun"

#: A record as the hub has it, and what it means.
RECORDS: dict[str, tuple[dict[str, Any], Problem]] = {
    "openr1": (
        {
            "data_source": "openr1",
            "prompt": [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": "1 + 1?"},
            ],
            "target": [{"role": "assistant", "content": r"<think>…</think> \boxed{2}"}],
            "reward_model": {"ground_truth": "2", "style": "rule"},
        },
        Problem("1 + 1?", "2", r"<think>…</think> \boxed{2}", "openr1"),
    ),
    "gsm8k_train": (
        {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"},
        Problem("How many?", "1024", "48/2 = 24", kind="number"),
    ),
    "math_train": (
        {
            "problem": "1 + 1?",
            "level": "Level 5",
            "type": "Algebra",
            "solution": r"It is \boxed{\frac{4}{2}}.",
        },
        Problem("1 + 1?", r"\frac{4}{2}", r"It is \boxed{\frac{4}{2}}.", "Algebra", 5),
    ),
    "math500": (
        {"problem": "1?", "answer": "1", "solution": "One.", "subject": "Algebra", "level": 2},
        Problem("1?", "1", "One.", "Algebra", 2),
    ),
    "svamp": (
        {"Body": "He has 3 apples. ", "Question": "How many?", "Answer": "3.0"},
        Problem("He has 3 apples. How many?", "3.0", kind="number"),
    ),
    "aime24": (
        {"problem": "1?", "answer": "033", "solution": "…"},
        Problem("1?", "033", kind="number"),
    ),
    "aime25": ({"problem": "1?", "answer": "70"}, Problem("1?", "70", kind="number")),
    "amc23": ({"question": "1?", "answer": 27.0}, Problem("1?", "27", kind="number")),
    "minerva": ({"question": "1?", "answer": "1e-5"}, Problem("1?", "1e-5")),
    "olympiadbench": (
        {"question": "1?", "final_answer": ["$69$", "$84$"]},
        Problem("1?", "$69$, $84$"),
    ),
    "arc_challenge": (
        {
            "question": QUESTION,
            "choices": {"text": ["moon", "sun"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        Problem(LETTERED, "B", kind="choice"),
    ),
}


def hub(monkeypatch: pytest.MonkeyPatch, record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A hub of one record; what it is asked for is kept."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(hub_access, "reached", lambda extra: True)

    def load_dataset(*names: str, split: str) -> list[dict[str, Any]]:
        asked.append((*names, split))
        return [record]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


@pytest.fixture(autouse=True)
def nothing_local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record, problem = RECORDS[name]
    asked = hub(monkeypatch, record)
    assert load(name) == [problem]
    source = SOURCES[name]
    assert asked == [(source.hub, *filter(None, [source.subset]), source.split)]


def test_options_of_gpqa_are_shuffled_by_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    letters = set()
    for i in range(20):
        hub(monkeypatch, {"Question": f"{QUESTION} {i}", **OPTIONS})
        (problem,) = load("gpqa_diamond")
        assert [problem] == load("gpqa_diamond")
        assert f"\n{problem.answer}) yes" in problem.prompt
        assert sorted(problem.prompt.split("\n")[2:], key=lambda line: line[3:])[0][3:] == "no 1"
        letters.add(problem.answer)
    assert letters == set("ABCD")


def test_a_record_without_an_answer_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = RECORDS["math500"]
    for answer in (None, float("nan")):
        hub(monkeypatch, {**record, "answer": answer})
        with pytest.raises(UpgeError, match="a record without an answer"):
            load("math500")


def test_nothing_in_a_column_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = RECORDS["math500"]
    hub(monkeypatch, {**record, "solution": " ", "subject": None, "level": None})
    assert load("math500") == [Problem("1?", "1", None, "", 0)]
    record, _ = RECORDS["openr1"]
    hub(monkeypatch, {**record, "target": [{"role": "assistant", "content": "\n"}]})
    assert load("openr1")[0].demonstration is None


@pytest.mark.parametrize("folder", ["math500", "math500.jsonl", "math500.parquet"])
def test_a_folder_is_no_data_set(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = hub(monkeypatch, RECORDS["math500"][0])
    (tmp_path / folder).mkdir()
    with pytest.raises(UpgeError, match=rf"{folder}: is a folder, wanted a file math500\.jsonl or"):
        load("math500")
    assert asked == []


def test_a_folder_that_is_not_there_is_not_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = hub(monkeypatch, RECORDS["math500"][0])
    monkeypatch.setenv("UPGE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UpgeError, match=r"^UPGE_DATA: got .*nowhere', which is no folder"):
        load("math500")
    assert asked == []


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_goes_before_the_hub_in_either_layout(
    suffix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record, problem = RECORDS["openr1"]
    own = {"problem": "2 + 2?", "answer": "4"}
    asked = hub(monkeypatch, record)
    for given, wanted in ((record, problem), (own, Problem("2 + 2?", "4"))):
        path = tmp_path / f"openr1.{suffix}"
        if suffix == "jsonl":
            path.write_text(json.dumps(given) + "\n", encoding="utf-8")
        else:
            pa = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist([given]), path)
        assert local_file("openr1") == path
        assert load("openr1") == load(str(path)) == [wanted]
    assert asked == []


def test_names_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UpgeError, match="unknown data set 'aime42'; did you mean 'aime2"):
        load("aime42")
    with pytest.raises(UpgeError, match=r"mine\.jsonl: No such file"):
        load(str(tmp_path / "mine.jsonl"))
    hub(monkeypatch, {"text": "another layout"})
    with pytest.raises(UpgeError, match=r"math-ai/amc23 has changed its columns .*'question'"):
        load("amc23")


def test_a_box_without_braces_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in MATH's training set."""
    for boxed_two, answer in ((r"\boxed 2", "2"), (r"\boxed{2}, \boxed{3}", "2, 3")):
        hub(monkeypatch, {"problem": "1?", "solution": f"So ${boxed_two}$.", "level": "Level ?"})
        assert load("math_train") == [Problem("1?", answer, f"So ${boxed_two}$.")]


def test_a_file_without_the_levels_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "math500.jsonl"
    path.write_text(
        '{"problem": "1?", "answer": "1"}\n{"problem": "2?", "answer": "2", "level": 3}\n'
    )
    with pytest.raises(UpgeError) as error:
        load("math500_levels_1_2")
    assert str(error.value) == (
        f"math500_levels_1_2: {path} has no problem of level 1 or 2; take a file whose records "
        "have 'level'"
    )
    path.write_text('{"problem": "1?", "answer": "1", "level": "Level 2"}\n')
    assert load("math500_levels_1_2") == [Problem("1?", "1", level=2)]


def test_a_file_may_declare_another_kind(tmp_path: Path) -> None:
    record = {"problem": "1?", "answer": "west", "answer_kind": "text"}
    (tmp_path / "amc23.jsonl").write_text(json.dumps(record))
    assert load("amc23") == [Problem("1?", "west", kind="text")]


def test_a_solution_without_a_box_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {"problem": "1?", "solution": "It is 1."})
    with pytest.raises(UpgeError, match="no box in 'It is 1"):
        load("math_test")


def test_the_benchmarks_of_table_2() -> None:
    assert len(BENCHMARKS) == 8 and set(BENCHMARKS) <= set(SOURCES)
    assert set(SAMPLES) <= set(BENCHMARKS)


def test_the_shared_sets_load_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    here = {name: local_file(name) for name in SOURCES}
    if here["aime24"] is None:
        pytest.skip(f"{data_folder()} has no data sets; set UPGE_DATA to the folder that has them")
    counts = {name: len(load(name)) for name in BENCHMARKS if here[name] is not None}
    wanted = {"aime24": 30, "aime25": 30, "amc23": 40, "minerva": 272, "olympiadbench": 674}
    assert counts == wanted | {"math500": 500, "arc_challenge": 1172}
    assert sum(counts[name] for name in IN_DISTRIBUTION) == 1546
    assert {"arc_challenge"} == set(OUT_OF_DISTRIBUTION) & set(counts)
    assert all(problem.demonstration for problem in load("gsm8k_train"))
    assert all(boxed(str(problem.demonstration)) for problem in load("math500"))
    assert {problem.level for problem in load("math500")} == {1, 2, 3, 4, 5}
