"""The audit's table, figure and sentences follow from runs, at equal steps and equal compute."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import metrics, write_run, write_selection

from analysis import audit
from analysis.audit import document, figure
from analysis.audit.__main__ import main
from analysis.audit.results import ROWS, Audit, make
from analysis.curves import series_csv
from analysis.runs import load_runs

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


def stages(method: str) -> dict[str, Any]:
    names = ["sft", "grpo"] if method.startswith("sft_grpo") else [method]
    return {"stages": [{"algorithm": n, "options": {}, "steps": 10, "lr": 1e-3} for n in names]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but SFT with the mean of means; three seeds, SFT→GRPO with both faults just one."""
    runs = tmp_path_factory.mktemp("runs") / "cpu" / "audit"
    for seed in range(3):
        write_run(runs, "base", seed, accuracy=0.0, per_level=4)
        for method, (accuracy, steps, flops) in METHODS.items():
            if method == "sft_grpo_both" and seed:
                continue
            lines = metrics(steps=steps, accuracy=accuracy, flops=flops)
            write_run(
                *(runs, method, seed),
                **{"accuracy": accuracy, "steps": lines, "per_level": 4, "given": stages(method)},
            )
    write_selection(runs, ["sft", "hpt"])
    return runs


@pytest.fixture(scope="module")
def found(folder: Path) -> Audit:
    return make(load_runs(folder))


@pytest.fixture(scope="module")
def texts(found: Audit) -> dict[str, str]:
    return document.texts(found)


def part(text: str, start: str) -> str:
    return next(p for p in text.split("\n## ") if p.startswith(start))


def bullet(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"- {start}"))


