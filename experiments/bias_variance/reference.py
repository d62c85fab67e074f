"""Which reference policy? π_θ, π_θold, GSPO's or 1, all else equal, as π_θold moves away.

Rollouts come from π_θold, a random network; π_θ lies at a set KL(π_θold ‖ π_θ) of whole
trajectories from it, along a random direction or along the policy gradient. The estimator has no
mask, a leave-one-out baseline (unbiased on policy) and token sums averaged over the group, so
that the reference policy is all that differs. Beside the four stands eq. 3 taken at its word: the
ratio of whole trajectories, which is unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from experiments.bias_variance.common import (
    DIRECTIONS,
    NetworkRecipe,
    Problem,
    Progress,
    Row,
    Rows,
    TrajectoryRatio,
    check_numbers,
    chosen,
    divergence,
    drifted,
    errors,
    middle,
    paired,
    silent,
    watched,
)
from upge.advantage import LeaveOneOut
from upge.estimator import Estimator, Term
from upge.exact.enumeration import Policy
from upge.exact.instance import Setting
from upge.exact.moments import moments
from upge.exact.objective import Objective
from upge.normalization import TrajectoryMean
from upge.reference import ConstantOne, CurrentPolicy, Reference, RolloutPolicy, SequenceRatio

#: The reference policies by name.
REFERENCES: dict[str, Reference] = {
    "current": CurrentPolicy(),
    "rollout": RolloutPolicy(),
    "sequence": SequenceRatio(),
    "one": ConstantOne(),
    "trajectory": TrajectoryRatio(),
}


@dataclass(frozen=True)
class Recipe(NetworkRecipe):
    """The problems, how far π_θ moves, and how long trajectories are.

    Args:
        kl: KL(π_θold ‖ π_θ) of whole trajectories, in nats.
        horizons: longest trajectory where length varies.
        kl_per_token: KL a token there, in nats.
    """

    kl: tuple[float, ...]
    horizons: tuple[int, ...]
    kl_per_token: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, 20, "horizons")
        check_numbers(self, 0, 100, "kl")
        check_numbers(self, 0, 10, "kl_per_token", strict=True)


def study(recipe: Recipe, progress: Progress = silent) -> list[Row]:
    """Errors of every reference policy, relative to ‖∇E[r]‖², against KL and against length."""
    sweeps = [("kl", recipe.horizon), *(("length", horizon) for horizon in recipe.horizons)]
    rows: list[Row] = []
    for seed, (sweep, horizon) in watched(list(product(recipe.seeds, sweeps)), progress):
        problem = recipe.problem(seed, horizon)
        length = (problem.policy.logp().exp() @ problem.policy.tree.length.double()).item()
        distances = recipe.kl if sweep == "kl" else (recipe.kl_per_token * length,)
        for direction, nats in product(DIRECTIONS, distances):
            shared: Row = {
                "sweep": sweep,
                "seed": seed,
                "direction": direction,
                "horizon": horizon,
                "length": length,
                "kl_wanted": nats if sweep == "kl" else recipe.kl_per_token,
            }
            new = drifted(problem, direction, nats, seed)
            rows += [shared | row for row in _compare(problem, new, recipe.group_size)]
    return rows


def _compare(problem: Problem, new: Policy, group_size: int) -> list[Row]:
    setting = Setting(new, Objective(problem.reward), group_size, problem.policy)
    kl = divergence(problem.policy, new)
    rows: list[Row] = []
    for name, reference in REFERENCES.items():
        which: Row = {"kl": kl, "reference": name}
        result = moments(estimator(reference), setting)
        rows.append(which | errors(result, setting.truth["reward"]))
    return rows


def estimator(reference: Reference) -> Estimator:
    """Leave-one-out advantage, no mask, mean over trajectories of token sums."""
    return Estimator((Term("online", reference, LeaveOneOut(), TrajectoryMean()),))


def headlines(rows: Rows) -> dict[str, float]:
    """Medians at the KL nearest 0.1 nats and for the longest trajectories; π_θold against π_θ."""
    swept, numbers = chosen(rows, sweep="kl"), dict[str, float]()
    near = min({float(row["kl_wanted"]) for row in swept}, key=lambda nats: abs(nats - 0.1))
    longest = max(float(row["horizon"]) for row in chosen(rows, sweep="length"))
    numbers["kl"], numbers["horizon"] = near, longest
    for direction in DIRECTIONS:
        at_kl = chosen(swept, kl_wanted=near, direction=direction)
        at_length = chosen(rows, sweep="length", horizon=longest, direction=direction)
        for name in REFERENCES:
            for column in ("bias_sq", "variance", "cosine", "mse_scaled"):
                numbers[f"{column}_{name}_{direction}"] = middle(at_kl, column, reference=name)
            for column in ("bias_sq", "variance"):
                value = middle(at_length, column, reference=name)
                numbers[f"{column}_{name}_{direction}_longest"] = value
        rollout, current = (chosen(at_kl, reference=name) for name in ("rollout", "current"))
        for column in ("bias_sq", "variance"):
            numbers[f"{column}_ratio_{direction}"] = paired(rollout, current, column)
    return numbers
