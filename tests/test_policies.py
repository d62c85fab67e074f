"""Four policies in a batch: KL and entropy terms, the sampler's correction, equal rewards."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, make_batch, weights
from torch import Tensor

import upge
from upge import UpgeError
from upge.advantage import GroupCentered, KLGradient, One, Penalized, Reward
from upge.estimator import KL_GRADIENTS, Term, compose
from upge.normalization import TokenMean, TokenSum
from upge.reference import CurrentPolicy, RolloutPolicy
from upge.stabilization import Clip, Correction

BETA = 0.3
KEEP = Term("online", CurrentPolicy(), Reward(), TokenSum())


def autograd_weights(case: Case, loss: Any) -> Tensor:
    """−∂L/∂log π_θ of the summed loss of the rollouts' tokens."""
    tokens = case.batch.tokens_of("online")
    logp = torch.where(tokens, case.logp, -1.0).requires_grad_()
    old, ref = (torch.where(tokens, getattr(case.batch, n), -1.0) for n in ("old_logp", "ref_logp"))
    total = torch.where(tokens, loss(logp, old, ref), 0.0).sum()
    return -torch.autograd.grad(total, logp)[0]


LOSSES = {
    "k1": lambda logp, old, ref: logp - ref,
    "k2": lambda logp, old, ref: (logp - ref) ** 2 / 2,
    "k3": lambda logp, old, ref: (ref - logp).exp() + logp - ref - 1,
    "r*k1": lambda logp, old, ref: (logp - old).exp() * (logp - ref),
    "r*k3": lambda logp, old, ref: (logp - old).exp() * ((ref - logp).exp() + logp - ref - 1),
}


def test_every_gradient_has_its_loss() -> None:
    assert set(LOSSES) == set(KL_GRADIENTS)


@pytest.mark.parametrize("name", LOSSES)
@given(case=cases())
def test_kl_gradients_are_those_of_their_losses(name: str, case: Case) -> None:
    """Of the penalty β f summed over the rollouts' tokens, differentiated as it is written."""
    plain, penalized = (
        weights(e, case) for e in (compose(KEEP), compose(KEEP).with_kl(BETA, name))
    )
    expected = BETA * autograd_weights(case, LOSSES[name])
    close(
        torch.where(case.batch.mask, penalized - plain, 0.0),
        torch.where(case.batch.mask, expected, 0.0),
    )


def test_a_kl_term_stays_under_its_gate_and_normalizer() -> None:
    hpt = upge.get("hpt_global_token", kl=BETA)
    kl = hpt.terms[-1]
    assert (kl.gate, kl.normalizer) == (hpt.terms[0].gate, hpt.terms[0].normalizer)
    solved, failed = (
        make_batch(
            [reward, 0.0, 1.0],
            demos=[0, 0, 1],
            old_logp=[[-1.0]] * 3,
            ref_logp=[[-2.0]] * 3,
        )
        for reward in (1.0, 0.0)
    )
    logp = torch.full((3, 1), -1.0, dtype=torch.float64)
    close(hpt(solved, logp).terms[-1].weights[:2], -BETA * 1.0 / 2)  # k = 1; two tokens count
    assert not hpt(failed, logp).terms[-1].weights.any()


@given(case=cases())
def test_a_kl_in_the_reward_is_one_more_part_of_it(case: Case) -> None:
    batch = case.batch
    tokens = batch.tokens_of("online")
    k = [
        sum(
            float(batch.old_logp[i, t] - batch.ref_logp[i, t])
            for t in tokens[i].nonzero().flatten()
        )
        for i in range(len(tokens))
    ]
    expected = GroupCentered()(
        replace(batch, reward=batch.reward - BETA * torch.tensor(k, dtype=torch.float64))
    )
    rows = batch.rows_of("online")
    close(Penalized(GroupCentered(), BETA)(batch)[rows], expected[rows])


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("rule", ["truncate", "mask", "reject"])
@given(case=cases(), low=st.sampled_from([0.0, 0.9]), high=st.sampled_from([1.05, 2.0]))
def test_corrections_by_naive_loops(
    level: Any, rule: Any, low: float, high: float, case: Case
) -> None:
    batch = case.batch
    got = weights(compose(KEEP).with_correction(Correction(level, rule, low, high)), case)
    plain = weights(compose(KEEP), case)
    for i in range(len(batch.mask)):
        places = batch.tokens_of("online")[i].nonzero().flatten().tolist()
        gaps = {t: float(batch.old_logp[i, t] - batch.sampler_logp[i, t]) for t in places}
        for t in places:
            log_rho = {
                "token": gaps[t],
                "sequence": sum(gaps.values()),
                "geometric": sum(gaps.values()) / len(gaps),
            }[level]
            rho = exp(log_rho)
            factor = {
                "truncate": min(max(rho, low), high),
                "mask": rho if low <= rho <= high else 0.0,
                "reject": 1.0 if low <= rho <= high else 0.0,
            }[rule]
            assert got[i, t].item() == pytest.approx(
                plain[i, t].item() * factor, rel=1e-9, abs=1e-12
            )


