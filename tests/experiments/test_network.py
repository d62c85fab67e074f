"""The study of a trained network: its sampling, gradients, intervals and verdicts.

The reference is upge.exact on a transformer small enough to enumerate, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, jacrev

import upge
from analysis.bias_variance import network as drawing
from analysis.style import save
from experiments.bias_variance.common import Rows, errors
from experiments.bias_variance.mixing_cases import shapes
from experiments.network import points as points_module
from experiments.network.gradients import factored, group_gradients, likelihood_of
from experiments.network.laboratory import Network, Samples, divergence, measure, reference
from experiments.network.points import points
from experiments.network.statements import (
    OFF_POLICY,
    REFERENCES,
    covered,
    gains,
    on_policy,
    verdict,
)
from experiments.network.statistics import Interval, Parts, product, resamples
from experiments.network.study import (
    Recipe,
    headlines,
    off_policy_estimators,
    on_policy_estimators,
    study,
)
from upge.common.config import load
from upge.common.errors import UpgeError
from upge.estimator import Estimator
from upge.exact.enumeration import Policy, Scores, TabularPolicy, Tree
from upge.exact.instance import Setting
from upge.exact.mixture import RL, SFT, Quadratic, given_successes, pooled
from upge.exact.moments import exact
from upge.exact.objective import Objective, kl
from upge.models.tiny import build_model, build_tokenizer
from upge.tasks.problem import Problem
from upge.training.config import RunConfig
from upge.training.experience import Question
from upge.training.loop import Trainer
from upge.training.records import RunFolder
from upge.wiener import Wiener

HORIZON, N = 3, 4
PROMPT, DEMONSTRATION = [2, 3], [2, 3, 1]  # "ab"; "ab" and its end
TREE = Tree(4, 1, HORIZON)  # pad, eos, a, b

# ------------------------------------------------------------------ a transformer, enumerated


class HasA:
    """Solved where the response holds an "a"."""

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [float("a" in text) for text in responses]


def network(seed: int = 1, sharp: float = 8.0) -> Network:
    """A random transformer, whose logits are made less flat than they come: p = .41."""
    tokenizer = build_tokenizer("ab")
    model = build_model(len(tokenizer), hidden=8, layers=1, heads=2, seed=seed).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(sharp)
    return Network(model, tokenizer, HasA(), HORIZON)


class _Table(Scores):
    def __init__(self, jacobian: Tensor) -> None:
        self.jacobian = jacobian  # (P · V, D)

    def combine(self, table: Tensor) -> Tensor:
        return table.flatten(1) @ self.jacobian

    def square_norms(self, weights: Tensor, rows: Tensor) -> Tensor:
        scores = self.jacobian[TREE.cell[rows]]  # (R, H, D)
        weights = torch.where(TREE.mask[rows], weights, 0.0)
        return (torch.einsum("rh,rhd->rd", weights, scores) ** 2).sum(1)


class Enumerated(Policy):
    """The transformer's distribution over all responses to the prompt."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.shapes = {name: p.shape for name, p in model.named_parameters()}
        super().__init__(TREE, torch.cat([p.flatten() for p in model.parameters()]), 1)

    def log_probs(self, question: int = 0, theta: Tensor | None = None) -> Tensor:
        flat = (self.theta if theta is None else theta).split(
            [math.prod(shape) for shape in self.shapes.values()]
        )
        parameters = {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), flat, strict=True)
        }
        rows = []
        for name in TREE.prefix_names:
            ids = torch.tensor([PROMPT + [int(token) for token in name.split()]])
            rows.append(functional_call(self.model, parameters, (ids,)).logits[0, -1])
        return torch.stack(rows).double().log_softmax(-1)

    def scores(self, question: int = 0) -> Scores:
        return _Table(jacrev(lambda theta: self.log_probs(theta=theta))(self.theta).flatten(0, 1))


