"""The best weights given P: that they are the best, what they are made of, and the Wiener gate."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import make_batch
from torch import Tensor

from analysis.bias_variance.mixing import figure
from analysis.style import style
from experiments.bias_variance import mixing, mixing_steps
from experiments.bias_variance.common import Rows, chosen, table_problem, tilted
from experiments.bias_variance.mixing_cases import Recipe, demonstrator, grid, questions, shapes
from upge import UpgeError, get
from upge.advantage import GroupCentered
from upge.algorithms import feedback
from upge.common.config import load
from upge.estimator import Estimator, Term
from upge.exact.enumeration import TabularPolicy, Tree
from upge.exact.instance import Setting
from upge.exact.mixture import RL, SFT, Given, Quadratic, given_successes, pooled
from upge.exact.moments import exact
from upge.exact.objective import Objective
from upge.feedback import Gate, Switch
from upge.normalization import TokenMean
from upge.reference import CurrentPolicy
from upge.wiener import Wiener

RECIPE = Path("experiments/bias_variance/mixing.yaml")
TINY = Recipe(
    vocab=3,
    horizon=2,
    seeds=(0, 1),
    group_sizes=(2, 4),
    priors=((0.5, 1.0),),
    demo_success=(0.9,),
    demo_distance=(0.0, 1.0),
    held_out_vocab=3,
    held_out_horizon=3,
    held_out_seeds=(5,),
    held_out_group_sizes=(3,),
    held_out_priors=((1.0, 1.0),),
    held_out_demo_success=(0.6,),
    held_out_demo_distance=(0.5,),
    success_rates=5,
    mus=(0.0, 1.0),
    gammas=(0.0, 0.5),
    weights_at=4,
    step_horizon=2,
    step_seeds=(7,),
    step_prior=(0.5, 0.5),
    step_demonstrations=((0.9, 0.0),),
    questions=6,
    repeats=4,
    step_mus=(0.0, 0.5),
    step_gammas=(0.0,),
    factors=(0.3, 3.0),
    norms=(0.1, 1.0),
    training_norm=0.3,
    training=(1, 3),
)


def case(p: float = 0.3, n: int = 5, seed: int = 3) -> tuple[Setting, Given, Given]:
    """A question with a demonstrator, and both terms' moments given k."""
    problem = table_problem(3, 3, 0.3, seed)
    policy = tilted(problem.policy, problem.reward, p)
    demo = demonstrator(policy, problem.reward, 0.9, 0.5, seed)
    setting = Setting(policy, Objective(problem.reward, 0.5, demo), n)
    return (
        setting,
        given_successes(RL, setting),
        given_successes(SFT, replace(setting, group_size=1)),
    )


def quadratic(p: float = 0.3, n: int = 5, seed: int = 3) -> Quadratic:
    setting, rl, sft = case(p, n, seed)
    return Quadratic.of(rl, sft, setting.truth["mu"])


# ------------------------------------------------------------------------------- what is enumerated


def test_moments_given_the_successes_average_to_all() -> None:
    setting, rl, sft = case()
    for estimator, part in ((RL, rl), (SFT, sft)):
        whole = exact(estimator, setting)
        torch.testing.assert_close(part.probability.sum(), torch.ones(()).double())
        torch.testing.assert_close(part.probability @ part.mean, whole.mean)
        second = (part.probability @ part.square).item()
        assert second == pytest.approx(whole.trace_cov + whole.norm_mean_sq)


