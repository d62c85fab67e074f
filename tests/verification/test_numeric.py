"""The numeric check sees every kind of token, and every option that is wrong on one side."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from upge import REGISTRY, Estimator, compose, get
from upge.algorithms import Algorithm, Value
from upge.batch import TrajectoryBatch
from upge.normalization import TokenSum
from upge.verification.numeric import (
    OLD_POLICY_NOISE,
    REWARDS,
    agreement,
    estimator_gradient,
    published_gradient,
    published_loss,
    random_case,
    verify_float64,
)

#: Those that the check takes unless told otherwise.
SEEDS: Sequence[int] = inspect.signature(verify_float64).parameters["seeds"].default


def current_logp(seed: int) -> Tensor:
    case = random_case(seed)
    log_pi = (case.hidden @ case.head.T).log_softmax(-1)
    return log_pi.gather(2, case.tokens[:, :, None]).squeeze(2).detach()


# ------------------------------------------------------------------------------ the random batches


@dataclass
class Tokens:
    """Of all rollout tokens of the batches: the ratio, and the sign of two advantages."""

    ratio: Tensor
    sequence_ratio: Tensor
    group: Tensor
    gae: Tensor


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    parts = []
    for seed in SEEDS:
        batch = random_case(seed).batch.at(current_logp(seed))
        online = batch.tokens_of("online")
        log_ratio = batch.token_log_ratio("the test")
        each = (
            log_ratio.exp(),
            batch.trajectory_mean(log_ratio).exp().expand_as(log_ratio),
            get("grpo").terms[0].advantage(batch).expand_as(log_ratio),
            get("ppo").terms[0].advantage(batch),
        )
        parts.append(torch.stack([x[online] for x in each]))
    return Tokens(*torch.cat(parts, 1))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["group", "gae"])
@pytest.mark.parametrize(
    ("level", "low", "high"),
    [
        ("ratio", 0.0, 0.8),  # below, inside and above the clip of PPO
        ("ratio", 0.8, 1.0),
        ("ratio", 1.0, 1.2),
        ("ratio", 1.2, 1.28),  # clipped by GRPO, not by DAPO
        ("ratio", 1.28, 3.0),
        ("ratio", 3.0, math.inf),  # beyond the dual clip
        ("ratio", 5.0, math.inf),  # beyond CISPO's bound
        ("sequence_ratio", 0.0, 1 - 3e-4),  # below, inside and above GSPO's clip
        ("sequence_ratio", 1 - 3e-4, 1.0),
        ("sequence_ratio", 1.0, 1 + 4e-4),
        ("sequence_ratio", 1 + 4e-4, math.inf),
    ],
)
def test_ratios_on_all_sides_of_the_clips_with_both_signs(
    tokens: Tokens, level: str, low: float, high: float, kind: str, sign: int
) -> None:
    ratio = getattr(tokens, level)
    assert ((low < ratio) & (ratio < high) & (getattr(tokens, kind) * sign > 0)).sum() >= 3


def test_batches_of_every_shape() -> None:
    kinds: dict[str, int] = {}

    def count(kind: str, holds: bool) -> None:
        kinds[kind] = kinds.get(kind, 0) + holds

    for seed in SEEDS:
        batch = random_case(seed).batch
        assert batch.tokens_of("online").any() and batch.tokens_of("offline").any()
        rollouts = batch.rows_of("online")
        lengths = batch.mask.sum(1)
        count("several questions", batch.num_questions > 1)
        count("ragged lengths", len(set(lengths.tolist())) > 1)
        count("prompts of several lengths", len(set(batch.mask.int().argmax(1).tolist())) > 1)
        count("room above the longest", (batch.max_length or 0) > batch.mask.shape[1])
        for question in range(batch.num_questions):
            own = batch.question == question
            rewards = batch.reward[own & rollouts]
            demonstrations = int((own & ~rollouts).sum())
            count("a lone rollout", len(rewards) == 1)
            count("no demonstration", demonstrations == 0)
            count("two demonstrations", demonstrations == 2)
            equal = len(rewards) > 1 and len(set(rewards.tolist())) == 1
            count("all solved", equal and bool((rewards > 0).all()))
            count("none solved", equal and bool((rewards <= 0).all()))
            count("different rewards", len(set(rewards.tolist())) > 1)
    assert min(kinds.values()) >= 3, kinds


def test_a_random_case_is_repeatable_and_touches_nothing() -> None:
    before = torch.random.get_rng_state()
    one, same, other = random_case(7), random_case(7), random_case(8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.tokens, same.tokens) and torch.equal(one.hidden, same.hidden)
    assert not torch.equal(one.head, other.head)
    assert one.hidden.dtype == torch.float64


# ------------------------------------------------------------------- options, on both sides or one


def another(value: Value) -> Value:
    assert not isinstance(value, str)
    return value / 2 or 0.5


def error_on_one_side(entry: Algorithm, estimator: Estimator, wanted: float) -> float:
    """The largest error of the estimator against the published loss at its defaults.

    Stops at the first batch whose error is at least the one wanted.
    """
    worst = 0.0
    for seed in SEEDS:
        case = random_case(seed)
        ours, theirs = estimator_gradient(estimator, case), published_gradient(entry, case)
        worst = max(worst, agreement(ours, theirs).error)
        if worst >= wanted:
            break
    return worst


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, entry in REGISTRY.items() for option in entry.options],
)
def test_an_option_changed_on_one_side_shows(name: str, option: str) -> None:
    entry = REGISTRY[name]
    changed = entry(**{option: another(entry.options[option].default)})
    assert error_on_one_side(entry, changed, 1e-3) >= 1e-3


@pytest.mark.parametrize("name", REGISTRY)
def test_another_normaliser_shows(name: str) -> None:
    entry = REGISTRY[name]
    assert not any(type(term.normalizer) is TokenSum for term in entry.terms)
    assert error_on_one_side(entry, get(name, normalizer="token_sum"), 1e-3) >= 1e-3


@pytest.mark.parametrize("name", [name for name, e in REGISTRY.items() if len(e.terms) > 1])
def test_each_term_that_is_left_out_shows(name: str) -> None:
    entry = REGISTRY[name]
    for i in range(len(entry.terms)):
        rest = compose(*(term for j, term in enumerate(entry.terms) if j != i))
        assert error_on_one_side(entry, rest, 1e-3) >= 1e-3, f"term {i + 1}"


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.options])
def test_other_options_agree_too(name: str) -> None:
    entry = REGISTRY[name]
    changed = {option: another(given.default) for option, given in entry.options.items()}
    seeds = range(len(REWARDS) * len(OLD_POLICY_NOISE))
    result = verify_float64(entry, seeds=seeds, **changed)
    assert result.error <= 1e-10 and result.nonzero >= len(seeds) / 4


# ------------------------------------------------------------------------------------ its measures


def test_agreement_of_vectors_by_hand() -> None:
    def of(a: list[float], b: list[float]) -> tuple[float, float]:
        # Over all tensors together, each of which may have its own shape.
        result = agreement(
            (torch.tensor(a[:1]), torch.tensor([a[1:]])),
            (torch.tensor(b[:1]), torch.tensor([b[1:]])),
        )
        return result.error, result.cosine

    assert of([3, 4, 0], [3, 4, 0]) == pytest.approx((0, 1))
    assert of([6, 8, 0], [3, 4, 0]) == pytest.approx((1, 1))
    assert of([-3, -4, 0], [3, 4, 0]) == pytest.approx((2, -1))
    assert of([3, 0, 0], [3, 4, 0]) == pytest.approx((4 / 5, 3 / 5))
    assert of([0, 0, 0], [3, 4, 0]) == (1, 0)
    assert of([0, 0, 0], [0, 0, 0]) == (0, 1)
    assert of([1e-9, 0, 0], [0, 0, 0]) == (math.inf, 0)


def test_agreement_counts_in_double_precision() -> None:
    ones = torch.ones(1000)
    assert agreement((ones * 1e-30,), (ones * 1e-30,)).cosine == pytest.approx(1, abs=1e-12)
    assert agreement((ones * (1 + 1e-6),), (ones,)).error == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_agreement_without_numbers(bad: float) -> None:
    good = torch.tensor([1.0, 2.0])
    for a, b in (([bad, 2.0], good), (good, [bad, 2.0]), ([bad, 0.0], torch.zeros(2))):
        assert not agreement((torch.as_tensor(a),), (torch.as_tensor(b),)).error <= 1e-4


def test_gradients_need_as_many_tensors() -> None:
    with pytest.raises(ValueError):
        agreement((torch.ones(1),), (torch.ones(1), torch.ones(1)))


def test_the_published_loss_of_an_empty_batch_is_0() -> None:
    batch = TrajectoryBatch(
        mask=torch.zeros(2, 3, dtype=torch.bool),
        reward=torch.zeros(2),
        group=torch.tensor([0, 1]),
        offline=torch.tensor([False, True]),
    )
    for entry in REGISTRY.values():
        logp = torch.full((2, 3), math.nan, requires_grad=True)
        loss = published_loss(entry, batch, logp)
        loss.backward()
        assert loss.item() == 0 and logp.grad is not None and not logp.grad.any()
