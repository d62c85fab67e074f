"""Exact moments against every group written out, against identities, and against sampling."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from strategies import close
from torch import Tensor
from typer.testing import CliRunner

from upge import REGISTRY, Estimator, Term, TrajectoryBatch, UpgeError, compose, get
from upge.advantage import Advantage, BatchZScore, GroupCentered, One
from upge.cli.moments import moments as command
from upge.estimator import EntropyWeight
from upge.exact import compositions
from upge.exact import moments as package
from upge.exact.compositions import Classes, conditional
from upge.exact.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree
from upge.exact.instance import Setting
from upge.exact.moments import exact, moments, monte_carlo, prepared
from upge.exact.objective import Objective
from upge.normalization import (
    NORMALIZERS,
    Counted,
    Normalizer,
    SequenceMean,
    TokenMean,
    TrajectoryMean,
)
from upge.reference import CurrentPolicy, RolloutPolicy

#: Trajectories 1, 01, 000, 001 (eos 1), and 1, 01, 00.
DEEP, SHALLOW = Tree(2, 1, 3), Tree(2, 1, 2)
ON_ROLLOUTS = [
    name for name in REGISTRY if all(t.samples == "online" for t in REGISTRY[name].terms)
]

#: A clip of sequence ratios that some of ours are within and some are not.
WIDE: dict[str, Any] = {"clip_low": 0.1, "clip_high": 0.1}


def near(tree: Tree, policy: Policy, scale: float, question: int = 0) -> TabularPolicy:
    """A tabular policy ``scale`` away from another's question."""
    noise = torch.randn(tree.prefixes, tree.vocab, generator=torch.Generator().manual_seed(5))
    return TabularPolicy(tree, policy.log_probs(question) + scale * noise.double())


def setting(
    tree: Tree = DEEP,
    *,
    rewards: Sequence[float] = (1.0, 0.0, 0.0, 1.0),
    network: bool = False,
    on_policy: bool = False,
    demos: int = 1,
    mu: float = 0.5,
    size: int = 2,
    **options: Any,
) -> Setting:
    policy = NetworkPolicy(tree, 2, seed=3) if network else TabularPolicy.random(tree, 0, scale=0.8)
    cycle = [rewards[i % len(rewards)] for i in range(tree.trajectories)]
    reward = torch.tensor(cycle, dtype=torch.float64)
    demo = TabularPolicy.random(tree, 2)
    old = None if on_policy else near(tree, policy, 0.3)
    return Setting(policy, Objective(reward, mu, demo), size, old, demos, **options)


# --------------------------------------------------------------------- every group, written out


@dataclass
class Trajectory:
    row: int
    probability: float
    gradient: Tensor  # (H, D), autograd's


def trajectories(s: Setting, policy: Policy) -> list[Trajectory]:
    """All trajectories with their probability under ``policy`` and the current policy's ∇log π."""
    theta = s.policy.theta.clone().requires_grad_()
    logp = s.policy.token_logp(s.question, theta)
    chance = policy.logp(s.question).exp().tolist()
    found = []
    for i in range(len(logp)):
        rows = [torch.autograd.grad(x, theta, retain_graph=True)[0] for x in logp[i]]
        found.append(Trajectory(i, chance[i], torch.stack(rows)))
    return found


def group_batch(s: Setting, group: Sequence[Trajectory]) -> TrajectoryBatch:
    """The group as a training step would see it."""
    tree, old = s.policy.tree, s.old or s.policy
    rows = torch.tensor([tau.row for tau in group])
    values = tree.value(old.log_probs(s.question), s.reward)
    return TrajectoryBatch(
        mask=tree.mask[rows],
        reward=s.reward[rows],
        group=torch.full_like(rows, 3),
        offline=torch.arange(len(rows)) >= s.group_size,
        old_logp=old.token_logp(s.question)[rows],
        values=values[tree.prefix[rows]] * (s.critic == "exact"),
        max_length=tree.horizon,
    )


