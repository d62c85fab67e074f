"""Run folders are read for what they are: finished or not, of one kind, of known origin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import START, SUITES, write_run, write_selection

from analysis.run import check_accuracy
from analysis.runs import load_runs
from upge.common.errors import UpgeError


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
    assert runs.seeds("sft") == [0, 1]
    assert runs.all_seeds == [0, 1]
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
    own = problems[(problems["method"] == "sft") & (problems["prompt"] == "aff4-2=")]
    assert own[["level", "accuracy"]].values.tolist() == [[4, right]]
    metrics = runs.metrics()
    assert metrics["method"].unique().tolist() == ["sft"]  # the base model takes no steps
    assert metrics["step"].tolist() == list(range(1, 21))
    assert metrics["validation"].notna().sum() == 4


def test_a_last_line_cut_short_is_left_out_and_other_damage_named(tmp_path: Path) -> None:
    path = write_run(tmp_path, "sft", 0) / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 21, "rew')
    assert len(load_runs(tmp_path).metrics()) == 20
    path.write_text("{]\n" + whole)
    with pytest.raises(UpgeError, match=r"metrics\.jsonl: is damaged .* make it again"):
        load_runs(tmp_path).metrics()


def test_damaged_or_exchanged_evaluations_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sft", 0) / "evaluation"
    (folder / "sum.parquet").write_bytes((folder / "alt.parquet").read_bytes())
    with pytest.raises(UpgeError, match=r"sum\.parquet: is not the evaluation"):
        load_runs(tmp_path).problems()
    (folder / "sum.parquet").write_bytes(b"PAR1")
    with pytest.raises(UpgeError, match=r"sum\.parquet: can't be read"):
        load_runs(tmp_path).problems()
    (folder / "sum.parquet").unlink()
    with pytest.raises(UpgeError, match=r"sum\.parquet: can't be read"):
        load_runs(tmp_path).problems()


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
    with pytest.raises(UpgeError, match=message):
        load_runs(tmp_path)


def test_a_copy_of_a_later_seed_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    later = write_run(tmp_path, "sft", 1)
    shutil.copytree(later, tmp_path / "copy")
    with pytest.raises(UpgeError, match=f"sft twice, copy and {later.name} .both are of seed 1"):
        load_runs(tmp_path)


@pytest.mark.parametrize(
    "result", ["{}", '{"suites": {}}', '{"suites": {"sum": NaN}}', '{"suites": {"sum": 2}}']
)
def test_a_result_without_accuracies_is_refused(tmp_path: Path, result: str) -> None:
    path = write_run(tmp_path, "sft", 0)
    (path / "result.json").write_text(result)
    with pytest.raises(UpgeError, match=r"its result lacks an accuracy from 0 to 1 \(suites"):
        load_runs(tmp_path)


def test_a_run_that_was_to_have_no_test_has_none(tmp_path: Path) -> None:
    untested = {"every": 5, "test_samples": None}
    path = write_run(tmp_path, "sft", 0, given={"evaluation": untested})
    (path / "result.json").write_text("{}")
    assert load_runs(tmp_path).seeds("sft") == [0]


def test_accuracy_that_is_no_number_sums_up_nothing() -> None:
    answers = pd.DataFrame({"right": [1], "samples": [2]})
    check_accuracy(answers, 0.5, "here", "mend it")
    with pytest.raises(UpgeError, match="here: is not the evaluation"):
        check_accuracy(answers, float("nan"), "here", "mend it")


def test_methods_on_different_data_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    data = {"kind": "synthetic", "supply": {"problems": 100}, "test": 2}
    write_run(tmp_path, "grpo", 0, given={"data": data})
    with pytest.raises(UpgeError, match=r"can't be compared.*data\.supply\.problems"):
        load_runs(tmp_path)


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
    with pytest.raises(UpgeError, match="two configurations"):
        load_runs(tmp_path)


@pytest.mark.parametrize("text", ['{"runs": 3, "trials": []}', '{"runs": ["a"], "trials": [1]}'])
def test_a_damaged_list_of_runs_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "comparison.json").write_text(text)
    with pytest.raises(
        UpgeError, match=r"comparison\.json: is damaged .*; delete it and run the comp"
    ):
        load_runs(tmp_path / "mine")


@pytest.mark.parametrize(
    "entry",
    [
        "3",
        '{"lr": 0.1, "grid": {"fast": 0.5}}',
        '{"lr": "fast", "grid": {}}',
        '{"lr": 0.1, "grid": []}',
    ],
)
def test_a_damaged_selection_is_named(tmp_path: Path, entry: str) -> None:
    write_run(tmp_path, "sft", 0)
    (tmp_path / "selection.json").write_text(f'{{"sft": {entry}}}')
    with pytest.raises(
        UpgeError, match=r"selection\.json: is damaged .sft.*; delete it and run the comp"
    ):
        load_runs(tmp_path)


@pytest.mark.parametrize("column", ["level", "prompt", "reward", "tokens"])
def test_an_evaluation_of_something_else_is_named(tmp_path: Path, column: str) -> None:
    (path,) = (write_run(tmp_path, "sft", 0) / "evaluation").glob("sum.parquet")
    whole = pd.read_parquet(path)
    whole.assign(**{column: [[1]] * len(whole)}).to_parquet(path)
    with pytest.raises(UpgeError, match=rf"sum\.parquet: is damaged \(column {column}\)"):
        load_runs(tmp_path).problems()


@pytest.mark.parametrize("line", ["3", "[1]", '{"reward": 1}', '{"step": "one"}'])
def test_steps_of_something_else_are_named(tmp_path: Path, line: str) -> None:
    (write_run(tmp_path, "sft", 0) / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(UpgeError, match=r"metrics\.jsonl: is damaged .*make it again"):
        load_runs(tmp_path).metrics()


@pytest.mark.parametrize(
    ("comparison", "command"),
    [("table2", "make reproduce-table2"), ("supply-30", "make reproduce-supply")],
)
def test_what_is_missing_is_made_by_the_comparisons_target(
    tmp_path: Path, comparison: str, command: str
) -> None:
    write_run(tmp_path / "cpu" / comparison, "sft", 1)
    assert load_runs(tmp_path / "cpu" / comparison).command == f"{command} PROFILE=cpu SEEDS=2"


def test_the_selection_is_read_if_it_is_there(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    assert load_runs(tmp_path).selection == {}
    write_selection(tmp_path, ["sft"])
    assert load_runs(tmp_path).selection["sft"]["lr"] == 1e-3


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        UpgeError, match="no folder of a comparison; make it with `make reproduce-cpu`"
    ):
        load_runs(tmp_path / "cpu")


def test_an_unreadable_result_is_no_result(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sft", 0)
    (folder / "result.json").write_text(json.dumps({"suites": {}})[:5])
    runs = load_runs(tmp_path)
    assert not runs.finished
    assert list(runs.unfinished) == [folder.name]


def test_what_is_no_record_is_named_or_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "grpo", 0)
    (run,) = load_runs(tmp_path).finished
    (run.path / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UpgeError, match=r"metrics\.jsonl: is damaged"):
        run.metrics()
    pd.DataFrame({"other": [1]}).to_parquet(
        run.path / "evaluation" / f"{next(iter(SUITES))}.parquet"
    )
    with pytest.raises(UpgeError, match=r"^[^\n]*parquet: can't be read [^\n]*$"):
        run.answers()
    for text in ("{}", '{"name": "grpo", "seed": "none"}', '{"name": 3, "seed": 0}'):
        (run.path / "config.json").write_text(text, encoding="utf-8")
        runs = load_runs(tmp_path)
        assert not runs.finished and runs.unfinished == {run.path.name: None}
