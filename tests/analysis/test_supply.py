"""The phase diagram shows the best method for a supply and a budget, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import SUITES, cells, csv_rows, metrics, part, stages, write_run

from analysis.accuracy.table import IN, OUT
from analysis.budgets import Reading
from analysis.figures.phases import blocks
from analysis.run import Runs
from analysis.runs import load_runs
from analysis.statistics import DRAWS, Scores
from analysis.supply.document import document
from analysis.supply.phases import VALIDATION, choose, phases
from analysis.supply.study import PASS, Study, make, supplies_of
from analysis.tables import Document
from upge.common.errors import UpgeError

pytestmark = pytest.mark.slow  # whole comparisons are made up and drawn

FAMILIES = list(SUITES[:6])

#: Steps and FLOPs a step of each method, and its accuracy with few demonstrations and with all.
METHODS: dict[str, tuple[int, float, float, float]] = {
    "sft": (20, 1e9, 0.1, 0.5),
    "sft_long": (100, 1e9, 0.1, 0.95),
    "sft_grpo": (20, 3e9, 0.3, 0.6),
    "luffy": (20, 6e9, 0.5, 0.7),
    "hpt_global_token": (20, 5e9, 0.9, 0.6),
}


def write(folder: Path, method: str, seed: int, accuracy: float, **limits: Any) -> None:
    everything = {"demonstrations": None, "families": FAMILIES, "levels": [1, 2, 3, 4, 5]}
    supply = {"problems": 900, **everything}
    data = {"kind": "synthetic", "supply": supply | limits, "test": 2}
    evaluation = {"every": 5, "validation_samples": 4, "test_samples": 4}
    names = {"base": (), "sft_grpo": ("sft", "grpo")}.get(method, (method,))
    given = {**stages(*names), "data": data, "evaluation": evaluation}
    steps, flops, *_ = METHODS.get(method, (20, 2e9, 0.0, 0.0))
    lines = metrics(steps=steps, accuracy=accuracy, flops=flops)
    write_run(folder, method, seed, accuracy=accuracy, steps=lines, per_level=4, given=given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds: few demonstrations, all, and those of three levels with SFT alone."""
    runs = tmp_path_factory.mktemp("runs") / "cpu"
    for seed in range(2):
        for name, which, limits in (("30", 2, {"demonstrations": 30}), ("900", 3, {})):
            write(runs / f"supply-{name}", "base", seed, 0.2, **limits)
            for method, terms in METHODS.items():
                write(runs / f"supply-{name}", method, seed, terms[which], **limits)
        write(runs / "supply-900", "grpo", seed, 0.6)
        write(runs / "supply-levels", "sft", seed, 0.4, levels=[1, 2, 3])
    return runs


@pytest.fixture(scope="module")
def loaded(folder: Path) -> list[Runs]:
    return [load_runs(folder / f"supply-{name}") for name in ("levels", "900", "30")]


@pytest.fixture(scope="module")
def study(loaded: list[Runs]) -> Study:
    return make(loaded)


@pytest.fixture(scope="module")
def frame(study: Study) -> pd.DataFrame:
    return phases(study)


@pytest.fixture(scope="module")
def table(loaded: list[Runs]) -> Document:
    return document(*loaded)


def best(frame: pd.DataFrame, panel: str, supply: str, budget: float) -> Mapping[str, Any]:
    rows = frame[(frame["panel"] == panel) & (frame["supply"] == supply)]
    return rows[rows["budget"] <= budget].iloc[-1].to_dict()


# ---------------------------------------- the choice


def readings(means: Mapping[str, float], spread: float, seeds: int = 3) -> dict[str, Reading]:
    around = spread * np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    nothing = np.zeros(DRAWS)
    return {
        m: Reading(m, 1.0, Scores(mean + around, nothing, 1).estimate(m))
        for m, mean in means.items()
    }


def test_the_highest_mean_is_best_and_sure_where_no_other_is_close() -> None:
    choice = choose(readings({"a": 0.2, "b": 0.9, "c": 0.5}, 1e-3))
    assert (choice.best, choice.runner_up, choice.ties) == ("b", "c", ())
    assert choice.distinguishable and choice.p < 0.05
    assert choice.lead is not None and choice.lead.mean == pytest.approx(0.4)


def test_a_tie_with_any_other_makes_the_best_unsure() -> None:
    choice = choose(readings({"a": 0.9, "b": 0.8}, 1e-3) | readings({"c": 0.7}, 0.6))
    assert (choice.best, choice.runner_up, choice.ties) == ("a", "b", ("c",))
    assert not choice.distinguishable and choice.p >= 0.05


def test_a_single_seed_or_method_is_never_sure() -> None:
    alone = choose(readings({"a": 0.9}, 1e-3))
    assert (alone.best, alone.runner_up, alone.lead) == ("a", None, None)
    one_seed = choose(readings({"a": 0.9, "b": 0.1}, 0.0, seeds=1))
    assert one_seed.ties == ("b",) and np.isnan(one_seed.p)
    assert not alone.distinguishable and not one_seed.distinguishable


# ---------------------------------------- the supplies


@pytest.mark.slow
def test_supplies_are_in_order_with_those_of_a_part_last(loaded: list[Runs]) -> None:
    found = supplies_of(loaded)
    assert [supply.label for supply in found] == ["0", "30", "900", "levels 1–3"]
    assert [supply.demonstrations for supply in found] == [0, 30, 900, 540]
    assert [supply.whole for supply in found] == [True, True, True, False]
    assert found[0].runs.methods == ["base", "grpo"]
    assert found[3].runs.methods == ["base", "sft", "grpo"]
    assert all(supply.runs.seeds("grpo") == [0, 1] for supply in found)
    with pytest.raises(UpgeError, match="both supply 30 demonstrations; name one"):
        supplies_of([loaded[2], loaded[2]])


