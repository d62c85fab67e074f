"""Terms, their sums and their plans: by hand, as identities between methods, and in training."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, estimate, make_batch, weights
from torch import Tensor

from upge import Estimator, Term, TrajectoryBatch, UpgeError, compose, get, token_likelihood
from upge.advantage import GAE, BatchZScore, GroupCentered, GroupZScore, LeaveOneOut, One
from upge.estimator import EntropyWeight
from upge.feedback import Gate, Linear, Switch
from upge.normalization import (
    FixedLength,
    QuestionMean,
    SequenceMean,
    TokenMean,
    TokenSum,
    TrajectoryMean,
)
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy
from upge.stabilization import Clip, Correction, SigmoidGate, WeightClip

#: REINFORCE with an advantage and a normaliser to be named, and the same over π_θold.
score = partial(Term, "online", CurrentPolicy())
importance = partial(Term, "online", RolloutPolicy())
demos = partial(Term, "offline", CurrentPolicy(), One())
SFT = demos(TokenMean())


# ---------------------------------------------------------------------------------------- by hand


def three_rows() -> tuple[TrajectoryBatch, Tensor]:
    """Rollouts of reward 1 (ratios 2 and 1) and 0 (ratio ½), and a demonstration (π = ½, ⅕)."""
    b = make_batch(
        [1.0, 0.0, 1.0],
        demos=[0, 0, 1],
        mask=[[1, 1], [1, 0], [1, 1]],
        old_logp=[[math.log(1 / 4)] * 2] * 3,
    )
    logp = torch.tensor([[1 / 2, 1 / 4], [1 / 8, 1.0], [1 / 2, 1 / 5]], dtype=torch.float64).log()
    return b, logp


def test_by_hand() -> None:
    b, logp = three_rows()
    estimator = compose(
        importance(GroupCentered(), TokenMean(), Clip(0.6, 0.5), coefficient=2.0),
        demos(SequenceMean(), coefficient=3.0),
    )
    got = estimator(b, logp.requires_grad_())
    # Â = ±½ over 3 tokens, times 2: the ratio 2 is clipped; 1 · ½ · 2/3 = ⅓; ½ · (−½) · 2/3 = −⅙.
    # The demonstration's 2 tokens get 3/2 each.
    expected = [[0, 1 / 3], [-1 / 6, 0], [3 / 2, 3 / 2]]
    close(got.weights, torch.tensor(expected, dtype=torch.float64))
    loss = -(math.log(1 / 4) / 3 - math.log(1 / 8) / 6 + 1.5 * math.log(1 / 2 * 1 / 5))
    close(got.loss, loss)
    assert got.metrics == pytest.approx(
        {
            "term0/mass": 1 / 2,
            "term0/clip_fraction": 1 / 3,
            "term0/effective_sample_size": (2 + 1 + 0.5) ** 2 / (4 + 1 + 0.25) / 3,
            "term1/mass": 3,
            "term1/clip_fraction": 0,
            "term1/effective_sample_size": 1,
            "offline_ratio": 1 / 3,
        }
    )


def test_a_gate_by_hand() -> None:
    b, logp = three_rows()  # P = ½
    for feedback, alpha in ((Linear(), 0.5), (Switch(0.5), 0.0), (Switch(0.25), 1.0)):
        rl = score(GroupCentered(), TokenMean(), gate=Gate(feedback, "rl"))
        sft = demos(TokenMean(), gate=Gate(feedback, "sft"))
        got = compose(rl, sft)(b, logp).weights
        expected = [[alpha / 6] * 2, [-alpha / 6, 0], [(1 - alpha) / 2] * 2]
        close(got, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        # Mean entropies: rollouts (1 + 3)/2 = 2 and 8, all of their tokens 4; demonstration 1.
        (EntropyWeight(1), [math.exp(2), math.exp(8)]),
        (EntropyWeight(-1), [math.exp(-2), math.exp(-8)]),
        (EntropyWeight(1, "batch"), [math.exp(4)] * 2),
        (EntropyWeight(-1, "batch"), [math.exp(-4)] * 2),
    ],
)
def test_entropy_weights_by_hand(weight: EntropyWeight, expected: list[float]) -> None:
    b, logp = three_rows()
    entropy = torch.tensor([[1.0, 3.0], [8.0, torch.nan], [1.0, 1.0]], dtype=torch.float64)
    got = compose(score(One(), TokenSum(), entropy_weight=weight))(b, logp, entropy)
    e = expected
    close(got.weights, torch.tensor([[e[0], e[0]], [e[1], 0], [0, 0]], dtype=torch.float64))


# ------------------------------------------------------------------------------------- identities

ON_POLICY: dict[str, tuple[Estimator, Estimator]] = {
    "PPO is REINFORCE with GAE": (get("ppo"), compose(score(GAE(1.0, 0.95), QuestionMean()))),
    "GRPO is REINFORCE with z-scores": (get("grpo"), compose(score(GroupZScore(), QuestionMean()))),
    "Dr. GRPO is REINFORCE with centred rewards": (
        get("dr_grpo"),
        compose(score(GroupCentered(), FixedLength())),
    ),
    "REINFORCE++ is REINFORCE with batch z-scores": (
        get("reinforce_plus_plus"),
        compose(score(BatchZScore(), TokenMean())),
    ),
    "dual clip is PPO": (get("ppo_dual_clip"), get("ppo")),
    "GSPO is GRPO": (get("gspo"), get("grpo")),
    "GMPO is GRPO": (get("gmpo"), get("grpo")),
    "SAPO is GRPO": (get("sapo"), get("grpo")),
    "TIS is GRPO": (get("tis"), get("grpo")),
    "CISPO is DAPO": (get("cispo"), get("dapo")),
    "GSPO over tokens is DAPO": (get("gspo", normalizer="token_mean"), get("dapo")),
}

ALWAYS: dict[str, tuple[Estimator, Estimator]] = {
    "GSPO-token is GSPO": (get("gspo_token"), get("gspo")),
    "TIS without a cap is unclipped": (
        get("tis", cap=1e30),
        compose(importance(GroupZScore(), QuestionMean())),
    ),
    "GRPO with a huge clip is unclipped": (get("grpo", clip=1e30), get("tis", cap=1e30)),
    "CISPO with huge bounds is unclipped": (
        get("cispo", ratio_max=1e30),
        compose(importance(GroupZScore(), TokenMean())),
    ),
    "CISPO with bounds 1 is REINFORCE": (
        get("cispo", ratio_min=1.0, ratio_max=1.0),
        compose(score(GroupZScore(), TokenMean())),
    ),
    "a huge dual clip is PPO's clip": (get("ppo_dual_clip", dual_clip=1e30), get("ppo")),
    "DAPO with a symmetric clip is GRPO over tokens": (
        get("dapo", clip_high=0.2),
        get("grpo", normalizer="token_mean"),
    ),
    "RLOO is REINFORCE with others' mean": (
        get("rloo"),
        compose(score(LeaveOneOut(), TrajectoryMean())),
    ),
    "DFT is SFT over π_ref = 1": (get("dft"), compose(replace(SFT, reference=ConstantOne()))),
    "SFT + RL without SFT is GRPO": (get("sft_rl", sft_coefficient=0), get("grpo")),
    "CHORD without demonstrations is GRPO": (get("chord", mu=0), get("grpo")),
    "HPT at γ = 1 is SFT": (
        get("hpt", gamma=1),
        compose(demos(QuestionMean("batch"))),
    ),
}


@pytest.mark.parametrize("identity", ON_POLICY)
@given(case=cases(on_policy=True, rewards=(-1.0, 0.0, 1.0)))
def test_on_policy(identity: str, case: Case) -> None:
    one, other = ON_POLICY[identity]
    close(weights(one, case), weights(other, case))


@pytest.mark.parametrize("identity", ALWAYS)
@given(case=cases(every_question_has_both=True, rewards=(-1.0, 0.0, 1.0), spread=1.5))
def test_always(identity: str, case: Case) -> None:
    one, other = ALWAYS[identity]
    close(weights(one, case), weights(other, case))


@given(cases(rewards=(-1.0, 0.0, 1.0), spread=1.5))
def test_dual_clip_is_clip_where_no_ratio_exceeds_it(case: Case) -> None:
    b = case.batch.at(case.logp)
    largest = b.token_log_ratio("a test").exp()[b.tokens_of("online")].max().item()
    dual = get("ppo_dual_clip", dual_clip=max(largest, 1.2))
    assert torch.equal(weights(dual, case), weights(get("ppo"), case))


@given(cases())
def test_dft_weighs_a_token_by_its_probability(case: Case) -> None:
    demo = case.batch.tokens_of("offline")
    logp = case.logp.clone().requires_grad_()
    (-(logp[demo].exp().detach() * logp[demo]).mean()).backward()
    assert logp.grad is not None
    close(weights(get("dft"), case), -logp.grad)


@given(cases(), st.floats(0, 1))
def test_chord_shares_its_weight_between_grpo_and_uncertain_tokens(case: Case, mu: float) -> None:
    demo, pi = case.batch.tokens_of("offline"), case.logp.exp()
    uncertain = torch.where(demo, pi * (1 - pi), 0.0) / demo.sum()
    expected = (1 - mu) * weights(get("grpo"), case) + mu * uncertain
    close(weights(get("chord", mu=mu), case), expected)


@given(cases(rewards=(0.0, 1.0, 3.0)))
def test_luffy_is_one_union_of_rollouts_and_demonstrations(case: Case) -> None:
    b, z = case.batch, GroupZScore("all")(case.batch)
    assert b.old_logp is not None
    pi = case.logp.exp()
    shaped = 0.1 / (pi + 0.1) ** 2 * pi
    weight = torch.where(b.tokens_of("online"), (case.logp - b.old_logp).exp(), shaped) * z
    close(weights(get("luffy"), case)[b.mask], (weight / b.mask.sum())[b.mask])


# ------------------------------------------------------------------------------------ composition


@given(case=cases(spread=1.0), a=st.floats(0, 3), b=st.floats(0, 3))
def test_a_sum_of_terms_is_the_sum_of_its_parts(case: Case, a: float, b: float) -> None:
    terms = (
        importance(GroupZScore(), QuestionMean(), WeightClip(0.5, 2.0)),
        score(One(), TrajectoryMean()),
        demos(TokenMean("batch")),
    )
    parts = [estimate(compose(term), case) for term in terms]
    mixed = compose(terms[0], replace(terms[1], coefficient=a), replace(terms[2], coefficient=b))
    whole = estimate(mixed, case)
    close(whole.weights, parts[0].weights + a * parts[1].weights + b * parts[2].weights)
    close(whole.loss, parts[0].loss + a * parts[1].loss + b * parts[2].loss)


@given(cases())
def test_a_term_over_all_samples_is_its_two_halves(case: Case) -> None:
    everything = Term("all", CurrentPolicy(), GroupZScore("all"), TokenMean("batch"))
    halves = [replace(everything, samples=samples) for samples in ("online", "offline")]
    close(weights(compose(everything), case), weights(compose(*halves), case))


def test_the_normaliser_and_the_feedback_can_be_replaced() -> None:
    for term in get("hpt").with_normalizer("token_sum").terms:
        assert term.normalizer == TokenSum("batch"), "what is counted stays"
    for term in get("hpt").with_feedback(Linear()).terms:
        assert term.gate is not None and term.gate.feedback == Linear()
    with pytest.raises(UpgeError, match="sft has no gated term"):
        get("sft").with_feedback(Linear())


def test_the_batchs_entropy_must_be_known_before_it_is_split() -> None:
    b, _ = three_rows()
    plan = compose(score(One(), TokenSum(), entropy_weight=EntropyWeight(1, "batch"))).plan(b)
    with pytest.raises(UpgeError, match="set the batch's entropy before planning"):
        plan.select(torch.tensor([0]))


DEMOS: Any = {"samples": "offline", "advantage": One(), "normalizer": TokenMean()}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: compose(), "custom: got no terms, wanted at least one"),
        (lambda: Estimator((), "mine"), "mine: got no terms, wanted at least one"),
        (lambda: replace(SFT, samples="ofline"), "samples: got 'ofline', wanted 'online'"),
        (lambda: replace(SFT, coefficient=-0.5), "coefficient: got -0.5, wanted a finite number"),
        (lambda: replace(SFT, coefficient=math.nan), "coefficient: got nan, wanted"),
        (lambda: replace(SFT, coefficient=math.inf), "coefficient: got inf, wanted"),
        (lambda: replace(SFT, samples="all", reference=RolloutPolicy()), "no one π_θold"),
        (lambda: replace(SFT, samples="all", stabilization=SigmoidGate(1, 1)), "and no clip"),
        (lambda: replace(SFT, corrections=(Correction(),)), "a sampler's correction"),
    ],
)
def test_a_bad_term_is_named(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        build()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("term", "kind", "remedy"),
    [(SFT, "offline", "add demonstrations"), (score(One(), TokenMean()), "online", "add rollouts")],
)
def test_samples_that_are_missing_are_named(term: Term, kind: str, remedy: str) -> None:
    b, logp = three_rows()
    rows = b.rows_of("online" if kind == "offline" else "offline")
    message = f"mine has an {kind} term, but the batch has no {kind} samples; {remedy}"
    with pytest.raises(UpgeError, match=message):
        compose(term, name="mine")(b.select(rows), logp[rows])


# --------------------------------------------------------------------------------------- training


def test_gradients_of_a_model_add_up_over_micro_batches() -> None:
    """The same step from hidden states: whole, and row by row with the rows that are needed."""
    gen = torch.Generator().manual_seed(0)
    b, _ = three_rows()
    b = replace(b, old_logp=torch.full((3, 2), -1.5))
    hidden = torch.randn(3, 2, 4, generator=gen, dtype=torch.float64)
    tokens = torch.randint(5, (3, 2), generator=gen)
    estimator = get("hpt", gamma=0.25)  # P = ½: the demonstration is not needed

    def gradient(rows: list[Tensor]) -> Tensor:
        head = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4).requires_grad_()
        plan = estimator.plan(b)
        for chosen in rows:
            likelihood = token_likelihood(hidden[chosen], head, tokens[chosen], chunk=2)
            plan.select(chosen).estimate(*likelihood).loss.backward()
        assert head.grad is not None
        return head.grad

    needed = estimator.plan(b).nonzero_rows()
    assert needed.tolist() == [True, True, False]
    whole = gradient([torch.arange(3)])
    assert whole.abs().sum() > 0
    close(gradient([torch.tensor([i]) for i in range(3)]), whole)
    close(gradient([needed]), whole)


def bandit(
    estimator: Estimator, prior: Tensor, steps: int, best: int, seed: int = 0
) -> list[float]:
    """The best arm's probability after each step: 8 pulls and a demonstration of it."""
    logits = prior.clone().requires_grad_()
    gen = torch.Generator().manual_seed(seed)
    success = []
    for _ in range(steps):
        log_pi = logits.log_softmax(0)
        success.append(log_pi[best].exp().item())
        arms = torch.multinomial(log_pi.detach().exp(), 8, replacement=True, generator=gen)
        arms = torch.cat([arms, torch.tensor([best])])
        batch = make_batch((arms == best).double().tolist(), demos=[0] * 8 + [1])
        (gradient,) = torch.autograd.grad(estimator(batch, log_pi[arms, None]).loss, logits)
        logits = (logits - 2.0 * gradient).detach().requires_grad_()
    return success


def test_an_estimator_of_ones_own_learns_a_bandit() -> None:
    rule = Term(
        samples="online",
        reference=CurrentPolicy(),
        advantage=LeaveOneOut(),
        normalizer=SequenceMean(),
    )
    success = bandit(compose(rule, name="mine"), torch.zeros(5).double(), steps=60, best=3)
    assert success[0] == pytest.approx(0.2) and success[-1] > 0.95
    assert all(after >= before - 0.05 for before, after in pairwise(success))


def test_demonstrations_help_where_rollouts_never_succeed() -> None:
    prior = torch.zeros(5).double()
    prior[3] = -12.0
    rl = score(GroupCentered(), TrajectoryMean())
    switch = Switch(0.0)
    alone = compose(rl)
    mixed = compose(
        replace(rl, gate=Gate(switch, "rl")), demos(TrajectoryMean(), gate=Gate(switch, "sft"))
    )
    assert bandit(alone, prior, steps=30, best=3)[-1] < 1e-4
    assert bandit(mixed, prior, steps=30, best=3)[-1] > 0.95