@given(case=cases())
def test_a_sampler_that_is_the_policy_or_unknown_changes_nothing(case: Case) -> None:
    same = case.with_batch(sampler_logp=case.batch.old_logp)
    unknown = case.with_batch(sampler_logp=torch.full_like(case.logp, torch.nan))
    for name in ("grpo", "gspo", "hpt", "rloo"):
        plain = weights(upge.get(name), case)
        for rule in ("token-truncate", "sequence-mask", "geometric-reject"):
            estimator = upge.get(name, correction=rule, correction_low=0.5)
            close(weights(estimator, same), plain)
            close(weights(estimator, unknown), plain)


@given(case=cases())
def test_an_entropy_bonus_is_the_gradient_of_the_mean_entropy(case: Case) -> None:
    """Over the tokens of rows whose weight can be nonzero, however the batch is split."""
    estimator = upge.get("grpo", entropy_bonus=0.01)
    entropy = case.entropy.clone().requires_grad_()
    plan = estimator.plan(case.batch)
    rows = plan.nonzero_rows().nonzero().flatten()
    for row in rows:
        part = plan.select(row[None])
        part.estimate(case.logp[row[None]], entropy[row[None]]).loss.backward()
    live = case.batch.mask[rows].sum().clamp(min=1)
    expected = torch.zeros_like(case.entropy)
    expected[rows] = torch.where(case.batch.mask[rows], -0.01 / live.double(), 0.0)
    close(torch.zeros_like(expected) if entropy.grad is None else entropy.grad, expected)


@given(case=cases())
def test_demonstrations_have_a_ratio_of_their_own(case: Case) -> None:
    """PSFT: PPO's clipped ratio on demonstrations, Â = 1."""
    batch = case.batch
    tokens = batch.tokens_of("offline")
    estimator = compose(Term("offline", RolloutPolicy(), One(), TokenMean(), Clip(0.2, 0.28)))
    logp = torch.where(tokens, case.logp, -1.0).requires_grad_()
    ratio = (logp - torch.where(tokens, batch.demo_logp, -1.0)).exp()
    loss = (
        -torch.where(tokens, torch.minimum(ratio, ratio.clamp(0.8, 1.28)), 0.0).sum() / tokens.sum()
    )
    close(weights(estimator, case), -torch.autograd.grad(loss, logp)[0] * tokens)


@pytest.mark.parametrize(
    ("options", "field", "places"),
    [
        ({"kl": 0.1}, "ref_logp", ("TRL: ref_per_token_logps", "verl: ref_log_prob", "upge train")),
        (
            {"correction": "token-mask"},
            "sampler_logp",
            ("TRL: sampling", "rollout_log_probs", "vllm"),
        ),
        ({"kl_reward": 0.1}, "ref_logp", ("TRL", "verl", "upge train")),
    ],
)
def test_what_is_missing_is_named_with_where_one_gets_it(
    options: dict[str, Any], field: str, places: tuple[str, ...]
) -> None:
    batch = make_batch([1.0, 0.0], old_logp=[[-1.0], [-1.0]])
    with pytest.raises(UpgeError, match=f"grpo needs {field}") as error:
        upge.get("grpo", **options)(batch, torch.full((2, 1), -1.0))
    assert all(place in str(error.value) for place in places)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kl": 0.1, "kl_gradient": "k4"}, "unknown KL gradient 'k4'"),
        ({"correction": "token"}, "unknown Correction.rule ''"),
        ({"correction": "tokens-mask"}, "unknown Correction.level 'tokens'; did you mean 'token'"),
        ({"kl": "much"}, "grpo.kl: got 'much', wanted a number"),
        ({"kll": 0.1}, "unknown option of grpo 'kll'; did you mean 'kl'"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UpgeError, match=sentence):
        upge.get("grpo", **options)


@pytest.mark.parametrize("option", [{"kl": 0.1}, {"kl_reward": 0.1}, {"correction": "token-mask"}])
def test_rows_without_rollouts_take_none(option: dict[str, Any]) -> None:
    with pytest.raises(UpgeError, match="sft reads no rollouts, so it takes no"):
        upge.get("sft", **option)


# ------------------------------------------------------------------------------------------ rewards


def grpo_weights(rewards: Tensor, **fields: Any) -> Tensor:
    rows = len(rewards)
    batch = upge.TrajectoryBatch(
        mask=torch.ones(rows, 1, dtype=torch.bool),
        reward=rewards,
        group=torch.zeros(rows, dtype=torch.long),
        offline=torch.zeros(rows, dtype=torch.bool),
        old_logp=torch.full((rows, 1), -1.0),
        **fields,
    )
    return upge.get("grpo")(batch, torch.full((rows, 1), -1.0)).weights


