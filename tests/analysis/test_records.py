"""Records are small, and say what the runs say to the last digit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import START, config, metrics, write_run, write_selection

from analysis import check_results
from analysis.check_results import rebuilt
from analysis.keep_records import main
from analysis.methods import METHODS
from analysis.records import is_recorded, write_records
from analysis.run import ANSWER_COLUMNS, STEP_COLUMNS, Found, Run
from analysis.runs import Runs, load_runs
from upge.common.errors import UpgeError


def noisy(seed: int, *, rollouts: bool) -> list[dict[str, Any]]:
    """Steps with numbers of all their digits, and some that no table reads."""
    random = np.random.default_rng(seed)
    names = ["offline_ratio", "cpu_seconds", "loss"]
    names += ["entropy", "response_length", "reward"] if rollouts else []
    lines = metrics(steps=60, every=20)
    return [line | {name: random.random() for name in names} for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Methods with and without rollouts, a run without steps, one not finished, and trials."""
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "table2"
    for number, method in enumerate(("base", "sft", "grpo", "luffy", "hpt", "hpt_global_token")):
        for seed in range(2):
            steps = noisy(10 * number + seed, rollouts=method != "sft")
            write_run(folder, method, seed, steps=steps, accuracy=0.3 + 0.1 * number)
    write_run(folder, "hpt", 2, finished=False)
    (folder / "srft-s0-lost").mkdir()
    (folder / "srft-s0-lost" / "metrics.jsonl").write_text("")
    for rate in (1e-3, 3e-3):
        write_run(folder / "selection", "sft", 1000, rate=rate, finished=False)
    write_selection(folder, ["sft", "hpt"])
    return folder


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "cpu" / "table2"
    write_records(load_runs(runs), folder)
    return folder


@pytest.fixture
def records(written: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "cpu" / "table2"))


def test_tables_and_figures_are_the_same_bit_for_bit(
    runs: Path, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_table2 = [result for result in check_results.RESULTS if result.comparisons == ["table2"]]
    monkeypatch.setattr(check_results, "RESULTS", of_table2)
    of_runs, of_records = (rebuilt(folder.parent) for folder in (runs, records))
    assert None not in of_runs.values()
    assert of_records == of_runs


def test_frames_keep_every_digit(runs: Path, records: Path) -> None:
    a, b = load_runs(runs), load_runs(records)
    for frame in (Runs.metrics, Runs.answers, Runs.problems):
        pd.testing.assert_frame_equal(frame(a), frame(b), check_exact=True, check_like=True)


def test_configurations_origins_and_results_are_kept_as_they_are(runs: Path, records: Path) -> None:
    found = load_runs(records)
    assert len(found.finished) == 12
    for run in found.finished:
        for name, value in (
            ("config", run.config),
            ("provenance", {"starts": run.starts}),
            ("result", run.result),
        ):
            assert json.loads((runs / run.path.name / f"{name}.json").read_text()) == value
    assert found.unfinished == load_runs(runs).unfinished
    assert found.unfinished["srft-s0-lost"] is None
    assert found.selection == json.loads((runs / "selection.json").read_text())


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
    found = load_runs(tmp_path / "records")
    assert found.metrics().empty
    assert len(found.problems()) == 80
    (tmp_path / "none").mkdir()
    write_records(load_runs(tmp_path / "none"), tmp_path / "nothing")
    assert load_runs(tmp_path / "nothing").answers().empty


class Stub(Run):
    """A run as long as those of the cpu profile, with numbers of as many digits."""

    @property
    def _random(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, *self.method.encode()])

    def metrics(self) -> pd.DataFrame:
        random = self._random
        demonstrations = random.integers(0, 17, 400)
        frame = pd.DataFrame(
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
                "per_term_grad_norm": [
                    random.random(2) if step % 25 == 0 else None for step in range(400)
                ],
                "flops": 1e6 * random.integers(1000, 9000, 400),
                "seconds": random.random(400),
                "cpu_seconds": random.random(400),
            }
        )
        assert tuple(frame) == STEP_COLUMNS
        return frame

    def answers(self) -> pd.DataFrame:
        random = self._random
        return pd.DataFrame(
            {
                "suite": np.repeat([f"suite{i}" for i in range(8)], 100),
                "level": np.tile(np.repeat(range(1, 6), 20), 8),
                "prompt": [f"a problem of usual length, number {i}: 3+4*7=" for i in range(800)],
                "right": random.integers(0, 9, 800),
                "samples": 8,
                "tokens": random.integers(16, 513, 800),
            }
        )[list(ANSWER_COLUMNS)]


