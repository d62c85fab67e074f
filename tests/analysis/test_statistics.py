"""Intervals cover what they should, pairs are paired, and chance is not mistaken for skill."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    AVERAGE,
    DRAWS,
    MIDDLE,
    Estimate,
    cells,
    comparisons,
    corrected,
    estimates,
    interquartile_mean,
    problem_errors,
    seed_errors,
    student,
    verdict,
)
from upge.common.errors import UpgeError

#: Student's t: 97.5 % quantiles by degrees of freedom, from printed tables.
T_QUANTILES = {4: 2.776, 9: 2.262}

#: Its quantiles for 8 degrees of freedom at 5 % two-sided, of one test and of ten (99.75 %).
T_8 = {1: 2.306, 10: 3.833}


def frame(method: str, accuracy: np.ndarray, suite: str = "sum", levels: int = 2) -> pd.DataFrame:
    """Seeds by problems, the latter spread over levels."""
    rows = [
        (method, s, suite, 1 + p % levels, f"{p:03}=", accuracy[s, p])
        for s, p in product(*map(range, accuracy.shape))
    ]
    return pd.DataFrame(rows, columns=["method", "seed", "suite", "level", "prompt", "accuracy"])


def two_methods(a: np.ndarray, b: np.ndarray) -> pd.DataFrame:
    return comparisons(estimates(pd.concat([frame("a", a), frame("b", b)]), {"sum": "in"}))


# ----------------------------------------------------------------------------------------- literals


def test_mean_counts_and_averages_by_hand() -> None:
    sums = frame("a", np.array([[1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 0.0, 0.0]]), "sum")
    affs = frame("a", np.array([[0.0, 0.25], [0.0, 0.25]]), "aff")
    table = cells(estimates(pd.concat([sums, affs]), {"sum": "in", "aff": "in"})).set_index("suite")
    assert table["mean"].to_dict() == {"sum": 0.5, "aff": 0.125, AVERAGE: 0.3125}
    assert table["problems"].to_dict() == {"sum": 4, "aff": 2, AVERAGE: 6}
    assert set(table["seeds"]) == {2}


@pytest.mark.parametrize("seeds", [5, 10])
def test_seeds_alone_give_students_interval(seeds: int) -> None:
    values = np.sort(np.random.default_rng(3).normal(size=seeds))
    half = T_QUANTILES[seeds - 1] * values.std(ddof=1) / np.sqrt(seeds)
    low, high = np.quantile(student(seed_errors(values, "a"), seeds - 1), (0.025, 0.975))
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_problems_alone_give_the_stratified_standard_error() -> None:
    values = np.random.default_rng(4).random(200)
    values[:100] += 5  # between levels there is nothing to draw
    levels = [1] * 100 + [2] * 100
    variance = sum(values[part].var(ddof=1) / 100 for part in (slice(100), slice(100, 200))) / 4
    assert problem_errors([values], levels, "sum").std() == pytest.approx(
        np.sqrt(variance), rel=0.03
    )


def test_welch_by_hand() -> None:
    # Ten seeds beside five of nine times the variance of the mean.
    nothing = np.zeros(1)
    a = Estimate(1.0, nothing, nothing, variance=1.0, freedom=9, seeds=10, problems=1)
    b = Estimate(0.5, nothing, nothing, variance=9.0, freedom=4, seeds=5, problems=1)
    difference = a - b
    assert difference.mean == 0.5
    assert difference.variance == 10
    assert difference.seeds == 5
    assert difference.freedom == pytest.approx(100 / (1 / 9 + 81 / 4))
    still = Estimate(0.5, nothing, nothing, variance=0.0, freedom=4, seeds=5, problems=1)
    assert (a - still).freedom == pytest.approx(9)  # the one that varies decides


def test_a_difference_has_welchs_interval() -> None:
    # Variances of the mean 4 and 1 with 4 degrees each: nu = 5.88, t = 2.459 by interpolation.
    shape = np.array([-2.0, -1, 0, 1, 2])
    shape /= shape.std(ddof=1) / np.sqrt(5)
    ends = [
        Estimate(0.0, seed_errors(scale * shape, name), np.zeros(DRAWS), scale**2, 4, 5, 1)
        for scale, name in ((2, "a"), (1, "b"))
    ]
    low, high = (ends[0] - ends[1]).interval
    assert (high - low) / 2 == pytest.approx(2.459 * np.sqrt(5), rel=0.06)


def test_holm_by_hand() -> None:
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.6, 0.7]) == [1.0, 1.0]
    assert corrected([]) == []
    with_none = corrected([float("nan"), 0.01, 0.02])
    assert np.isnan(with_none[0])
    assert with_none[1:] == [0.02, 0.02]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_order_and_never_flatters(p_values: list[float]) -> None:
    adjusted = corrected(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    # Bonferroni is at least as strict.
    bonferroni = (min(1.0, p * len(p_values)) for p in p_values)
    assert all(a <= b for a, b in zip(adjusted, bonferroni, strict=True))


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([0, 0, 0, 6, 6, 60]) == 3  # half of the second and of the fifth
    assert interquartile_mean([9, 1, 2, 4]) == 3
    assert interquartile_mean([[1, 10], [3, 30]]).tolist() == [2, 20]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_interquartile_mean_is_that_of_the_middle_half(values: list[float]) -> None:
    # With each value four times, whole values are what falls off.
    copies = sorted(4 * values)
    expected = np.mean(copies[len(values) : -len(values)])
    assert float(interquartile_mean(values)) == pytest.approx(expected, abs=1e-12)


def test_middle_of_suites_by_hand() -> None:
    # Of each seed its own middle half: of (0, .2, .4, 1) and of (1, .5, .3, 0).
    table = [[0, 0.2, 0.4, 1], [1, 0.5, 0.3, 0]]
    scores = [
        frame("a", np.array([[row[i]] * 4 for row in table]), suite)
        for i, suite in enumerate("stuv")
    ]
    found = estimates(pd.concat(scores), dict.fromkeys("stuv", "in"))
    assert found["a", MIDDLE, "in"].mean == pytest.approx((0.3 + 0.4) / 2)
    assert found["a", MIDDLE, "in"].variance == pytest.approx(0.05**2)
    assert found["a", AVERAGE, "in"].mean == pytest.approx((0.4 + 0.45) / 2)
    two = estimates(pd.concat(scores[:2]), dict.fromkeys("st", "in"))
    assert ("a", MIDDLE, "in") not in two


def test_the_middle_forgets_an_odd_suite() -> None:
    random = np.random.default_rng(10)
    scores = {suite: 0.5 + 0.2 * (random.random((3, 30)) - 0.5) for suite in "stuvw"}
    scores["w"] = random.integers(0, 2, size=(3, 30)).astype(float) * 0.5  # far off, and uncertain
    found = estimates(
        pd.concat([frame("a", own, suite) for suite, own in scores.items()]),
        dict.fromkeys(scores, "in"),
    )
    wide, narrow = (found["a", suite, "in"].interval for suite in (AVERAGE, MIDDLE))
    assert narrow[0] < 0.5 < narrow[1]
    assert narrow[1] - narrow[0] < 0.7 * (wide[1] - wide[0])
    assert wide[1] < 0.5


# ------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize("tests", T_8)
def test_a_detectable_difference_is_found_four_times_in_five(tests: int) -> None:
    # Beside t-tests of five normal seeds each, repeated: they share nothing with the bootstrap.
    random = np.random.default_rng(11)
    shape = random.normal(size=5)
    shape = (shape - shape.mean()) / shape.std(ddof=1)
    nothing = np.zeros(DRAWS)
    a, b = (Estimate(0.0, seed_errors(shape, name), nothing, 1 / 5, 4, 5, 1) for name in "ab")
    shift = (a - b).detectable(tests)
    samples = random.normal(size=(2, 20_000, 5))
    difference = shift + samples[0].mean(1) - samples[1].mean(1)
    error = np.sqrt(samples.var(axis=2, ddof=1).sum(0) / 5)
    assert (np.abs(difference / error) > T_8[tests]).mean() == pytest.approx(0.8, abs=0.03)


def test_where_problems_alone_vary_normal_quantiles_decide() -> None:
    errors = np.random.default_rng(12).normal(size=DRAWS)
    e = Estimate(0.3, np.zeros(DRAWS), errors, variance=0, freedom=4, seeds=5, problems=10)
    assert e.detectable() == pytest.approx(1.960 + 0.842, rel=0.02)
    assert e.detectable(10) == pytest.approx(2.807 + 0.842, rel=0.03)


@given(st.floats(0.01, 100), st.integers(2, 10), st.integers(1, 50))
@settings(max_examples=20, deadline=None)
def test_what_is_detectable_has_the_unit_of_the_mean(scale: float, seeds: int, tests: int) -> None:
    random = np.random.default_rng(seeds)
    errors = random.normal(size=(2, 2000))
    one, scaled = (
        Estimate(0.0, factor * errors[0], factor * errors[1], 1, seeds - 1, seeds, 1)
        for factor in (1, scale)
    )
    assert scaled.detectable(tests) == pytest.approx(scale * one.detectable(tests))
    assert one.detectable(tests + 1) >= one.detectable(tests) > 0


def test_of_one_seed_nothing_is_detectable_and_without_spread_everything() -> None:
    nothing = np.zeros(DRAWS)
    assert np.isnan(Estimate(0.5, nothing, nothing + 1, 0, 0, 1, 5).detectable())
    assert Estimate(0.5, nothing, nothing, 0, 2, 3, 5).detectable(10) == 0


def test_comparisons_tell_what_all_of_them_together_could_show() -> None:
    random = np.random.default_rng(13)
    scores = pd.concat([frame(m, random.random((3, 20))) for m in "abc"])
    found = estimates(scores, {"sum": "in"})
    pairs = comparisons(found)
    for row in pairs[pairs["suite"] == "sum"].itertuples():
        difference = found[row.method, "sum", "in"] - found[row.other, "sum", "in"]
        assert row.detectable == difference.detectable(3) > difference.detectable()


# --------------------------------------------------------------------------------- degenerate cases


def test_where_all_is_equal_the_interval_is_a_point() -> None:
    same = np.full((3, 10), 0.1)  # 0.1 + 0.1 + 0.1 is not 3 · 0.1
    (row,) = cells(estimates(frame("a", same), {"sum": "in"})).to_dict("records")[:1]
    assert row["low"] == row["high"] == row["mean"] == pytest.approx(0.1, abs=1e-15)
    table = two_methods(same, same)
    assert not table["distinguishable"].any()
    assert set(table["p"]) == {1.0}
    assert verdict(table[table["suite"] == "sum"], "a", "b") == "not distinguishable"


def test_one_seed_has_an_interval_over_problems_and_no_comparison() -> None:
    scores = np.random.default_rng(5).random((1, 40))
    table = cells(estimates(frame("a", scores), {"sum": "in"}))
    assert (table["low"] < table["mean"]).all()
    assert set(table["seeds"]) == {1}
    pairs = two_methods(scores, np.zeros((1, 40)))
    assert pairs["p"].isna().all()
    assert not pairs["distinguishable"].any()
    assert verdict(pairs[pairs["suite"] == "sum"], "b", "a") == "not compared"


def test_levels_with_a_single_problem_are_drawn_together() -> None:
    values = np.array([1.0, 0.0, 1.0, 0.0])
    assert problem_errors([values], [1, 2, 3, 4], "sum").std() > 0.2


def test_an_interval_stays_within_0_and_1() -> None:
    scores = np.array([[0.0] * 10, [1.0] * 10])
    table = cells(estimates(frame("a", scores), {"sum": "in"}))
    assert table["low"].min() == 0
    assert table["high"].max() == 1


def test_different_problems_are_refused() -> None:
    other = frame("b", np.zeros((2, 3)))
    other["prompt"] += "x"
    with pytest.raises(UpgeError, match="a and b were evaluated on different problems of sum"):
        estimates(pd.concat([frame("a", np.zeros((2, 3))), other]), {"sum": "in"})
    ragged = frame("a", np.zeros((2, 3))).iloc[:-1]
    with pytest.raises(UpgeError, match="a: its seeds were evaluated on different problems"):
        estimates(ragged, {"sum": "in"})


# --------------------------------------------------------------------------------------- properties


def test_the_same_numbers_every_time_and_whatever_else_is_compared() -> None:
    random = np.random.default_rng(6)
    a, b = random.random((3, 20)), random.random((3, 20))
    alone = cells(estimates(frame("a", a), {"sum": "in"}))
    beside = cells(estimates(pd.concat([frame("b", b), frame("a", a)]), {"sum": "in"}))
    pd.testing.assert_frame_equal(
        alone, beside[beside["method"] == "a"].reset_index(drop=True), check_exact=True
    )


def test_the_order_of_rows_changes_nothing() -> None:
    scores = frame("a", np.random.default_rng(7).random((3, 20)))
    shuffled = scores.sample(frac=1, random_state=0)
    left, right = (cells(estimates(x, {"sum": "in"})) for x in (scores, shuffled))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_a_constant_lead_on_uneven_problems_is_seen_only_in_pairs() -> None:
    random = np.random.default_rng(8)
    hardness = np.repeat(random.random((1, 40)) * 0.9, 5, axis=0)
    noise = random.normal(scale=0.005, size=(2, 5, 40))
    pairs = two_methods(hardness + 0.05 + noise[0], hardness + noise[1])
    own = cells(estimates(frame("a", hardness), {"sum": "in"})).iloc[0]
    assert own["high"] - own["low"] > 0.1
    assert pairs["distinguishable"].all()
    assert pairs["difference"].iloc[0] == pytest.approx(0.05, abs=0.005)
    own_pairs = pairs[pairs["suite"] == "sum"]
    assert verdict(own_pairs, "a", "b") == "better"
    assert verdict(own_pairs, "b", "a") == "worse"


def test_a_p_value_is_below_5_percent_just_where_the_interval_leaves_0_out() -> None:
    random = np.random.default_rng(9)
    for shift in np.linspace(0, 8, 40):
        errors = random.normal(size=DRAWS)
        e = Estimate(shift, errors, errors, variance=1, freedom=4, seeds=5, problems=10)
        outside = e.interval[0] > 0
        assert outside == (e.p_value < 0.05) or abs(e.p_value - 0.05) < 2e-4


# ----------------------------------------------------------------------------------------- coverage


def simulated(
    random: np.random.Generator, seeds: int, seed_spread: float, levels: int = 5, size: int = 20
) -> np.ndarray:
    """Eight samples a problem; seeds shift every problem's logit, problems have their own."""
    problems = np.repeat(np.linspace(2, -2, levels), size) + random.normal(size=levels * size)
    logits = problems + random.normal(scale=seed_spread, size=(seeds, 1))
    return random.binomial(8, 1 / (1 + np.exp(-logits))) / 8


