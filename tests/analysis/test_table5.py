"""Table 5 calls HPT as coded what the paper calls it there, and shows both beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_runs import write_run

from analysis.runs import load_runs
from analysis.table5 import LAYOUT, texts
from upge.common.config import read_yaml


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "table5"
    for seed in range(3):
        for method, accuracy in (("hpt_official", 0.9), ("base", 0.2), ("off_on", 0.4)):
            write_run(folder, method, seed, accuracy=accuracy)
    return texts(load_runs(folder))


def part(document: str, start: str) -> str:
    return next(p for p in document.split("\n## ") if p.startswith(start))


def first_cells(table: str) -> list[str]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ")[0] for line in lines[2:]]


def test_the_rows_are_those_of_the_recipe() -> None:
    assert list(LAYOUT.rows) == [
        "base",
        *read_yaml(Path("experiments/recipes/table5.yaml"))["compare"],
    ]


def test_rows_have_the_papers_names_and_order(files: dict[str, str]) -> None:
    ours = part(files["table5.md"], "Reproduced")
    assert first_cells(ours) == ["Base model", "OFF/ON", "SFT/ON"]
    assert "SFT/ON: Table 2's HPT, as coded" in ours
    theirs = part(files["table5.md"], "Reported, arXiv 2509.04419, Table 5: Qwen2.5-Math-1.5B")
    assert first_cells(theirs) == ["OFF/ON", "Mix/ON", "SFT/ON"]
    assert "| Mix/ON | 16.7 | 17.2 | 46.9 | 79.4 | 37.5 | 43.9 | 40.3 |" in theirs


def test_its_standing_is_put_into_words(files: dict[str, str]) -> None:
    matrix = part(files["table5.md"], "More than chance? The average in distribution")
    assert "- SFT/ON: better than any other." in matrix


def test_what_is_missing_is_named_with_its_command(files: dict[str, str]) -> None:
    missing = part(files["table5.md"], "Missing")
    assert "`make reproduce-table5 PROFILE=cpu SEEDS=3`" in missing
    assert [line for line in missing.splitlines() if line.startswith("- ")] == [
        "- `mix_on`: no finished run"
    ]


def test_its_files(files: dict[str, str]) -> None:
    assert list(files) == ["table5.md", "table5.tex", "table5.csv", "table5_comparisons.csv"]
    assert files["table5.csv"].count("Qwen2.5-Math-1.5B") == 3 * 7
    assert files["table5.tex"].isascii()