def test_records_of_the_whole_comparison_are_below_two_megabytes(tmp_path: Path) -> None:
    result: Mapping[str, Any] = {"suites": dict.fromkeys((f"suite{i}" for i in range(8)), 0.5)}
    finished = [
        Stub(Path(f"{method}-s{seed}"), config(method, seed), [START], result)
        for method in METHODS
        for seed in range(5)
    ]
    written = write_records(Found(finished, {}, {}, []), tmp_path)
    assert sum(path.stat().st_size for path in written) < 2_000_000
    assert (tmp_path / "answers.parquet").stat().st_size < 200_000


# ------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["trials.jsonl", "selection.json", "steps.parquet"])
def test_a_missing_file_is_named(records: Path, name: str) -> None:
    (records / name).unlink()
    with pytest.raises(UpgeError, match=rf"{name}: can't be read .* make the comparison again"):
        load_runs(records)


def test_damaged_files_are_named(records: Path) -> None:
    whole = (records / "answers.parquet").read_bytes()
    (records / "answers.parquet").write_bytes(b"PAR1")
    with pytest.raises(UpgeError, match=r"answers\.parquet: can't be read"):
        load_runs(records)
    (records / "trials.jsonl").write_text("{]\n")
    (records / "answers.parquet").write_bytes(whole)
    with pytest.raises(UpgeError, match=r"trials\.jsonl: is damaged"):
        load_runs(records)


def test_answers_that_the_result_does_not_sum_up_are_refused(records: Path) -> None:
    path = records / "answers.parquet"
    frame = pd.read_parquet(path)
    frame.loc[0, "right"] = 4 - frame.loc[0, "right"] if frame.loc[0, "right"] != 2 else 0
    frame.to_parquet(path)
    with pytest.raises(UpgeError, match="is not the evaluation that the result sums up"):
        load_runs(records).problems()


def test_records_of_different_runs_are_refused(records: Path, tmp_path: Path) -> None:
    """As a stop between two files would leave them."""
    few = tmp_path / "few"
    write_run(few, "sft", 0)
    write_records(load_runs(few), tmp_path / "fewer")
    for name in ("runs.jsonl", "steps.parquet", "answers.parquet"):
        mixed = Path(shutil.copytree(records, tmp_path / name))
        shutil.copy(tmp_path / "fewer" / name, mixed)
        with pytest.raises(UpgeError, match=r"not of the same runs .*make the comparison"):
            load_runs(mixed)


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


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("runs.jsonl", '{"folder": "a", "config": {"seed": 0}, "starts": [], "result": {}}'),
        ("runs.jsonl", '{"folder": "a", "config": null, "starts": [], "result": {}}'),
        ("runs.jsonl", "3"),
        ("trials.jsonl", '{"folder": "a"}'),
        ("selection.json", '{"sft": 3}'),
    ],
)
def test_lines_of_something_else_are_named(records: Path, name: str, line: str) -> None:
    (records / name).write_text(f"{line}\n")
    with pytest.raises(UpgeError, match=rf"{name}: is damaged .* make the comparison again"):
        load_runs(records)


def test_a_run_that_is_told_twice_is_refused(records: Path) -> None:
    path = records / "runs.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    (later,) = (line for line in lines if '"folder": "grpo-s1-' in line)
    path.write_text("".join([*lines, later]))
    with pytest.raises(UpgeError, match=r"holds grpo twice, grpo-s1.*both are of seed 1"):
        load_runs(records)


# -------------------------------------------------------------------------------- the command line


def test_the_command_writes_below_the_profiles_name(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([runs], tmp_path)
    assert is_recorded(tmp_path / "cpu" / "table2")
    assert "steps.parquet: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^error: .*nowhere: is no folder of a comparison"):
        main([tmp_path / "nowhere"], tmp_path)


def test_fewer_runs_replace_no_records_unless_asked_to(runs: Path, tmp_path: Path) -> None:
    main([runs], tmp_path)
    few = tmp_path / "few" / "cpu" / "table2"
    write_run(few, "sft", 0)
    lacking = (
        r"^error: .*table2: holds 11 runs that .*few.* lacks, as base of seed 0; make the comp"
    )
    with pytest.raises(SystemExit, match=lacking):
        main([few], tmp_path)
    assert len(load_runs(tmp_path / "cpu" / "table2").finished) == 12
    main([few], tmp_path, fewer=True)
    assert len(load_runs(tmp_path / "cpu" / "table2").finished) == 1
    (tmp_path / "cpu" / "table2" / "steps.parquet").unlink()
    main([few], tmp_path)  # damaged records are made again


def test_no_finished_run_replaces_no_records(tmp_path: Path) -> None:
    write_run(tmp_path / "cpu" / "table2", "sft", 0, finished=False)
    with pytest.raises(SystemExit, match=r"^error: .*holds no finished run; make some with `make"):
        main([tmp_path / "cpu" / "table2"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