def every_group(estimator: Estimator, s: Setting) -> tuple[Tensor, float]:
    """Mean and covariance trace over all ordered groups, the estimator run on each."""
    sides = [trajectories(s, s.old or s.policy)] * s.group_size
    if any(term.samples != "online" for term in estimator.terms):
        assert s.objective.demo is not None
        sides += [trajectories(s, s.objective.demo)] * s.demonstrations
    logp, entropy = s.policy.token_logp(s.question), s.policy.entropy(s.question)
    chances, estimates = [], []
    for group in product(*sides):
        rows = torch.tensor([tau.row for tau in group])
        w = estimator(group_batch(s, group), logp[rows], entropy[rows]).weights
        terms = [w[i, :, None] * tau.gradient for i, tau in enumerate(group)]
        estimates.append(torch.stack(terms).sum((0, 1)))
        chances.append(math.prod(tau.probability for tau in group))
    p, g = torch.tensor(chances, dtype=torch.float64), torch.stack(estimates)
    mean = p @ g
    return mean, (p @ ((g - mean) ** 2).sum(1)).item()


def assert_same(estimator: Estimator, s: Setting) -> None:
    mean, trace_cov = every_group(estimator, s)
    got = moments(estimator, s)
    assert got.method == "exact" and got.standard_error == 0
    torch.testing.assert_close(got.mean, mean, rtol=1e-12, atol=1e-12)
    assert got.trace_cov == pytest.approx(trace_cov, rel=1e-12, abs=1e-12)
    assert trace_cov > 1e-6


@pytest.mark.spread(40)
@pytest.mark.parametrize("normalizer", ["trajectory_mean", "own"])
@pytest.mark.parametrize("network", [False, True], ids=["tabular", "network"])
@pytest.mark.parametrize("name", REGISTRY)
def test_moments_of_groups_of_two_are_those_of_all_groups(
    name: str, network: bool, normalizer: str
) -> None:
    assert_same(prepared(name, normalizer, **WIDE), setting(network=network))


@pytest.mark.spread(12)
@pytest.mark.parametrize("name", REGISTRY)
def test_moments_of_groups_of_three_are_those_of_all_groups(name: str) -> None:
    s = setting(SHALLOW, size=3, rewards=(1.0, 0.0, 1.0))
    assert_same(prepared(name, **WIDE), s)


@pytest.mark.parametrize("name", ["hpt", "luffy", "srft", "mix_on", "hpt_global_token"])
def test_moments_with_two_demonstrations_are_those_of_all_groups(name: str) -> None:
    assert_same(prepared(name, "own"), setting(SHALLOW, rewards=(1.0, 0.0, 1.0), demos=2))


@pytest.mark.spread(12)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("name", ["grpo", "chord", "hpt_global_token", "reinforce_plus_plus"])
def test_moments_under_every_normaliser_are_those_of_all_groups(name: str, normalizer: str) -> None:
    assert_same(prepared(name, normalizer), setting())


@pytest.mark.parametrize("name", ["grpo", "ppo", "rloo", "luffy", "srft"])
def test_moments_of_real_rewards_are_those_of_all_groups(name: str) -> None:
    assert_same(prepared(name), setting(rewards=(0.3, -0.7, 1.9, 0.2)))


@pytest.mark.parametrize("critic", ["exact", "zero"])
def test_moments_under_either_critic_are_those_of_all_groups(critic: Any) -> None:
    assert_same(prepared("ppo", clip=0.1), setting(critic=critic))


def test_moments_of_a_second_question_are_those_of_all_groups() -> None:
    policy = NetworkPolicy(DEEP, 2, seed=3, questions=2)
    reward = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    old = TabularPolicy(DEEP, torch.stack([near(DEEP, policy, 0.3, q).log_probs() for q in (0, 1)]))
    s = Setting(policy, Objective(reward), 2, old, question=1)
    assert_same(prepared("grpo"), s)
    close(moments(prepared("grpo"), s).truth["mu"], Objective(reward).gradient(policy, 1))


def test_trajectories_that_cannot_be_drawn_are_left_out() -> None:
    s = setting()
    logits = torch.zeros(3, 2, dtype=torch.float64)
    logits[1, 0] = -torch.inf
    lame = TabularPolicy(DEEP, logits)
    s = replace(s, old=lame)
    draws = s.draws(prepared("grpo"))
    assert draws.trajectory.tolist() == [0, 1]
    assert moments(prepared("grpo"), s).groups == 3
    with pytest.raises(UpgeError, match="trajectory '0 0 1' can be drawn but has probability 0"):
        moments(prepared("grpo"), replace(s, policy=lame, old=s.policy))


