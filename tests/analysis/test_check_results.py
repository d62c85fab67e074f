"""The check of committed results fails on whatever does not follow from the records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.check_results import RECORDS, contradictions, main, rebuilt
from upge.common.errors import UpgeError


@pytest.fixture
def root(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "root"))


def named(sentences: list[str]) -> set[str]:
    return {sentence.split(":")[0] for sentence in sentences}


def test_what_follows_passes(root: Path, of_table2: list[str]) -> None:
    assert contradictions(root, of_table2) == []


def test_an_edited_number_is_named_with_its_line(root: Path) -> None:
    path = root / "paper_tables" / "table2.csv"
    lines = path.read_text().splitlines()
    number = lines[4].split(",")[4]
    path.write_text("\n".join([*lines[:4], lines[4].replace(number, "99.0000"), *lines[5:], ""]))
    (sentence,) = contradictions(root, ["table2"])
    assert sentence.startswith("paper_tables/table2.csv: line 5 does not follow")
    assert "99.0000" in sentence.splitlines()[1] and number in sentence.splitlines()[2]


def test_a_byte_counts(root: Path) -> None:
    path = root / "figures" / "figure7.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 1))
    (sentence,) = contradictions(root, ["figure7"])
    assert sentence.startswith("figures/figure7.csv: line 1 does not follow")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n"))
    assert "no such line" in contradictions(root, ["figure7"])[0]


def test_every_missing_file_is_named(root: Path) -> None:
    names = {"paper_tables/table4.md", "figures/figure5.csv", "figures/figure5.json"}
    for name in names:
        (root / name).unlink()
    sentences = contradictions(root, ["table4", "figure5"])
    assert named(sentences) == names
    assert all("is missing" in sentence for sentence in sentences)


def test_an_edited_step_changes_what_follows(root: Path, of_table2: list[str]) -> None:
    path = root / RECORDS / "table2" / "steps.parquet"
    frame = pd.read_parquet(path)
    last = frame.loc[frame["run"].str.startswith("hpt-"), "validation"].last_valid_index()
    frame.loc[last, "validation"] += 1e-3
    frame.to_parquet(path)
    wanted = {"figures/table2/learning_curves.csv", "figures/figure5.csv"}
    assert named(contradictions(root, of_table2)) == wanted


def test_an_edited_origin_changes_what_follows(root: Path) -> None:
    path = root / RECORDS / "table2" / "runs.jsonl"
    path.write_text(path.read_text().replace("0123456789ab", "0123456789ac", 1))
    names = named(contradictions(root, ["table4", "figure5"]))
    assert names == {"paper_tables/table4.md", "figures/figure5.json"}


def test_an_edited_answer_contradicts_the_result(root: Path) -> None:
    path = root / RECORDS / "table2" / "answers.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame["right"].idxmin(), "right"] += 1
    frame.to_parquet(path)
    with pytest.raises(UpgeError, match="answers contradict the run's result"):
        contradictions(root, ["table4"])


def test_a_lost_run_changes_what_follows(root: Path, of_table2: list[str]) -> None:
    folder = root / RECORDS / "table2"
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["folder"].startswith(("sft-s0", "hpt-s0"))]
    (folder / "runs.jsonl").write_text("".join(kept))
    names = [json.loads(line)["folder"] for line in kept]
    for path in folder.glob("*.parquet"):
        rows = pd.read_parquet(path)
        rows[rows["run"].isin(names)].to_parquet(path)
    assert named(contradictions(root, of_table2)) >= {
        *("paper_tables/table2.csv", "paper_tables/table4.csv", "figures/figure5.csv"),
        *("figures/figure7.csv", "figures/table2/seeds.csv"),
    }


def test_a_figure_that_the_records_do_not_make(root: Path) -> None:
    path = root / RECORDS / "table2" / "steps.parquet"
    pd.read_parquet(path).drop(columns=["entropy", "response_length"]).to_parquet(path)
    assert rebuilt(root / RECORDS, ["figure7"])["figures/figure7.csv"] is None
    sentences = contradictions(root, ["figure7"])
    assert sentences == [
        f"figures/figure7.{kind}: exists, though the records make no such file"
        for kind in ("csv", "json")
    ]


def test_no_records_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*: is no folder of a comparison"):
        main(tmp_path)