def demonstrator() -> TabularPolicy:
    """Always the demonstration."""
    logits = torch.zeros(TREE.prefixes, TREE.vocab, dtype=torch.float64)
    for place, token in enumerate(DEMONSTRATION):
        before = " ".join(map(str, DEMONSTRATION[:place]))
        logits[TREE.prefix_names.index(before), token] = 1000.0
    return TabularPolicy(TREE, logits)


def rewards(net: Network) -> Tensor:
    lengths = TREE.length.tolist()
    ids = [row[:n] for row, n in zip(TREE.tokens.tolist(), lengths, strict=True)]
    texts = net.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return torch.tensor(HasA()(texts, []), dtype=torch.float64)


QUESTION = Question(Problem("ab", "a", "ab"), PROMPT, DEMONSTRATION, 1.0)


@pytest.fixture(scope="module")
def nets() -> tuple[Network, Network]:
    """π_θ, and a π_θold at a KL of .26 from it."""
    new = network()
    step = torch.randn(new.gradients.size, generator=torch.Generator().manual_seed(1))
    old = network()
    flat = torch.nn.utils.parameters_to_vector(new.model.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat + 0.15 * step, old.model.parameters())
    return new, old


def setting(nets: tuple[Network, Network], *, old: bool, mu: float = 0.0) -> Setting:
    new, other = (Enumerated(net.model.double()) for net in nets)
    found = Setting(
        new,
        Objective(rewards(nets[0]), mu or 1.0, demonstrator()),
        N,
        other if old else None,
    )
    assert found.truth  # all is read off in float64 …
    assert found.scores
    if old:
        found.draws(off_policy_estimators()["rollout"])
    found.draws(upge.get("hpt"))
    for net in nets:
        net.model.float()  # … before the network works in float32 again
    return found


def samples(
    nets: tuple[Network, Network],
    estimators: dict[str, Estimator],
    *,
    old: bool,
    count: int,
    draws: int = 300,
    seed: int = 0,
) -> Samples:
    new, other = nets
    source = other if old else new
    batch = source.groups([QUESTION] * count, N, demonstration=True, seed=(seed, "groups"))
    blocks, _ = reference(new, QUESTION, 4096, 16, (seed, "truth"))
    demo = new.demonstration(QUESTION)
    pairs = [("z_score", "rloo")] if "z_score" in estimators else []
    return measure(
        estimators,
        [batch],
        new,
        blocks[None],
        demo[None],
        on_policy=not old,
        between=pairs,
        draws=draws,
        seed=seed,
    )


# ------------------------------------------------------------------ against exact moments


def _near(resampled: Tensor, wanted: float | str, words: str = "") -> float:
    """Whether the exact number lies within twice the interval; the interval's width."""
    (value, low, high), exactly = Interval.of(resampled), float(wanted)
    slack = 1e-3 * abs(exactly) + 1e-6
    assert 2 * low - value - slack <= exactly <= 2 * high - value + slack, (words, low, value, high)
    return high - low


def _agrees(found: Samples, estimators: dict[str, Estimator], where: Setting, mu: float) -> None:
    """Of every estimator; the intervals are narrow enough to tell."""
    truth = where.truth["mu" if mu else "reward"]
    for name, estimator in estimators.items():
        wanted = errors(exact(estimator, where), truth)
        measured = found.pooled(name, mu).measures()
        for column in ("variance", "weight", "mse_scaled", "bias_sq", "cosine"):
            width = _near(measured[column], wanted[column], f"{name}: {column}")
            assert width < 0.7 * max(1.0, abs(float(wanted[column]))), (name, column)


@pytest.mark.slow
def test_estimates_on_policy_agree_with_exact_moments(nets: tuple[Network, Network]) -> None:
    estimators = on_policy_estimators()
    del estimators["srft"]  # weighs by the group's entropy: more compositions than are enumerated
    found = samples(nets, estimators, old=False, count=200)
    _agrees(found, estimators, setting(nets, old=False), 0.0)


