"""The check of committed results fails on whatever does not follow from the records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import metrics, write_run

from analysis import check_results
from analysis.check_results import RECORDS, contradictions, main, rebuilt
from analysis.records import write_records
from analysis.runs import load_runs
from upge.common.errors import UpgeError


@pytest.fixture(scope="module")
def of_table2() -> Iterator[None]:
    """Only what follows from Table 2's runs."""
    with pytest.MonkeyPatch.context() as patch:
        own = [result for result in check_results.RESULTS if result.comparisons == ["table2"]]
        patch.setattr(check_results, "RESULTS", own)
        yield


@pytest.fixture(scope="module")
def made(of_table2: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with records and all that follows from them."""
    folder = tmp_path_factory.mktemp("made")
    for method, accuracy in (("sft", 0.5), ("grpo", 0.3), ("hpt", 0.8)):
        for seed in range(2):
            steps = metrics(accuracy=accuracy, entropy=0.5, response_length=12.0)
            write_run(
                folder / "runs" / "cpu" / "table2", method, seed, accuracy=accuracy, steps=steps
            )
    runs = load_runs(folder / "runs" / "cpu" / "table2")
    write_records(runs, folder / RECORDS / "table2")
    for path, text in rebuilt(folder / RECORDS).items():
        assert text is not None, path
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_follows_passes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contradictions(root) == []
    main(root)
    assert "all tables and figures follow" in capsys.readouterr().out


def test_an_edited_number_is_named_with_its_line(root: Path) -> None:
    path = root / "paper_tables" / "table2.csv"
    lines = path.read_text().splitlines()
    number = lines[4].split(",")[4]
    path.write_text("\n".join([*lines[:4], lines[4].replace(number, "99.0000"), *lines[5:], ""]))
    (found,) = contradictions(root)
    assert found.startswith("paper_tables/table2.csv: line 5 does not follow")
    assert "99.0000" in found.splitlines()[1]
    assert number in found.splitlines()[2]
    with pytest.raises(SystemExit, match=r"table2\.csv: line 5"):
        main(root)


def test_a_byte_counts(root: Path) -> None:
    path = root / "figures" / "figure7.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 1))
    (found,) = contradictions(root)
    assert found.startswith("figures/figure7.csv: line 1 does not follow")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n"))
    assert "no such line" in contradictions(root)[0]


def test_every_missing_file_is_named(root: Path) -> None:
    names = ["paper_tables/table4.md", "paper_tables/table2.tex", "figures/figure5.csv"]
    for name in names:
        (root / name).unlink()
    found = contradictions(root)
    assert len(found) == len(names)
    assert {line.split(":")[0] for line in found} == set(names)
    assert all("is missing" in line for line in found)


def test_an_edited_step_changes_what_follows(root: Path) -> None:
    path = root / RECORDS / "table2" / "steps.parquet"
    frame = pd.read_parquet(path)
    last = frame.loc[frame["run"].str.startswith("hpt-"), "validation"].last_valid_index()
    frame.loc[last, "validation"] += 1e-3
    frame.to_parquet(path)
    assert {line.split(":")[0] for line in contradictions(root)} == {
        "figures/table2/learning_curves.csv",
        "figures/figure5.csv",
    }


def test_an_edited_origin_changes_what_follows(root: Path) -> None:
    edit(root / RECORDS / "table2" / "runs.jsonl", "0123456789ab", "0123456789ac")
    found = {line.split(":")[0] for line in contradictions(root)}
    assert {"paper_tables/table2.md", "paper_tables/table4.md"} <= found


def test_an_edited_answer_contradicts_the_result(root: Path) -> None:
    path = root / RECORDS / "table2" / "answers.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame["right"].idxmin(), "right"] += 1
    frame.to_parquet(path)
    with pytest.raises(UpgeError, match="is not the evaluation that the result sums up"):
        contradictions(root)


def test_a_lost_run_changes_what_follows(root: Path) -> None:
    folder = root / RECORDS / "table2"
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["config"]["seed"] == 0]
    (folder / "runs.jsonl").write_text("".join(kept))
    names = [json.loads(line)["folder"] for line in kept]
    for path in folder.glob("*.parquet"):
        rows = pd.read_parquet(path)
        rows[rows["run"].isin(names)].to_parquet(path)
    assert len(contradictions(root)) == len(rebuilt(root / RECORDS))


def test_a_figure_that_the_records_do_not_make(root: Path) -> None:
    path = root / RECORDS / "table2" / "steps.parquet"
    pd.read_parquet(path).drop(columns=["entropy", "response_length"]).to_parquet(path)
    assert contradictions(root) == [
        "figures/figure7.csv: is there, though the records make no such file"
    ]


def test_no_records_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*: is no folder of a comparison"):
        main(tmp_path)
