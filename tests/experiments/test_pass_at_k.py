"""Counts of right answers, once each, and the pass@k that follows from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_runs import Tiny, run

from analysis.figures.pass_at_k import Counts, load_counts, numbers
from analysis.results import write_figure
from experiments.pass_at_k import __main__ as command
from experiments.pass_at_k.counts import COLUMNS, counted, first_of_levels, hardest
from experiments.pass_at_k.record import Record, read_counts
from upge import UpgeError
from upge.tasks.problem import Problem
from upge.training.records import run_folder

SAMPLES = 96


class Here:
    """A pool that works in this process."""

    def submit(self, work: Any, *given: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*given))
        except UpgeError as error:
            future.set_exception(error)
        return future


@contextmanager
def here() -> Iterator[Here]:
    yield Here()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of the base model with GRPO, on problems of two levels."""
    root = tmp_path_factory.mktemp("runs")
    tiny = Tiny(root / "tiny")
    lines = [json.loads(line) for line in tiny.tests.read_text().splitlines()]
    for i, line in enumerate(lines):
        line["level"] = 1 + 2 * i // len(lines)
    tiny.tests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation = {"every": None, "validation_samples": 2, "test_samples": 4}
    configs = [
        tiny.config("grpo", name="base", stages=[], evaluation=evaluation),
        tiny.config("grpo", evaluation=evaluation, steps=1),
    ]
    folders = [run_folder(root / "cpu", config) for config in configs]
    for config, folder in zip(configs, folders, strict=True):
        run(config, folder.path)
    own = root / "cpu" / "table2"
    own.mkdir()
    names = [folder.path.name for folder in folders]
    (own / "comparison.json").write_text(json.dumps({"runs": [*names, "sft-s0-not-finished"]}))
    return own


def sample(comparison: Path, out: Path, **changes: Any) -> None:
    given = {"samples": SAMPLES, "problems": 4, "seeds": 1, "suites": None, "out": out}
    command.main(comparison, **given | changes)


def test_right_answers_are_counted_once_and_a_stopped_command_goes_on(
    comparison: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "worker_pool", here)
    monkeypatch.setattr(command, "as_completed", list)  # in the order of the jobs
    count = command.count

    def stopped(job: Any) -> pd.DataFrame:
        if job.policy.config.name == "grpo":
            raise UpgeError("stopped")
        return count(job)

    monkeypatch.setattr(command, "count", stopped)
    with pytest.raises(UpgeError, match="stopped"):
        sample(comparison, tmp_path / "out")
    assert set(read_counts(tmp_path / "out")["method"]) == {"base"}

    made: list[str] = []
    monkeypatch.setattr(command, "count", lambda job: made.append(job.suite) or count(job))
    sample(comparison, tmp_path / "out")
    sample(comparison, tmp_path / "out")
    assert made == ["held"]  # GRPO's, once

    counts = read_counts(tmp_path / "out")
    assert counts["method"].tolist() == ["base"] * 4 + ["grpo"] * 4
    assert counts["level"].tolist() == [1, 1, 2, 2] * 2
    assert set(counts["samples"]) == {SAMPLES}
    kept = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert kept["settings"] == {
        "samples": SAMPLES,
        "max_tokens": 8,
        "temperature": 0.6,
        "top_p": 0.95,
    }
    assert len(kept["starts"]) == 2 and kept["starts"][0]["commit"]
    assert "missing: sft has no finished run; `make reproduce-table2` makes it" in (
        capsys.readouterr().out
    )
    with pytest.raises(UpgeError, match="holds counts of another setting"):
        sample(comparison, tmp_path / "out", samples=3)
    assert len(read_counts(tmp_path / "out")) == 8

    # The base answers with the first digit more often than not, whatever is asked.
    base = counts[counts["method"] == "base"]
    assert (base["right"] > SAMPLES / 2).all() or (base["right"] < SAMPLES).any()


def test_without_policies_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(UpgeError, match=r"no finished run .* `make reproduce-table2`"):
        sample(tmp_path, tmp_path / "out")


def test_problems_are_the_first_of_each_level() -> None:
    problems = [Problem(f"{level}{i}", "", level=level) for level in (1, 2) for i in range(3)]
    chosen = first_of_levels(problems, 4)
    assert [problem.prompt for problem in chosen] == ["10", "11", "20", "21"]
    for count in (3, 8, 0):
        with pytest.raises(UpgeError, match="wanted a multiple of the 2 levels up to 6"):
            first_of_levels(problems, count)


