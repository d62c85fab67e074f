"""Component 3: every advantage by hand, against naive code, and what it must not depend on."""

from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, make_batch

from upge import TrajectoryBatch, UpgeError
from upge.advantage import (
    GAE,
    Advantage,
    BatchZScore,
    GroupCentered,
    GroupZScore,
    LeaveOneOut,
    One,
    Reward,
    Signed,
)

ROOT_HALF = 0.5**0.5

#: Rules over the rewards of a set, which adding a constant to all rewards doesn't change.
CENTRED = [
    GroupZScore(),
    GroupZScore("all"),
    GroupCentered(),
    GroupCentered("all"),
    GroupCentered("offline"),
    LeaveOneOut(),
    BatchZScore(),
]
BY_LABEL = {"argvalues": CENTRED, "ids": lambda rule: rule.label}


def read_by(rule: Advantage, batch: TrajectoryBatch) -> torch.Tensor:
    """(N,) bool: the rows that the rule centres over."""
    return batch.rows_of(getattr(rule, "over", "online"))


# Question 0: rollouts of reward 1, 0, 0, 1 and a demonstration of reward 3; question 1: a rollout.
# Lengths are 2, 1, 1, 2, 1 and 1, and a padding row of question 0 follows.
REWARD = [1.0, 0.0, 0.0, 1.0, 3.0, 1.0, 9.0]


def two_questions() -> TrajectoryBatch:
    return make_batch(
        REWARD,
        group=[0, 0, 0, 0, 0, 1, 0],
        demos=[0, 0, 0, 0, 1, 0, 0],
        mask=[[1, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1], [0, 0]],
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (One(), [1, 1, 1, 1, 1, 1]),
        (Reward(), [1, 0, 0, 1, 3, 1]),
        (Signed(), [1, -1, -1, 1, 1, 1]),
        (Signed(0.5, -2.0), [0.5, -2, -2, 0.5, 0.5, 0.5]),
        # Over the rollouts: mean 1/2, squares 4 · 1/4 = 1, std (1/3)^½, so ±½ √3. Alone: 0.
        (GroupZScore(), [0.75**0.5, -(0.75**0.5), -(0.75**0.5), 0.75**0.5, 2.5 * 3**0.5, 0]),
        # Over the union 1, 0, 0, 1, 3: mean 1, squares 0 + 1 + 1 + 0 + 4 = 6, std (6/4)^½ = √1.5.
        (GroupZScore("all"), [0, -(1.5**-0.5), -(1.5**-0.5), 0, 2 * 1.5**-0.5, 0]),
        (GroupCentered(), [0.5, -0.5, -0.5, 0.5, 2.5, 0]),
        (GroupCentered("all"), [0, -1, -1, 0, 2, 0]),
        # The others' mean is 1/3 for a solved rollout, 2/3 for a failed one, 1/2 for none of them.
        (LeaveOneOut(), [2 / 3, -2 / 3, -2 / 3, 2 / 3, 2.5, 0]),
        # Tokens of rollouts bear 1, 1, 0, 0, 1, 1, 1: mean 5/7, squares 5 · 4/49 + 2 · 25/49
        # = 70/49, std (70/49/6)^½ = (5/21)^½: Â is 2/7, −5/7 and 16/7 over it.
        (BatchZScore(), [x / 7 / (5 / 21) ** 0.5 for x in (2, -5, -5, 2, 16, 2)]),
    ],
    ids=lambda x: x.label if isinstance(x, Advantage) else "",
)  # fmt: skip
def test_by_hand(rule: Advantage, expected: list[float]) -> None:
    got = rule(two_questions()).squeeze(1)
    assert got.dtype == torch.float64
    close(got[:-1], torch.tensor(expected, dtype=torch.float64))  # what padding gets is free


def test_a_lone_reward_may_be_kept() -> None:
    kept = GroupCentered(keep_singletons=True)(two_questions()).squeeze(1)
    # Question 1 has one rollout, whose reward 1 is not centred; question 0 is as before.
    close(kept[[0, 1, 5]], torch.tensor([0.5, -0.5, 1.0]).double())