# ------------------------------------------------------------------ components of one's own


@dataclass(frozen=True)
class RootMean(Normalizer):
    """Z = √tokens, which reads the lengths of the whole group."""

    def __call__(self, batch: TrajectoryBatch, read: Counted, counted: Counted) -> Tensor:
        return counted.tokens.sum().to(batch.dtype) ** -0.5


@dataclass(frozen=True)
class LastToken(Advantage):
    """Â = R at the first token only."""

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return batch.reward[:, None] * (torch.arange(batch.mask.shape[1]) == 0)


def test_unknown_components_are_taken_to_read_all_lengths() -> None:
    estimator = compose(Term("online", RolloutPolicy(), GroupCentered(), RootMean()))
    assert_same(estimator, setting())


def test_a_demonstrations_normaliser_and_rollouts_that_read_lengths() -> None:
    estimator = compose(
        Term("online", RolloutPolicy(), BatchZScore(), SequenceMean()),
        Term("offline", CurrentPolicy(), One(), SequenceMean(), entropy_weight=EntropyWeight(-1)),
        Term("all", CurrentPolicy(), GroupCentered("all"), TokenMean()),
    )
    assert_same(estimator, setting())


def test_weights_that_vary_within_a_trajectory_are_refused() -> None:
    estimator = compose(Term("online", RolloutPolicy(), LastToken(), TrajectoryMean()))
    with pytest.raises(UpgeError, match="varies within a trajectory"):
        moments(estimator, setting())
    mean, trace_cov = every_group(estimator, setting())
    sampled = monte_carlo(estimator, setting(), 20_000)
    assert (sampled.mean - mean).norm() < 5 * sampled.standard_error
    assert abs(sampled.trace_cov - trace_cov) < 5 * sampled.standard_error_trace_cov


# ------------------------------------------------------------------------------- identities


def bias(name: str, s: Setting, target: str = "reward", **options: Any) -> Tensor:
    return moments(prepared(name, **options), s).bias(target)


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("network", [False, True], ids=["tabular", "network"])
def test_on_policy_means_in_closed_form(size: int, network: bool) -> None:
    s = setting(size=size, on_policy=True, network=network, tree=Tree(3, 0, 3))
    truth = s.truth["reward"]
    for name, factor in (("rloo", 1.0), ("dr_grpo", (size - 1) / size), ("reinforce", 2.0)):
        close(moments(prepared(name), s).mean, factor * truth)
    for gae_lambda in (0.0, 0.5, 1.0):  # any critic is a baseline if γλ = 1, the exact one always
        close(moments(prepared("ppo", gae_lambda=gae_lambda), s).mean, truth)
    close(moments(prepared("ppo", gae_lambda=1.0), replace(s, critic="zero")).mean, truth)
    assert moments(prepared("grpo"), s).cosine("reward") == pytest.approx(1)


def test_the_centred_estimates_covariance_shrinks_with_the_group() -> None:
    traces = [moments(prepared("rloo"), setting(size=n, on_policy=True)).trace_cov for n in (4, 64)]
    assert 16 < traces[0] / traces[1] < 16 * 4 / 3  # Var ∝ 1/n + c/(n(n − 1))


def test_sft_is_unbiased_for_minus_the_divergence_and_reinforce_off_policy_is_biased() -> None:
    s = setting(rewards=(0.0,) * 4, mu=1.0)
    assert bias("sft", s, "mu").norm() < 1e-12
    assert bias("sft", setting(), "mu").norm() > 1e-2
    assert bias("reinforce", setting(mu=0.0)).norm() > 1e-2


def test_trajectories_of_one_token_leave_importance_weights_unbiased() -> None:
    s = setting(Tree(4, 0, 1), size=3)
    close(moments(prepared("dr_grpo", clip=1e9), s).mean, 2 / 3 * s.truth["reward"])
    s = setting(size=3)  # a product of ratios a trajectory would be; a ratio a token is not
    assert (bias("dr_grpo", s, clip=1e9) + s.truth["reward"] / 3).norm() > 1e-3