def test_families_are_named_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "x", "sft", 0, 0.5, families=["sum", "perm"], levels=[2, 3])
    (supply,) = supplies_of([load_runs(tmp_path / "cpu" / "x")])
    assert (supply.label, supply.demonstrations) == ("levels 2–3; sum, perm", 120)
    assert supply.title == "levels 2–3; addition, permutation"


# ---------------------------------------- the phases


def test_what_is_best_depends_on_supply_and_compute(frame: pd.DataFrame) -> None:
    full = {supply: best(frame, VALIDATION, supply, 1e12) for supply in ("0", "30", "900")}
    assert [row["best"] for row in full.values()] == ["grpo", "hpt_global_token", "sft"]
    assert full["900"]["run"] == "sft_long"
    assert best(frame, VALIDATION, "900", 12e9)["run"] == "sft"
    assert best(frame, VALIDATION, "900", 12e9)["runner_up"] in ("base", "grpo")


def test_a_pipeline_and_tests_count_from_their_full_compute(study: Study) -> None:
    supplied = next(s for s in study.supplies if s.label == "900")
    starts = {curve.method: curve.start for curve in supplied.validated}
    assert starts["sft_grpo"] == 60e9 and starts["luffy"] == 30e9
    tested = {c.method: (c.start, c.end) for c in supplied.tested(OUT)}
    assert tested["luffy"] == (120e9, 120e9)


def test_tests_are_means_of_the_responses(folder: Path, study: Study) -> None:
    runs = list((folder / "supply-30").glob("luffy-s*"))
    supplied = next(s for s in study.supplies if s.label == "30")
    for what, suites, of in (
        (IN, FAMILIES, "mean"),
        (OUT, ["mix", "alt"], "mean"),
        (PASS, FAMILIES, "max"),  # of 4 samples, any correct: pass@4
    ):
        means = []
        for run in runs:
            frames = [pd.read_parquet(run / "evaluation" / f"{suite}.parquet") for suite in suites]
            by_problem = [f.groupby(["level", "prompt"])["reward"].agg(of).mean() for f in frames]
            means.append(np.mean(by_problem))
        assert supplied.tests[what]["luffy"].mean == pytest.approx(np.mean(means))
    assert len({s.tests[IN]["grpo"].mean for s in study.supplies}) == 1


def test_blocks_join_neighboring_budgets_with_the_same_outcome() -> None:
    rows = [(1, "a", True, ""), (2, "a", True, ""), (4, "a", True, ""), (8, "a", False, "c b")]
    frame = pd.DataFrame(rows, columns=["budget", "best", "distinguishable", "ties"])
    first, second = blocks(frame)
    assert (first.best, first.rival, first.distinguishable) == ("a", "", True)
    assert (second.best, second.rival, second.distinguishable) == ("a", "c", False)
    assert first.low < 1 < 4 < first.high < 8 and second.low < 8 < second.high


# ---------------------------------------- the document


def test_each_supply_has_its_answer(table: Document, frame: pd.DataFrame) -> None:
    answers = part(table.markdown, "Which method?")
    bullets = [line for line in answers.splitlines() if line.startswith("- ")]
    assert [line.partition("**:")[0] for line in bullets] == [
        "- **No demonstrations",
        "- **Demonstrations of 30 of 900 problems",
        "- **Demonstrations of 900 of 900 problems",
        "- **Demonstrations of 540 of 900 problems (levels 1–3)",
    ]
    end = best(frame, VALIDATION, "30", 1e12)
    assert f"HPT ({100 * end['mean']:.1f} ± " in bullets[1]
    assert f"{100 * end['lead']:.1f} points ahead of" in bullets[1]
    assert ("not distinguishable from" in bullets[1]) or "(p = " in bullets[1]


def test_tables_show_the_best_and_what_each_reached(table: Document, study: Study) -> None:
    lines = cells(part(table.markdown, "The best in distribution (validations, avg@4)"))
    assert lines["FLOPs at most"][1:] == ["0", "30", "900", "levels 1–3"]
    assert "SFT" in list(lines.values())[-1][3]
    tests = cells(part(table.markdown, "Tests: demonstrations of 30 of 900"))
    mean = next(s for s in study.supplies if s.label == "30").tests[PASS]["luffy"].mean
    assert tests["LUFFY"][-1].startswith(f"{100 * mean:.1f} ± ") and "pass@4" in tests["method"][-1]
    assert table.texts["supply.tex"].isascii()


def test_gaps_and_origin_are_named(table: Document) -> None:
    assert "`supply-100`: no comparison" in table.missing
    assert "`supply-levels`, `luffy`: no finished run" in table.missing
    assert not any("`grpo`" in note for note in table.missing)
    assert "`make reproduce-supply PROFILE=cpu SEEDS=2`" in part(table.markdown, "Missing")
    origin = part(table.markdown, "Where this comes from")
    for text in ("Seeds: 0, 1.", "95%", "commit: 0123456789ab", "the paper has no such study"):
        assert text in origin


def test_the_csv_has_a_line_a_supply_method_and_measure(table: Document) -> None:
    rows = csv_rows(table.csv["supply.csv"])
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)
    counts = Counter(row["supply"] for row in rows)
    assert counts == {"0": 6, "30": 21, "900": 21, "levels 1–3": 9}


def test_the_order_of_comparisons_changes_nothing(loaded: list[Runs], table: Document) -> None:
    assert document(*loaded[::-1]).texts == table.texts
