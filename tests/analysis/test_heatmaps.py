"""Figures 3 and 4 show what a step's questions were, and how many of their rollouts were right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run
from tiny_runs import Tiny, run

from analysis import figure3, figure4
from analysis.heatmaps import MEAN
from analysis.question_accuracy import question_accuracy
from analysis.runs import load_runs
from upge import UpgeError
from upge.training import loop

QUESTIONS, PROBLEMS, EPOCHS = 30, 60, 3


def test_a_steps_questions_are_those_that_the_loop_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    collect = loop.collect

    def watched(questions: Any, **options: Any) -> Any:
        asked.append([question.problem.prompt for question in questions])
        return collect(questions, **options)

    monkeypatch.setattr(loop, "collect", watched)
    tiny = Tiny(tmp_path / "tiny")
    stage = {"prompts_per_step": 13, "group_size": 2, "lr": 1e-3, "warmup": 1}
    stages = [
        {**stage, "algorithm": "sft", "steps": 1},
        {**stage, "algorithm": "grpo", "steps": 5},
    ]
    folder = run(tiny.config(stages=stages, seed=3), tmp_path / "runs" / "grpo")
    (own,) = load_runs(tmp_path / "runs").finished
    frame = question_accuracy(own)
    sampled, lines = asked[1:], folder.metrics()[1:]
    assert frame["epoch"].tolist() == [1] * 26 + [2] * 26  # 26 problems; the third is not whole
    assert frame["prompt"].tolist() == [prompt for step in sampled[:4] for prompt in step]
    assert frame["accuracy"].tolist() == [x for line in lines[:4] for x in line["solved"]]
    assert set(frame["accuracy"]) > {0.0}


def write(runs: Path, method: str, seed: int, chance: float) -> dict[tuple[int, int], float]:
    """A run of three epochs after one step of SFT, if it is a pipeline; its right rollouts."""
    random = np.random.default_rng([seed, *method.encode()])
    before = 1 if method == "sft_grpo" else 0
    steps = [{"step": step, "stage": 0, "flops": 1.0} for step in range(1, before + 1)]
    for step in range(EPOCHS * PROBLEMS // QUESTIONS):
        solved = (random.random(QUESTIONS) < chance).astype(float).tolist()
        line = {"step": before + step + 1, "stage": before, "solved": solved, "flops": 1.0}
        steps.append(line)
    stage = {"prompts_per_step": QUESTIONS, "lr": 1e-3}
    stages = [{**stage, "algorithm": "sft", "steps": 1}] * before
    stages += [{**stage, "algorithm": "grpo", "steps": EPOCHS * PROBLEMS // QUESTIONS}]
    data = {"kind": "synthetic", "supply": {"problems": PROBLEMS}, "test": 2}
    write_run(runs, method, seed, steps=steps, given={"stages": stages, "data": data})
    return {
        (int(line["step"]) - before - 1, slot): share
        for line in steps[before:]
        for slot, share in enumerate(line["solved"])
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "cpu" / "figure3"
    for seed in range(2):
        write(folder, "sft_grpo", seed, 0.4)
        write(folder, "hpt_global_token", seed, 0.8)
    return folder


def test_figure_3_has_each_question_once_an_epoch_and_their_mean(runs: Path) -> None:
    frame = figure3.numbers(load_runs(runs))
    parts = [question_accuracy(own) for own in load_runs(runs).of("sft_grpo")]
    long = pd.concat(parts).query("level in (3, 5)")
    wanted = long.groupby(["prompt", "epoch"])["accuracy"].mean()
    cells = frame[frame["question"] != MEAN].set_index(["question", "epoch"])["mean"]
    assert len(cells) == 2 * 12 * EPOCHS
    assert cells.sort_index().to_numpy() == pytest.approx(wanted.sort_index().to_numpy())
    for level, own in frame.groupby("level"):
        rows = own[own["question"] != MEAN].groupby("row")["mean"].mean()
        assert rows.is_monotonic_decreasing
        means = own[own["question"] == MEAN]
        by_epoch = long[long["level"] == level].groupby("epoch")["accuracy"].mean()
        assert means["mean"].to_numpy() == pytest.approx(by_epoch.to_numpy())
        assert (means["low"] <= means["mean"]).all() and (means["mean"] <= means["high"]).all()
        assert means["low"].min() >= 0 and means["high"].max() <= 1


def test_figure_4_is_the_difference_in_the_order_of_figure_3(runs: Path) -> None:
    loaded = load_runs(runs)
    lead, before = figure4.numbers(loaded), figure3.numbers(loaded)
    assert lead["question"].tolist() == before["question"].tolist()
    ours = pd.concat([question_accuracy(own) for own in loaded.of("hpt_global_token")])
    wanted = ours.groupby(["prompt", "epoch"])["accuracy"].mean()
    for own, other in zip(lead.itertuples(), before.itertuples(), strict=True):
        if own.question != MEAN:
            assert own.mean == pytest.approx(wanted[own.question, own.epoch] - other.mean)
    means = lead[lead["question"] == MEAN]
    assert (means["low"] > 0).any()  # .8 against .4


def test_one_seed_has_an_interval_over_questions(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "figure3"
    write(folder, "sft_grpo", 0, 0.5)
    means = figure3.numbers(load_runs(folder)).query(f"question == '{MEAN}'")
    assert (means["high"] - means["low"] > 0.1).any()
    assert set(means["seeds"]) == {1}


def test_methods_trained_on_other_questions_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "figure3"
    write(folder, "sft_grpo", 0, 0.5)
    write(folder, "hpt_global_token", 0, 0.5)
    loaded = load_runs(folder)
    loaded.of("hpt_global_token")[0].config["data"]["supply"]["seed"] = 7  # type: ignore[index]
    with pytest.raises(UpgeError, match="were trained on different questions"):
        figure4.numbers(loaded)


def test_both_are_drawn_the_same_every_time_and_name_what_is_missing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure3.main(runs, tmp_path / "a")
    figure4.main(runs, tmp_path / "a")
    figure4.main(runs, tmp_path / "b")
    names = [f"figure{n}.{kind}" for n in (3, 4) for kind in ("csv", "pdf", "png")]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert "missing" not in capsys.readouterr().out
    alone = tmp_path / "one" / "figure3"
    write(alone, "sft_grpo", 0, 0.5)
    figure4.main(alone, tmp_path / "c")
    told = capsys.readouterr().out
    assert "figure3 has no finished run of hpt_global_token; `make reproduce-figure3 " in told
    assert not (tmp_path / "c").exists()


def test_runs_without_a_whole_epoch_have_no_figure(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "figure3"
    write_run(folder, "grpo", 0)
    write_run(folder, "base", 0)
    assert figure3.write_figure(load_runs(folder), tmp_path / "out") == []
