"""Rows of results, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_benchmarks import open_folder, suite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.metrics import interval, paired_interval
from upge.evaluation.responses import COLUMNS, Response, schema, write_table
from upge.evaluation.results import result_rows
from upge.evaluation.run import Part
from upge.evaluation.suites import Suite
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem

pyarrow = pytest.importorskip("pyarrow")

WORDS = {"r": "right", "w": "wrong", "u": "unboxed", "f": "refused"}


def keep(folder: EvaluationFolder, verdicts: Sequence[str], levels: Sequence[int]) -> None:
    """Verdicts by letter: right, wrong, unboxed, (re)fused; capitals are truncated."""
    tokens = iter(range(99))
    answers = [
        [Response("", float(s in "rR"), next(tokens), s.islower(), WORDS[s.lower()]) for s in signs]
        for signs in verdicts
    ]
    problems = [Problem("", "1", level=level) for level in levels]
    folder.add(Part("made", range(len(verdicts)), problems, 0), answers)


def test_results_by_hand(tmp_path: Path) -> None:
    own = open_folder(tmp_path / "own", suite())
    keep(own, ["rrrw", "wUuF", "ffrR"], [2, 1, 2])
    other = open_folder(tmp_path / "other", suite(), weights="others")
    keep(other, ["wwww", "rrrr", "rrrr"], [2, 1, 2])
    (row,) = result_rows(own, {"made": None}, against=other)
    avg, passed = interval(torch.tensor([0.75, 0, 0.5])), interval(torch.tensor([1.0, 0, 1]))
    minus = paired_interval(torch.tensor([0.75, -1, -0.5]))
    assert row == {
        "suite": "made",
        "problems": 3,
        "samples": 4,
        "avg@k": pytest.approx(1.25 / 3),
        "avg@k low": avg.low,
        "avg@k high": avg.high,
        "pass@k": pytest.approx(2 / 3),
        "pass@k low": passed.low,
        "pass@k high": passed.high,
        "responses": 12,
        "tokens": 5.5,
        "truncated": 3,
        **dict.fromkeys(map(str, Verdict), 0),
        **{"right": 5, "wrong": 2, "unboxed": 2, "refused": 3},
        "minus_other": pytest.approx((0.75 - 1 - 0.5) / 3),
        "minus_other low": minus.low,
        "minus_other high": minus.high,
        "alone": 1,
        "other_alone": 2,
        "other": str(tmp_path / "other"),
        "pass@1": pytest.approx(1.25 / 3),
        "pass@2": pytest.approx((1 + 0 + 5 / 6) / 3),
        "pass@4": pytest.approx(2 / 3),
    }
    levels = result_rows(own, {"made": None}, by="level", against=other)
    assert [(r["level"], r["problems"], r["alone"], r["other_alone"]) for r in levels] == [
        (1, 1, 0, 1),
        (2, 2, 1, 1),
    ]
    (first,) = result_rows(own, {"made": 1})
    assert (first["problems"], first["avg@k"]) == (1, 0.75)


def test_problems_with_unequal_numbers_of_responses(tmp_path: Path) -> None:
    """3 and 1: the mean over problems is ½, over responses ¾; pairs are of problems too."""
    own, other = (open_folder(tmp_path / name, suite(), weights=name) for name in ("a", "b"))
    keep(own, ["rrr", "w"], [1, 1])
    keep(other, ["w", "rrw"], [1, 1])
    (row,) = result_rows(own, {"made": None}, against=other)
    assert (row["avg@k"], row["samples"], row["responses"]) == (0.5, 1, 4)
    assert row["pass@k"] == row["pass@1"] == 0.5 and "pass@2" not in row
    assert row["minus_other"] == pytest.approx((1 - 2 / 3) / 2)
    assert (row["alone"], row["other_alone"]) == (1, 1)
    assert own.done("made", 3) == {0}


INTEGERS = st.integers(-(2**63), 2**63 - 1)
ROWS = st.tuples(
    INTEGERS | st.integers(0, 3),
    st.text(max_size=2),
    st.text(max_size=2),
    INTEGERS,
    st.just(""),
    st.just("1"),
    INTEGERS,
    st.text(max_size=3),
    st.none() | st.floats() | st.sampled_from([0.0, 0.5, 1.0]),
    INTEGERS | st.none(),
    st.booleans(),
    st.text(max_size=3) | st.sampled_from(["right", "wrong"]),
)


@pytest.mark.slow
@settings(suppress_health_check=list(HealthCheck), max_examples=150)
@given(st.lists(ROWS, max_size=6), st.sampled_from(["suite", "family", "level"]))
def test_rows_that_nobody_wrote(tmp_path: Path, rows: list[Any], by: str) -> None:
    """A sentence that names the file and the row, or numbers."""
    folder = open_folder(tmp_path, suite())
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)) if rows else {}
    table = pyarrow.table({name: columns.get(name, ()) for name in COLUMNS}, schema=schema())
    write_table(tmp_path / "made.parquet", table)
    numbers = [reward is not None and 0 <= reward <= 1 for *_, reward, _, _, _ in rows]
    lengths = [tokens is not None for *_, tokens, _, _ in rows]
    try:
        found = result_rows(folder, {"made": None}, by=by)
    except UpgeError as error:
        assert not rows or not all(numbers + lengths)
        assert "made.parquet, row" in str(error) or "has its responses yet" in str(error)
    else:
        assert all(numbers + lengths)
        assert sum(row["responses"] for row in found) == len(rows)
        assert all(0 <= row["avg@k low"] <= row["avg@k high"] <= 1 for row in found)


def test_a_verdict_that_is_not_known_here_is_counted(tmp_path: Path) -> None:
    own = open_folder(tmp_path / "own", suite())
    part = Part("made", [0], [Problem("", "1")], 1)
    own.add(part, [[Response("", 0.0, 1, True, "of another version")]])
    assert result_rows(own, {"made": None})[0]["of another version"] == 1


def test_evaluations_that_cannot_be_compared(tmp_path: Path) -> None:
    own = open_folder(tmp_path / "own", suite())
    keep(own, ["rr", "ww"], [1, 1])
    other = open_folder(tmp_path / "other", suite(name="else"))
    with pytest.raises(UpgeError, match="has no made; evaluate it there too"):
        result_rows(own, {"made": None}, against=other)
    with pytest.raises(UpgeError, match="no problem of else has its responses yet"):
        result_rows(other, {"else": None})
    open_folder(tmp_path / "other", suite())
    keep(other, ["rr"], [1])
    with pytest.raises(UpgeError, match=r"has 1 of the problems .* or compare with --limit 1"):
        result_rows(own, {"made": None}, against=other)
    assert result_rows(own, {"made": 1}, against=other)[0]["alone"] == 0
    third = open_folder(tmp_path / "third", Suite("made", [], 1, "another", 0))
    with pytest.raises(UpgeError, match="its made has other problems"):
        result_rows(own, {"made": None}, against=third)
