"""The audit follows from runs, at equal steps and equal compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import cells, csv_rows, metrics, part, stages, write_run, write_selection

from analysis.accuracy.table import IN, OUT
from analysis.audit.document import document
from analysis.audit.results import ROWS, Audit, make
from analysis.figures import audit as drawing
from analysis.runs import load_runs
from analysis.tables import Document

pytestmark = pytest.mark.slow  # whole comparisons are made up and drawn

#: Accuracy, steps and FLOPs a step: HPT's ordering at equal steps, the other at equal compute.
METHODS: dict[str, tuple[float, int, float]] = {
    "sft": (0.15, 20, 1e9),
    "sft_last": (0.12, 20, 1e9),
    "sft_both": (0.0, 20, 1e9),
    "sft_grpo": (0.4, 20, 2e9),
    "sft_grpo_both": (0.35, 20, 2e9),
    "luffy": (0.65, 20, 6e9),
    "srft": (0.65, 20, 20e9),
    "hpt": (0.9, 20, 4e9),
    "hpt_global_token": (0.9, 20, 5e9),
    "sft_long": (0.5, 100, 1e9),
    "sft_grpo_long": (1.2, 50, 2e9),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but SFT with the mean of means; three seeds, SFT→GRPO with both faults just one."""
    runs = tmp_path_factory.mktemp("runs") / "cpu" / "audit"
    for seed in range(3):
        write_run(runs, "base", seed, accuracy=0.0, per_level=4)
        for method, (accuracy, steps, flops) in METHODS.items():
            if method == "sft_grpo_both" and seed:
                continue
            given = stages(*("sft", "grpo") if method.startswith("sft_grpo") else (method,))
            shared: dict[str, Any] = {"accuracy": accuracy, "per_level": 4, "given": given}
            lines = metrics(steps=steps, accuracy=accuracy, flops=flops)
            write_run(runs, method, seed, steps=lines, **shared)
    write_selection(runs, ["sft", "hpt"])
    return runs


@pytest.fixture(scope="module")
def found(folder: Path) -> Audit:
    return make(load_runs(folder))


@pytest.fixture(scope="module")
def table(folder: Path) -> Document:
    return document(load_runs(folder))


# --------------------------------------------------------------------------------- what it compares


def test_equal_compute_is_that_of_hpts_most_expensive_variant(found: Audit) -> None:
    assert found.budget == 100e9
    assert {name: reading.method for name, reading in found.tested(IN).items()} == {
        "sft": "sft_long",
        "sft_grpo": "sft_grpo_long",
        "luffy": "luffy",
        "hpt": "hpt",
        "hpt_global_token": "hpt_global_token",
    }
    read = {name: reading.flops for name, reading in found.validated.items()}
    assert read == {
        **{"sft": 100e9, "sft_grpo": 100e9, "luffy": 100e9, "srft": 100e9},
        **{"hpt": 80e9, "hpt_global_token": 100e9},
    }


def test_validations_are_read_off_longer_trainings(found: Audit) -> None:
    steps = 100e9 / 6e9  # of 20
    wanted = 0.3 + (0.65 - 0.3) * steps / 20
    assert found.validated["luffy"].estimate.mean == pytest.approx(wanted)


def test_means_are_those_of_the_responses(folder: Path, found: Audit) -> None:
    suites = ("sum", "aff", "perm", "cond", "inv", "post")
    means = []
    for run in folder.glob("luffy-s*"):
        frames = [pd.read_parquet(run / "evaluation" / f"{suite}.parquet") for suite in suites]
        means.append(np.mean([frame["reward"].mean() for frame in frames]))
    assert found.tests[IN]["luffy"].mean == pytest.approx(np.mean(means))


# ------------------------------------------------------------------------------------ what it says


def test_each_ordering_can_appear_in_the_same_runs(table: Document) -> None:
    answer = part(table.markdown, "Which of the two papers' orderings appears?")
    lines = [line[2:-2].split(" | ") for line in answer.splitlines() if line.startswith("| at ")]
    shown = {(line[0], line[1]): line[2:] for line in lines}
    steps, compute = shown["at equal steps", IN], shown["at equal compute", IN]
    assert steps[0] == "appears" and steps[-1].startswith("**+")  # LUFFY minus SFT→GRPO
    assert compute[0] == "is contradicted" and compute[-1].startswith("**−")
    assert shown["at equal compute, by validations", IN][1] == "appears"
    assert shown["at equal steps with faulty baselines", IN][1] == "–"
    counts = [line for line in answer.splitlines() if line.startswith("- At ")]
    assert len(counts) == len(shown) == 6
    assert "in distribution: claims of arXiv 2509.04419: 9 confirmed" in counts[0]
    assert "Table 2 corrects for all pairs" in answer