def cells(section: str, name: str) -> list[str]:
    line = next(line for line in section.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# --------------------------------------------------------------------------------- what it compares


def test_equal_compute_is_that_of_the_dearest_form_of_hpt(found: Audit) -> None:
    assert found.budget == 100e9
    tested = found.tested("in distribution")
    assert {name: reading.method for name, reading in tested.items()} == {
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
    assert found.tests["in distribution"]["luffy"].mean == pytest.approx(np.mean(means))


# ------------------------------------------------------------------------------------ what it says


def test_each_ordering_can_appear_in_the_same_runs(texts: dict[str, str]) -> None:
    answer = part(texts["audit.md"], "Which of the two papers' orderings appears?")
    steps = bullet(answer, "At equal steps, in distribution")
    assert "**the ordering of arXiv 2509.04419 appears**" in steps
    assert "3 for arXiv 2509.04419" in steps
    compute = bullet(answer, "At equal compute, in distribution")
    assert "that of arXiv 2509.04419 is contradicted" in compute
    assert "3 for arXiv 2604.23747" in compute
    read = bullet(answer, "At equal compute, by validations")
    assert "**the ordering of arXiv 2604.23747 appears**" in read


def test_verdicts_are_short_and_say_what_they_are_corrected_for(texts: dict[str, str]) -> None:
    answer = part(texts["audit.md"], "Which of the two papers' orderings appears?")
    bullets = [line for line in answer.splitlines() if line.startswith("- At ")]
    assert len(bullets) == 6
    assert all(len(line.split()) <= 75 for line in bullets)
    assert "Table 2 corrects for all pairs" in answer


def test_what_became_of_both_orderings_is_seen_at_a_glance(texts: dict[str, str]) -> None:
    answer = part(texts["audit.md"], "Which of the two papers' orderings appears?")
    steps = cells(answer, "at equal steps")
    assert steps[2] == "appears"
    assert steps[-1].startswith("**+")  # LUFFY less SFT→GRPO
    compute = cells(answer, "at equal compute")
    assert compute[2] == "is contradicted"
    assert compute[-1].startswith("**−")
    assert cells(answer, "at equal steps with faulty baselines")[3] == "–"


def test_rows_show_what_trainings_took(texts: dict[str, str]) -> None:
    steps = part(texts["audit.md"], "At equal steps")
    hpt = cells(steps, "HPT, one token count")
    assert hpt[1:3] == ["3", "0.001"]
    assert hpt[5:] == ["20", "80", "1e11", "0.01", "0.02"]
    assert "compute as HPT" not in steps
    compute = part(texts["audit.md"], "At equal compute")
    srft = cells(compute, "SRFT")
    assert srft[3:8] == ["20", "80", "–", "–", "–"]
    assert srft[-1] == "1e11"
    long = cells(compute, "SFT→GRPO, as much compute as HPT")
    assert long[2:5] == ["0.001 → 0.001", "50", "200"]


def test_faults_are_compared_with_the_correct_training(texts: dict[str, str]) -> None:
    faults = part(texts["audit.md"], "What the faults cost")
    rows = [line.strip("| ").split(" | ") for line in faults.splitlines() if "| in dist" in line]
    assert [row[1] for row in rows] == [
        "SFT, last micro-batch only",
        "SFT, both faults",
        "SFT→GRPO, both faults",
    ]
    assert rows[1][-1].startswith("**distinguishable**")
    assert rows[2][-1].startswith("not compared")  # a single seed


def test_claims_are_in_bold_where_they_are_decided(texts: dict[str, str]) -> None:
    claims = part(texts["audit.md"], "The papers' claims, in distribution")
    line = next(line for line in claims.splitlines() if "LUFFY > SFT→GRPO" in line)
    row = [cell.strip() for cell in line.strip("|").split("|")]
    assert row[2].startswith("**+")
    assert row[3].startswith("**−")
    missing = next(line for line in claims.splitlines() if "mean of means" in line)
    assert missing.count("–") >= 3


def test_published_numbers_stand_apart(texts: dict[str, str]) -> None:
    reported = part(
        texts["audit.md"], "Reported, arXiv 2604.23747, corrected baselines beside mixed"
    )
    assert cells(reported, "SFT→GRPO") == ["SFT→GRPO", "57.0", "59.9"]
    ours = part(texts["audit.md"], "At equal steps")
    assert "57.0" not in ours
    rows = [r for r in csv.DictReader(io.StringIO(texts["audit.csv"])) if r["part"] == "reported"]
    assert len(rows) == 7 * 2 + 8 + 3
    assert all(row["source"] and not row["seeds"] for row in rows)


def test_the_csv_has_the_tests_with_intervals(texts: dict[str, str], found: Audit) -> None:
    rows = [r for r in csv.DictReader(io.StringIO(texts["audit.csv"])) if r["part"] == "test"]
    there = [m for m in ROWS if m in METHODS or m == "base"]
    assert [r["method"] for r in rows if r["setting"] == "in distribution"] == there
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    estimate = found.tests["out of distribution"]["hpt"]
    (hpt,) = [r for r in rows if r["method"] == "hpt" and r["setting"].startswith("out")]
    assert float(hpt["value"]) == pytest.approx(100 * estimate.mean, abs=1e-4)


def test_what_is_missing_is_named_with_its_command(texts: dict[str, str]) -> None:
    missing = part(texts["audit.md"], "Missing")
    assert "`make reproduce-audit PROFILE=cpu SEEDS=3`" in missing
    assert "- `sft_means`: no finished run\n" in missing
    assert "- `sft_grpo_both`: no finished run of seed 1, 2" in missing


def test_beneath_stand_seeds_intervals_rates_and_origin(texts: dict[str, str]) -> None:
    origin = part(texts["audit.md"], "Where this comes from")
    for text in ("Seeds: 0, 1, 2.", "95 %", "commit: 0123456789ab"):
        assert text in origin
    rates = part(texts["audit.md"], "Learning rates")
    assert "| SFT | **60.0** |" in rates
    assert "`sft_long`" in rates


def test_latex_is_plain(texts: dict[str, str]) -> None:
    assert texts["audit.tex"].isascii()


# -------------------------------------------------------------------------------------- the figure


def test_the_figure_has_validations_over_compute_and_tests_at_its_end(found: Audit) -> None:
    frame = figure.numbers(found)
    luffy = frame[frame["method"] == "luffy"]
    line = luffy[luffy["kind"] == "validation"]
    assert line["flops"].tolist() == [30e9, 60e9, 90e9, 120e9]
    tests = luffy[luffy["kind"] == "test"]
    assert tests["split"].tolist() == ["in distribution", "out of distribution"]
    assert tests["flops"].tolist() == [120e9] * 2
    assert tests["mean"].tolist() == [found.tests[split]["luffy"].mean for split in tests["split"]]
    assert set(frame["seeds"]) == {1, 3}


def test_the_command_writes_what_follows_from_the_runs(
    folder: Path, texts: dict[str, str], found: Audit, tmp_path: Path
) -> None:
    main(folder, tmp_path, tmp_path / "figures")
    for name, text in texts.items():
        assert (tmp_path / name).read_text() == text
    assert {p.suffix for p in (tmp_path / "figures").iterdir()} == {".pdf", ".png", ".csv"}
    numbers = (tmp_path / "figures" / "audit.csv").read_text()
    assert numbers == series_csv(figure.numbers(found))


def test_no_runs_leave_a_sentence_or_the_papers_numbers(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*nowhere: is no folder"):
        main(tmp_path / "nowhere", tmp_path, tmp_path)
    (tmp_path / "cpu" / "audit").mkdir(parents=True)
    empty = make(load_runs(tmp_path / "cpu" / "audit"))
    headings = [section.heading for section in document.sections(empty)]
    assert headings[0].startswith("Which of the two")
    assert [heading.partition(",")[0] for heading in headings[1:4]] == ["Reported"] * 3
    assert headings[4:] == ["Missing", "Where this comes from"]
    assert figure.write_figure(empty, tmp_path / "figures") == []


def test_base_alone_makes_no_claim(tmp_path: Path) -> None:
    runs = tmp_path / "cpu" / "audit"
    write_run(runs, "base", 0)
    text = audit.texts(load_runs(runs))["audit.md"]
    assert "There is nothing to compare yet" in text
