"""What a budget of compute buys is read off validations, and tests count where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import metrics, stages, write_run
from hypothesis import given
from hypothesis import strategies as st

from analysis.accuracy.costs import costs
from analysis.budgets import Curve, budgets, family, interpolated, near, points, validations, within
from analysis.runs import load_runs
from analysis.statistics import DRAWS, Estimate


def curve(method: str, flops: Sequence[float], *seeds: Sequence[float]) -> Curve:
    return interpolated(method, np.array(flops, dtype=float), np.array(seeds, dtype=float))


def point(method: str, flops: float, mean: float = 0.5) -> Curve:
    nothing = np.zeros(DRAWS)
    estimate = Estimate(mean, nothing, nothing, 0.0, 1, 2, 1)
    (found,) = points({method: estimate}, pd.DataFrame({"flops": {method: flops}}))
    return found


def test_a_curve_is_interpolated_seed_by_seed() -> None:
    found = curve("sft", [1, 3], [0.2, 0.4], [0.4, 1.0]).at(2.5)
    assert found.mean == pytest.approx(np.mean([0.35, 0.85]))
    assert found.variance == pytest.approx(np.var([0.35, 0.85], ddof=1) / 2)
    assert found.seeds == 2


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0, 8))
def test_an_interpolated_result_lies_between_its_neighbours(
    values: list[float], flops: float
) -> None:
    found = curve("sft", range(1, len(values) + 1), values).at(flops).mean
    after = int(np.clip(np.ceil(flops), 1, len(values))) - 1
    before = int(np.clip(np.floor(flops), 1, len(values))) - 1
    low, high = sorted((values[before], values[after]))
    assert low - 1e-12 <= found <= high + 1e-12


def test_within_a_budget_the_shortest_training_that_reaches_it_is_read() -> None:
    curves = [curve("sft_long", [1, 4], [0.9, 0.9]), curve("sft", [1, 2], [0.1, 0.3])]
    found = [within(curves, budget) for budget in (0.5, 1.5, 2, 3, 9)]
    assert found[0] == {}
    assert [own["sft"].method for own in found[1:]] == ["sft", "sft", "sft_long", "sft_long"]
    assert [own["sft"].flops for own in found[1:]] == [1.5, 2, 3, 4]
    assert [own["sft"].estimate.mean for own in found[1:]] == pytest.approx([0.2, 0.3, 0.9, 0.9])


def test_within_a_budget_a_whole_training_counts_once_it_fits() -> None:
    curves = [point("sft_grpo_long", 4, 0.8), point("sft_grpo", 2, 0.6), point("base", 0, 0.1)]
    found = [within(curves, budget) for budget in (1, 2, 3, 4)]
    assert [sorted(own) for own in found] == [["base"], *[["base", "sft_grpo"]] * 3]
    ends = [own["sft_grpo"].estimate.mean for own in found[1:]]
    assert ends == [0.6, 0.6, 0.8]


def test_near_a_budget_a_curve_is_read_at_it_and_ends_count_if_they_are_alike() -> None:
    curves = [
        curve("srft", [1, 20], [0.0, 1.0]),
        point("luffy", 13),
        point("hpt", 7),
        point("sft", 2),
        point("sft_long", 9.5),
        point("base", 0),
    ]
    found = near(curves, 10)
    assert {name: reading.flops for name, reading in found.items()} == {
        "srft": 10,
        "luffy": 13,
        "sft": 9.5,
    }
    assert found["srft"].estimate.mean == pytest.approx(9 / 19)
    assert found["sft"].method == "sft_long"


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_being_near_is_mutual(a: float, b: float) -> None:
    assert bool(near([point("x", a)], b)) == bool(near([point("x", b)], a))


def test_longer_trainings_are_of_the_same_family() -> None:
    names = {"sft": "sft", "sft_long": "sft", "sft_grpo_long": "sft_grpo", "base": "base"}
    assert {name: family(name) for name in names} == names


@given(
    st.lists(st.tuples(st.floats(1, 50), st.floats(1, 50)), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_budgets_span_what_is_known_and_are_shared_by_all_studies(
    ends: list[tuple[float, float]], per_octave: int
) -> None:
    curves = [curve("x", sorted(pair), [0, 0]) for pair in ends] + [point("base", 0)]
    found = budgets(curves, per_octave)
    low, high = min(map(min, ends)), max(map(max, ends))
    step = 2 ** (1 / per_octave)
    assert low * (1 - 1e-9) <= found[0] < low * step * (1 + 1e-9)
    assert high * (1 - 1e-9) <= found[-1] < high * step * (1 + 1e-9)
    assert np.log2(found) * per_octave == pytest.approx(np.round(np.log2(found) * per_octave))
    assert budgets([point("base", 0)], per_octave) == []


# ---------------------------------------------------------------------------------------- from runs


def test_validations_are_over_the_compute_spent_by_then(tmp_path: Path) -> None:
    for seed in range(2):
        lines = [line | {"flops": 1e9 * (1 + seed)} for line in metrics(accuracy=0.5 + 0.1 * seed)]
        write_run(tmp_path, "sft", seed, steps=lines)
    (found,) = validations(load_runs(tmp_path))
    assert (found.start, found.end) == (7.5e9, 30e9)
    means = [found.at(flops).mean for flops in (7.5e9, 15e9, 30e9)]
    assert means == pytest.approx([0.3 + share * 0.25 for share in (0.25, 0.5, 1)])


def test_of_a_pipeline_only_the_end_is_known(tmp_path: Path) -> None:
    write_run(tmp_path, "sft_grpo", 0, given=stages("sft", "grpo"), accuracy=0.7)
    write_run(tmp_path, "sft", 0, given=stages("sft"))
    found = {own.method: own for own in validations(load_runs(tmp_path))}
    pipeline = found["sft_grpo"]
    assert pipeline.start == pipeline.end == 20e9
    assert pipeline.at(20e9).mean == pytest.approx(0.7)
    assert found["sft"].start < found["sft"].end


def test_whole_trainings_stand_at_their_compute_and_the_base_model_at_none(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0)
    for seed in range(2):
        write_run(tmp_path, "grpo", seed, steps=[m | {"flops": 1.0 + seed} for m in metrics()])
    tests = {name: point(name, 0).at(0) for name in ("grpo", "base")}
    found = points(tests, costs(load_runs(tmp_path).metrics()))
    assert {own.method: own.end for own in found} == {"grpo": 30, "base": 0}
    assert [own.at(7.0) for own in found] == list(tests.values())


def test_runs_without_steps_have_no_curve_and_cost_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0)
    runs = load_runs(tmp_path)
    assert validations(runs) == []
    assert not len(costs(runs.metrics()))
