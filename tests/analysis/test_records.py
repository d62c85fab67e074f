"""Records are small, and say what the runs say to the last digit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import START, config, write_run

from analysis.check_results import RECORDS, other_code, rebuilt
from analysis.keep_records import main
from analysis.methods import METHODS
from analysis.records import is_recorded, write_records
from analysis.run import ANSWER_COLUMNS, STEP_COLUMNS, Run, Runs
from analysis.runs import load_runs
from upge.common.code import code_of
from upge.common.errors import UpgeError


@pytest.fixture
def records(repository: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(repository / RECORDS / "table2", tmp_path / "cpu" / "table2"))


@pytest.mark.slow
def test_tables_and_figures_are_the_same_bit_for_bit(
    table2: Path, records: Path, of_table2: list[str]
) -> None:
    of_runs, of_records = (rebuilt(f.parent, of_table2) for f in (table2, records))
    assert None not in of_runs.values()
    assert of_records == of_runs


def test_frames_keep_every_digit(table2: Path, records: Path) -> None:
    a, b = load_runs(table2), load_runs(records)
    for frame in (Runs.metrics, Runs.answers, Runs.problems):
        pd.testing.assert_frame_equal(frame(a), frame(b), check_exact=True, check_like=True)


def test_configurations_origins_and_results_are_kept_as_they_are(
    table2: Path, records: Path
) -> None:
    loaded = load_runs(records)
    assert len(loaded.finished) == 10
    for run in loaded.finished:
        for name, value in (
            ("config", run.config),
            ("provenance", {"starts": run.starts}),
            ("result", run.result),
        ):
            assert json.loads((table2 / run.path.name / f"{name}.json").read_text()) == value
    assert loaded.unfinished == load_runs(table2).unfinished
    assert loaded.unfinished["srft-s0-lost"] is None
    assert loaded.selection == json.loads((table2 / "selection.json").read_text())


def test_trials_keep_their_configuration_and_validation(records: Path) -> None:
    trials = load_runs(records).trials
    assert sorted(trial.config["stages"][0]["lr"] for trial in trials) == [1e-3, 3e-3]
    for trial in trials:
        assert list(trial.validation) == ["5", "10", "15", "20"]
        assert trial.validation["20"] == 0.5
        assert trial.starts == [START]


def test_records_of_records_are_the_same_files(records: Path, tmp_path: Path) -> None:
    again = write_records(load_runs(records), tmp_path / "again")
    assert len(again) == 5
    for path in again:
        assert path.read_bytes() == (records / path.name).read_bytes(), path.name


def test_runs_without_steps_or_tests_have_records(tmp_path: Path) -> None:
    write_run(tmp_path / "cpu" / "table2", "base", 0)
    write_run(tmp_path / "cpu" / "table2", "sft", 0, finished=False)
    write_records(load_runs(tmp_path / "cpu" / "table2"), tmp_path / "records")
    loaded = load_runs(tmp_path / "records")
    assert loaded.metrics().empty
    assert len(loaded.problems()) == 80
    (tmp_path / "none").mkdir()
    write_records(load_runs(tmp_path / "none"), tmp_path / "nothing")
    assert load_runs(tmp_path / "nothing").answers().empty


def long_run(method: str, seed: int) -> Run:
    """A run as long as those of the cpu profile, with numbers of as many digits."""
    random = np.random.default_rng([seed, *method.encode()])
    demonstrations = random.integers(0, 17, 400)
    steps = pd.DataFrame(
        {
            "step": range(1, 401),
            "stage": 0,
            "validation": np.where(np.arange(1, 401) % 50, np.nan, random.random(400)),
            "reward": random.integers(0, 129, 400) / 128,
            "solved": list(random.integers(0, 9, (400, 16)) / 8),
            "offline_ratio": demonstrations / (demonstrations + 64),
            "demonstrations": demonstrations,
            "response_length": random.integers(640, 4000, 400) / 128,
            "entropy": random.random(400),
            "tokens_sampled": random.integers(640, 4000, 400),
            "tokens_computed": random.integers(400, 4000, 400),
            "per_term_grad_norm": [random.random(2) if s % 25 == 0 else None for s in range(400)],
            "flops": 1e6 * random.integers(1000, 9000, 400),
            "seconds": random.random(400),
            "cpu_seconds": random.random(400),
        }
    )
    assert tuple(steps) == STEP_COLUMNS
    answers = pd.DataFrame(
        {
            "suite": np.repeat([f"suite{i}" for i in range(8)], 100),
            "level": np.tile(np.repeat(range(1, 6), 20), 8),
            "prompt": [f"a problem of usual length, number {i}: 3+4*7=" for i in range(800)],
            "right": random.integers(0, 9, 800),
            "samples": 8,
            "tokens": random.integers(16, 513, 800),
        }
    )
    result = {"suites": dict.fromkeys((f"suite{i}" for i in range(8)), 0.5)}
    path, settings = Path(f"{method}-s{seed}"), config(method, seed)
    return Run(path, settings, [START], result, steps, answers[list(ANSWER_COLUMNS)])


def test_records_of_the_whole_comparison_are_below_two_megabytes(tmp_path: Path) -> None:
    finished = [long_run(method, seed) for method in METHODS for seed in range(5)]
    written = write_records(Runs(finished, {}, {}, [], tmp_path), tmp_path)
    assert sum(path.stat().st_size for path in written) < 2_000_000
    assert (tmp_path / "answers.parquet").stat().st_size < 200_000


# ------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["trials.jsonl", "selection.json", "steps.parquet"])
def test_a_missing_file_is_named(records: Path, name: str) -> None:
    (records / name).unlink()
    with pytest.raises(UpgeError, match=rf"{name}: can't be read .* make the comparison again"):
        load_runs(records)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("answers.parquet", "PAR1"),
        ("trials.jsonl", "{]\n"),
        ("trials.jsonl", '{"folder": "a"}\n'),
        ("selection.json", '{"sft": 3}\n'),
        ("runs.jsonl", "3\n"),
        ("runs.jsonl", '{"folder": "a", "config": null, "starts": [], "result": {}}\n'),
        ("runs.jsonl", '{"folder": "a", "config": {"seed": 0}, "starts": [], "result": {}}\n'),
    ],
)
def test_damaged_files_are_named(records: Path, name: str, content: str) -> None:
    (records / name).write_text(content)
    with pytest.raises(UpgeError, match=rf"{name}: (can't be read|is damaged).*comparison again"):
        load_runs(records)


@pytest.mark.parametrize("name", ["runs.jsonl", "steps.parquet", "answers.parquet"])
def test_records_of_different_runs_are_refused(records: Path, tmp_path: Path, name: str) -> None:
    """As a stop between two files would leave them."""
    write_run(tmp_path / "few", "sft", 0)
    write_records(load_runs(tmp_path / "few"), tmp_path / "fewer")
    shutil.copy(tmp_path / "fewer" / name, records)
    with pytest.raises(UpgeError, match=r"files are of different runs .*make the comparison"):
        load_runs(records)


@pytest.mark.parametrize(
    ("file", "column"),
    [("answers", "suite"), ("answers", "right"), ("steps", "run"), ("steps", "entropy")],
)
def test_columns_of_something_else_are_named(records: Path, file: str, column: str) -> None:
    path = records / f"{file}.parquet"
    frame = pd.read_parquet(path)
    frame.assign(**{column: [[1]] * len(frame)}).to_parquet(path)
    with pytest.raises(UpgeError, match=rf"{file}\.parquet: is damaged \(column {column}\)"):
        load_runs(records)
    if column != "entropy":  # SFT alone has none
        frame.drop(columns=column).to_parquet(path)
        with pytest.raises(UpgeError, match=rf"{file}\.parquet: is damaged \(column {column}\)"):
            load_runs(records)


def test_a_run_that_is_recorded_twice_is_refused(records: Path) -> None:
    path = records / "runs.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    (later,) = (line for line in lines if '"folder": "grpo-s1-' in line)
    path.write_text("".join([*lines, later]))
    with pytest.raises(UpgeError, match=r"holds grpo twice, grpo-s1.*both are of seed 1"):
        load_runs(records)


# -------------------------------------------------------------------------------- the command line


@pytest.mark.slow
def test_fewer_runs_replace_no_records_unless_asked_to(
    table2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([table2], tmp_path)
    kept = tmp_path / "cpu" / "table2"
    assert is_recorded(kept) and "steps.parquet: " in capsys.readouterr().out
    few = tmp_path / "few" / "cpu" / "table2"
    write_run(few, "sft", 0)
    lacking = r"^error: .*table2: holds 9 runs that .*few.* lacks, as base of seed 0; make the comp"
    with pytest.raises(SystemExit, match=lacking):
        main([few], tmp_path)
    assert len(load_runs(kept).finished) == 10
    main([few], tmp_path, fewer=True)
    assert len(load_runs(kept).finished) == 1
    (kept / "steps.parquet").unlink()
    main([few], tmp_path)  # damaged records are made again


def test_no_finished_run_replaces_no_records(tmp_path: Path) -> None:
    write_run(tmp_path / "cpu" / "table2", "sft", 0, finished=False)
    with pytest.raises(SystemExit, match=r"^error: .*holds no finished run; make some with `make"):
        main([tmp_path / "cpu" / "table2"], tmp_path / "out")
    with pytest.raises(SystemExit, match=r"^error: .*nowhere: is no folder of a comparison"):
        main([tmp_path / "nowhere"], tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_code_of_each_run_is_kept_and_changes_are_named(records: Path, tmp_path: Path) -> None:
    runs = load_runs(records)
    today = code_of("upge.training.gradient")
    other = today | {"upge.advantage": "0" * 64}
    codes = [today, other, {}]
    made = [replace(run, code=codes[min(i, 2)]) for i, run in enumerate(runs.finished)]
    write_records(replace(runs, finished=made), tmp_path / "kept" / "comparison")
    assert [dict(run.code) for run in load_runs(tmp_path / "kept" / "comparison").finished] == [
        dict(run.code) for run in made
    ]
    *unknown, changed = other_code(tmp_path / "kept")
    assert changed == f"comparison: 1 of {len(made)} runs: upge.advantage"
    assert unknown and all("runs: from commit " in sentence for sentence in unknown)