@pytest.mark.slow
def test_estimates_off_policy_agree_with_exact_moments(nets: tuple[Network, Network]) -> None:
    estimators = off_policy_estimators()
    found = samples(nets, estimators, old=True, count=200)
    _agrees(found, estimators, setting(nets, old=True), 0.0)


@pytest.mark.slow
def test_the_other_target_is_the_exact_one(nets: tuple[Network, Network]) -> None:
    mu = 0.3
    where = setting(nets, old=False, mu=mu)
    estimators = {"rloo": upge.get("rloo"), "sft_rl": upge.get("sft_rl")}
    found = samples(nets, estimators, old=False, count=200)
    _agrees(found, estimators, where, mu)


def test_the_reference_is_the_true_gradient(nets: tuple[Network, Network]) -> None:
    blocks, success = reference(nets[0], QUESTION, 8192, 16, (3,))
    where = setting(nets, old=False)
    truth, mean = where.truth["reward"], blocks.double().mean(0)
    error = ((blocks.double() - mean) ** 2).sum() / 15 / 16  # of the mean, squared
    distance = ((mean - truth) ** 2).sum()
    assert 0.3 * error < distance < 3 * error
    assert error < 0.02 * (truth @ truth)
    exact_success = (where.policy.logp().exp() @ where.reward).item()
    assert success == pytest.approx(exact_success, abs=4 * math.sqrt(0.25 / 8192))


def test_the_demonstrations_gradient_is_exact(nets: tuple[Network, Network]) -> None:
    where = setting(nets, old=False)
    exactly = (where.truth["mu"] - where.truth["reward"]).float()  # at μ = 1
    assert torch.allclose(nets[0].demonstration(QUESTION), exactly, atol=1e-4 * exactly.abs().max())


def test_divergence_is_the_exact_kl(nets: tuple[Network, Network]) -> None:
    batch = nets[1].groups([QUESTION], 4000, demonstration=False, seed=(5,))
    where = setting(nets, old=True)
    assert where.old is not None
    wanted = kl(where.old.logp(), where.policy.logp()).item()
    assert wanted > 0.1
    assert divergence(batch, nets[0]) == pytest.approx(wanted, rel=0.2)


@pytest.mark.slow
def test_gates_realise_what_they_do_exactly(nets: tuple[Network, Network]) -> None:
    mu = 0.125
    where = setting(nets, old=False)
    rl, sft = given_successes(RL, where), given_successes(SFT, replace(where, group_size=1))
    target = where.truth["reward"] + mu * (sft.probability @ sft.mean)
    both = pooled([Quadratic.of(rl, sft, target)])
    best = both.nothing - both.mse(*both.optimum())
    found = gains(samples(nets, {"rl": RL}, old=False, count=400), mu, N)
    for (gate, _), shape in shapes(N, {"wiener": Wiener(mu)}).items():
        wanted = (both.nothing - both.tuned(*shape).mse) / best
        assert _near(found[gate], wanted, gate) < 0.2


# ------------------------------------------------------------------ gradients


