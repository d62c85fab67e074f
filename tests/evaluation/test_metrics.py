"""Metrics against exact enumeration."""

from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation.metrics import (
    avg_at_k,
    exclusive_solves,
    pass_at_k,
    pass_at_k_of_counts,
    powers_of_two,
    solved,
)


def row(correct: int, n: int) -> list[float]:
    return [1.0] * correct + [0.0] * (n - correct)


@st.composite
def reward_tables(draw: st.DrawFn) -> torch.Tensor:
    n = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n), min_size=1))
    return torch.tensor(rows)


# ----------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_with_a_success(n: int) -> None:
    """Every draw of k responses is written out."""
    for correct in range(n + 1):
        rewards = row(correct, n)
        for k in range(1, n + 1):
            draws = list(combinations(rewards, k))
            exact = Fraction(sum(any(drawn) for drawn in draws), len(draws))
            found = pass_at_k(torch.tensor([rewards]), [k]).item()
            assert found == pytest.approx(float(exact), rel=1e-14, abs=0)


@pytest.mark.parametrize("correct", [0, 1, 2, 37, 1024, 2000, 2047, 2048])
def test_pass_at_k_of_2048_responses(correct: int) -> None:
    """Against whole numbers of hundreds of digits."""
    n, ks = 2048, [1, 2, 64, 1024, 2047, 2048]
    found = pass_at_k(torch.tensor([row(correct, n)]), ks)[0].tolist()
    for value, k in zip(found, ks, strict=True):
        exact = 1 - Fraction(comb(n - correct, k), comb(n, k))
        assert value == pytest.approx(float(exact), rel=1e-13, abs=0)


def test_pass_at_k_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]])
    found = pass_at_k(rewards, [4, 1, 2])
    wanted = [[1, 1 / 4, 1 / 2], [0, 0, 0], [1, 1 / 2, 5 / 6]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)
    assert avg_at_k(rewards).tolist() == [0.25, 0.0, 0.5]


@given(reward_tables(), st.randoms(use_true_random=False))
def test_properties_of_pass_at_k(rewards: torch.Tensor, random: Any) -> None:
    n = rewards.shape[1]
    found = pass_at_k(rewards, range(1, n + 1))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.diff(dim=1) >= -1e-15).all()
    torch.testing.assert_close(found[:, 0], avg_at_k(rewards), rtol=1e-14, atol=0)
    assert torch.equal(found[:, -1], (rewards > 0).any(1).double())
    order = random.sample(range(n), n)
    assert torch.equal(pass_at_k(rewards[:, order], range(1, n + 1)), found)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_a_k_that_no_responses_give(k: int) -> None:
    with pytest.raises(UpgeError, match=f"k: got {k} with 3 responses a problem, wanted 1 to 3"):
        pass_at_k(torch.ones(2, 3), [1, k])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_rewards_of_nothing(shape: tuple[int, ...]) -> None:
    rewards = torch.zeros(shape)
    for metric in (avg_at_k, solved, lambda r: pass_at_k(r, [1]), lambda r: exclusive_solves(r, r)):
        with pytest.raises(UpgeError, match=r"rewards: got shape .* at least one"):
            metric(rewards)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_rewards_that_are_no_numbers(wrong: float) -> None:
    for rewards in (torch.tensor([[1.0], [wrong]]), [[1.0], [0.0, wrong]]):
        for metric in (avg_at_k, solved, lambda r: pass_at_k(r, [1])):
            with pytest.raises(UpgeError, match=r"rewards: problem 1 has .*, wanted finite"):
                metric(rewards)


def test_unequal_numbers_of_responses() -> None:
    """Each problem counts as much as the others, whatever its number of responses."""
    rewards = [[1.0, 1.0, 1.0], [0.0], [1.0, 0.0]]
    assert avg_at_k(rewards).tolist() == [1, 0, 0.5]
    assert pass_at_k(rewards, [1])[:, 0].tolist() == [1, 0, pytest.approx(0.5)]
    assert solved(rewards).tolist() == [True, False, False]
    assert exclusive_solves(rewards, [[0.0], [1.0], [1.0]]).first.tolist() == [True, False, False]
    with pytest.raises(UpgeError, match="k: got 2 with 1 responses a problem"):
        pass_at_k(rewards, [2])


def test_doublings() -> None:
    assert [powers_of_two(n) for n in (1, 2, 3, 8, 9)] == [
        [1],
        [1, 2],
        [1, 2],
        [1, 2, 4, 8],
        [1, 2, 4, 8],
    ]


def test_when_a_problem_is_solved() -> None:
    rewards = torch.tensor([row(c, 4) for c in range(5)])
    assert solved(rewards).tolist() == [False, False, False, True, True]  # half is no majority
    assert solved(rewards[:, :1]).tolist() == [False, True, True, True, True]


def test_exclusive_solves_by_hand() -> None:
    first = torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    second = torch.tensor([[0.0], [1], [1], [0]])
    found = exclusive_solves(first, second)
    assert found.first.tolist() == [True, False, False, False]
    assert found.second.tolist() == [False, True, False, False]
    with pytest.raises(UpgeError, match="got 4 and 3 problems"):
        exclusive_solves(first, second[:3])


@given(reward_tables())
def test_exclusive_solves_mirror_each_other(rewards: torch.Tensor) -> None:
    there, back = exclusive_solves(rewards, 1 - rewards), exclusive_solves(1 - rewards, rewards)
    assert torch.equal(there.first, back.second) and torch.equal(there.second, back.first)
    assert not (there.first & there.second).any()
    gained = int(solved(rewards).sum()) - int(solved(1 - rewards).sum())
    assert int(there.first.sum()) - int(there.second.sum()) == gained


def test_pass_at_k_of_counts_is_that_of_any_responses_so_many_of_which_are_right() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    found = pass_at_k_of_counts(torch.tensor([2, 0, 4]), 4, [1, 3])
    assert torch.equal(found, pass_at_k(rewards, [1, 3]))
    with pytest.raises(UpgeError, match="got 5 of 4 responses"):
        pass_at_k_of_counts(torch.tensor([5]), 4, [1])
