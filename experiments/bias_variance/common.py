"""What the studies share: their form, random problems, ways to move a policy, relative errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.exact.enumeration import NetworkPolicy, Policy, TabularPolicy, Tree
from upge.exact.moments import Moments
from upge.exact.objective import Objective, kl
from upge.reference import Reference

#: One line of a study's result, in long format.
Row = dict[str, float | str]
Rows = Sequence[Mapping[str, float | str]]

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class Progress(Protocol):
    """Is told how many of a study's steps are done, of how many."""

    def __call__(self, done: int, total: int) -> None: ...


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


class Run(Protocol[R_contra]):
    """A study: exact numbers of a recipe."""

    def __call__(self, recipe: R_contra, progress: Progress = ...) -> list[Row]: ...


class Study(NamedTuple, Generic[R]):
    """A recipe's type, the function that runs one, and its numbers to quote, read off the rows."""

    recipe: type[R]
    run: Run[R]
    headlines: Callable[[Rows], dict[str, float]]


def watched(steps: Sequence[R], progress: Progress) -> Iterable[R]:
    """The steps, one by one, with progress told after each."""
    for done, step in enumerate(steps, 1):
        yield step
        progress(done, len(steps))


# ------------------------------------------------------------------------------- checks of recipes


def check_numbers(
    recipe: object, low: float, high: float, *names: str, strict: bool = False
) -> None:
    """Refuse fields (numbers, or tuples of some) outside [low, high]; ``strict``: or at low."""
    for name in names:
        given = getattr(recipe, name)
        values = given if isinstance(given, tuple) else (given,)
        if not values:
            raise UpgeError(f"{name}: got an empty list, wanted at least one number")
        for value in values:
            if not low <= value <= high or (strict and value == low):
                bounds = f"{'>' if strict else '≥'} {low:g}"
                upper = f" and ≤ {high:g}" if math.isfinite(high) else ""
                raise UpgeError(f"{name}: got {value}, wanted a number {bounds}{upper}")


def check_names(recipe: object, known: Iterable[str], *names: str) -> None:
    """Refuse fields (words, or tuples of some) that are not known."""
    for name in names:
        given = getattr(recipe, name)
        for value in given if isinstance(given, tuple) else (given,):
            if value not in known:
                raise unknown(f"entry of {name}", value, known)


# ------------------------------------------------------------------------------- random problems


@dataclass(frozen=True, eq=False)
class Problem:
    """A policy and binary rewards (M,) of one question."""

    policy: Policy
    reward: Tensor

    @property
    def success(self) -> float:
        """E[r] under the policy."""
        return (self.policy.logp().exp() @ self.reward).item()


def graded(policy: Policy, success: float, seed: int) -> Tensor:
    """(M,) binary rewards that depend on every token, with a success rate close to ``success``.

    Each token at each place earns normal points. From the best trajectory down, each succeeds that
    does not lift the policy's success rate above the one asked for; at least the best does. Points
    are drawn again, some times, while the first token alone settles every outcome.
    """
    tree, generator = policy.tree, torch.Generator().manual_seed(seed)
    probs = policy.logp().exp().tolist()
    for _ in range(20):
        points = torch.randn(tree.horizon, tree.vocab, generator=generator, dtype=torch.float64)
        reward = _best(tree, points, probs, success)
        chances = ahead(tree, policy.log_probs(), reward)[0]
        if ((chances > 1e-9) & (chances < 1 - 1e-9)).any():
            break
    return reward


def _best(tree: Tree, points: Tensor, probs: list[float], success: float) -> Tensor:
    """(M,) 1 for the best trajectories by points (H, V), up to a mass of ``success``."""
    earned = points[torch.arange(tree.horizon), tree.tokens]
    score = torch.where(tree.mask, earned, 0.0).sum(1) / tree.length.sqrt()
    reward, reached = torch.zeros_like(score), 0.0
    for i in score.argsort(descending=True, stable=True).tolist():
        if reached + probs[i] <= success or not reached:
            reward[i], reached = 1.0, reached + probs[i]
    return reward


