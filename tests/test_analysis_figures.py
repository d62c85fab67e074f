"""Figures show the numbers of their CSV, for any set of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import metrics, write_run
from hypothesis import given
from hypothesis import strategies as st

from analysis import learning_curves, offline_ratio
from analysis.curves import footer, over_seeds, spread
from analysis.runs import load_runs


def test_learning_curves_are_means_over_seeds_with_students_interval(tmp_path: Path) -> None:
    ends = (0.5, 0.6, 0.9)
    for seed, accuracy in enumerate(ends):
        write_run(tmp_path, "sft", seed, accuracy=accuracy)
    frame = learning_curves.numbers(load_runs(tmp_path))
    assert frame["step"].tolist() == [5, 10, 15, 20]
    assert frame["flops"].tolist() == [5e9, 10e9, 15e9, 20e9]
    last = frame.iloc[-1]
    assert last["mean"] == pytest.approx(np.mean(ends))
    half = 4.303 * np.std(ends, ddof=1) / np.sqrt(3)  # t with two degrees of freedom
    assert (last["high"] - last["low"]) / 2 == pytest.approx(half, rel=0.15)


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    frame = learning_curves.numbers(load_runs(tmp_path))
    assert frame[["low", "high"]].isna().all(axis=None)
    assert set(frame["seeds"]) == {1}


def test_steps_that_a_seed_lacks_are_left_out() -> None:
    rows = [("a", 0, 1, 0.5), ("a", 0, 2, 0.5), ("a", 1, 1, 0.7)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "step", "value"])
    found = over_seeds(frame, "value")
    assert found["step"].tolist() == [1]
    assert found["mean"].tolist() == pytest.approx([0.6])


def test_the_offline_ratio_is_a_moving_mean_of_hpt_and_luffy_alone(tmp_path: Path) -> None:
    ratios = np.random.default_rng(0).random(60)
    lines = [
        line | {"offline_ratio": ratio}
        for line, ratio in zip(metrics(steps=60), ratios, strict=True)
    ]
    write_run(tmp_path, "hpt", 0, steps=lines)
    constant = [line | {"offline_ratio": 0.125} for line in lines]
    write_run(tmp_path, "luffy", 0, steps=constant)
    write_run(tmp_path, "sft", 0, steps=lines)
    frame = offline_ratio.numbers(load_runs(tmp_path))
    assert frame["method"].unique().tolist() == ["hpt", "luffy"]
    assert frame.loc[frame["method"] == "luffy", "mean"].to_numpy() == pytest.approx(0.125)
    middle = frame[(frame["method"] == "hpt") & (frame["step"] == 30)]["mean"].item()
    assert middle == pytest.approx(ratios[19:39].mean())


def test_figures_are_written_the_same_every_time(tmp_path: Path) -> None:
    runs = tmp_path / "cpu"
    for method in ("base", "sft", "grpo", "luffy", "hpt", "mine"):
        for seed in range(2):
            write_run(runs, method, seed)
    loaded = load_runs(runs)
    for draw in (learning_curves.write_figure, offline_ratio.write_figure):
        once, again = draw(loaded, tmp_path / "a"), draw(loaded, tmp_path / "b")
        assert [p.suffix for p in once] == [".pdf", ".png", ".csv"]
        assert all(p.read_bytes() == q.read_bytes() for p, q in zip(once, again, strict=True))
    assert footer(loaded) == "0123456789ab · cpu profile · seeds 0, 1"


def test_runs_without_steps_have_no_figures(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "base", 0)
    write_run(tmp_path / "runs", "grpo", 0, steps=[{"step": 1, "flops": 1.0}])
    loaded = load_runs(tmp_path / "runs")
    assert learning_curves.write_figure(loaded, tmp_path / "out") == []
    assert offline_ratio.write_figure(loaded, tmp_path / "out") == []
    assert not (tmp_path / "out").exists()


def test_a_hpt_run_without_demonstrations_at_all_can_be_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "hpt", 0, steps=metrics(steps=12, offline=0.0))
    assert len(offline_ratio.write_figure(load_runs(tmp_path / "runs"), tmp_path)) == 3


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12))
def test_labels_keep_order_and_distance_and_move_no_more_than_needed(places: list[float]) -> None:
    places, gap = sorted(places), 0.1
    moved = spread(places, gap)
    assert (np.diff(moved) >= gap - 1e-9).all()
    assert np.mean(moved) == pytest.approx(np.mean(places), abs=1e-9)
    if (np.diff(places) >= gap).all():
        assert moved == pytest.approx(places)
