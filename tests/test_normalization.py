"""How the terms of single tokens become one number: each normaliser by hand, and its counts."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from strategies import Case, cases, close, make_batch
from torch import Tensor

from upge import TrajectoryBatch, UpgeError, compose
from upge.advantage import One
from upge.estimator import Term
from upge.feedback import Gate, Switch
from upge.normalization import (
    NORMALIZERS,
    Counted,
    Normalizer,
    Scope,
    SequenceMean,
    TokenMean,
    normalizer,
)
from upge.reference import CurrentPolicy

# Rollouts: rows 0 and 1 of question 0 (2 tokens and 1), row 3 of question 1 (3 tokens), and a row
# of padding; a demonstration: row 2 of question 0 (2 tokens).
MASK = [[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]]


def batch() -> TrajectoryBatch:
    return make_batch(
        [1.0] * 5, group=[0, 0, 0, 1, 0], demos=[0, 0, 1, 0, 0], mask=MASK, max_length=10
    )


def of(tokens: Tensor) -> Counted:
    """The tokens, and the rows that have some."""
    return Counted(tokens, tokens.any(1))


def factors(norm: Normalizer, b: TrajectoryBatch, tokens: Tensor, counted: Tensor) -> Tensor:
    """(N,) the factor at each row's tokens, which is the same at all of them."""
    factor = norm(b, of(tokens), of(counted)).expand(tokens.shape)
    close(factor, factor[:, :1])
    return factor[:, 0]


@pytest.mark.parametrize(
    ("name", "expected"),  # 1/factor for the rollouts, rows 0, 1 and 3
    [
        ("token_sum", [1, 1, 1]),
        ("token_mean", [6, 6, 6]),  # 2 + 1 + 3 tokens
        ("trajectory_mean", [3, 3, 3]),
        ("sequence_mean", [3 * 2, 3 * 1, 3 * 3]),
        ("fixed_length", [3 * 10, 3 * 10, 3 * 10]),
        ("length_sum", [10, 10, 10]),
        ("question_sum", [2 * 2, 2 * 2, 2 * 1]),  # 2 questions, of 2 rollouts and of 1
        ("question_mean", [2 * 2 * 2, 2 * 2 * 1, 2 * 1 * 3]),
    ],
)
def test_by_hand(name: str, expected: list[float]) -> None:
    b = batch()
    online = b.tokens_of("online")
    close(1 / factors(normalizer(name), b, online, online)[[0, 1, 3]], torch.tensor(expected))


@pytest.mark.parametrize(
    ("name", "expected"),  # 1/factor for the demonstration where all of the batch is counted
    [
        ("token_sum", 1),
        ("token_mean", 8),
        ("trajectory_mean", 4),
        ("sequence_mean", 4 * 2),
        ("fixed_length", 4 * 10),
        ("length_sum", 10),
        ("question_sum", 2 * 1),  # all questions, but this one's demonstrations only
        ("question_mean", 2 * 1 * 2),
    ],
)
def test_by_hand_over_the_whole_batch(name: str, expected: float) -> None:
    b = batch()
    factor = factors(normalizer(name, "batch"), b, b.tokens_of("offline"), b.mask)
    assert 1 / factor[2].item() == pytest.approx(expected)


def test_literals_cover_every_normaliser() -> None:
    marks = [f.pytestmark for f in (test_by_hand, test_by_hand_over_the_whole_batch)]
    for (mark,) in marks:
        assert {case[0] for case in mark.args[1]} == set(NORMALIZERS)


@pytest.mark.parametrize(
    ("scope", "tokens"),
    [
        ("term", 2),  # the demonstrations' tokens, rows 1 and 3
        ("open", 1),  # those of question 0, which alone is gated
        ("joint", 1 + 2),  # and the rollout's of question 1
        ("batch", 1 + 2 + 1 + 1),  # everything
    ],
)
def test_scopes_by_hand(scope: Scope, tokens: int) -> None:
    # Question 0: a failed rollout (1 token), a demonstration (1); question 1: a solved rollout (2
    # tokens), a demonstration (1). At γ = 0 question 0 alone goes to SFT.
    b = make_batch(
        [0.0, 1.0, 1.0, 1.0],
        group=[0, 0, 1, 1],
        demos=[0, 1, 0, 1],
        mask=[[1, 0], [0, 1], [1, 1], [1, 0]],
    )
    norm, switch = TokenMean(scope), Switch(0.0)
    rl = Term("online", CurrentPolicy(), One(), norm, gate=Gate(switch, "rl"))
    sft = replace(rl, samples="offline", gate=Gate(switch, "sft"))
    logp = torch.full((4, 2), -1.0, dtype=torch.float64)
    demonstrations = compose(rl, sft)(b, logp).terms[1].weights
    assert demonstrations[1].tolist() == pytest.approx([0, 1 / tokens])
    assert (demonstrations[[0, 2, 3]] == 0).all()


@given(cases())
def test_means_of_ones_are_one(case: Case) -> None:
    b = case.batch
    for samples in ("online", "offline", "all"):
        tokens = b.tokens_of(samples)
        for name in ("token_mean", "sequence_mean", "question_mean"):
            factor = normalizer(name)(b, of(tokens), of(tokens)).expand(tokens.shape)
            close(factor[tokens].sum(), 1.0)
        trajectories = tokens.any(1)
        for name in ("trajectory_mean", "question_sum"):
            factor = normalizer(name)(b, of(tokens), of(tokens)).expand(tokens.shape)[:, 0]
            close(factor[trajectories].sum(), 1.0)


@given(cases())
def test_counts_are_summed_over_processes(case: Case) -> None:
    """Three processes with the same batch: every count trebles, what is a trajectory's does not."""
    b, three = case.batch, replace(case.batch, all_sum=lambda x: 3 * x)
    tokens = b.tokens_of("online")
    for name in NORMALIZERS:
        alone, shared = (normalizer(name)(x, of(tokens), of(tokens)) for x in (b, three))
        close(shared, alone / (1 if name in ("token_sum", "length_sum") else 3))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_nothing_to_count_is_finite(name: str) -> None:
    for rows, width in ((0, 3), (3, 0), (3, 2)):
        empty = TrajectoryBatch(
            torch.zeros(rows, width), torch.zeros(rows), torch.zeros(rows).long(), torch.zeros(rows)
        )
        assert torch.isfinite(normalizer(name)(empty, of(empty.mask), of(empty.mask))).all()


def test_the_length_is_the_width_where_none_is_given() -> None:
    b = replace(batch(), max_length=None)
    for name, expected in (("fixed_length", 3 * 4), ("length_sum", 3)):
        close(1 / normalizer(name)(b, of(b.mask), of(b.mask)), float(expected))


def test_names_give_their_classes() -> None:
    for name, kind in NORMALIZERS.items():
        for scope in get_args(Scope):
            built = normalizer(name, scope)
            assert type(built) is kind and built.scope == scope


def test_bad_names_are_named() -> None:
    with pytest.raises(UpgeError, match="'token_men'; did you mean 'token_mean'"):
        normalizer("token_men")
    with pytest.raises(UpgeError, match="'joined'; did you mean 'joint'"):
        SequenceMean("joined")  # type: ignore[arg-type]
    with pytest.raises(UpgeError, match="unknown normalizer 3; known: "):
        normalizer(3)  # type: ignore[arg-type]
