"""What do the rules for demonstrations estimate: ∇(−KL(π_β‖π_θ)), ∇E[r] or ∇J_μ?

π_θ is a random table; the teacher takes at every prefix the token of the highest value. The
demonstrator π_β takes the teacher's token with probability ``share`` and one of π_θ otherwise, so
it goes from near π_θ to deterministic. How well π_θ covers the teacher is set at every other
place, the first included: there it takes the teacher's token with probability ``coverage``; at the
places between, as the random table has it.

Each rule is measured ``alone``, on one demonstration, and ``with_rollouts``: μ times it, beside
the leave-one-out estimate of ∇E[r] from a group of rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from experiments.bias_variance.common import (
    Problem,
    Progress,
    Row,
    Rows,
    ahead,
    check_numbers,
    chosen,
    divergence,
    errors,
    middle,
    silent,
    table_problem,
    watched,
)
from upge.advantage import GroupZScore, LeaveOneOut, One
from upge.estimator import Estimator, Term
from upge.exact.enumeration import TabularPolicy
from upge.exact.instance import Setting
from upge.exact.moments import moments
from upge.exact.objective import Objective
from upge.likelihood import Complement, PolicyShaping
from upge.normalization import TrajectoryMean
from upge.reference import ConstantOne, CurrentPolicy

RULES = ("sft", "off_policy", "luffy", "dft", "chord")
TARGETS = ("kl", "reward", "mu")


@dataclass(frozen=True)
class Recipe:
    """The problems, and how far apart π_β and π_θ are.

    Args:
        vocab: tokens, eos included.
        horizon: the longest trajectory.
        success: success rate of the random table, before ``coverage`` is set, nearly.
        share: of the teacher in π_β, a token.
        coverages: π_θ of the teacher's token at every other place, where ``share`` varies.
        coverage: the same, where it varies.
        fixed_share: of the teacher there.
        mu: μ of J_μ.
        shaping: LUFFY's γ in f(π) = π/(π + γ).
        group_size: rollouts a group.
        seeds: one random table and rewards each.
    """

    vocab: int
    horizon: int
    success: float
    share: tuple[float, ...]
    coverages: tuple[float, ...]
    coverage: tuple[float, ...]
    fixed_share: float
    mu: float
    shaping: float
    group_size: int
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        check_numbers(self, 2, 10, "vocab")
        check_numbers(self, 1, 10, "horizon")
        check_numbers(self, 2, 1000, "group_size")
        check_numbers(self, 0, 1, "success", "share", "fixed_share", strict=True)
        check_numbers(self, 1e-12, 1 - 1e-12, "coverages", "coverage")
        check_numbers(self, 0, math.inf, "mu", "shaping", strict=True)
        check_numbers(self, 0, math.inf, "seeds")

    def terms(self) -> dict[str, Term]:
        """The rules: SFT, off-policy RL over π_ref ≡ 1, LUFFY, DFT, CHORD."""
        one = Term("offline", ConstantOne(), One(), TrajectoryMean())
        off_policy = replace(one, advantage=GroupZScore("all"))
        return {
            "sft": replace(one, reference=CurrentPolicy()),
            "off_policy": off_policy,
            "luffy": replace(off_policy, shaping=PolicyShaping(self.shaping)),
            "dft": one,
            "chord": replace(one, shaping=Complement()),
        }

    def places(self) -> Iterator[tuple[str, float, float]]:
        """Sweep, share and coverage of every pair of policies."""
        for coverage, share in product(self.coverages, self.share):
            yield "share", share, coverage
        for coverage in self.coverage:
            yield "coverage", self.fixed_share, coverage


@dataclass(frozen=True, eq=False)
class Pair:
    """π_θ, π_β, and rewards (M,)."""

    policy: TabularPolicy
    demo: TabularPolicy
    reward: Tensor


def pair(problem: Problem, share: float, coverage: float) -> Pair:
    """The policies at this share and coverage."""
    tree, log_pi = problem.policy.tree, problem.policy.log_probs()
    value = ahead(tree, log_pi, problem.reward)
    favoured = (value > value.amax(1, keepdim=True) - 1e-12) * log_pi.exp()
    teacher = torch.nn.functional.one_hot(favoured.argmax(1), tree.vocab).bool()
    depth = tree.length[: tree.prefixes, None] - 1
    probs = log_pi.exp()
    others = torch.where(teacher, 0.0, probs)
    covered = torch.where(teacher, coverage, (1 - coverage) * others / others.sum(1, keepdim=True))
    probs = torch.where(depth % 2 == 0, covered, probs)
    demo = (1 - share) * probs + share * teacher
    return Pair(TabularPolicy(tree, probs.log()), TabularPolicy(tree, demo.log()), problem.reward)


def study(recipe: Recipe, progress: Progress = silent) -> list[Row]:
    """Errors of every rule, relative to the target's squared norm, for every target and place."""
    rows: list[Row] = []
    steps = list(product(recipe.seeds, recipe.places()))
    for seed, (sweep, share, coverage) in watched(steps, progress):
        problem = table_problem(recipe.vocab, recipe.horizon, recipe.success, seed)
        policies = pair(problem, share, coverage)
        log_demo = policies.demo.logp()
        mass = log_demo.exp()
        shared: Row = {
            "sweep": sweep,
            "seed": seed,
            "share": share,
            "coverage": coverage,
            "success": (policies.policy.logp().exp() @ policies.reward).item(),
            "demo_success": (mass @ policies.reward).item(),
            "demo_entropy": -torch.where(mass > 0, mass * log_demo, 0.0).sum().item(),
            "kl": divergence(policies.demo, policies.policy),
        }
        rows += [shared | row for row in _compare(recipe, policies)]
    return rows