def expected(seed_spread: float, levels: int = 5) -> float:
    random = np.random.default_rng(0)
    spread = np.hypot(1, seed_spread)
    logits = np.linspace(2, -2, levels)[:, None] + random.normal(scale=spread, size=(1, 200_000))
    return float((1 / (1 + np.exp(-logits))).mean())


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_spread", [0.0, 0.3, 1.0])
def test_intervals_cover_the_expected_accuracy(seeds: int, seed_spread: float) -> None:
    truth, trials, covered = expected(seed_spread), 400, 0
    levels = np.repeat(range(5), 20)
    for trial in range(trials):
        scores = simulated(np.random.default_rng(trial), seeds, seed_spread)
        errors = student(seed_errors(scores.mean(1), "a", 2000), seeds - 1)
        errors += problem_errors([scores.mean(0)], levels, "sum", 2000)[:, 0]
        low, high = scores.mean() + np.quantile(errors, (0.025, 0.975))
        covered += low <= truth <= high
    # Four standard errors of a share of 400 trials below 95 %.
    assert covered / trials > 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.slow
def test_equal_methods_are_seldom_told_apart() -> None:
    trials, wrong = 200, 0
    for trial in range(trials):
        random = np.random.default_rng(trial)
        problems = np.repeat(np.linspace(2, -2, 5), 20) + random.normal(size=100)
        scores = {}
        for method in "abcd":
            logits = problems + random.normal(scale=0.3, size=(5, 1))
            scores[method] = random.binomial(8, 1 / (1 + np.exp(-logits))) / 8
        table = pd.concat([frame(m, s, levels=5) for m, s in scores.items()])
        wrong += comparisons(estimates(table, {"sum": "in"}))["distinguishable"].any()
    assert wrong / trials < 0.05 + 4 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_the_expected_middle_of_suites(seeds: int) -> None:
    # Suites of different hardness, which a lucky training makes easier together.
    ease = np.array([-1.5, -0.8, -0.2, 0.3, 0.6, 1.8])

    def chances(random: np.random.Generator, count: int, size: int) -> np.ndarray:
        luck = random.normal(scale=0.3, size=(1, count, 1))
        own = random.normal(size=(len(ease), 1, size))
        return 1 / (1 + np.exp(-(ease[:, None, None] + luck + own)))

    truth = interquartile_mean(chances(np.random.default_rng(0), 1000, 2000).mean(2)).mean()
    trials, covered = 60, 0
    for trial in range(trials):
        random = np.random.default_rng([trial, seeds])
        scores = random.binomial(8, chances(random, seeds, 60)) / 8
        frames = [frame("a", own, str(suite)) for suite, own in enumerate(scores)]
        found = estimates(pd.concat(frames), {str(suite): "in" for suite in range(len(ease))})
        low, high = found["a", MIDDLE, "in"].interval
        covered += low <= truth <= high
    assert covered / trials > 0.95 - 4 * np.sqrt(0.95 * 0.05 / trials)


# --------------------------------------------------------------------------- any machine's rounding


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9), st.integers(2, 9))
def test_equal_seeds_have_equal_interquartile_means(values, seeds):
    """A product of matrices would round columns differently, and invent a spread over seeds."""
    means = interquartile_mean(np.tile(np.array(values)[:, None], seeds))
    assert (means == means[0]).all()


def test_random_numbers_do_not_hang_on_the_last_digits_of_a_degree_of_freedom():
    errors = np.ones((50, 1))
    for freedom in (4.0, 5.3718):
        near = np.nextafter(freedom, 9)
        assert np.allclose(student(errors, freedom), student(errors, near), rtol=1e-12, atol=0)
    assert not np.allclose(student(errors, 4.0), student(errors, 4.1))
