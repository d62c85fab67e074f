"""Table 3 shows two base models, each beside the paper's, and never one under the other's name."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from fake_runs import write_run, write_selection

from analysis.accuracy import output
from analysis.reported import reported
from analysis.runs import load_runs
from analysis.table3 import LAYOUT, texts
from upge.common.config import read_yaml
from upge.common.errors import UpgeError

RECIPE = read_yaml(Path("experiments/recipes/table3.yaml"))
WEAK, SMALL = LAYOUT.comparisons


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the weak model with two seeds, and of the small one with three."""
    folder = tmp_path_factory.mktemp("runs") / "cpu"
    for name, model, seeds, lead in ((WEAK, "tiny_weak", 2, 0.0), (SMALL, "tiny_small", 3, 0.1)):
        for seed in range(seeds):
            for method, accuracy in (("base", 0.2), ("sft", 0.5), ("hpt", 0.8)):
                own = accuracy + lead
                write_run(folder / name, method, seed, accuracy=own, given={"model": model})
        write_selection(folder / name, ["sft", "hpt"])
    return folder


@pytest.fixture(scope="module")
def files(profile: Path) -> dict[str, str]:
    return texts(load_runs(profile / WEAK), load_runs(profile / SMALL))


def headings(document: str) -> list[str]:
    return [line[3:] for line in document.splitlines() if line.startswith("## ")]


def part(document: str, start: str) -> str:
    return next(p for p in document.split("\n## ") if p.startswith(start))


def test_the_rows_are_those_of_the_recipe() -> None:
    assert set(LAYOUT.rows) == {"base", *RECIPE["compare"]}
    assert list(LAYOUT.comparisons) == [f"table3-{name}" for name in RECIPE["variants"]]


def test_every_section_names_its_model_and_the_weak_one_comes_first(files: dict[str, str]) -> None:
    own = headings(files["table3.md"])
    assert len(set(own)) == len(own)
    first, second = own[: len(own) // 2], own[len(own) // 2 :]
    assert all("`tiny_weak`" in name or "LLaMA3.1-8B" in name for name in first)
    assert all("`tiny_small`" in name or "Qwen2.5-Math-1.5B" in name for name in second)


def test_the_order_of_folders_changes_nothing(profile: Path, files: dict[str, str]) -> None:
    assert texts(load_runs(profile / SMALL), load_runs(profile / WEAK)) == files


def test_numbers_are_those_of_each_model(profile: Path, files: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(files["table3.csv"])))
    for name, model, seeds in ((WEAK, "tiny_weak", "2"), (SMALL, "tiny_small", "3")):
        results = [r.suites["sum"] for r in load_runs(profile / name).of("hpt")]
        (row,) = [r for r in rows if (r["method"], r["base"], r["suite"]) == ("hpt", model, "sum")]
        assert float(row["mean"]) == pytest.approx(100 * sum(results) / len(results), abs=1e-3)
        assert row["seeds"] == seeds
    assert files["table3-weak_comparisons.csv"] != files["table3-small_comparisons.csv"]
    assert len(files) == 5
    assert files["table3.tex"].isascii()


def test_published_rows_keep_their_stars(files: dict[str, str]) -> None:
    llama = part(files["table3.md"], "Reported, arXiv 2509.04419, Table 3: LLaMA3.1-8B")
    assert "| LUFFY* | 1.9 | 0.1 | 13.5 | 39.0 | 15.1 | 9.6 | 13.2 |" in llama
    assert "| HPT, as published | 2.1 |" in llama
    qwen = part(files["table3.md"], "Reported, arXiv 2509.04419, Table 3: Qwen2.5-Math-1.5B")
    assert "| LUFFY | 14.1 |" in qwen
    rows = csv.DictReader(io.StringIO(files["table3.csv"]))
    starred = {r["method"] for r in rows if r["method"].endswith("*")}
    assert starred == {"sft*", "grpo*", "luffy*"}


@pytest.mark.parametrize("name", [WEAK, SMALL, "table5", "table6"])
def test_reported_averages_agree_with_their_suites(name: str) -> None:
    paper = reported(name)
    for method, values in paper.rows.items():
        assert len(values) == len(paper.columns) == 7, method
        assert sum(values[:6]) / 6 == pytest.approx(values[6], abs=0.0501), method


def test_a_model_without_runs_is_missing(profile: Path, files: dict[str, str]) -> None:
    alone = texts(load_runs(profile / WEAK))
    assert alone["table3-weak_comparisons.csv"] == files["table3-weak_comparisons.csv"]
    missing = part(alone["table3.md"], "Missing: `table3-small`")
    assert "`make reproduce-table3 PROFILE=cpu`" in missing
    assert missing.count("no finished run") == len(LAYOUT.rows)
    assert "Table 3: Qwen2.5-Math-1.5B" in alone["table3.md"]


def test_a_folder_that_is_not_there_is_named_in_the_table(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output.command(LAYOUT)([profile / WEAK, tmp_path / SMALL], tmp_path / "out")
    assert "Missing: `table3-small`" in (tmp_path / "out" / "table3.md").read_text()
    assert "missing (make reproduce-table3 PROFILE=cpu makes it)" in capsys.readouterr().out


def test_other_runs_are_refused(profile: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "cpu" / "table5", "base", 0)
    with pytest.raises(UpgeError, match=r"comparison for table3 'table5'"):
        texts(load_runs(profile / WEAK), load_runs(tmp_path / "cpu" / "table5"))


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    main = output.command(LAYOUT)
    with pytest.raises(SystemExit, match=r"^error: .*table3-weak: is no folder of a comparison"):
        main([tmp_path / WEAK, tmp_path / SMALL], tmp_path)
    write_run(tmp_path / WEAK, "sft", 0, finished=False)
    with pytest.raises(SystemExit, match=r"^error: .*make some with `make reproduce-table3`"):
        main([tmp_path / WEAK, tmp_path / SMALL], tmp_path / "out")
    assert not (tmp_path / "out").exists()
