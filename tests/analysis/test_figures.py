"""Figures show the numbers of their CSV, for any set of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import metrics, write_run
from hypothesis import given
from hypothesis import strategies as st

from analysis import learning_curves, offline_ratio, training_curves
from analysis.curves import footer, over_seeds, smoothed, spread
from analysis.runs import load_runs


def test_learning_curves_are_means_over_seeds_with_students_interval(tmp_path: Path) -> None:
    ends = (0.5, 0.55, 0.65)
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


@pytest.mark.parametrize(
    ("value", "most"), [("validation", 1), ("offline_ratio", 1), ("reward", 1), ("entropy", np.inf)]
)
def test_bands_stay_where_the_quantity_does(value: str, most: float) -> None:
    """Two seeds as far apart as they can be: Student's interval is wider than what there is."""
    rows = [("a", 0, 1, 0.0), ("a", 1, 1, 1.0)]
    found = over_seeds(pd.DataFrame(rows, columns=["method", "seed", "step", value]), value)
    assert found["low"].item() == 0
    assert 1 <= found["high"].item() <= most


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


def test_a_run_shorter_than_the_window_is_drawn_too() -> None:
    frame = pd.DataFrame({"method": "hpt", "seed": 0, "step": range(1, 7), "x": range(6)})
    assert smoothed(frame, "x")["x"].tolist() == [2.5] * 6


def test_figures_are_written_the_same_every_time(tmp_path: Path) -> None:
    runs = tmp_path / "cpu" / "table2"
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


# ---------------------------------------------------------------------------------- figures 5 and 7


def entropies(method_seed: int, steps: int = 60) -> list[dict[str, float]]:
    random = np.random.default_rng(method_seed)
    return [
        line | {"entropy": random.random(), "response_length": 10 + random.random()}
        for line in metrics(steps=steps)
    ]


def test_figure_7_is_of_moving_means_over_seeds(tmp_path: Path) -> None:
    lines = {seed: entropies(seed) for seed in range(2)}
    for seed, own in lines.items():
        write_run(tmp_path, "grpo", seed, steps=own)
    write_run(tmp_path, "sft", 0)
    frame = training_curves.figure7_numbers(load_runs(tmp_path))
    assert frame["method"].unique().tolist() == ["grpo"]
    assert frame["quantity"].unique().tolist() == ["entropy", "response_length"]
    assert set(frame["seeds"]) == {2}
    for quantity, own in frame.groupby("quantity"):
        assert own["step"].tolist() == list(range(5, 61, 5))
        means = [np.mean([line[str(quantity)] for line in lines[seed][19:39]]) for seed in lines]
        at_30 = own[own["step"] == 30].iloc[0]
        assert at_30["mean"] == pytest.approx(np.mean(means))
        half = 12.706 * np.std(means, ddof=1) / np.sqrt(2)  # t with one degree of freedom
        assert at_30["high"] - at_30["low"] > half


def test_steps_that_learn_from_no_rollout_have_no_entropy_and_do_not_shift_the_window(
    tmp_path: Path,
) -> None:
    lines = entropies(0)
    for line in lines[20:24]:
        del line["entropy"]
    write_run(tmp_path, "hpt", 0, steps=lines)
    frame = training_curves.figure7_numbers(load_runs(tmp_path))
    own = frame[(frame["quantity"] == "entropy") & (frame["step"] == 30)]["mean"].item()
    there = [line["entropy"] for line in lines[19:39] if "entropy" in line]
    assert len(there) == 16
    assert own == pytest.approx(np.mean(there))


def test_figure_5_has_the_numbers_of_the_learning_curves(tmp_path: Path) -> None:
    for method in ("sft", "grpo", "hpt"):
        write_run(tmp_path, method, 0)
    runs = load_runs(tmp_path)
    frame, curves = training_curves.figure5_numbers(runs), learning_curves.numbers(runs)
    assert frame["method"].unique().tolist() == ["grpo", "hpt"]
    own = curves[curves["method"] != "sft"].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, own, check_exact=True)


def test_figures_5_and_7_are_drawn_on_demand(tmp_path: Path) -> None:
    runs = tmp_path / "cpu" / "table2"
    for method in ("grpo", "luffy", "hpt", "hpt_global_token"):
        write_run(runs, method, 0, steps=entropies(0, steps=20))
    training_curves.main(runs, tmp_path / "one", [7])
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        f"figure7.{suffix}" for suffix in ("pdf", "png", "csv")
    }
    training_curves.main(runs, tmp_path / "both", None)
    assert len(list((tmp_path / "both").iterdir())) == 6
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "both" / path.name).read_bytes()
    write_run(tmp_path / "none", "base", 0)
    training_curves.main(tmp_path / "none", tmp_path / "nothing", None)
    assert not (tmp_path / "nothing").exists()


def test_an_unknown_figure_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    with pytest.raises(SystemExit, match=r"^error: unknown figure 9; known: 5, 7$"):
        training_curves.main(tmp_path, tmp_path / "figures", [9])