def test_given_the_successes_rl_points_at_their_contrast() -> None:
    """E Σ_i (R_i − P) s_i = n P (1 − P) (u − v) given k, and ∇E[r] = p (1 − p)(u − v)."""
    p, n = 0.3, 5
    setting, rl, _ = case(p, n)
    share = torch.arange(n + 1).double() / n
    contrast = setting.truth["reward"] / (p * (1 - p))
    expected = (n * share * (1 - share))[:, None] * contrast
    torch.testing.assert_close(rl.mean, expected, atol=1e-12, rtol=1e-9)
    chances = torch.tensor([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
    torch.testing.assert_close(rl.probability, chances.double())


def test_a_demonstration_like_the_policy_s_successes_gives_the_gradient_of_log_success() -> None:
    problem = table_problem(3, 3, 0.3, 1)
    policy = tilted(problem.policy, problem.reward, 0.2)
    demo = demonstrator(policy, problem.reward, 1 - 1e-9, 0.0, 1)
    setting = Setting(policy, Objective(problem.reward, demo=demo), 1)
    sft = given_successes(SFT, setting)
    expected = setting.truth["reward"] / 0.2
    torch.testing.assert_close(sft.probability @ sft.mean, expected, atol=1e-7, rtol=1e-6)


def test_the_error_is_that_of_the_gated_estimator() -> None:
    """One estimator with a gate, enumerated as a whole, against the quadratic of its two terms."""
    setting, rl, sft = case(n=4)
    switch = Switch(0.25)
    gated = Estimator(
        (
            replace(RL.terms[0], gate=Gate(switch, "rl")),
            replace(SFT.terms[0], gate=Gate(switch, "sft")),
        )
    )
    share = torch.arange(5).double() / 4
    found = Quadratic.of(rl, sft, setting.truth["mu"]).mse(switch.f(share), switch.g(share))
    assert found == pytest.approx(exact(gated, setting).mse("mu"))


def test_estimators_that_count_tokens_are_given_the_successes_too() -> None:
    """They have several compositions a k."""
    setting, _, _ = case(n=3)
    own = Estimator((Term("online", CurrentPolicy(), GroupCentered(), TokenMean()),))
    found = given_successes(own, setting)
    torch.testing.assert_close(found.probability @ found.mean, exact(own, setting).mean)
    assert len(found.probability) == 4


# -------------------------------------------------------------------------------------- the optimum


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.02, 0.98),
    st.integers(2, 7),
    st.integers(0, 99),
    st.lists(st.floats(-1, 1), min_size=2, max_size=2),
)
def test_any_change_of_the_optimum_raises_the_error(
    p: float, n: int, seed: int, change: list[float]
) -> None:
    q = quadratic(p, n, seed)
    alpha, beta = q.optimum()
    best = q.by_k(alpha, beta)
    moved = q.by_k(alpha + change[0], beta + change[1])
    assert (moved >= best - 1e-12).all()
    assert alpha[0] == alpha[-1] == 0


def test_the_optimum_by_formula_is_the_optimum_by_descent() -> None:
    q = quadratic()
    weights = torch.zeros(2, len(q.rl), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-14)

    def error() -> Tensor:
        optimizer.zero_grad()
        total = q.by_k(weights[0], weights[1]).sum()
        total.backward()
        return total

    for _ in range(20):
        optimizer.step(error)
    alpha, beta = q.optimum()
    assert q.mse(alpha, beta) == pytest.approx(error().item(), rel=1e-9)
    torch.testing.assert_close(weights[1].detach(), beta, atol=1e-4, rtol=1e-3)


def test_tuned_factors_are_the_best_of_a_grid() -> None:
    q = quadratic()
    for f, g in shapes(5, {"wiener": Wiener()}, (0.0, 0.4)).values():
        tuned = q.tuned(f, g)
        assert tuned.x >= 0 and tuned.y >= 0
        assert tuned.mse == pytest.approx(q.mse(tuned.x * f, tuned.y * g))
        for x in torch.linspace(0, 1, 21).tolist():
            for y in torch.linspace(0, 1, 21).tolist():
                assert q.mse(x * f, y * g) >= tuned.mse - 1e-12
        assert tuned.mse <= q.nothing + 1e-12
        assert q.mse(*q.optimum()) <= tuned.mse + 1e-12


def test_questions_of_one_k_share_their_weights() -> None:
    """Errors of several questions add up; their common optimum is worse than each one's own."""
    each = [quadratic(p) for p in (0.1, 0.5)]
    both = pooled(each)
    alpha, beta = both.optimum()
    assert both.mse(alpha, beta) == pytest.approx(sum(q.mse(alpha, beta) for q in each))
    assert both.mse(alpha, beta) > sum(q.mse(*q.optimum()) for q in each)


def test_a_term_alone_gains_what_its_best_factor_does() -> None:
    q = quadratic()
    one, zero = torch.ones(6).double(), torch.zeros(6).double()
    assert q.alone("rl") == pytest.approx(q.nothing - q.tuned(one, zero).mse)
    assert q.alone("sft") == pytest.approx(q.nothing - q.tuned(zero, one).mse)