@pytest.mark.parametrize(
    ("levels", "each", "count"), [(5, 1, 5), (5, 20, 30), (1, 100, 30), (7, 9, 28), (40, 2, 40)]
)
def test_without_a_number_up_to_30_problems_are_counted(levels: int, each: int, count: int) -> None:
    """As many of each level, whatever the suite has: the smoke profile's have one each."""
    problems = [
        Problem(f"{i}.{level}", "", level=level) for i in range(each) for level in range(levels)
    ]
    assert counted({"sum": problems}, ["sum"], None) == {"sum": count}
    assert len(first_of_levels(problems, count)) == count


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"suites": ["hled"]}, "unknown suite 'hled'; did you mean 'held'"),
        ({"problems": 3}, "--problems: got 3, wanted a multiple of the 2 levels"),
    ],
)
def test_mistakes_are_seen_before_a_worker_starts(
    comparison: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    sentence: str,
) -> None:
    monkeypatch.setattr(command, "worker_pool", None)
    with pytest.raises(UpgeError, match=sentence):
        sample(comparison, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[]", '{"runs": 3}', '{"runs": [1]}'])
def test_a_damaged_comparison_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(UpgeError, match=r"comparison\.json: is damaged"):
        sample(tmp_path, tmp_path / "out")


def test_the_hardest_suites_are_those_with_the_least_accuracy(comparison: Path) -> None:
    policies = command.find_policies(comparison, command.METHODS)
    assert hardest(policies, 3) == ["held"]


# -------------------------------------------------------------------------------------- the figure


def counts_of(right: dict[str, list[int]], samples: int, seed: int = 0) -> pd.DataFrame:
    """Right answers to problems of two levels, a method each."""
    rows = [
        (f"{method}-s{seed}", method, seed, "sum", 1 + 2 * i // len(own), f"p{i}", c, samples)
        for method, own in right.items()
        for i, c in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def kept(folder: Path, *parts: pd.DataFrame) -> Counts:
    record = Record(folder, {"samples": int(parts[0]["samples"].iloc[0])})
    record.counts = pd.concat(parts, ignore_index=True)
    record._write()
    return load_counts(folder)


def test_pass_at_k_is_the_share_of_all_draws_with_a_right_answer(tmp_path: Path) -> None:
    n, right = 16, {"sft": [0, 1, 16, 5], "base": [0, 0, 2, 3]}
    frame = numbers(kept(tmp_path / "pass_at_k", counts_of(right, n)))
    assert frame["method"].unique().tolist() == ["base", "sft"]
    assert frame["k"].unique().tolist() == [1, 2, 4, 8]
    for row in frame.itertuples():
        chances = [1 - comb(n - c, row.k) / comb(n, row.k) for c in right[str(row.method)]]
        assert row.mean == pytest.approx(np.mean(chances))
        assert 0 <= row.low <= row.mean <= row.high <= 1
    assert (frame["problems"] == 4).all() and (frame["seeds"] == 1).all()


def test_bands_are_over_problems_and_over_seeds(tmp_path: Path) -> None:
    alike = {"sft": [4, 4, 4, 4]}
    flat = numbers(kept(tmp_path / "a", counts_of(alike, 8)))
    assert (flat["high"] - flat["low"]).max() == 0  # neither problems nor seeds differ
    apart = {"sft": [0, 8, 0, 8]}
    spread = numbers(kept(tmp_path / "b", counts_of(apart, 8)))
    assert (spread["high"] - spread["low"]).min() > 0.5
    seeds = [counts_of({"sft": [c] * 4}, 8, seed) for seed, c in enumerate((2, 4, 6))]
    several = numbers(kept(tmp_path / "c", *seeds))
    at_1 = several[several["k"] == 1].iloc[0]
    half = 4.303 * 0.25 / np.sqrt(3)  # t with two degrees of freedom
    assert at_1["mean"] == pytest.approx(0.5)
    assert (at_1["high"] - at_1["low"]) / 2 == pytest.approx(min(half, 0.5), rel=0.2)
    assert at_1["seeds"] == 3


def test_other_problems_are_refused(tmp_path: Path) -> None:
    other = counts_of({"sft": [1, 2, 3, 4]}, 8).replace({"prompt": {"p0": "another"}})
    with pytest.raises(UpgeError, match="sum: its methods were asked different problems"):
        numbers(kept(tmp_path / "a", counts_of({"base": [1, 2, 3, 4]}, 8), other))
    other["seed"] = 1
    with pytest.raises(UpgeError, match="the seeds of sft were asked different problems"):
        numbers(kept(tmp_path / "b", counts_of({"sft": [1, 2, 3, 4]}, 8), other))
    with pytest.raises(UpgeError, match=r"isn't there; `make pass-at-k` samples"):
        load_counts(tmp_path / "nothing")


def test_the_figure_states_commit_profile_and_seeds(tmp_path: Path) -> None:
    counts = kept(tmp_path / "cpu" / "pass_at_k", counts_of({"sft": [1, 2, 3, 4]}, 8))
    written = write_figure("figure2", [counts], tmp_path / "figures", stamp=True)
    assert len(written) == 4
    (origin,) = json.loads(written[-1].read_text())["made_from"]
    assert origin.startswith("pass_at_k, cpu profile: commits ") and origin.endswith("; seed 0")
    assert "not recorded" not in origin