def test_gae_by_hand() -> None:
    # γ = λ = 1/2, V = 1, 2, 4, reward 8 at the last token.
    # δ_2 = 8 − 4 = 4; δ_1 = ½ · 4 − 2 = 0; δ_0 = ½ · 2 − 1 = 0.
    # Â_2 = 4; Â_1 = 0 + ¼ · 4 = 1; Â_0 = 0 + ¼ · 1 = ¼.
    b = make_batch([8.0], width=3, values=[[1.0, 2.0, 4.0]])
    close(GAE(0.5, 0.5)(b), torch.tensor([[0.25, 1.0, 4.0]]).double())
    # The same with a gap, and a demonstration's token before and padding after it.
    b = make_batch([8.0], mask=[[1, 1, 0, 1, 1, 0]], values=[[9.0, 1.0, 9.0, 2.0, 4.0, 9.0]])
    b = replace(b, offline=torch.tensor([[1, 0, 0, 0, 0, 0]]))
    close(GAE(0.5, 0.5)(b)[0, [1, 3, 4]], torch.tensor([0.25, 1.0, 4.0]).double())


def recursive_gae(
    reward: float, values: list[float], gamma: float, gae_lambda: float
) -> list[float]:
    """Â_t = δ_t + γλ Â_{t+1}, from the last token on."""
    ahead, out = 0.0, []
    for t in range(len(values) - 1, -1, -1):
        last = t == len(values) - 1
        delta = reward - values[t] if last else gamma * values[t + 1] - values[t]
        ahead = delta + gamma * gae_lambda * ahead
        out.append(ahead)
    return out[::-1]


