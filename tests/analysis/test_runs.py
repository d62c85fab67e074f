"""Run folders are read for what they are: finished or not, of one kind, of known origin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import START, SUITES, write_run, write_selection

from analysis.runs import load_runs
from upge.common.errors import UpgeError


def refused(folder: Path, message: str) -> None:
    """Loading fails with one sentence."""
    with pytest.raises(UpgeError, match=message) as error:
        load_runs(folder)
    assert "\n" not in str(error.value)


def test_finished_runs_are_used_and_others_named(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 1)
    write_run(tmp_path, "sft", 0)
    write_run(tmp_path, "base", 0)
    started = write_run(tmp_path, "sft", 2, finished=False)
    (tmp_path / "hpt-s0-lost").mkdir()
    (tmp_path / "hpt-s0-lost" / "metrics.jsonl").write_text("")
    (tmp_path / "tables").mkdir()  # of the smoke profile: no run
    write_run(tmp_path / "selection", "sft", 1000)
    runs = load_runs(tmp_path)
    assert runs.methods == ["base", "sft"]
    assert runs.seeds("sft") == runs.all_seeds == [0, 1]
    assert runs.unfinished == {started.name: ("sft", 2), "hpt-s0-lost": None}
    assert runs.trial == {"steps": 20, "seed": 1000}
    assert (runs.profile, runs.comparison) == (tmp_path.parent.name, tmp_path.name)


def test_frames_have_a_row_a_problem_and_a_row_a_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sft", 0, per_level=3)
    write_run(tmp_path, "base", 0, per_level=3)
    runs = load_runs(tmp_path)
    problems = runs.problems()
    assert len(problems) == 2 * len(SUITES) * 5 * 3
    assert set(problems["samples"]) == {4}
    stored = pd.read_parquet(folder / "evaluation" / "aff.parquet")
    right = stored.loc[stored["prompt"] == "aff4-2=", "reward"].sum() / 4
    rows = problems[(problems["method"] == "sft") & (problems["prompt"] == "aff4-2=")]
    assert rows[["level", "accuracy"]].values.tolist() == [[4, right]]
    metrics = runs.metrics()
    assert metrics["method"].unique().tolist() == ["sft"]  # the base model takes no steps
    assert metrics["step"].tolist() == list(range(1, 21))
    assert metrics["validation"].notna().sum() == 4


def test_an_incomplete_last_line_is_left_out_and_other_damage_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, "sft", 0) / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 21, "rew')
    assert len(load_runs(tmp_path).metrics()) == 20
    for damaged in ("{]\n" + whole, "3\n", "[1]\n", '{"reward": 1}\n', '{"step": "one"}\n'):
        path.write_text(damaged)
        refused(tmp_path, r"metrics\.jsonl: is damaged .*make it again")
    path.write_bytes(b"\xff\xfe\n")
    refused(tmp_path, r"metrics\.jsonl: is damaged")


def test_damaged_or_exchanged_evaluations_are_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, "sft", 0) / "evaluation" / "sum.parquet"
    whole = pd.read_parquet(path)
    path.write_bytes(path.with_name("alt.parquet").read_bytes())
    refused(tmp_path, r"sft-s0.*, sum: answers contradict the run's result")
    for column in ("level", "prompt", "reward", "tokens"):
        whole.assign(**{column: [[1]] * len(whole)}).to_parquet(path)
        refused(tmp_path, rf"sum\.parquet: is damaged \(column {column}\)")
    for content in (b"PAR1", b""):
        path.write_bytes(content)
        refused(tmp_path, r"sum\.parquet: can't be read")
    pd.DataFrame({"other": [1]}).to_parquet(path)
    refused(tmp_path, r"sum\.parquet: can't be read")
    path.unlink()
    refused(tmp_path, r"sum\.parquet: can't be read")


def test_all_origins_are_named_and_none_made_up(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    later = START | {"commit": "ba9876543210", "date": "2026-11-25 09:00 UTC", "trl": "1.16.0"}
    write_run(tmp_path, "sft", 1, starts=[START, later])
    origin = load_runs(tmp_path).provenance()
    assert origin["commit"] == "0123456789ab, ba9876543210"
    assert origin["hardware"] == START["hardware"]
    assert origin["trl"] == "1.16.0, not recorded for 2 starts"
    assert origin["date"] == "2026-11-24 14:04 UTC to 2026-11-25 09:00 UTC"
    for path in tmp_path.glob("*/provenance.json"):
        path.unlink()
    assert load_runs(tmp_path).provenance() == {}
    assert load_runs(tmp_path).commits == "not recorded"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rate": 3e-4}, r"holds sft with two configurations.*stages\.0\.lr.*delete"),
        ({"given": {"key": "other"}}, "holds sft twice, sft-s0.*other.*both are of seed 0"),
    ],
)
def test_two_configurations_of_a_method_are_refused(
    tmp_path: Path, more: dict[str, object], message: str
) -> None:
    write_run(tmp_path, "sft", 0)
    write_run(tmp_path, "sft", 0, **more)  # type: ignore[arg-type]
    refused(tmp_path, message)


def test_a_copy_of_a_later_seed_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    later = write_run(tmp_path, "sft", 1)
    shutil.copytree(later, tmp_path / "copy")
    refused(tmp_path, f"sft twice, copy and {later.name} .both are of seed 1")


def test_methods_on_different_data_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    data = {"kind": "synthetic", "supply": {"problems": 100}, "test": 2}
    write_run(tmp_path, "grpo", 0, given={"data": data})
    refused(tmp_path, r"can't be compared.*data\.supply\.problems")


def test_a_result_without_accuracies_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path, "sft", 0) / "result.json"
    for result in ("{}", '{"suites": {}}', '{"suites": {"sum": NaN}}', '{"suites": {"sum": 2}}'):
        path.write_text(result)
        refused(tmp_path, r"its result lacks an accuracy from 0 to 1")
    path.write_text(json.dumps({"suites": {}})[:5])  # unreadable: no result
    runs = load_runs(tmp_path)
    assert not runs.finished and list(runs.unfinished) == [path.parent.name]


def test_a_run_that_was_to_have_no_test_has_none(tmp_path: Path) -> None:
    untested = {"every": 5, "test_samples": None}
    path = write_run(tmp_path, "sft", 0, given={"evaluation": untested})
    (path / "result.json").write_text("{}")
    assert load_runs(tmp_path).seeds("sft") == [0]


def test_a_folder_without_a_usable_configuration_is_unfinished(tmp_path: Path) -> None:
    path = write_run(tmp_path, "grpo", 0)
    for text in ("{}", '{"name": "grpo", "seed": "none"}', '{"name": 3, "seed": 0}'):
        (path / "config.json").write_text(text, encoding="utf-8")
        runs = load_runs(tmp_path)
        assert not runs.finished and runs.unfinished == {path.name: None}


def test_only_the_runs_that_were_asked_for_count(tmp_path: Path) -> None:
    """A comparison's own folder names its runs and trials, which stand beside it."""
    asked = [write_run(tmp_path, "sft", seed).name for seed in (0, 1)]
    write_run(tmp_path, "sft", 2, rate=3e-3)
    trials = [write_run(tmp_path / "selection", "sft", 1000, rate=rate) for rate in (1e-3, 3e-3)]
    mine = tmp_path / "mine"
    mine.mkdir()
    named = {"runs": [*asked, "sft-s3-unmade"], "trials": [trials[1].name]}
    (mine / "comparison.json").write_text(json.dumps(named))
    runs = load_runs(mine)
    assert runs.seeds("sft") == [0, 1]
    assert [trial.folder for trial in runs.trials] == [trials[1].name]
    assert (runs.profile, runs.comparison) == (tmp_path.name, "mine")
    refused(tmp_path, "two configurations")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comparison", '{"runs": 3, "trials": []}'),
        ("comparison", '{"runs": ["a"], "trials": [1]}'),
        ("selection", '{"sft": 3}'),
        ("selection", '{"sft": {"lr": 0.1, "grid": {"fast": 0.5}}}'),
        ("selection", '{"sft": {"lr": "fast", "grid": {}}}'),
        ("selection", '{"sft": {"lr": 0.1, "grid": []}}'),
    ],
)
def test_damaged_files_of_the_comparison_are_named(tmp_path: Path, name: str, text: str) -> None:
    write_run(tmp_path, "sft", 0)
    (tmp_path / f"{name}.json").write_text(text)
    refused(tmp_path, rf"{name}\.json: is damaged .*; delete it and run the comp")


@pytest.mark.parametrize(
    ("comparison", "command"),
    [("table2", "make reproduce-table2"), ("supply-30", "make reproduce-supply")],
)
def test_what_is_missing_is_made_by_the_comparisons_target(
    tmp_path: Path, comparison: str, command: str
) -> None:
    write_run(tmp_path / "cpu" / comparison, "sft", 1)
    assert load_runs(tmp_path / "cpu" / comparison).command == f"{command} PROFILE=cpu SEEDS=2"
    refused(tmp_path / "none" / comparison, f"no folder of a comparison; make it with `{command}`")


def test_the_selection_is_read_if_it_is_there(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    assert load_runs(tmp_path).selection == {}
    write_selection(tmp_path, ["sft"])
    assert load_runs(tmp_path).selection["sft"]["lr"] == 1e-3
