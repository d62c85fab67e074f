"""How far the accuracies of an evaluation, and their differences, may be off."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation.metrics import interval, paired_interval

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (81, 263, 0.2535, 0.3682),
        (15, 148, 0.0598, 0.1644),
        (0, 20, 0, 0.2005),
        (1, 29, 0.0018, 0.1963),
    ],
)
def test_of_right_and_wrong_it_is_the_score_interval_with_continuity_correction(
    right: int, of: int, low: float, high: float
) -> None:
    """Method 4 of Newcombe (Statistics in Medicine 17, 1998), Table I."""
    found = interval(torch.tensor([1.0] * right + [0.0] * (of - right)))
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.lists(st.integers(0, 8).map(lambda c: c / 8), min_size=1, max_size=9))
def test_bounds_solve_their_equation(values: list[float]) -> None:
    """|m − p| = z √(p(1−p)/n) + 1/2n, n by the variance of the values and 8 of 0 or 1."""
    count, mean = len(values), sum(values) / len(values)
    if mean in (0, 1):
        return
    squares = sum((value - mean) ** 2 for value in values) + 8 * mean * (1 - mean)
    n = max(count * mean * (1 - mean) * (count + 8) / squares, count)
    for bound in interval(torch.tensor(values)):
        if 0 < bound < 1:
            gap = Z * sqrt(bound * (1 - bound) / n) + 1 / (2 * n)
            assert abs(mean - bound) == pytest.approx(gap, rel=1e-6)


def test_none_solved_says_something_of_the_next_problem() -> None:
    low, high = interval(torch.zeros(30))
    assert low == 0 and (high - 1 / 60) ** 2 == pytest.approx(Z**2 * high * (1 - high) / 30)
    assert interval(torch.ones(30)) == (pytest.approx(1 - high), 1)


def test_one_problem_says_next_to_nothing() -> None:
    assert all(
        high - low > 0.94 for low, high in (interval(torch.tensor([x / 8])) for x in range(9))
    )


@given(
    st.lists(st.integers(0, 8).map(lambda c: c / 8), min_size=1, max_size=40), st.floats(0.5, 0.99)
)
def test_an_interval_holds_its_mean(values: list[float], confidence: float) -> None:
    mean = sum(values) / len(values)
    low, high = interval(torch.tensor(values), confidence)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1 and low < high
    wider = interval(torch.tensor(values), (1 + confidence) / 2)
    assert wider.low <= low and high <= wider.high


def held(intervals: list[tuple[float, float]], truth: float) -> float:
    return sum(low <= truth <= high for low, high in intervals) / len(intervals)


@pytest.mark.parametrize("problems", [1, 2, 3, 4, 5, 30])
@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.5, 8), (1, 1), (0.2, 0.2), (10, 30), (0.3, 3), (6, 0.5)]
)
@pytest.mark.parametrize("samples", [1, 32])
def test_intervals_hold_the_truth(problems: int, alpha: float, beta: float, samples: int) -> None:
    """Of hard, mixed and all-or-nothing problems; 1,000 draws have a standard error of 0.7 %."""
    torch.manual_seed(0)
    chance = torch.distributions.Beta(alpha, beta).sample((1000, problems))
    shares = torch.distributions.Binomial(samples, chance).sample() / samples
    assert held([interval(values) for values in shares], alpha / (alpha + beta)) >= 0.935


def test_of_many_problems_it_is_as_narrow_as_their_spread_allows() -> None:
    torch.manual_seed(0)
    values = torch.distributions.Beta(5.0, 5.0).sample((500,))
    low, high = interval(values)
    assert high - low == pytest.approx(2 * Z * values.std().item() / sqrt(500), rel=0.15)


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [-0.1], [float("nan")]])
def test_an_interval_of_what_is_no_share(values: list[float]) -> None:
    with pytest.raises(UpgeError, match="wanted those of at least one problem, each from 0 to 1"):
        interval(torch.tensor(values))


@given(
    st.lists(st.integers(-8, 8).map(lambda c: c / 8), min_size=1, max_size=40),
    st.floats(0.5, 0.99),
)
def test_a_paired_interval_holds_its_mean(values: list[float], confidence: float) -> None:
    differences = torch.tensor(values)
    low, high = paired_interval(differences, confidence)
    mean = sum(values) / len(values)
    assert -1 <= low <= mean + 1e-6 and mean - 1e-6 <= high <= 1 and low < high
    turned = paired_interval(-differences, confidence)
    assert turned == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize("problems", [1, 2, 3, 4, 5, 30])
@pytest.mark.parametrize(("alpha", "beta", "changed"), [(0.2, 8, 0.2), (1, 1, 0.3), (0.5, 8, 1.0)])
@pytest.mark.parametrize("samples", [1, 32])
def test_paired_intervals_hold_the_truth(
    problems: int, alpha: float, beta: float, changed: float, samples: int
) -> None:
    """Two policies that differ on a share of the problems."""
    torch.manual_seed(0)
    shape = (1000, problems)
    own = torch.distributions.Beta(alpha, beta).sample(shape)
    anew = torch.distributions.Beta(2.0, 2.0).sample(shape)
    other = torch.where(torch.rand(shape) < changed, anew, own)
    truth = changed * (alpha / (alpha + beta) - 0.5)
    shares = [torch.distributions.Binomial(samples, c).sample() / samples for c in (own, other)]
    assert held([paired_interval(d) for d in shares[0] - shares[1]], truth) >= 0.935


def test_a_difference_of_many_pairs_is_as_narrow_as_their_spread_allows() -> None:
    torch.manual_seed(0)
    values = (torch.randn(500) / 10).clamp(-1, 1)
    low, high = paired_interval(values)
    assert high - low == pytest.approx(2 * Z * values.std().item() / sqrt(500), rel=0.35)


def test_a_paired_interval_over_no_problem() -> None:
    with pytest.raises(UpgeError, match="wanted those of at least one problem"):
        paired_interval(torch.zeros(0))