def matrix_gae(reward: float, values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Â = M δ with M_ts = (γλ)^(s − t) for s ≥ t."""
    n = len(values)
    v = torch.tensor([*values, 0.0], dtype=torch.float64)
    r = torch.tensor([0.0] * (n - 1) + [reward], dtype=torch.float64)
    powers = [
        [(gamma * gae_lambda) ** (s - t) if s >= t else 0.0 for s in range(n)] for t in range(n)
    ]
    m = torch.tensor(powers, dtype=torch.float64)
    return (m @ (r + gamma * v[1:] - v[:-1])).tolist()


def reward_to_go(
    reward: float, values: list[float], gamma: float, gae_lambda: float
) -> list[float]:
    """λ = 1: the discounted reward to go, less V."""
    n = len(values)
    return [gamma ** (n - 1 - t) * reward - values[t] for t in range(n)]


def td_error(reward: float, values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """λ = 0: r_t + γ V_{t+1} − V_t."""
    following = [gamma * v for v in values[1:]] + [reward]
    return [after - v for after, v in zip(following, values, strict=True)]


@pytest.mark.parametrize(
    ("naive", "lams"),
    [
        (recursive_gae, st.floats(0, 1)),
        (matrix_gae, st.floats(0, 1)),
        (reward_to_go, st.just(1.0)),
        (td_error, st.just(0.0)),
    ],
)
@given(case=cases(rewards=(-1.0, 0.0, 0.5, 2.0)), gamma=st.floats(0, 1), data=st.data())
def test_gae_is_its_definition_row_by_row(
    naive: Callable[..., list[float]],
    lams: st.SearchStrategy[float],
    case: Case,
    gamma: float,
    data: st.DataObject,
) -> None:
    gae_lambda, b = data.draw(lams), case.batch
    ours = GAE(gamma, gae_lambda)(b)
    for i, tokens in enumerate(b.tokens_of("online")):
        if tokens.any():
            values = b.require("values", "a test")[i, tokens].tolist()
            expected = naive(b.reward[i].item(), values, gamma, gae_lambda)
            close(ours[i, tokens], torch.tensor(expected, dtype=torch.float64))


def naive_group(rule: Advantage, rewards: list[float], own: int | None, reward: float) -> float:
    """The rule for one reward, which stands at index ``own`` of its set, or outside of it."""
    if isinstance(rule, LeaveOneOut):
        others = [r for j, r in enumerate(rewards) if j != own]
        return reward - mean(others) if others else 0.0
    centred = reward - mean(rewards)
    if isinstance(rule, GroupCentered):
        return centred
    if len(set(rewards)) < 2:
        return 0.0
    return centred / (sum((r - mean(rewards)) ** 2 for r in rewards) / (len(rewards) - 1)) ** 0.5


@pytest.mark.parametrize("rule", CENTRED[:-1], ids=lambda rule: rule.label)
@given(case=cases(rewards=(-1.0, 0.0, 0.5, 2.0)))
def test_group_rules_are_their_definition_row_by_row(rule: Advantage, case: Case) -> None:
    b = case.batch
    ours, members = rule(b).squeeze(1), read_by(rule, b)
    for i in b.rows_of("all").nonzero().squeeze(1).tolist():
        rows = (members & (b.group == b.group[i])).nonzero().squeeze(1).tolist()
        if rows:
            own = rows.index(i) if i in rows else None
            close(ours[i], naive_group(rule, b.reward[rows].tolist(), own, b.reward[i].item()))


@given(case=cases(rewards=(-1.0, 0.0, 0.5, 2.0)))
def test_batch_z_scores_have_mean_zero_and_variance_one_over_tokens(case: Case) -> None:
    online = case.batch.tokens_of("online")
    z = BatchZScore()(case.batch).expand_as(case.logp)[online]
    rewards = case.batch.reward[:, None].expand_as(case.logp)[online]
    if len(rewards.unique()) > 1:
        close(z.mean(), 0.0)
        close(z.var(), 1.0)
        assert torch.equal(z.argsort(stable=True), rewards.argsort(stable=True))
    else:
        assert (z == 0).all()


@pytest.mark.parametrize("rule", **BY_LABEL)
@given(case=cases(rewards=(0.0, 0.25, 1.0)), shift=st.sampled_from([-8.0, -0.3, 1e-3, 7.0]))
def test_a_constant_added_to_all_rewards_changes_nothing(
    rule: Advantage, case: Case, shift: float
) -> None:
    rows = read_by(rule, case.batch)
    shifted = case.with_batch(reward=case.batch.reward + shift)
    close(rule(shifted.batch)[rows], rule(case.batch)[rows])


@pytest.mark.parametrize("rule", **BY_LABEL)
@given(case=cases(rewards=(0.0, 0.25, 1.0)), scale=st.sampled_from([1e-3, 0.7, 5.0, 1e4]))
def test_scaling_the_rewards_scales_all_but_z_scores(
    rule: Advantage, case: Case, scale: float
) -> None:
    rows = read_by(rule, case.batch)
    scaled = rule(case.with_batch(reward=case.batch.reward * scale).batch)
    factor = 1.0 if isinstance(rule, GroupZScore | BatchZScore) else scale
    close(scaled[rows] / factor, rule(case.batch)[rows])


@pytest.mark.parametrize("rule", **BY_LABEL)
@given(case=cases(), reward=st.sampled_from([0.0, 0.1, -0.3, 1.0, 1e6 + 0.1]))
def test_equal_rewards_give_exactly_zero(rule: Advantage, case: Case, reward: float) -> None:
    equal = case.with_batch(reward=torch.full_like(case.batch.reward, reward))
    assert (rule(equal.batch)[read_by(rule, equal.batch)] == 0).all()


@pytest.mark.parametrize("rule", **BY_LABEL)
@given(case=cases(rewards=(-1.0, 0.0, 0.5, 2.0)))
def test_rows_not_centred_over_do_not_matter(rule: Advantage, case: Case) -> None:
    rows = read_by(rule, case.batch)
    other = case.with_batch(reward=torch.where(rows, case.batch.reward, 77.0))
    close(rule(other.batch)[rows], rule(case.batch)[rows])


@given(case=cases(rewards=(-1.0, 0.0, 0.5, 2.0)))
def test_relations(case: Case) -> None:
    b = case.batch
    rows = b.rows_of("online")
    centred, others = GroupCentered()(b).squeeze(1), LeaveOneOut()(b).squeeze(1)
    size = b.per_question(rows.double())[b.question]
    close(others[rows], (centred * size / (size - 1).clamp(min=1))[rows])
    close(b.per_question(torch.where(rows, centred, 0.0)), 0.0)
    close(b.per_question(torch.where(rows, GroupZScore()(b).squeeze(1), 0.0)), 0.0)


@given(case=cases(), on=st.booleans())
def test_an_advantage_knows_nothing_of_the_current_policy(case: Case, on: bool) -> None:
    for rule in (*CENTRED, One(), Reward(), Signed(), GAE(0.9, 0.8)):
        assert torch.equal(rule(case.batch), rule(case.batch.at(case.logp, case.entropy)))


def test_two_rewards_that_differ_a_little_are_not_equal() -> None:
    # (R − mean)/std of any two different rewards is ±√½.
    b = make_batch([1.0, 1.0 + 1e-6])
    for rule in (GroupZScore(), BatchZScore()):
        assert rule(b).squeeze(1).tolist() == pytest.approx([-ROOT_HALF, ROOT_HALF])


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: GAE(1.1, 0.9), "GAE.gamma: got 1.1, wanted a number from 0 to 1"),
        (lambda: GAE(0.9, -0.1), "GAE.gae_lambda: got -0.1, wanted a number from 0 to 1"),
        (lambda: GAE(float("nan"), 1.0), "GAE.gamma: got nan"),
        (lambda: GroupZScore("onlin"), "'onlin'; did you mean 'online'?"),  # type: ignore[arg-type]
        (lambda: GroupCentered("none"), "GroupCentered.over"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_option_is_named(build: Callable[[], Advantage], name: str) -> None:
    with pytest.raises(UpgeError) as error:
        build()
    assert name in str(error.value)
