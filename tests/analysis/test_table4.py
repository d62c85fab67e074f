"""Exclusive solves are counted and tested right, and Table 4 keeps the paper's numbers apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from math import comb
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import cells, csv_rows, part, write_run
from hypothesis import given
from hypothesis import strategies as st

from analysis.exclusive import ALL, COLUMNS, exclusive, mcnemar, with_tests
from analysis.reported import published
from analysis.runs import load_runs
from analysis.table4 import document, exclusive_solves
from analysis.tables import Document
from upge.common.errors import UpgeError


def answers(method: str, seed: int, right: Sequence[int], samples: int = 4) -> pd.DataFrame:
    """Two levels, the first half of the problems at the first."""
    rows = [
        (method, seed, "sum", 1 + (2 * i >= len(right)), f"{i}=", n, samples, 12)
        for i, n in enumerate(right)
    ]
    names = ["method", "seed", "suite", "level", "prompt", "right", "samples", "tokens"]
    return pd.DataFrame(rows, columns=names)


# ------------------------------------------------------------------------------------- the test


@pytest.mark.parametrize(
    ("alone", "other", "p"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 1 / 16), (0, 6, 1 / 32), (8, 1, 20 / 512), (3, 3, 1)],
)
def test_p_values_by_hand(alone: int, other: int, p: float) -> None:
    assert mcnemar(alone, other) == p


@given(st.integers(0, 80), st.integers(0, 80))
def test_p_is_the_chance_of_a_split_at_least_as_uneven(b: int, c: int) -> None:
    n = b + c
    uneven = [i for i in range(n + 1) if abs(2 * i - n) >= abs(b - c)]
    chance = float(Fraction(sum(comb(n, i) for i in uneven), 2**n))
    assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(chance, rel=1e-12)


def test_holm_is_for_the_levels_alone() -> None:
    rows = with_tests({1: (9, 5, 0), 2: (9, 6, 0)})
    assert rows[0][4:] == (1 / 16, 1 / 16)
    assert rows[1][4:] == (1 / 32, 1 / 16)
    assert rows[2][:5] == (ALL, 18, 11, 0, 2 / 2**11) and pd.isna(rows[2][5])


# ------------------------------------------------------------------------------------- the counts


def test_a_problem_is_solved_by_more_than_half_of_its_samples() -> None:
    frame = pd.concat([answers("a", 0, [3, 2, 4, 4]), answers("b", 0, [2, 3, 0, 4])])
    solves = exclusive(frame, [("a", "b")])
    assert tuple(solves) == COLUMNS
    counts = solves[["level", "problems", "alone", "other_alone"]].to_numpy().tolist()
    assert counts == [[1, 2, 1, 1], [2, 2, 1, 0], [ALL, 4, 2, 1]]


def test_methods_may_differ_in_samples_and_order() -> None:
    a, b = answers("a", 0, [3, 0]), answers("b", 0, [4, 5], samples=8).iloc[::-1]
    solves = exclusive(pd.concat([a, b]), [("a", "b")])
    assert solves[["alone", "other_alone"]].to_numpy().tolist() == [[1, 0], [0, 1], [1, 1]]


def test_seeds_are_paired_and_others_left_out() -> None:
    parts = [answers("a", seed, [4, 0]) for seed in (0, 1)]
    parts += [answers("b", seed, [0, 4 * (seed == 2)]) for seed in (1, 2)]
    solves = exclusive(pd.concat(parts), [("a", "b"), ("a", "unmade")])
    assert solves["seed"].unique().tolist() == [1]
    assert solves[solves["level"] == ALL][["alone", "other_alone"]].values.tolist() == [[1, 0]]


def test_different_problems_are_refused() -> None:
    frame = pd.concat([answers("a", 0, [4, 0]), answers("b", 0, [4, 0, 4])])
    with pytest.raises(UpgeError, match="a and b were tested on different problems"):
        exclusive(frame, [("a", "b")])


# ------------------------------------------------------------------------------------- the table


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GRPO and the package's HPT with two seeds, LUFFY with one, no HPT as published."""
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "table2"
    for seed in range(2):
        write_run(folder, "grpo", seed, accuracy=0.1, per_level=8)
        write_run(folder, "hpt_global_token", seed, accuracy=0.9, per_level=8)
    write_run(folder, "luffy", 0, accuracy=0.9, per_level=8)
    return folder


@pytest.fixture(scope="module")
def table(runs: Path) -> Document:
    return document(load_runs(runs))


def solved(folder: Path, level: int) -> set[str]:
    """In distribution, counted from the sampled responses."""
    found = set()
    for suite in ("sum", "aff", "perm", "cond", "inv", "post"):
        frame = pd.read_parquet(folder / "evaluation" / f"{suite}.parquet")
        sums = frame[frame["level"] == level].groupby("prompt")["reward"].sum()
        found |= {prompt for prompt, right in sums.items() if right > 2}
    return found


