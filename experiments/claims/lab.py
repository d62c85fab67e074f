"""Instances to try claims on: random policies on small trees, and exact one-sample moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from upge.advantage import Advantage, Reward
from upge.batch import TrajectoryBatch
from upge.estimator import Estimator, Term, compose
from upge.exact.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree
from upge.exact.instance import Critic, Setting
from upge.exact.moments import exact
from upge.exact.objective import Objective
from upge.normalization import TrajectoryMean
from upge.reference import Reference, RolloutPolicy
from upge.stabilization import NoMask, Stabilization

#: Norm below which a gradient counts as 0: rounding of float64.
VANISHING = 1e-13

#: Random instances a claim is tried on, unless it says otherwise.
SEEDS = tuple(range(20))


@dataclass(frozen=True, eq=False)
class Sampled:
    """An estimator of one sample: (D,) its mean, and E‖g‖²."""

    mean: Tensor
    square: float

    @property
    def signal(self) -> float:
        """‖E g‖²."""
        return (self.mean @ self.mean).item()

    @property
    def trace_cov(self) -> float:
        """Trace Cov[g]."""
        return max(self.square - self.signal, 0.0)

    def mse(self, truth: Tensor) -> float:
        """E‖g − truth‖²."""
        return self.trace_cov + ((self.mean - truth) ** 2).sum().item()


def sampled(policy: Policy, source: Policy, weights: Tensor) -> Sampled:
    """Moments of g = Σ_t w_t ∇log π_θ(τ_t), τ drawn from ``source``, w (M, H) or (M, 1)."""
    tree, scores = policy.tree, policy.scores()
    probability = source.logp().exp()
    rows = (probability > 0).nonzero().flatten()
    share = probability[rows]
    own = torch.where(tree.mask, weights.expand(tree.mask.shape), 0.0)[rows]
    table = torch.zeros(tree.prefixes * tree.vocab, dtype=torch.float64)
    table.index_add_(0, tree.cell[rows].flatten(), (share[:, None] * own).flatten())
    mean = scores.combine(table.view(1, tree.prefixes, tree.vocab))[0]
    return Sampled(mean, (share @ scores.square_norms(own, rows)).item())


@dataclass(frozen=True, eq=False)
class Case:
    """One question: π_θ, π_θold, π_β, r (M,) of every trajectory, and μ."""

    policy: Policy
    old: Policy
    demo: Policy
    reward: Tensor
    mu: float = 0.5

    @cached_property
    def rl(self) -> Tensor:
        """∇E[r], by differentiating the sum over all trajectories."""
        return Objective(self.reward).gradient(self.policy)

    @cached_property
    def truth(self) -> Tensor:
        """∇J_μ, likewise."""
        return Objective(self.reward, self.mu, self.demo).gradient(self.policy)

    @cached_property
    def sft(self) -> Tensor:
        """E_{π_β}[∇log π_θ]."""
        return self.sample(self.demo, torch.ones(1, 1, dtype=torch.float64)).mean

    @property
    def success(self) -> float:
        """E[r] under π_θ."""
        return (self.policy.logp().exp() @ self.reward).item()

    def sample(self, source: Policy, weights: Tensor) -> Sampled:
        """One trajectory of ``source`` with weights w on its tokens."""
        return sampled(self.policy, source, weights)

    def setting(
        self, group_size: int = 1, *, old: bool = True, critic: Critic = "exact"
    ) -> Setting:
        """Groups of rollouts of π_θold (of π_θ unless ``old``), and one demonstration."""
        objective = Objective(self.reward, self.mu, self.demo)
        rollouts = self.old if old else None
        return Setting(self.policy, objective, group_size, rollouts, critic=critic)


def random_case(
    seed: int,
    *,
    vocab: int = 3,
    horizon: int = 3,
    shift: float = 0.5,
    levels: tuple[float, ...] = (0.0, 1.0),
    hidden: int = 0,
) -> Case:
    """Normal logits; π_θold is π_θ with parameters moved by ``shift`` standard normals.

    The rewards are drawn from ``levels``, not all equal; π_β is drawn on its own. With ``hidden``
    the policies are networks of that width with shared parameters.
    """
    tree, generator = Tree(vocab, 0, horizon), torch.Generator().manual_seed(seed)
    policy = _policy(tree, seed, hidden)
    noise = torch.randn(policy.theta.shape, generator=generator, dtype=torch.float64)
    moved = policy.theta + shift * noise
    old: Policy = (
        NetworkPolicy(tree, hidden, theta=moved)
        if hidden
        else TabularPolicy(tree, moved.view(tree.prefixes, vocab))
    )
    choices, reward = torch.tensor(levels, dtype=torch.float64), torch.zeros(0)
    while len(reward.unique()) < min(len(levels), tree.trajectories):
        reward = choices[torch.randint(len(levels), (tree.trajectories,), generator=generator)]
    return Case(policy, old, _policy(tree, seed + 10_000, hidden), reward)


def _policy(tree: Tree, seed: int, hidden: int) -> Policy:
    if hidden:
        return NetworkPolicy(tree, hidden, seed=seed)
    return TabularPolicy.random(tree, seed)


def cases(seeds: Iterable[int] = SEEDS, horizons: Iterable[int] = (1, 2, 3)) -> Iterator[Case]:
    """Random tabular cases, the shortest trajectories first."""
    return (random_case(seed, horizon=horizon) for horizon in horizons for seed in seeds)


def reweighted(policy: Policy, factor: Tensor) -> TabularPolicy:
    """The policy of trajectory probabilities ∝ π(τ) · ``factor``(τ), factor (M,) ≥ 0.

    Token by token it is π(v|s) Z(sv)/Z(s) with Z(s) = E[factor | s]. Prefixes that it never reaches
    keep π's probabilities.
    """
    tree, log_pi = policy.tree, policy.log_probs()
    total = tree.value(log_pi, factor)
    node = torch.cat([total, factor[tree.prefixes :]])
    first = torch.arange(tree.prefixes)[:, None] * (tree.vocab - 1) + 1
    ahead = torch.zeros_like(log_pi)
    ahead[:, tree.eos] = factor[: tree.prefixes]
    ahead[:, tree.continuing] = node[first + torch.arange(tree.vocab - 1)]
    logits = log_pi + torch.where(total[:, None] > 0, ahead, 1.0).log()
    return TabularPolicy(tree, logits)


def at_success(case: Case, p: float) -> Case:
    """The case with π_θ tilted towards the rewarded trajectories, or away, so that E[r] = p."""
    odds = p / (1 - p) * (1 - case.success) / case.success
    factor = torch.ones_like(case.reward).masked_fill(case.reward > 0, odds)
    tilted = reweighted(case.policy, factor)
    return Case(tilted, tilted, case.demo, case.reward, case.mu)


def estimator(
    reference: Reference | None = None,
    advantage: Advantage | None = None,
    stabilization: Stabilization | None = None,
) -> Estimator:
    """One term of rollouts, token sums averaged over the group: eq. 6, the package's own code."""
    return compose(
        Term(
            "online",
            reference or RolloutPolicy(),
            advantage or Reward(),
            TrajectoryMean(),
            stabilization or NoMask(),
        )
    )


def moments(what: Estimator, case: Case, group_size: int = 1, *, old: bool = True) -> Sampled:
    """The exact moments over groups of rollouts of π_θold (of π_θ unless ``old``).

    A group of one needs no counting of compositions: each trajectory is a question of its own.
    """
    if group_size > 1:
        found = exact(what, case.setting(group_size, old=old))
        return Sampled(found.mean, found.trace_cov + found.norm_mean_sq)
    source, tree = case.old if old else case.policy, case.policy.tree
    batch = TrajectoryBatch(
        mask=tree.mask,
        reward=case.reward,
        group=torch.arange(tree.trajectories),
        offline=torch.zeros(tree.trajectories, dtype=torch.bool),
        old_logp=source.token_logp(),
    )
    share = what.with_normalizer("token_sum")(batch, case.policy.token_logp())
    return case.sample(source, share.weights)


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖/‖b‖."""
    return float((a - b).norm() / b.norm())


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between a and b; 0 if one of them vanishes, 1 if both do."""
    norms = [float(x.norm()) for x in (a, b)]
    if min(norms) < VANISHING:
        return float(max(norms) < VANISHING)
    return float(a @ b) / math.prod(norms)
