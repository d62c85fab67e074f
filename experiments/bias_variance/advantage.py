"""How do the advantage rules weigh easy and hard questions, and what do small groups do to them?

One question of success rate p, binary rewards, rollouts of π_θ itself, π_ref = π_θ, no mask, token
sums averaged over the group: only Â differs. Then every rule's mean is w·∇E[r] with a weight w of
p and the group size n alone, the question's *effective weight*: 1 where unbiased. Policies of
different p are one random table tilted by exp(β r), what KL-regularised training goes through.

``batch`` is (R − mean)/std over a batch of very many questions, p uniform over the recipe's: mean
and std are then constants, taken as REINFORCE++ does, over tokens. ``union`` is the z-score over
rollouts and demonstrations, of which only the rollouts' terms count here. Rows of sweep ``mix``
are the mean gradient of all p at once (a question each, no parameter shared), where a rescaling
can't mend weights that differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

from experiments.bias_variance.common import (
    ROUNDING,
    Problem,
    Progress,
    Row,
    Rows,
    check_numbers,
    chosen,
    errors,
    middle,
    silent,
    table_problem,
    tilted,
    watched,
)
from upge.advantage import (
    Advantage,
    GroupCentered,
    GroupZScore,
    LeaveOneOut,
    One,
    Reward,
    Signed,
)
from upge.estimator import Estimator, Term
from upge.exact.enumeration import TabularPolicy
from upge.exact.instance import Setting
from upge.exact.moments import Moments, moments
from upge.exact.objective import Objective
from upge.normalization import TrajectoryMean
from upge.reference import CurrentPolicy

#: Rules that read the group, by name.
GROUP_RULES: dict[str, Advantage] = {
    "centered": GroupCentered(),
    "leave_one_out": LeaveOneOut(),
    "z_score": GroupZScore(),
    "union": GroupZScore("all"),
}
RULES = ("reward", "signed", *GROUP_RULES, "batch")


@dataclass(frozen=True)
class Recipe:
    """The problems, success rates and group sizes.

    Args:
        vocab: tokens, eos included.
        horizon: the longest trajectory.
        success: success rates p of π_θ.
        group_sizes: rollouts a group, n.
        demonstrations: trajectories of π_β a group, for ``union``.
        demo_success: their success rate; π_β is tilted from the same table as π_θ.
        seeds: one random table and rewards each.
    """

    vocab: int
    horizon: int
    success: tuple[float, ...]
    group_sizes: tuple[int, ...]
    demonstrations: int
    demo_success: float
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        check_numbers(self, 2, 10, "vocab")
        check_numbers(self, 1, 10, "horizon")
        check_numbers(self, 1e-6, 1 - 1e-6, "success", "demo_success")
        check_numbers(self, 2, 1000, "group_sizes")
        check_numbers(self, 1, 10, "demonstrations")
        check_numbers(self, 0, math.inf, "seeds")


@dataclass(frozen=True, eq=False)
class _Question:
    """A problem tuned to a success rate, with its demonstrator."""

    success: float
    policy: TabularPolicy
    objective: Objective

    def setting(self, recipe: Recipe, size: int) -> Setting:
        return Setting(self.policy, self.objective, size, demonstrations=recipe.demonstrations)


def study(recipe: Recipe, progress: Progress = silent) -> list[Row]:
    """Weight and errors of every rule, relative to ‖∇E[r]‖², at every p and n, and of all p."""
    rows: list[Row] = []
    for seed, size in watched(list(product(recipe.seeds, recipe.group_sizes)), progress):
        questions = _questions(recipe, seed)
        mean, std = _batch_statistics(questions)
        own: list[Row] = []
        for question, rule in product(questions, RULES):
            setting = question.setting(recipe, size)
            result = _moments(rule, setting, mean, std)
            truth = setting.truth["reward"]
            which: Row = {"sweep": "question", "seed": seed, "n": size, "p": question.success}
            which |= {"rule": rule, "size": (truth @ truth).item()}
            own.append(which | errors(result, truth))
        rows += own + [_mix(chosen(own, rule=rule)) for rule in RULES]
    return rows


def _questions(recipe: Recipe, seed: int) -> list[_Question]:
    base: Problem = table_problem(recipe.vocab, recipe.horizon, 0.5, seed)
    demo = tilted(base.policy, base.reward, recipe.demo_success)
    objective = Objective(base.reward, demo=demo)
    return [_Question(p, tilted(base.policy, base.reward, p), objective) for p in recipe.success]


def _batch_statistics(questions: list[_Question]) -> tuple[float, float]:
    """Mean and std of the rewards over all rollout tokens of very many questions."""
    tokens = hits = 0.0
    for question in questions:
        reward, length = question.objective.reward[0], question.policy.tree.length
        expected = question.policy.logp().exp() * length
        tokens += expected.sum().item()
        hits += (expected @ reward).item()
    mean = hits / tokens
    return mean, math.sqrt(mean * (1 - mean))


def _moments(rule: str, setting: Setting, mean: float, std: float) -> Moments:
    """Of the rule's estimator; rules that don't read the group average n independent samples."""
    single: dict[str, Advantage] = {
        "reward": Reward(),
        "signed": Signed(),
        "batch": Signed((1 - mean) / std, -mean / std),  # of rewards 0 and 1
    }
    if rule in single:
        one = moments(estimator(single[rule]), replace(setting, group_size=1))
        return replace(one, trace_cov=one.trace_cov / setting.group_size)
    return moments(estimator(GROUP_RULES[rule], demonstrations=rule == "union"), setting)


def estimator(advantage: Advantage, *, demonstrations: bool = False) -> Estimator:
    """The rule on rollouts; with demonstrations in the group, if asked for, that weigh nothing."""
    rollouts = Term("online", CurrentPolicy(), advantage, TrajectoryMean())
    demos = Term("offline", CurrentPolicy(), One(), TrajectoryMean(), coefficient=0.0)
    return Estimator((rollouts, demos) if demonstrations else (rollouts,))


def _mix(rows: Rows) -> Row:
    """The mean gradient over questions of all p: their squared norms and errors add up."""

    def total(column: str) -> float:
        return sum(float(row[column]) * float(row["size"]) for row in rows)

    size = sum(float(row["size"]) for row in rows)
    square = sum(float(row["weight"]) ** 2 * float(row["size"]) for row in rows)
    along, variance = total("weight"), total("variance")
    turned = 1 - along**2 / (square * size)
    return dict(rows[0]) | {
        "sweep": "mix",
        "p": math.nan,
        "size": size / len(rows) ** 2,
        "bias_sq": total("bias_sq") / size,
        "variance": variance / size,
        "mse": total("mse") / size,
        "weight": along / size,
        "cosine": along / math.sqrt(square * size),
        "bias_sq_scaled": turned if turned > ROUNDING else 0.0,
        "mse_scaled": 1 - along**2 / ((square + variance) * size),
    }


def headlines(rows: Rows) -> dict[str, float]:
    """Weights at the lowest p and at the p nearest 0.5, for n nearest 8; what a mix loses."""
    own = chosen(rows, sweep="question")
    rates = sorted({float(row["p"]) for row in own})
    half = min(rates, key=lambda p: abs(p - 0.5))
    sizes = sorted({float(row["n"]) for row in own})
    n = min(sizes, key=lambda size: abs(size - 8))
    numbers = {"n": n, "p_low": rates[0], "p_middle": half}
    for rule in RULES:
        for name, p in (("low", rates[0]), ("middle", half)):
            numbers[f"weight_{rule}_{name}"] = middle(own, "weight", rule=rule, n=n, p=p)
        for size in (n, sizes[-1]):
            where: Row = {"sweep": "mix", "rule": rule, "n": size}
            for column in ("bias_sq_scaled", "mse_scaled"):
                numbers[f"mix_{column}_{rule}_n{size:g}"] = middle(rows, column, **where)
    return numbers