@dataclass(frozen=True)
class NetworkRecipe:
    """A random network (shared parameters) with graded rewards; token 0 is eos.

    Args:
        vocab: tokens, eos included.
        horizon: the longest trajectory.
        hidden: units of the network.
        scale: standard deviation of its parameters.
        success: its success rate, nearly.
        fill: mean length of its trajectories, as a share of the horizon (eos's bias is set so).
        group_size: rollouts a group.
        seeds: one random problem each.
    """

    vocab: int
    horizon: int
    hidden: int
    scale: float
    success: float
    fill: float
    group_size: int
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        check_numbers(self, 2, 10, "vocab")
        check_numbers(self, 1, 20, "horizon")
        check_numbers(self, 1, 1000, "hidden")
        check_numbers(self, 2, 1000, "group_size")
        check_numbers(self, 0, 1, "success", "fill", strict=True)
        check_numbers(self, 0, 10, "scale", strict=True)
        check_numbers(self, 0, math.inf, "seeds")

    def problem(self, seed: int, horizon: int | None = None) -> Problem:
        """The problem of one seed, with another horizon if given."""
        tree = Tree(self.vocab, 0, horizon or self.horizon)
        policy = NetworkPolicy(tree, self.hidden, seed=seed, scale=self.scale)
        if tree.horizon > 1:
            policy = _filled(policy, self.fill)
        return Problem(policy, graded(policy, self.success, seed + 1_000_000))


def _filled(policy: NetworkPolicy, fill: float) -> NetworkPolicy:
    """The network with eos's bias such that trajectories are ``fill`` · horizon tokens long."""
    tree, length = policy.tree, policy.tree.length.double()
    eos = len(policy.theta) - tree.vocab  # the last block of θ is b

    def biased(shift: float) -> Tensor:
        theta = policy.theta.clone()
        theta[eos] -= shift
        return theta

    def mean_length(shift: float) -> float:
        return (policy.logp(theta=biased(shift)).exp() @ length).item()

    shift = solve(mean_length, fill * tree.horizon, -30.0, 30.0)
    moved_policy = at(policy, biased(shift))
    assert isinstance(moved_policy, NetworkPolicy)
    return moved_policy


DIRECTIONS = ("random", "gradient")


def drifted(problem: Problem, direction: str, nats: float, seed: int) -> Policy:
    """The policy ``nats`` away from the problem's, in a random direction or up E[r]."""
    old = problem.policy
    if direction == "gradient":
        along = Objective(problem.reward).gradient(old)
    else:
        generator = torch.Generator().manual_seed(seed + 2_000_000)
        along = torch.randn(len(old.theta), generator=generator, dtype=torch.float64)
    return moved(old, along, nats)


def table_problem(vocab: int, horizon: int, success: float, seed: int) -> Problem:
    """A random table of logits (no shared parameters) with graded rewards."""
    policy = TabularPolicy.random(Tree(vocab, 0, horizon), seed)
    return Problem(policy, graded(policy, success, seed + 1_000_000))


# ------------------------------------------------------------------------------- moving a policy


def at(policy: Policy, theta: Tensor) -> Policy:
    """The same family of policies at other parameters."""
    if isinstance(policy, NetworkPolicy):
        tree, questions = policy.tree, policy.questions
        width = max((tree.horizon - 1) * tree.vocab, 1)
        hidden = (len(theta) - tree.vocab) // (width + questions + tree.vocab)
        return NetworkPolicy(tree, hidden, theta=theta, questions=questions)
    return TabularPolicy(policy.tree, theta.view(policy.questions, -1, policy.tree.vocab))


def divergence(old: Policy, new: Policy) -> float:
    """KL(old ‖ new) of whole trajectories, in nats."""
    return kl(old.logp(), new.logp()).item()


def moved(old: Policy, direction: Tensor, nats: float) -> Policy:
    """The policy on the ray from ``old`` along ``direction`` where KL(old ‖ new) is ``nats``.

    Raises:
        UpgeError: the divergence stays below ``nats`` along the ray.
    """
    if nats == 0:
        return old
    unit, log_old = direction / direction.norm(), old.logp()

    def reached(step: float) -> float:
        return kl(log_old, old.logp(theta=old.theta + step * unit)).item()

    high = 1e-3
    while reached(high) < nats:
        high *= 2
        if high > 1e6:
            raise UpgeError(f"the policy can't be moved {nats:g} nats away along this direction")
    step = solve(reached, nats, high / 2 if high > 1e-3 else 0.0, high)
    return at(old, old.theta + step * unit)