def test_what_moments_say() -> None:
    s = setting(on_policy=True)
    m = moments(prepared("dr_grpo"), s)
    truth = s.truth["reward"]
    square = (truth @ truth).item()
    assert m.norm_mean_sq == pytest.approx(square / 4)
    assert m.bias_sq("reward") == pytest.approx(square / 4)
    assert m.mse("reward") == pytest.approx(square / 4 + m.trace_cov)
    assert m.snr == pytest.approx(square / 4 / m.trace_cov)
    assert m.cosine("reward") == pytest.approx(1)
    mu = s.truth["mu"]
    assert m.cosine("mu") == pytest.approx((truth @ mu / truth.norm() / mu.norm()).item())
    row = m.row()
    assert row["mse_mu"] == pytest.approx(((truth / 2 - mu) ** 2).sum().item() + m.trace_cov)
    assert (row["method"], row["groups"], row["standard_error"]) == ("exact", 3, 0.0)
    still = moments(prepared("grpo"), setting(rewards=(0.0,) * 4))
    assert math.isnan(still.snr) and math.isnan(still.cosine("reward"))
    assert math.isinf(replace(m, trace_cov=0.0).snr)
    assert math.isnan(float(replace(m, truth={"reward": truth}).row()["bias_sq_mu"]))


# --------------------------------------------------------------------------- compositions


@pytest.mark.slow
@given(st.integers(1, 6), st.integers(0, 2), st.sampled_from(["trajectory_mean", "token_mean"]))
def test_compositions_are_a_distribution(size: int, demos: int, normalizer: str) -> None:
    s = setting(size=size, demos=demos)
    estimator = prepared("grpo" if demos == 0 else "sft_rl", normalizer)
    parts = list(conditional(estimator, s))
    probability = torch.cat([part.probability for part in parts])
    solved = torch.cat([part.successes for part in parts])
    classes = Classes(estimator, s.draws(estimator))
    assert len(probability) == classes.count or normalizer == "trajectory_mean"
    assert s.old is not None
    p = (s.old.logp().exp() @ s.reward).item()
    binomial = [math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)]
    shares = torch.zeros(size + 1, dtype=torch.float64).index_add(0, solved, probability)
    close(shares, torch.tensor(binomial, dtype=torch.float64))
    close(
        sum((part.probability @ part.mean for part in parts), torch.zeros(())),
        exact(estimator, s).mean,
    )


def test_compositions_may_be_evaluated_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    s, estimator = setting(size=4), prepared("luffy", "own")
    whole = exact(estimator, s)
    assert len(list(conditional(estimator, s))) == 1
    monkeypatch.setattr(compositions, "PIECE", 200)
    assert len(list(conditional(estimator, s))) > 5
    close(exact(estimator, s).mean, whole.mean)
    assert exact(estimator, s).trace_cov == pytest.approx(whole.trace_cov)


@pytest.mark.slow
def test_large_groups_have_few_compositions() -> None:
    s = setting(Tree(3, 0, 4), size=64)
    assert moments(prepared("grpo", "own"), s).groups == 65
    with pytest.raises(UpgeError) as error:
        moments(prepared("dapo", "own"), s)
    text = "groups of 64 trajectories have 11,238,513 compositions, more than the 100,000"
    assert text in str(error.value)
    with pytest.raises(UpgeError, match="59,992,770 rows in all compositions, more than the 50,0"):
        moments(prepared("grpo"), setting(size=7_745))
    assert moments(prepared("rloo"), setting(size=1_500)).bias_sq("reward") < 1


# ------------------------------------------------------------------------------- sampling


def within(sampled: package.Moments, true: package.Moments, errors: float = 5.0) -> bool:
    off = (sampled.mean - true.mean).norm().item() / sampled.standard_error
    off_trace = abs(sampled.trace_cov - true.trace_cov) / sampled.standard_error_trace_cov
    return off < errors and off_trace < errors


def test_what_has_too_many_compositions_is_sampled_and_says_so() -> None:
    s, estimator = setting(size=3), prepared("srft")
    true = moments(estimator, s)
    assert (true.method, true.groups) == ("exact", 80)
    sampled = moments(estimator, s, samples=79, seed=1)
    assert (sampled.method, sampled.groups) == ("monte carlo", 79)
    assert sampled.standard_error == pytest.approx((sampled.trace_cov / 79) ** 0.5)
    assert sampled.standard_error_trace_cov > 0 and within(sampled, true)
    again = monte_carlo(estimator, s, 79, 1)
    assert torch.equal(sampled.mean, again.mean) and sampled.trace_cov == again.trace_cov
    assert not torch.equal(sampled.mean, monte_carlo(estimator, s, 79, 2).mean)