def test_group_gradients_are_those_of_autograd(nets: tuple[Network, Network]) -> None:
    new, old = nets
    estimators = list((on_policy_estimators() | off_policy_estimators()).values())
    batch = old.groups([QUESTION] * 3, N, demonstration=True, seed=(7,))
    likelihood = likelihood_of(new.policy, batch)
    found = group_gradients(estimators, batch, likelihood, new.gradients)
    for k in range(3):
        group = batch.select(batch.question == k)
        for estimator, own in zip(estimators, found[:, k], strict=True):
            new.policy.zero_grad()
            assert group.tokens is not None
            logp, entropy = new.policy(group.tokens, group.mask)
            estimator(group, logp, entropy.detach()).loss.backward()
            wanted = -torch.cat([p.grad.flatten() for p in new.policy.parameters()])  # type: ignore[union-attr]
            assert (own - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9, estimator.name


@given(st.integers(0, 10_000))
def test_factored_weights_add_up(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 4, 5, generator=generator)
    multiple = torch.randint(-3, 4, (4, 1), generator=generator)
    weights[1] = -weights[0] * 2.0**multiple  # no new shapes
    weights[:, 2] = 0
    row, shape, factor = factored(weights)
    again = torch.zeros_like(weights)
    again.index_add_(1, row, factor[:, :, None] * shape[None])
    assert torch.allclose(again, weights, atol=3e-6 * weights.abs().max().item())
    assert torch.bincount(row, minlength=4).tolist() == [2, 2, 0, 2]


def test_no_weights_have_no_shapes() -> None:
    row, shape, factor = factored(torch.zeros(2, 3, 4))
    assert len(row) == 0 and shape.shape == (0, 4) and factor.shape == (2, 0)


# ------------------------------------------------------------------ statistics


def _toy(seed: int, mean: Tensor, truth: Tensor, size: int = 32) -> Parts:
    generator = torch.Generator().manual_seed(seed)

    def noise(count: int) -> Tensor:
        return torch.randn(count, len(mean), generator=generator, dtype=torch.float64)

    g, t = mean + 0.3 * noise(size), truth + 0.2 * noise(16)
    counts = resamples(size, 200, seed), resamples(16, 200, seed + 1)
    return Parts.of(g @ g.T, g @ t.T, t @ t.T, *counts)


TOY_MEAN = torch.tensor([1.0, 0.5] + [0.0] * 48, dtype=torch.float64)
TOY_TRUTH = torch.tensor([1.0, 0.0] + [0.0] * 48, dtype=torch.float64)


def test_intervals_cover() -> None:
    wanted = {
        "bias_sq": 0.25,
        "variance": 50 * 0.09,
        "weight": 1.0,
        "cosine": 1 / math.sqrt(1.25),
        "mse_scaled": 1 - 1 / (1.25 + 4.5),
        "snr": 1.25 / 4.5,
    }
    hits = dict.fromkeys(wanted, 0)
    trials = 200
    for seed in range(trials):
        measured = _toy(2 * seed, TOY_MEAN, TOY_TRUTH).measures()
        for name, value in wanted.items():
            _, low, high = Interval.of(measured[name])
            hits[name] += low <= value <= high
    for name, count in hits.items():
        assert 0.88 <= count / trials <= 0.995, name


def test_bias_of_an_unbiased_estimator_is_zero_on_average() -> None:
    found = torch.stack(
        [_toy(3 * seed, TOY_TRUTH, TOY_TRUTH).measures()["bias_sq"][0] for seed in range(300)]
    )
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(300)
    assert (found < 0).any() and (found > 0).any()


def test_copies_of_a_group_are_no_pairs() -> None:
    counts = resamples(20, 50, 0)
    assert (counts[0] == 1).all() and (counts.sum(1) == 20).all()
    assert (counts[1:] > 1).any(1).all()
    orthogonal = torch.eye(20, dtype=torch.float64)
    assert product(orthogonal, counts).abs().max() < 1e-15


def test_intervals_leave_out_what_has_no_value() -> None:
    one = torch.tensor([1.0, math.nan, 2.0, 2.0])
    assert Interval.of(one) == (1.0, 2.0, 2.0)
    assert all(map(math.isnan, Interval.of(torch.tensor([math.nan, 1.0]))))


# ------------------------------------------------------------------ verdicts


def test_verdicts_come_out_three_ways() -> None:
    assert verdict(Interval(1, 0.5, 2), "above", 0.0) == "carries over"
    assert verdict(Interval(1, 0.5, 2), "below", 0.0) == "does not"
    assert verdict(Interval(1, -0.5, 2), "below", 0.0) == "not decided"
    assert verdict(Interval(math.nan, math.nan, math.nan), "below", 0.0) == "not decided"


def _flipped(found: Samples, name: str, other: str) -> Samples:
    """The samples with two estimators' names exchanged."""
    swap = {name: other, other: name}
    return replace(found, names=tuple(swap.get(own, own) for own in found.names))


def test_statements_turn_when_their_inputs_do(nets: tuple[Network, Network]) -> None:
    some = {name: on_policy_estimators()[name] for name in ("reinforce", "rloo", "hpt")}
    found = samples(nets, some, old=False, count=100)
    baseline = on_policy(N, 0.125, 1)["baseline"]
    assert baseline(found)[1] == "carries over"
    assert baseline(_flipped(found, "rloo", "reinforce"))[1] == "does not"
    unbiased = on_policy(N, 0.125, 1)["leave-one-out unbiased"]
    assert unbiased(_flipped(found, "rloo", "hpt"))[1] == "does not"
    every = {name: off_policy_estimators()[name] for name in REFERENCES}
    away = samples(nets, every, old=True, count=100)
    assert covered(away)[1] and not covered(_flipped(away, "one", "trajectory"))[1]
    one = OFF_POLICY["one's error"]
    assert one(away)[1] != one(_flipped(away, "one", "trajectory"))[1] == "does not"


# ------------------------------------------------------------------ the study


SMALL = Recipe(
    model="tiny",
    algorithm="hpt_global_token",
    lr=1e-3,
    steps=(0, 1, 2),
    seed=0,
    candidates=16,
    trial=8,
    questions=2,
    group_size=4,
    groups=4,
    old_groups=3,
    rollouts=32,
    blocks=4,
    lags=(1,),
    kl=(0.3,),
    mu=0.125,
    draws=20,
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return study(SMALL, runs=tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_rows_have_one_form_and_are_told(rows: Rows, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    again = study(SMALL, lambda *step: told.append(step), tmp_path)
    assert repr(again) == repr(rows)
    assert told == [(i, told[-1][1]) for i in range(1, told[-1][1] + 1)]
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert {row["verdict"] for row in rows} >= {"", "carries over"}


@pytest.mark.slow
def test_headlines_and_figure(rows: Rows, tmp_path: Path) -> None:
    numbers = headlines(rows)
    stated = [row for row in rows if row["measure"] == "statement"]
    kinds = ("carries over", "does not", "not decided")
    counts = {k: v for k, v in numbers.items() if k.startswith(kinds)}
    assert sum(counts.values()) == len(stated) > 20
    written = save(drawing.figure(rows), tmp_path / "network", drawing.caption(rows))
    assert all(path.stat().st_size > 10_000 for path in written)


@pytest.mark.slow
def test_points_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SMALL.run
    found = points(config, [0, 1, 2], tmp_path)
    shorter = config.model_copy(
        update={"stages": (config.stages[0].model_copy(update={"steps": 1}),)}
    )
    one = Trainer(RunConfig(**shorter.model_dump()), RunFolder(tmp_path / "one"))
    one.run()
    state = one.model.state_dict()
    assert all(torch.equal(found[1][name], tensor) for name, tensor in state.items())
    assert not torch.equal(*(found[i]["model.embed_tokens.weight"] for i in (1, 2)))
    monkeypatch.setattr(points_module, "_train", None)  # a second call trains nothing
    again = points(config, [2, 1, 0], tmp_path)
    assert all(torch.equal(found[2][name], again[2][name]) for name in state)


def test_the_recipe_in_the_repository_loads() -> None:
    path = Path(__file__).parents[2] / "experiments/bias_variance/network.yaml"
    assert load(path, Recipe).group_size == 8


@pytest.mark.parametrize(
    "wrong", [{"steps": (0, 5)}, {"steps": (0, 5, 5)}, {"rollouts": 4}, {"kl": (0.0,)}]
)
def test_wrong_recipes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UpgeError, match=next(iter(wrong))):
        replace(SMALL, **wrong)  # type: ignore[arg-type]