def test_totals_that_differ_by_rounding_are_equal() -> None:
    """Every total of the same three parts in another order, in both precisions."""
    noisy = torch.tensor([0.1 + 0.2 - 0.3, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert noisy[0] != 0 and not grpo_weights(noisy).any()
    parts = [torch.tensor([a, b, c]) for a in (0.1, 0.7) for b in (0.2, 0.9) for c in (0.3, 0.6)]
    scale = torch.tensor([0.5, 0.3, 0.2])
    several = 0
    for x in parts:
        y = (scale * x).tolist()
        orders = [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)]
        totals = []
        for order in orders:
            total = torch.zeros(())
            for i in order:
                total = total + torch.tensor(y[i])
            totals.append(total)
        several += len({t.item() for t in totals}) > 1
        assert not grpo_weights(torch.stack(totals)).any()
    assert several  # or nothing would be tested


def test_rewards_that_differ_by_more_are_not() -> None:
    assert grpo_weights(torch.tensor([1.0, 1.00001])).all()
    assert grpo_weights(torch.tensor([0.0, 1e-5])).all()
    tiny = torch.tensor([0.0, 1e-14], dtype=torch.float64)
    assert not grpo_weights(tiny).any() and grpo_weights(tiny, reward_noise=0.0).all()


def test_parts_say_how_large_the_rounding_of_their_sum_may_be() -> None:
    """1e6 + 0.1 − 1e6 is 0.1 but for 1e-10, which is beyond the rounding of 0.1."""
    rewards = torch.tensor([(1e6 + 0.1) - 1e6, 0.1], dtype=torch.float64)
    parts = torch.tensor([[1e6, 0.1, -1e6], [0.0, 0.1, 0.0]], dtype=torch.float64)
    assert grpo_weights(rewards).any() and not grpo_weights(rewards, reward_parts=parts).any()


@pytest.mark.parametrize(
    ("success", "solved"),
    [
        (None, [False, False, True, True]),
        (0.5, [False, False, True, True]),
        (1.0, [False] * 3 + [True]),
    ],
)
def test_what_counts_as_a_success_can_be_set(success: float | None, solved: list[bool]) -> None:
    batch = make_batch([-1.0, 1e-17, 0.1 * 5, 1.0], success=success)
    assert batch.solved.tolist() == solved
    assert (
        upge.get("reinforce")(batch, torch.full((4, 1), -1.0)).weights.gt(0)[:, 0].tolist()
        == solved
    )


def test_graded_rewards_open_the_gate_from_the_threshold_on() -> None:
    fields: dict[str, Any] = {"old_logp": [[-1.0]] * 3, "demos": [0, 0, 1]}
    for success, open_to_rl in ((None, True), (0.5, False)):
        batch = make_batch([0.2, 0.4, 1.0], success=success, **fields)
        terms = upge.get("hpt")(batch, torch.full((3, 1), -1.0)).terms
        assert bool(terms[0].weights.any()) == open_to_rl
        assert bool(terms[1].weights.any()) != open_to_rl


def test_a_truncated_rollout_without_loss_is_still_of_its_group() -> None:
    """As TRL's mask_truncated_completions: Â = 1.5 and −0.5 of rewards 1, 0, 0, 0."""
    mask = [[1, 1], [0, 0], [0, 0], [1, 1]]
    fields: dict[str, Any] = {"mask": mask, "old_logp": [[-1.0, -1.0]] * 4, "max_length": 2}
    batch = make_batch([1.0, 0.0, 0.0, 0.0], member=torch.ones(4, dtype=torch.bool), **fields)
    advantage = upge.advantage.GroupZScore()(batch)[:, 0]  # type: ignore[attr-defined]
    close(advantage, torch.tensor([1.5, -0.5, -0.5, -0.5]))
    logp = torch.full((4, 2), -1.0, dtype=torch.float64)
    close(upge.get("grpo")(batch, logp).weights[0], 1.5 / 4 / 2)
    close(upge.get("dr_grpo")(batch, logp).weights[3], -0.25 / 4 / 2)
    assert upge.feedback.performance(batch).tolist() == [0.25] * 4  # type: ignore[attr-defined]


def test_k2_to_a_teacher_is_on_policy_distillation() -> None:
    batch = make_batch([0.0, 0.0], old_logp=[[-1.0], [-2.0]], teacher_logp=[[-0.5], [-4.0]])
    logp = torch.tensor([[-1.0], [-2.0]], dtype=torch.float64)
    estimator = compose(Term("online", CurrentPolicy(), KLGradient("k2", "teacher"), TokenSum()))
    close(estimator(batch, logp).weights, torch.tensor([[0.5], [-2.0]]))