def test_counts_are_those_of_the_responses(runs: Path) -> None:
    frame = exclusive_solves(load_runs(runs)).query("other == 'grpo'")
    for seed in range(2):
        grpo, hpt = (next(runs.glob(f"{name}-s{seed}-*")) for name in ("grpo", "hpt_global_token"))
        for level in range(1, 6):
            ours, theirs = solved(hpt, level), solved(grpo, level)
            rows = frame[(frame["seed"] == seed) & (frame["level"] == level)]
            counts = rows[["problems", "alone", "other_alone"]].values.tolist()
            assert counts == [[48, len(ours - theirs), len(theirs - ours)]]


def test_a_line_shows_mean_range_and_share(runs: Path, table: Document) -> None:
    lines = cells(part(table.markdown, "Reproduced: HPT, one token count against GRPO"))
    assert lines["level"][2:6] == ["HPT alone", "% of level", "other alone", "% of level"]
    frame = exclusive_solves(load_runs(runs))
    counts = frame[(frame["other"] == "grpo") & (frame["level"] == ALL)]["alone"]
    low, high, mean = counts.min(), counts.max(), counts.mean()
    shown = f"{low}–{high}" if low < high else f"{low}"
    assert lines["all"][1:4] == ["240", f"{mean:.1f} ({shown})", f"{100 * mean / 240:.1f}"]
    assert lines["all"][-1] == "2 / 0 of 2"


def test_seeds_in_opposite_directions_are_not_added_up(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "table2"
    for seed, (hpt, grpo) in enumerate([(0.9, 0.1), (0.1, 0.9), (0.9, 0.1), (0.5, 0.5)]):
        write_run(folder, "hpt", seed, accuracy=hpt, per_level=8)
        write_run(folder, "grpo", seed, accuracy=grpo, per_level=8)
    mixed = document(load_runs(folder))
    lines = cells(part(mixed.markdown, "Reproduced: HPT, as published against GRPO"))
    assert lines["all"][-1] == "2 / 1 of 4"
    rows = csv_rows(mixed.csv["table4.csv"])
    ahead = [r["ahead"] for r in rows if r["level"] == ALL and r["reported"] == "no"]
    assert ahead == ["hpt", "grpo", "hpt", ""]


def test_one_seed_has_no_range(table: Document) -> None:
    lines = cells(part(table.markdown, "Reproduced: HPT, one token count against LUFFY"))
    assert len(lines) == 7
    for name, line in lines.items():
        if name != "level":
            assert line[2].isdigit() and re.fullmatch(r"(0 / 0|1 / 0|0 / 1) of 1", line[-1])


def test_the_papers_counts_stand_apart_with_our_test(table: Document) -> None:
    heading = "Reported, arXiv 2509.04419, Table 4: MATH-500, HPT against"
    grpo = cells(part(table.markdown, f"{heading} GRPO"))
    assert grpo["all"][1:] == ["500", "58", "11.6", "15", "3.0", "4.1e-07"]
    luffy = cells(part(table.markdown, f"{heading} LUFFY"))
    assert luffy["all"][1:] == ["500", "43", "8.6", "16", "3.2", "0.00058"]
    paper = published("table4")
    assert sum(paper["problems"]) == 500
    sums = {other: [sum(counts) for counts in rows] for other, rows in paper["rows"].items()}
    assert sums == {"grpo": [58, 15], "luffy": [43, 16]}


def test_gaps_and_origin_are_named(table: Document, tmp_path: Path) -> None:
    assert table.missing == [
        "`hpt`: no finished run",
        "`luffy`: no finished run of seed 1",
    ]
    assert "`make reproduce-table2 PROFILE=cpu SEEDS=2`" in part(table.markdown, "Missing")
    origin = part(table.markdown, "Where this comes from")
    for text in ("more than half", "Seeds: 0, 1", "McNemar's exact", "commit: 0123456789ab"):
        assert text in origin
    empty = document(load_runs(tmp_path))
    assert len(empty.missing) == 4 and "## Reproduced" not in empty.markdown
    assert empty.markdown.count("## Reported") == 2


def test_the_csv_has_a_line_a_pair_seed_and_level(table: Document) -> None:
    rows = csv_rows(table.csv["table4.csv"])
    ours = [row for row in rows if row["reported"] == "no"]
    theirs = [row for row in rows if row["reported"] == "yes"]
    assert len(ours) == (2 + 1) * 6 and len(theirs) == 2 * 6
    assert {row["base"] for row in ours} == {"tiny"}
    (five,) = [row for row in theirs if (row["other"], row["level"]) == ("luffy", "5")]
    assert (five["seed"], five["alone"], five["other_alone"]) == ("", "22", "7")
    assert (five["p"], five["p_holm"]) == ("0.00813", "0.04065")
    assert table.texts["table4.tex"].isascii()
    assert table.texts["table4.tex"].count(r"\begin{tabular}") == 1