def test_the_best_step_is_the_best_estimate() -> None:
    """T·E[g] − ½E‖g‖² is half of ‖T‖² − E‖g − T‖²."""
    setting, rl, sft = case()
    truth = setting.truth["mu"]
    q = Quadratic.of(rl, sft, truth)
    f, g = Wiener().f(torch.arange(6) / 5, 5).double(), Wiener().g(torch.arange(6) / 5, 5).double()
    along = (f * q.rl_target + g * q.sft_target).sum()
    square = (f**2 * q.rl + 2 * f * g * q.cross + g**2 * q.sft).sum()
    assert 2 * (along - square / 2).item() == pytest.approx(q.nothing - q.mse(f, g))


# ----------------------------------------------------------------------------------------- the gate

OPTIONS = {
    "mu": st.floats(0, 100),
    "noise": st.floats(0.1, 1e4),
    "novelty": st.floats(0, 1),
    "prior_solved": st.floats(0.1, 10),
    "prior_failed": st.floats(0.1, 10),
}
gates = st.builds(Wiener, **OPTIONS)


@given(gates, st.integers(0, 64), st.integers(0, 64))
def test_wiener_weights_lie_between_0_and_1(gate: Wiener, k: int, n: int) -> None:
    p = torch.tensor([min(k, n) / max(n, 1)], dtype=torch.float64)
    for weight in (gate.f(p, n), gate.g(p, n)):
        assert 0 <= weight.item() <= 1


@given(st.builds(Wiener, mu=st.floats(1, 100), noise=st.floats(1, 1e4), novelty=st.floats(0, 0.5)))
def test_the_better_the_policy_the_less_is_imitated(gate: Wiener) -> None:
    """β falls as P rises where a nat is worth a solution or more."""
    for n in (1, 4, 8, 32):
        p = torch.arange(n + 1, dtype=torch.float64) / n
        assert (gate.g(p, n).diff() <= 1e-12).all()


def test_for_success_alone_imitation_is_best_of_what_is_sometimes_solved() -> None:
    """μ = 0: β rises from P = 0 and falls again, as ∇E[r] = p (1 − p) D does."""
    beta = Wiener(0.0).g(torch.arange(9, dtype=torch.float64) / 8, 8)
    assert 0 < int(beta.argmax()) < 4


@given(gates)
def test_a_question_without_demonstration_is_left_to_rl(gate: Wiener) -> None:
    batch = make_batch([1, 0, 1, 0, 0, 1], group=[0, 0, 1, 1, 1, 2], demos=[0, 0, 0, 0, 1, 1])
    alpha, beta = (Gate(gate, side)(batch).squeeze(1) for side in ("rl", "sft"))
    assert alpha[:2].tolist() == [1, 1] and beta[:2].tolist() == [0, 0]
    assert alpha[2] == alpha[4] == gate.f(torch.tensor(0.5).double(), 2)
    assert beta[5] == gate.g(torch.tensor(0.0).double(), 0)


@given(gates, st.permutations(range(6)))
def test_the_order_of_rollouts_does_not_matter(gate: Wiener, order: list[int]) -> None:
    batch = make_batch([1, 0, 1, 0, 0, 1], demos=[0, 0, 0, 0, 1, 1])
    moved = batch.select(torch.tensor(order))
    for side in ("rl", "sft"):
        assert torch.equal(Gate(gate, side)(moved), Gate(gate, side)(batch)[torch.tensor(order)])