def test_rows_show_what_trainings_took(table: Document) -> None:
    steps = cells(part(table.markdown, "At equal steps"))
    hpt = steps["HPT, one token count"]
    assert hpt[1:3] == ["3", "0.001"] and hpt[5:] == ["20", "80", "1e11", "0.01", "0.02"]
    assert not any("compute as HPT" in name for name in steps)
    compute = cells(part(table.markdown, "At equal compute"))
    assert compute["SRFT"][3:8] == ["20", "80", "–", "–", "–"] and compute["SRFT"][-1] == "1e11"
    long = compute["SFT→GRPO, as much compute as HPT"]
    assert long[2:5] == ["0.001 → 0.001", "50", "200"]


def test_faults_are_compared_with_the_correct_training(table: Document) -> None:
    faults = part(table.markdown, "What the faults cost")
    rows = [line[2:-2].split(" | ") for line in faults.splitlines() if "| in dist" in line]
    assert {row[1]: row[-1] for row in rows} == {
        "SFT, last micro-batch only": "not distinguishable",
        "SFT, both faults": "**distinguishable**",
        "SFT→GRPO, both faults": "not compared",  # a single seed
    }


def test_claims_are_in_bold_where_they_are_decided(table: Document) -> None:
    claims = part(table.markdown, "The papers' claims, in distribution")
    lines = {
        line.split(" | ")[1]: line[2:-2].split(" | ") for line in claims.splitlines() if "|" in line
    }
    row = lines["LUFFY > SFT→GRPO"]
    assert row[2].startswith("**+") and row[3].startswith("**−")
    assert lines["SFT > SFT, mean of means"][2:] == ["–"] * 4


def test_published_numbers_stand_apart(table: Document) -> None:
    reported = part(table.markdown, "Reported, arXiv 2604.23747, corrected baselines beside mixed")
    assert cells(reported)["SFT→GRPO"][1:] == ["57.0", "59.9"]
    assert "57.0" not in part(table.markdown, "At equal steps")
    rows = [r for r in csv_rows(table.csv["audit.csv"]) if r["part"] == "reported"]
    assert len(rows) == 7 * 2 + 8 + 3
    assert all(row["source"] and not row["seeds"] for row in rows)


def test_the_csv_has_the_tests_with_intervals(table: Document, found: Audit) -> None:
    rows = [r for r in csv_rows(table.csv["audit.csv"]) if r["part"] == "test"]
    methods = [m for m in ROWS if m in METHODS or m == "base"]
    assert [r["method"] for r in rows if r["setting"] == IN] == methods
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in rows)
    (hpt,) = [r for r in rows if (r["method"], r["setting"]) == ("hpt", OUT)]
    assert float(hpt["value"]) == pytest.approx(100 * found.tests[OUT]["hpt"].mean, abs=1e-4)


def test_gaps_rates_and_origin_are_named(table: Document) -> None:
    missing = part(table.markdown, "Missing")
    assert "`make reproduce-audit PROFILE=cpu SEEDS=3`" in missing
    assert "- `sft_means`: no finished run\n" in missing
    assert "- `sft_grpo_both`: no finished run of seeds 1, 2" in missing
    origin = part(table.markdown, "Where this comes from")
    assert all(text in origin for text in ("Seeds: 0, 1, 2.", "95%", "commit: 0123456789ab"))
    rates = part(table.markdown, "Learning rates")
    assert cells(rates)["SFT"][1] == "**60.0**" and "`sft_long`" in rates
    assert table.texts["audit.tex"].isascii()


def test_no_runs_leave_the_papers_numbers(tmp_path: Path) -> None:
    runs = tmp_path / "cpu" / "audit"
    runs.mkdir(parents=True)
    headings = [section.heading for section in document(load_runs(runs)).sections]
    assert headings[0].startswith("Which of the two")
    assert [heading.partition(",")[0] for heading in headings[1:4]] == ["Reported"] * 3
    assert headings[4:] == ["Missing", "Where this comes from"]
    assert not len(drawing.numbers(load_runs(runs)))
    write_run(runs, "base", 0)
    assert "Nothing can be compared yet" in document(load_runs(runs)).markdown


# -------------------------------------------------------------------------------------- the figure


def test_the_figure_has_validations_over_compute_and_tests_at_its_end(
    folder: Path, found: Audit
) -> None:
    frame = drawing.numbers(load_runs(folder))
    luffy = frame[frame["method"] == "luffy"]
    assert luffy[luffy["kind"] == "validation"]["flops"].tolist() == [30e9, 60e9, 90e9, 120e9]
    tests = luffy[luffy["kind"] == "test"]
    assert tests["split"].tolist() == [IN, OUT] and tests["flops"].tolist() == [120e9] * 2
    assert tests["mean"].tolist() == [found.tests[split]["luffy"].mean for split in (IN, OUT)]
    assert set(frame["seeds"]) == {1, 3}