def test_samples_may_be_evaluated_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    s, estimator = setting(), prepared("srft")
    whole = monte_carlo(estimator, s, 500)
    monkeypatch.setattr(package, "PIECE", 50)
    parts = monte_carlo(estimator, s, 500)
    close(parts.mean, whole.mean)
    assert parts.trace_cov == pytest.approx(whole.trace_cov)


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["trajectory_mean", "own"])
@pytest.mark.parametrize("name", REGISTRY)
def test_a_million_groups_agree_with_the_exact_moments(name: str, normalizer: str) -> None:
    s, estimator = setting(Tree(3, 0, 2), size=3), prepared(name, normalizer)
    sampled = monte_carlo(estimator, s, 1_000_000)
    assert within(sampled, exact(estimator, s))
    assert sampled.standard_error < 0.01


# ---------------------------------------------------------------------- options and refusals


def test_overrides_go_to_the_options_of_that_name() -> None:
    assert prepared("grpo", clip=0.1) == get("grpo", clip=0.1, normalizer="trajectory_mean")
    assert prepared("rloo", "own", clip=0.1) == get("rloo")
    with pytest.raises(UpgeError, match="unknown normalizer 'token_men'; did you mean"):
        prepared("grpo", "token_men")
    with pytest.raises(UpgeError, match="unknown algorithm 'gropo'"):
        prepared("gropo")


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - set(ON_ROLLOUTS)))
def test_algorithms_on_demonstrations_need_some(name: str) -> None:
    s = setting()
    with pytest.raises(UpgeError, match=f"{name} reads demonstrations, but there is no"):
        moments(prepared(name), replace(s, objective=Objective(s.reward)))
    with pytest.raises(UpgeError, match=r"no offline samples; add demonstrations"):
        moments(prepared(name), replace(s, demonstrations=0))


def test_settings_that_cannot_be_meant() -> None:
    for changes, message in (
        ({"size": 0}, "group_size: got 0, wanted at least 1"),
        ({"demos": -1}, "demonstrations: got -1, wanted at least 0"),
        ({"question": 1}, "question: got 1, wanted one from 0 to 0"),
    ):
        with pytest.raises(UpgeError, match=message):
            setting(**changes)  # type: ignore[arg-type]
    with pytest.raises(UpgeError, match=r"old: got Tree\(.*, wanted the policy's Tree\("):
        replace(setting(), old=TabularPolicy.random(SHALLOW, 0))
    with pytest.raises(UpgeError, match=r"reward: got shape \(1, 3\), wanted \(1, 4\)"):
        replace(setting(), objective=Objective(torch.zeros(3)))
    with pytest.raises(UpgeError, match="samples: got 1, wanted at least 2"):
        monte_carlo(prepared("grpo"), setting(), 1)
    with pytest.raises(
        UpgeError, match=r"sft: 20,000,000 groups of 2 \+ 1 .* have 60,000,000 rows"
    ):
        monte_carlo(prepared("sft"), setting(), 20_000_000)


# --------------------------------------------------------------------------- upge moments