def _compare(recipe: Recipe, policies: Pair) -> list[Row]:
    objective = Objective(policies.reward, recipe.mu, policies.demo)
    setting = Setting(policies.policy, objective, recipe.group_size)
    truth = dict(setting.truth)
    truth["kl"] = (truth["mu"] - truth["reward"]) / recipe.mu
    rollouts = Term("online", CurrentPolicy(), LeaveOneOut(), TrajectoryMean())
    rows: list[Row] = []
    for rule, term in recipe.terms().items():
        if isinstance(term.advantage, GroupZScore):
            result = moments(_with_group(term), setting)
        else:  # reads no rollouts
            result = moments(Estimator((term,)), replace(setting, group_size=1))
        both = moments(Estimator((rollouts, replace(term, coefficient=recipe.mu))), setting)
        for part, target in (*(("alone", target) for target in TARGETS), ("with_rollouts", "mu")):
            which: Row = {"rule": rule, "part": part, "target": target}
            rows.append(which | errors(result if part == "alone" else both, truth[target]))
    return rows


def _with_group(term: Term) -> Estimator:
    """The term beside rollouts that weigh nothing, which its advantage reads."""
    rollouts = Term("online", CurrentPolicy(), One(), TrajectoryMean(), coefficient=0.0)
    return Estimator((rollouts, term))


def headlines(rows: Rows) -> dict[str, float]:
    """Medians with best and worst coverage, π_β near π_θ and sharp; the angle of SFT and RL."""
    own, numbers = chosen(rows, sweep="share", part="alone"), dict[str, float]()
    shares, coverages = ({float(row[key]) for row in own} for key in ("share", "coverage"))
    for sharpness, share in (("near", min(shares)), ("sharp", max(shares))):
        numbers[f"share_{sharpness}"] = share
        for cover, coverage in (("covered", max(coverages)), ("uncovered", min(coverages))):
            numbers[f"coverage_{cover}"] = coverage
            here = chosen(own, share=share, coverage=coverage)
            for rule in RULES:
                for column, target in (("weight", "kl"), ("cosine", "kl"), ("cosine", "reward")):
                    value = middle(here, column, rule=rule, target=target)
                    numbers[f"{column}_{rule}_{target}_{sharpness}_{cover}"] = value
    angles = [float(row["cosine"]) for row in chosen(rows, rule="sft", target="reward")]
    numbers["cosine_sft_rl_lowest"] = min(angles)
    numbers["fraction_sft_rl_obtuse"] = sum(angle < 0 for angle in angles) / len(angles)
    return numbers
