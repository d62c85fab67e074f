"""How far the accuracies of an evaluation, and their differences, may be off."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation.metrics import interval, paired_interval


def test_of_right_and_wrong_it_is_wilson_s_interval() -> None:
    """The textbook's example: 7 of 10."""
    low, high = interval(torch.tensor([1.0] * 7 + [0.0] * 3), samples=1)
    assert (low, high) == (pytest.approx(0.3968, abs=5e-5), pytest.approx(0.8922, abs=5e-5))


@pytest.mark.parametrize("samples", [1, 32])
def test_none_solved_says_something_of_the_next_problem(samples: int) -> None:
    low, high = interval(torch.zeros(30), samples)
    assert low == 0 and high == pytest.approx(1.96**2 / (30 + 1.96**2), rel=1e-4)
    assert interval(torch.ones(30), samples) == (pytest.approx(1 - high), 1)


@given(
    st.lists(st.integers(0, 8).map(lambda c: c / 8), min_size=1, max_size=40), st.floats(0.5, 0.99)
)
def test_an_interval_holds_its_mean(values: list[float], confidence: float) -> None:
    mean = sum(values) / len(values)
    low, high = interval(torch.tensor(values), 8, confidence)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1 and low < high
    wider = interval(torch.tensor(values), 8, (1 + confidence) / 2)
    assert wider.low <= low and high <= wider.high


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 8), (1, 1), (0.2, 0.2)])
def test_intervals_of_30_problems_hold_the_truth(alpha: float, beta: float) -> None:
    """Problems of hard, mixed and all-or-nothing benchmarks, 32 responses to each."""
    torch.manual_seed(0)
    chance = torch.distributions.Beta(alpha, beta).sample((1000, 30))
    shares = torch.distributions.Binomial(32, chance).sample() / 32
    found = [interval(values, 32) for values in shares]
    truth = alpha / (alpha + beta)
    assert 0.89 <= sum(low <= truth <= high for low, high in found) / 1000 <= 0.97


def test_an_interval_over_no_problem() -> None:
    with pytest.raises(UpgeError, match="wanted one of at least one problem"):
        interval(torch.zeros(0), 1)


def test_of_pairs_it_is_bonett_and_price_s_interval() -> None:
    """By hand, from the table of pairs: 9 problems only one solves, 2 only the other, of 40."""
    one, other = 10 / 42, 3 / 42  # each with one more, of two more
    half = 1.959964 * sqrt((one + other - (one - other) ** 2) / 42)
    found = paired_interval(torch.tensor([1.0] * 9 + [-1.0] * 2 + [0.0] * 29), samples=1)
    assert found == (pytest.approx(one - other - half), pytest.approx(one - other + half))


@given(
    st.lists(st.integers(-8, 8).map(lambda c: c / 8), min_size=1, max_size=40),
    st.integers(1, 64),
    st.floats(0.5, 0.99),
)
def test_a_paired_interval_holds_its_mean(
    values: list[float], samples: int, confidence: float
) -> None:
    differences = torch.tensor(values)
    low, high = paired_interval(differences, samples, confidence)
    mean = sum(values) / len(values)
    assert -1 <= low <= mean + 1e-6 and mean - 1e-6 <= high <= 1 and low < high
    turned = paired_interval(-differences, samples, confidence)
    assert turned == (pytest.approx(-high), pytest.approx(-low))


@pytest.mark.parametrize(("alpha", "beta", "changed"), [(0.2, 8, 0.2), (1, 1, 0.3), (0.5, 8, 1.0)])
@pytest.mark.parametrize("samples", [1, 32])
def test_paired_intervals_of_30_problems_hold_the_truth(
    alpha: float, beta: float, changed: float, samples: int
) -> None:
    """Two policies that differ on a share of the problems."""
    torch.manual_seed(0)
    own = torch.distributions.Beta(alpha, beta).sample((1000, 30))
    other = torch.where(
        torch.rand(1000, 30) < changed, torch.distributions.Beta(2.0, 2.0).sample((1000, 30)), own
    )
    truth = changed * (alpha / (alpha + beta) - 0.5)
    shares = [torch.distributions.Binomial(samples, c).sample() / samples for c in (own, other)]
    found = [paired_interval(d, samples) for d in shares[0] - shares[1]]
    assert 0.88 <= sum(low <= truth <= high for low, high in found) / 1000 <= 0.995


def test_a_paired_interval_over_no_problem() -> None:
    with pytest.raises(UpgeError, match="wanted one of at least one problem"):
        paired_interval(torch.zeros(0), 1)