@pytest.mark.parametrize("n", [2, 8, 32])
def test_wiener_weights_solve_the_model_they_are_made_for(n: int) -> None:
    """The normal equations of assumptions 1 to 4, with moments of p by quadrature."""
    gate = Wiener(mu=0.7, noise=2.0, novelty=0.4, prior_solved=1.5, prior_failed=2.5)
    q = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    kappa = math.sqrt(0.6)
    for k in range(n + 1):
        density = (1 - q) ** (0.5 + k) * q ** (1.5 + n - k)
        density = density / density.sum()
        w = k * (n - k) / n
        contrast, novel = torch.stack([(1 - q) * q + 0.7 * kappa * q, torch.full_like(q, 0.7)])
        rl2 = w**2 + w * 2.0  # of w D + noise, squared, in units of ‖D‖²
        cross = (density * w * kappa * q).sum()
        sft2 = (density * (kappa * q) ** 2).sum() + 0.4 + 2.0
        rl_target = (density * w * contrast).sum()
        sft_target = (density * kappa * q * contrast).sum() + 0.4 * novel[0]
        p = torch.tensor(k / n, dtype=torch.float64)
        alpha, beta = gate.f(p, n).item(), gate.g(p, n).item()
        scale = 2.0 / 1.7
        found = (alpha * cross + beta * sft2).item()
        assert found == pytest.approx(scale * sft_target.item(), rel=1e-6)
        if w:
            found = (alpha * rl2 + beta * cross).item()
            assert found == pytest.approx(scale * rl_target.item(), rel=1e-6)