def solve(function: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where an increasing function takes the value ``wanted``, by bisection to the last digits."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < wanted else (low, middle)
    return (low + high) / 2


def tilted(policy: Policy, reward: Tensor, success: float) -> TabularPolicy:
    """The policy ∝ π exp(β r) with the success rate asked for, 0 < p < 1, for binary rewards.

    It is what maximises E[r] at a given KL from ``policy``; given success, or given failure, its
    trajectories are distributed as before.
    """
    tree, log_pi = policy.tree, policy.log_probs()
    now = (policy.logp().exp() @ reward).item()
    odds = success / (1 - success) * (1 - now) / now
    growth = 1 + (odds - 1) * reward  # exp(β r), exactly
    return TabularPolicy(tree, log_pi + ahead(tree, log_pi, growth).log())


def ahead(tree: Tree, log_pi: Tensor, end: Tensor) -> Tensor:
    """(P, V) E[end | prefix, token] of a table, ``end`` (M,) at the trajectories' ends."""
    inner = tree.value(log_pi, end)
    node = torch.cat([inner, end[tree.prefixes :]])
    ahead = torch.empty_like(log_pi)
    ahead[:, tree.eos] = end[: tree.prefixes]
    ahead[:, tree.continuing] = node[1:].view(tree.prefixes, tree.vocab - 1)
    return ahead


# ------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class TrajectoryRatio(Reference):
    """π_ref so that every token's weight is the whole trajectory's π_θ(τ)/π_θold(τ): eq. 3."""

    text: ClassVar[str] = "π_θold(τ)"
    latex: ClassVar[str] = r"\pi_{\theta_{old}}(\tau)"
    needs: ClassVar[frozenset[str]] = frozenset({"logp", "old_logp"})

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        logp = batch.require("logp", "the trajectory ratio")
        log_ratio = batch.token_log_ratio("the trajectory ratio")
        total = torch.where(batch.mask, log_ratio, 0.0).sum(1, keepdim=True)
        return logp - total


#: Of 1 − cos².
ROUNDING = 1e-13


def errors(moments: Moments, truth: Tensor) -> Row:
    """Bias², variance and MSE relative to ‖truth‖², and what a rescaling leaves of them.

    ``weight`` is the mean's length along the truth, 1 where unbiased; ``cosine`` of their angle.
    ``mse_scaled`` is the MSE of the best multiple ≥ 0 of the estimator, which is
    1 − cos²·‖m‖²/(‖m‖² + tr Cov), or 1 where the cosine is negative; ``bias_sq_scaled`` that of
    its mean m alone, 1 − cos² or 1. Biases that float64's rounding can make count as 0.
    """
    size = (truth @ truth).item()
    mean, along = moments.norm_mean_sq, (moments.mean @ truth).item()
    bias_sq = ((moments.mean - truth) ** 2).sum().item()
    second, forward = mean + moments.trace_cov, max(along, 0.0)
    bias_sq = bias_sq if bias_sq > 1e-20 * size else 0.0
    turned = 1 - forward**2 / (mean * size) if mean else 1.0
    return {
        "bias_sq": bias_sq / size,
        "variance": moments.trace_cov / size,
        "mse": (bias_sq + moments.trace_cov) / size,
        "weight": along / size,
        "cosine": along / math.sqrt(mean * size) if mean else math.nan,
        "bias_sq_scaled": turned if turned > ROUNDING else 0.0,
        "mse_scaled": 1 - forward**2 / (second * size) if second else 1.0,
    }


# ------------------------------------------------------------------------------- numbers to quote


def chosen(rows: Rows, **where: float | str) -> Rows:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def middle(rows: Rows, column: str, **where: float | str) -> float:
    """The median of a column over the rows that have these values.

    Raises:
        UpgeError: no row has them.
    """
    values = [float(row[column]) for row in chosen(rows, **where)]
    if not values:
        raise UpgeError(f"no row has {where}, so it has no median {column}")
    return median(values)


def paired(over: Rows, under: Rows, column: str) -> float:
    """The median over problems of a column's ratio between two series, matched by ``seed``."""
    base = {row["seed"]: float(row[column]) for row in under}
    return median(float(row[column]) / base[row["seed"]] for row in over)