def instance(**changes: Any) -> dict[str, Any]:
    """The instance of ``setting()`` in the file's words."""
    s = setting(on_policy=True)

    def table(policy: Policy) -> dict[str, list[float]]:
        return dict(zip(DEEP.prefix_names, policy.log_probs().tolist(), strict=True))

    assert s.objective.demo is not None
    fields = {
        "vocab": 2,
        "eos": 1,
        "horizon": 3,
        "logits": table(s.policy),
        "old_logits": table(near(DEEP, s.policy, 0.3)),
        "demo_logits": table(s.objective.demo),
        "reward": dict(zip(DEEP.trajectory_names, s.reward.tolist(), strict=True)),
        "group_size": 2,
        "mu": 0.5,
        "clip": 0.15,
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def run(record: object, *arguments: str, path: str = "-") -> str:
    app = typer.Typer()
    app.command()(command)
    text = record if isinstance(record, str) else json.dumps(record)
    result = CliRunner().invoke(app, [path, *arguments], input=text)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_command_says_what_the_library_says() -> None:
    s = setting()
    record = json.loads(run(instance()))
    assert list(record["gradient"]["reward"]) == DEEP.prefix_names
    for target, truth in s.truth.items():
        rows = [record["gradient"][target][prefix] for prefix in DEEP.prefix_names]
        close(torch.tensor(rows, dtype=torch.float64).flatten(), truth)
    assert record["objective"]["mu"] == pytest.approx(s.objective(s.policy).item())
    assert set(record["algorithms"]) == set(REGISTRY) and not record["skipped"]
    for name, got in record["algorithms"].items():
        expected = moments(prepared(name, clip=0.15), s).row()
        numbers = {k: v for k, v in got.items() if not isinstance(v, str)}
        assert numbers == pytest.approx({k: expected[k] for k in numbers}, rel=1e-9, abs=1e-12)


def test_options_of_the_command() -> None:
    record = json.loads(
        run(instance(), "-a", "luffy", "-a", "ppo", "--normalizer", "own", "--demonstrations", "2")
    )
    assert list(record["algorithms"]) == ["luffy", "ppo"]
    expected = moments(get("luffy"), setting(demos=2)).row()
    assert record["algorithms"]["luffy"]["trace_cov"] == pytest.approx(expected["trace_cov"])
    zero = json.loads(run(instance(), "-a", "ppo", "--critic", "zero"))["algorithms"]["ppo"]
    expected = moments(prepared("ppo", clip=0.15), setting(critic="zero")).row()
    assert zero["trace_cov"] == pytest.approx(expected["trace_cov"])
    srft = json.loads(run(instance(), "-a", "srft", "--samples", "10"))["algorithms"]["srft"]
    assert (srft["method"], srft["groups"]) == ("monte carlo", 10)


def test_without_demonstrations_and_old_policy() -> None:
    record = json.loads(run(instance(demo_logits=..., old_logits=...)))
    assert set(record["algorithms"]) == set(ON_ROLLOUTS)
    assert set(record["skipped"]) == set(REGISTRY) - set(ON_ROLLOUTS)
    assert record["gradient"]["mu"] is None and record["objective"]["mu"] is None
    rloo = record["algorithms"]["rloo"]
    assert rloo["bias_sq_reward"] == pytest.approx(0, abs=1e-20) and rloo["bias_sq_mu"] is None
    record = json.loads(run(instance(demo_logits=..., mu=0)))
    assert record["gradient"]["mu"] == record["gradient"]["reward"]
    with pytest.raises(UpgeError, match="sft reads demonstrations, but there is no demonstration"):
        run(instance(demo_logits=...), "-a", "sft")


def test_csv_has_one_number_a_line() -> None:
    chosen = instance(demo_logits=..., reward=dict.fromkeys(DEEP.trajectory_names, 0.0))
    rows = list(csv.DictReader(io.StringIO(run(chosen, "--format", "csv"))))
    assert {row["quantity"] for row in rows if not row["algorithm"]} == {
        "objective_reward", "objective_mu", "gradient_reward"
    }  # fmt: skip
    gradient = [row for row in rows if row["quantity"] == "gradient_reward"]
    assert [(row["prefix"], row["token"]) for row in gradient] == [
        (prefix, str(token)) for prefix in DEEP.prefix_names for token in range(2)
    ]
    values = {row["quantity"]: row["value"] for row in rows if row["algorithm"] == "reinforce"}
    assert values["method"] == "exact" and values["cosine_reward"] == ""
    assert float(values["trace_cov"]) > 0
    skipped = [row["algorithm"] for row in rows if row["quantity"] == "skipped"]
    assert set(skipped) == set(REGISTRY) - set(ON_ROLLOUTS)


def test_table_shows_gradients_moments_and_what_was_sampled_or_left_out() -> None:
    text = run(instance(), "--format", "table", "--samples", "10")
    for words in ("∇E[r] over the logits", "∇J_μ over the logits", "(start)", "against ∇J_μ"):
        assert words in text
    assert "srft*" in text and "* srft: from 10 sampled groups" in text
    text = run(instance(demo_logits=...), "--format", "table")
    assert "∇J_μ is left out: μ > 0, and the instance has no demo_logits" in text
    assert "against ∇J_μ" not in text and "sft is left out: sft reads demonstrations" in text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "the instance is no JSON"),
        ([], "the instance is a JSON list, wanted an object"),
        (instance(logit={}), "unknown field of the instance 'logit'; did you mean 'logits'?"),
        (instance(reward=...), "reward: is missing from the instance"),
        (instance(vocab=True), "vocab: got True, wanted a whole number"),
        (instance(vocab=2.5), "vocab: got 2.5, wanted a whole number"),
        (instance(eos=2), "eos: got 2, wanted a token from 0 to 1"),
        (instance(horizon=10**6), "places, more than the 20,000,000 that can be enumerated"),
        (instance(horizon=10**7), "make 10,000,001 trajectories, more than the 2,000,000"),
        (instance(horizon=4), "logits: prefix '0 0 0' is missing, wanted all 4"),
        (instance(horizon=2), "logits: unknown prefix '0 0'; it can't occur"),
        (instance(logits=[1]), "logits: got [1], wanted a map with an entry a prefix"),
        (instance(logits=instance()["logits"] | {"0": [1]}), "logits of prefix '0': got [1], want"),
        (
            instance(old_logits=instance()["logits"] | {"": [0.0, math.nan]}),
            "old_logits of prefix '': got nan, wanted a finite number",
        ),
        (
            instance(logits=instance()["logits"] | {"": ["a", 0]}),
            "logits of prefix '': got 'a', wanted a number",
        ),
        (instance(demo_logits={}), "demo_logits: prefix '' is missing, wanted all 3"),
        (
            instance(reward={"1": 0, "0 1": 1}),
            "reward: trajectory '0 0 1' is missing, wanted all 4",
        ),
        (
            instance(reward=instance()["reward"] | {"0": 1}),
            "reward: unknown trajectory '0'; it can't occur",
        ),
        (
            instance(reward=instance()["reward"] | {"1": None}),
            "reward of trajectory '1': got None, wanted a number",
        ),
        (instance(group_size=0), "group_size: got 0, wanted at least 1"),
        (instance(mu=-1), "mu: got -1.0, wanted a finite number ≥ 0"),
        (instance(mu=10**400), "mu: got 10000"),
        (instance(clip="a"), "clip: got 'a', wanted a number"),
        (instance(clip=-1), "clip: got -1.0, wanted a number ≥ 0"),
        (instance(vocab=10**400), "0…, wanted fewer digits"),
        (
            json.dumps(instance()).replace('"0": [', '"0": [9, 9], "0": [', 1),
            "the instance has '0' twice in one map, wanted once",
        ),
        (json.dumps(instance())[:-1] + ', "mu": 9}', "the instance has 'mu' twice"),
    ],
)
def test_mistakes_in_an_instance_are_named(record: object, message: str) -> None:
    with pytest.raises(UpgeError) as error:
        run(record)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_clip_that_one_algorithm_refuses_leaves_the_others() -> None:
    record = json.loads(run(instance(clip=5)))
    assert set(record["skipped"]) == {"ppo_dual_clip"}
    with pytest.raises(UpgeError, match=r"DualClip\.dual: got 3\.0, wanted a number ≥ 6"):
        run(instance(clip=5), "-a", "ppo_dual_clip")


@pytest.mark.parametrize("option", [("--samples", "1"), ("--demonstrations", "-1")])
def test_options_that_cannot_be_meant_are_refused_whatever_is_computed(
    option: tuple[str, str],
) -> None:
    with pytest.raises(SystemExit):
        run(instance(), *option)


def test_help_shows_formulas_whole() -> None:
    text = run("", path="--help")
    assert "the truth is ∇E[r]" in text and "exact E[r" in text


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "instance.json"
    with pytest.raises(UpgeError, match=r"instance\.json: can't be read"):
        run("", path=str(path))
    path.write_text(json.dumps(instance()), encoding="utf-8")
    assert json.loads(run("", "-a", "grpo", path=str(path)))["algorithms"]["grpo"]["groups"] == 3


def test_without_any_results_the_first_reason_is_the_error() -> None:
    with pytest.raises(UpgeError) as error:
        run(instance(group_size=200_000))
    assert "sft: groups of 200000 + 1 trajectories have 400,002 compositions" in str(error.value)
