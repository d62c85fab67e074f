"""HPT's feedback: P, the pairs f and g, and that a gate's extremes are pure SFT and pure RL."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, close, estimate, make_batch, weights

from upge import Estimator, Term, TrajectoryBatch, UpgeError, compose
from upge.advantage import GroupCentered, One
from upge.algorithms import GATES, feedback
from upge.batch import Samples
from upge.feedback import Feedback, Gate, Linear, Sigmoid, Switch, performance
from upge.normalization import TrajectoryMean
from upge.reference import CurrentPolicy, RolloutPolicy
from upge.stabilization import Clip

FEEDBACKS = [Switch(0.0), Switch(0.25), Linear(), Sigmoid(0.25, 10.0)]


def terms(feedback: Feedback | None = None) -> tuple[Term, Term]:
    """An RL term and an SFT term, gated or not."""
    rl, sft = (Gate(feedback, side) if feedback else None for side in ("rl", "sft"))
    norm = TrajectoryMean()
    return (
        Term("online", RolloutPolicy(), GroupCentered(), norm, Clip(0.2, 0.2), gate=rl),
        Term("offline", CurrentPolicy(), One(), norm, gate=sft),
    )


def gated(feedback: Feedback) -> Estimator:
    return compose(*terms(feedback))


def four_questions() -> TrajectoryBatch:
    """P = 1/4 with a demonstration, 1 without one, a demonstration alone, 0 with padding."""
    return make_batch(
        [1, 0, 0, 0, 1, 1, 1, 1, 0, 1, 9],
        group=[5, 5, 5, 5, 5, 3, 3, 8, 2, 2, 2],
        demos=[0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0],
        mask=[[1]] * 10 + [[0]],
    )


@pytest.mark.parametrize(
    ("feedback", "alpha"),  # of the questions in their order
    [
        (Switch(0.0), [1, 1, 0, 0]),
        (Switch(0.25), [0, 1, 0, 0]),  # P > γ is strict
        (Switch(0.2), [1, 1, 0, 0]),
        (Linear(), [0.25, 1, 0, 0]),
        # σ(k(P − γ)) with k = 4 ln 3: σ(0) at 1/4, σ(−ln 3) = 1/4 at 0.
        (Sigmoid(0.25, 4 * 1.0986122886681098), [0.5, 1, 0.25, 0.25]),
    ],
)
def test_gates_by_hand(feedback: Feedback, alpha: list[float]) -> None:
    b = four_questions()
    assert performance(b).tolist() == pytest.approx([0.25] * 5 + [1] * 2 + [0] * 4)
    rl, sft = (Gate(feedback, side)(b).squeeze(1) for side in ("rl", "sft"))
    assert rl.tolist() == pytest.approx(
        [alpha[0]] * 5 + [alpha[1]] * 2 + [alpha[2]] + [alpha[3]] * 3
    )
    close(rl + sft, 1.0)


def test_a_rollout_counts_as_solved_if_its_reward_is_positive() -> None:
    # v(τ) = 1{R > 0} (eq. 7): rewards 2, 0.5, 0, −1 are two successes out of four.
    assert performance(make_batch([2.0, 0.5, 0.0, -1.0])).tolist() == [0.5] * 4


@pytest.mark.parametrize("pair", FEEDBACKS, ids=lambda pair: pair.label)
@given(p=st.floats(0, 1), q=st.floats(0, 1))
def test_f_and_g_are_weights_that_sum_to_one(pair: Feedback, p: float, q: float) -> None:
    points = torch.tensor([min(p, q), max(p, q)], dtype=torch.float64)
    f, g = pair.f(points), pair.g(points)
    assert ((f >= 0) & (f <= 1) & (g >= 0) & (g <= 1)).all()
    close(f + g, 1.0)
    assert f[0] <= f[1], "the better the policy, the more RL"


@given(n=st.integers(1, 64), k=st.integers(0, 64), threshold=st.integers(0, 64))
def test_the_switch_is_exact_at_its_threshold(n: int, k: int, threshold: int) -> None:
    k, threshold = min(k, n), min(threshold, n)
    for dtype in (torch.float32, torch.float64):
        p = torch.tensor([k / n], dtype=dtype)
        assert Switch(threshold / n).f(p).item() == (k > threshold)


@given(n=st.integers(1, 64), k=st.integers(0, 64), threshold=st.integers(0, 63))
def test_the_sigmoid_is_the_switch_at_large_steepness(n: int, k: int, threshold: int) -> None:
    p = torch.tensor([min(k, n) / n], dtype=torch.float64)
    gamma = (min(threshold, n - 1) + 0.5) / n  # between two values of P
    close(Sigmoid(gamma, 1e6).f(p), Switch(gamma).f(p))
    close(Sigmoid(gamma, 1e6).g(p), Switch(gamma).g(p))


@given(cases(every_question_has_both=True))
def test_at_gamma_one_it_is_pure_sft(case: Case) -> None:
    assert torch.equal(weights(gated(Switch(1.0)), case), weights(compose(terms()[1]), case))


@given(cases(every_question_has_both=True))
def test_at_gamma_zero_where_all_is_solved_it_is_pure_rl(case: Case) -> None:
    solved = case.with_batch(reward=1.0 + torch.arange(len(case.batch.reward)).double())
    assert torch.equal(weights(gated(Switch(0.0)), solved), weights(compose(terms()[0]), solved))


@given(cases(every_question_has_both=True))
def test_at_gamma_zero_where_nothing_is_solved_it_is_pure_sft(case: Case) -> None:
    failed = case.with_batch(reward=-torch.arange(len(case.batch.reward)).double())
    assert torch.equal(weights(gated(Switch(0.0)), failed), weights(compose(terms()[1]), failed))


@given(cases(min_questions=2), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_the_switch_never_mixes_the_two_losses_in_a_question(case: Case, gamma: float) -> None:
    b, (rl, sft) = case.batch, estimate(gated(Switch(gamma)), case).terms
    bears = [b.per_question(term.weights.abs().sum(1)) > 0 for term in (rl, sft)]
    assert not (bears[0] & bears[1]).any()


# Rewards that differ, so that there is something to learn from, but fail alike.
FAILURES = cases(rewards=(-3.0, -2.0, -1.0, 0.0), min_questions=3)


def lacking(samples: Samples, batch: TrajectoryBatch) -> torch.Tensor:
    """(N,) bool: rows whose question has none of the samples."""
    return (batch.per_question(batch.rows_of(samples).long()) == 0)[batch.question]


@settings(max_examples=50)
@given(FAILURES, st.sampled_from(FEEDBACKS))
def test_without_a_demonstration_a_question_is_left_to_rl(case: Case, pair: Feedback) -> None:
    alone = lacking("offline", case.batch)
    assert (Gate(pair, "rl")(case.batch)[alone] == 1).all()
    assert (Gate(pair, "sft")(case.batch)[alone] == 0).all()
    ungated = weights(compose(*terms()), case)
    close(weights(gated(pair), case)[alone], ungated[alone])


@settings(max_examples=50)
@given(FAILURES, st.sampled_from([Switch(0.0), Switch(0.5), Linear()]))
def test_without_rollouts_a_question_is_left_to_sft(case: Case, pair: Feedback) -> None:
    alone = lacking("online", case.batch) & ~lacking("offline", case.batch)
    assert (Gate(pair, "rl")(case.batch)[alone] == 0).all()
    assert (Gate(pair, "sft")(case.batch)[alone] == 1).all()
    ungated = weights(compose(*terms()), case)
    close(weights(gated(pair), case)[alone], ungated[alone])


@given(cases())
def test_a_soft_gate_weighs_both_losses(case: Case) -> None:
    p = performance(case.batch)[:, None]
    alone = case.batch.per_question(case.batch.rows_of("offline").long()) == 0
    alpha = torch.where(alone[case.batch.question][:, None], 1.0, p)
    rl, sft = (weights(compose(term), case) for term in terms())
    close(weights(gated(Linear()), case), alpha * rl + (1 - alpha) * sft)


@pytest.mark.parametrize("name", GATES)
def test_gates_by_name(name: str) -> None:
    pair = feedback(name, 0.25)
    assert type(pair) is GATES[name]
    assert getattr(pair, "gamma", 0.25) == 0.25


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Switch(-0.1), "Switch.gamma: got -0.1, wanted a number from 0 to 1"),
        (lambda: Switch(1.5), "Switch.gamma: got 1.5, wanted a number from 0 to 1"),
        (lambda: Switch(float("nan")), "Switch.gamma: got nan"),
        (lambda: Sigmoid(2.0), "Sigmoid.gamma: got 2.0, wanted a number from 0 to 1"),
        (lambda: Sigmoid(0.5, 0.0), "Sigmoid.steepness: got 0.0, wanted a finite number > 0"),
        (lambda: feedback("swich", 0.0), "'swich'; did you mean 'switch'?"),
        (lambda: feedback("switch", 3.0), "gamma: got 3.0"),
    ],
)
def test_a_bad_option_is_named(build: Callable[[], Feedback], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        build()
    assert message in str(error.value)
