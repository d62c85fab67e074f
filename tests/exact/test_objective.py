"""J and its gradient: by hand, by recursion, by differences, and as the paper's expectations."""

import math
from typing import Any

import pytest
import torch
from strategies import close
from torch import Tensor
from trees import entry, name, recursion

from upge import UpgeError
from upge.exact.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree
from upge.exact.objective import Objective, kl

TREE = Tree(3, 0, 3)
MU, LAM = 0.7, 0.3


def objective(questions: int = 2) -> Objective:
    reward = torch.rand(questions, TREE.trajectories, generator=torch.Generator().manual_seed(1))
    demo, reference = (
        TabularPolicy.random(TREE, seed, questions=questions, scale=0.7) for seed in (7, 8)
    )
    return Objective(reward, MU, demo, LAM, reference)


POLICIES = [
    TabularPolicy.random(TREE, 0, questions=2),
    NetworkPolicy(TREE, 3, seed=1, questions=2),
]


def naive(j: Objective, policy: Policy, theta: Tensor) -> Tensor:
    """J by recursion over trajectories, in probabilities."""
    total = torch.zeros((), dtype=torch.float64)

    def probability(of: Policy, at: Tensor, tau: tuple[int, ...]) -> Tensor:
        table = of.log_probs(q, at)
        steps = [entry(of, table, tau[:t], token).exp() for t, token in enumerate(tau)]
        return torch.stack(steps).prod()

    assert j.demo is not None and j.reference is not None
    for q in range(policy.questions):
        for tau in recursion(policy.tree):
            pi = probability(policy, theta, tau)
            beta, ref = (probability(p, p.theta, tau) for p in (j.demo, j.reference))
            reward = j.reward[q, policy.tree.trajectory_names.index(name(tau))]
            total = total + pi * reward - j.mu * beta * (beta / pi).log()
            total = total - j.lam * pi * (pi / ref).log()
    return total / policy.questions


def test_by_hand() -> None:
    tree = Tree(2, 1, 1)  # two trajectories of one token
    policy = TabularPolicy(tree, torch.tensor([[3.0, 1.0]]).double().log())
    demo = TabularPolicy(tree, torch.tensor([[1.0, 1.0]]).log())
    reward = torch.tensor([1.0, 0.0])  # of trajectory "1", then "0"
    j = Objective(reward, mu=2.0, demo=demo, lam=4.0, reference=demo)
    beta_to_pi = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    pi_to_ref = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert j(policy).item() == pytest.approx(0.25 - 2 * beta_to_pi - 4 * pi_to_ref)
    # ∇p of the first of two tokens is p(1 − p); that of KL(β‖π) is π − β.
    expected = -0.1875 + 2 * (0.5 - 0.75) - 4 * 0.1875 * math.log(3)
    close(j.gradient(policy), torch.tensor([expected, -expected], dtype=torch.float64))


@pytest.mark.parametrize("policy", POLICIES)
def test_value_and_gradient_are_those_of_the_recursion(policy: Policy) -> None:
    j, theta = objective(), policy.theta.clone().requires_grad_()
    value = naive(j, policy, theta)
    close(j(policy), value.detach())
    close(j.gradient(policy), torch.autograd.grad(value, theta)[0])


@pytest.mark.parametrize("policy", POLICIES)
def test_gradient_is_that_of_central_differences(policy: Policy) -> None:
    j, step = objective(), 1e-5
    steps = step * torch.eye(len(policy.theta), dtype=torch.float64)
    ups, downs = ([j(policy, policy.theta + s * e) for e in steps] for s in (1, -1))
    differences = (torch.stack(ups) - torch.stack(downs)) / (2 * step)
    torch.testing.assert_close(j.gradient(policy), differences, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_objective_is_the_mean_over_questions(policy: Policy) -> None:
    j = objective()
    close(j(policy), (j(policy, question=0) + j(policy, question=1)) / 2)
    close(j.gradient(policy), (j.gradient(policy, 0) + j.gradient(policy, 1)) / 2)


def expectation(policy: Policy, probability: Tensor, advantage: Tensor | float) -> Tensor:
    """Σ_τ probability · advantage · ∇log π_θ(τ), by autograd."""
    theta = policy.theta.clone().requires_grad_()
    weights = (probability * advantage).detach()
    return torch.autograd.grad((weights * policy.logp(0, theta)).sum(), theta)[0]


@pytest.mark.parametrize("policy", [TabularPolicy.random(TREE, 0), NetworkPolicy(TREE, 3)])
def test_the_papers_gradients(policy: Policy) -> None:
    j = objective(questions=1)
    assert j.demo is not None and j.reference is not None
    pi, beta, ref = (p.logp().exp() for p in (policy, j.demo, j.reference))
    reward = j.reward[0]
    plain = Objective(reward, MU, j.demo)
    two_terms = expectation(policy, pi, reward) + MU * expectation(policy, beta, 1.0)
    close(plain.gradient(policy), two_terms)  # eq. 2
    unified = reward + MU * beta / pi
    close(plain.gradient(policy), expectation(policy, pi, unified))  # eq. 3–4, π_ref = π_θ
    trust = reward - LAM * (pi / ref).log() + MU * beta / pi
    close(j.gradient(policy), expectation(policy, pi, trust))  # appendix B.2


def test_mass_that_is_not_covered_makes_it_infinite() -> None:
    tree = Tree(2, 1, 2)
    full = TabularPolicy(tree, torch.zeros(2, 2))
    lame = TabularPolicy(tree, torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
    reward = torch.tensor([0.0, 1.0, 0.0])
    for j, policy in (
        (Objective(reward, mu=1.0, demo=full), lame),
        (Objective(reward, lam=1.0, reference=lame), full),
    ):
        assert j(policy).item() == -math.inf
        with pytest.raises(UpgeError, match="J is −∞ and has no gradient"):
            j.gradient(policy)


def test_mass_that_is_not_needed_may_be_missing() -> None:
    tree = Tree(2, 1, 2)
    full = TabularPolicy(tree, torch.zeros(2, 2))
    lame = TabularPolicy(tree, torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
    reward = torch.tensor([0.0, 1.0, 0.0])
    close(kl(lame.logp(), full.logp()), math.log(2))
    j = Objective(reward, mu=1.0, demo=lame)
    close(j(full), 0.25 - math.log(2))
    assert j.gradient(full).isfinite().all()
    j = Objective(reward, lam=1.0, reference=full)
    close(j(lame), 0.5 - math.log(2))
    assert j.gradient(lame).isfinite().all()


@pytest.mark.parametrize("weights", [{"mu": -1.0}, {"lam": math.nan}, {"mu": math.inf}])
def test_weights_that_cannot_be_meant(weights: dict[str, Any]) -> None:
    with pytest.raises(UpgeError, match=r"(mu|lam): got .*, wanted a finite number ≥ 0"):
        Objective(torch.zeros(1), **weights)


def test_what_does_not_go_together_is_refused() -> None:
    policy, reward = TabularPolicy.random(TREE, 0), torch.zeros(TREE.trajectories)
    with pytest.raises(UpgeError, match="lacks its demo policy"):
        Objective(reward, mu=1.0)(policy)
    with pytest.raises(UpgeError, match="lacks its reference policy"):
        Objective(reward, lam=1.0)(policy)
    with pytest.raises(UpgeError, match=r"reward: got shape \(1, 3\), wanted \(1, 15\)"):
        Objective(torch.zeros(3))(policy)
    with pytest.raises(UpgeError, match="not a finite number"):
        Objective(reward + torch.nan)