def test_a_demonstration_is_worth_one_more_success() -> None:
    """Much noise, nothing novel, p known: β = (1 − p) α, and α ∝ (1 − p)(p + μ)."""
    p = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    many = Wiener(mu=0.3, noise=1e12, novelty=0.0)
    alpha, beta = many.f(p, 1e8), many.g(p, 1e8)
    torch.testing.assert_close(beta, (1 - p) * alpha, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(alpha, (1 - p) * (p + 0.3) / 1.3, rtol=1e-3, atol=1e-6)


def test_the_algorithm_is_the_global_token_form_under_the_gate() -> None:
    options = {"mu": 2.0, "noise": 5.0, "novelty": 0.5, "prior_solved": 1.0, "prior_failed": 2.0}
    named = replace(get("hpt_wiener", **options), name="custom")
    gated = get("hpt_global_token").with_feedback(Wiener(*options.values()))
    assert named == replace(gated, name="custom")
    assert get("hpt_wiener", gate="wiener", mu=2.0) == get("hpt_wiener", mu=2.0)
    assert feedback("wiener", 0.25, mu=1.0, clip=0.2) == Wiener(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": -1.0}, "Wiener.mu: got -1.0, wanted a number from 0"),
        ({"mu": math.inf}, "Wiener.mu: got inf"),
        ({"noise": 0.0}, "Wiener.noise: got 0.0, wanted a finite number > 0"),
        ({"novelty": 1.5}, "Wiener.novelty: got 1.5, wanted a number from 0 to 1"),
        ({"prior_failed": 0.0}, "Wiener.prior_failed: got 0.0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, float], message: str) -> None:
    with pytest.raises(UpgeError) as error:
        Wiener(**options)
    assert message in str(error.value)


# ---------------------------------------------------------------------------------------- the cases


def test_a_case_is_what_it_is_called() -> None:
    cases = TINY.parts["development"]
    asked = questions(cases, 0, 7)
    assert [q.success for q in asked] == pytest.approx(grid(7, (0.5, 1.0))[0])
    assert sum(q.weight for q in asked) == pytest.approx(1)
    for q in asked:
        demo = demonstrator(q.policy, q.reward, 0.9, 0.5, 0)
        assert (demo.logp().exp() @ q.reward).item() == pytest.approx(0.9)
    near = demonstrator(asked[3].policy, asked[3].reward, asked[3].success, 0.0, 0)
    torch.testing.assert_close(near.logp(), asked[3].policy.logp())


def test_the_crossing_is_where_the_demonstration_is_worth_one_success() -> None:
    """Demonstrations like the policy's successes: RL is ahead from about p = 1/(n + 1)."""
    recipe = replace(TINY, horizon=4, demo_success=(0.99,), demo_distance=(0.0,))
    cases = recipe.parts["development"]
    asked = questions(cases, 0, 13)
    shown = [mixing.demonstrated(q, 0.99, 0.0, 0) for q in asked]
    for n in (4, 16):
        each = [
            Quadratic.of(
                given_successes(RL, Setting(q.policy, Objective(q.reward), n)),
                sft,
                Objective(q.reward).gradient(q.policy),
            )
            for q, sft in zip(asked, shown, strict=True)
        ]
        p = mixing.crossing([q.success for q in asked], each)
        assert 0.5 < p * (n + 1) < 2
    assert math.isnan(mixing.crossing([0.1, 0.2], [each[0]] * 2))


def test_a_group_s_gradient_in_the_steps_is_the_estimator_s() -> None:
    recipe = replace(TINY, repeats=2, questions=3)
    world = mixing_steps.World(recipe, mixing_steps.walks(recipe)[0])
    chances = world.probabilities(world.start)
    torch.testing.assert_close(chances.sum(1), torch.ones(len(chances)).double())
    weights = torch.rand(len(chances), chances.shape[1], generator=torch.manual_seed(0)).double()
    found = world._score(weights, world.start.softmax(-1))
    tree = Tree(3, 0, 2)
    for logits, own, row in zip(world.start, weights, found, strict=True):
        scores = TabularPolicy(tree, logits).scores()
        table = (own @ mixing_steps.token_counts(tree)).view(1, *logits.shape)
        torch.testing.assert_close(row.flatten(), scores.combine(table)[0])


def test_many_groups_of_the_steps_have_the_enumerated_mean() -> None:
    recipe = replace(TINY, repeats=20_000, questions=1, weights_at=3)
    walk = mixing_steps.walks(recipe)[0]
    world = mixing_steps.World(recipe, walk)
    k, rl, sft = world.gradients(world.start, torch.Generator().manual_seed(0))
    policy = TabularPolicy(Tree(3, 0, 2), world.start[0])
    reward = world.solved.double()
    demo = demonstrator(*table_problem_pair(walk), walk.success, walk.distance, walk.seed)
    setting = Setting(policy, Objective(reward, demo=demo), 3)
    for drawn, estimator in ((rl, RL), (sft, SFT)):
        known = exact(estimator, setting)
        error = (drawn.mean(0).flatten() - known.mean).norm().item()
        assert error < 5 * math.sqrt(known.trace_cov / len(drawn))
    assert k.max() <= 3


def table_problem_pair(walk: mixing_steps.Walk) -> tuple[TabularPolicy, Tensor]:
    problem = table_problem(3, 2, 0.3, walk.seed)
    assert isinstance(problem.policy, TabularPolicy)
    return problem.policy, problem.reward


# ---------------------------------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def rows() -> Rows:
    return mixing.study(TINY)


def test_rows_have_one_form_and_come_again(rows: Rows) -> None:
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert repr(mixing.study(TINY)) == repr(rows)


def test_no_gate_beats_the_optimum(rows: Rows) -> None:
    shares = [float(row["value"]) for row in chosen(rows, measure="share")]
    assert min(shares) >= -1e-9 and max(shares) <= 1 + 1e-9


def test_headlines_are_numbers_and_the_figure_is_drawn(rows: Rows) -> None:
    numbers = mixing.headlines(rows)
    assert all(math.isfinite(value) for value in numbers.values())
    for name, value in numbers.items():
        assert not name.startswith(("share", "lowest")) or value <= 1 + 1e-9, name
    with style():
        assert len(figure(rows_with_all_targets(rows)).axes) == 16


def rows_with_all_targets(rows: Rows) -> Rows:
    """The tiny recipe leaves out the target μ = 1/8, which the figure shows."""
    return [*rows, *({**row, "target": "mu 0.125"} for row in chosen(rows, target="mu 1"))]


def test_the_recipe_in_use_is_accepted() -> None:
    recipe = load(RECIPE, Recipe)
    assert recipe.weights_at in recipe.group_sizes
    apart = set(recipe.seeds) & set(recipe.held_out_seeds)
    assert not apart and not set(recipe.group_sizes) & set(recipe.held_out_group_sizes)
    assert not set(recipe.demo_success) & set(recipe.held_out_demo_success)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"demo_success": (1.0,)}, "demo_success: got 1.0"),
        ({"priors": ((0.5,),)}, r"priors: got \(\(0.5,\),\), wanted pairs"),
        ({"held_out_priors": ((0.0, 1.0),)}, "held_out_priors: got"),
        ({"step_demonstrations": ((1.0, 0.0),)}, "wanted a success rate and a distance"),
        ({"gammas": (2.0,)}, "gammas: got 2.0"),
        ({"group_sizes": (1,)}, "group_sizes: got 1"),
    ],
)
def test_a_recipe_that_cannot_be_meant(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]
