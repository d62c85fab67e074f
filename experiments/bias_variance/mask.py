"""What does each stabilization mask buy in variance and cost in bias?

Rollouts come from π_θold, a random network; π_θ has moved from it by a set KL, up the policy
gradient or in a random direction. All estimators have π_ref = π_θold token by token, a
leave-one-out baseline and token sums averaged over the group; only the mask and its setting differ.
Compared with: no mask, π_ref = π_θ (no ratio at all), and eq. 3's ratio of whole trajectories.

Truncated importance sampling and CISPO without a lower bound (as it is run) clip the weight at a
cap: one family, ``tis``. ``cispo`` here bounds it from both sides, as its eq. 5 is printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from experiments.bias_variance.common import (
    DIRECTIONS,
    NetworkRecipe,
    Progress,
    Row,
    Rows,
    TrajectoryRatio,
    check_names,
    check_numbers,
    chosen,
    drifted,
    errors,
    middle,
    paired,
    silent,
    watched,
)
from upge.advantage import LeaveOneOut
from upge.estimator import Estimator, Term
from upge.exact.instance import Setting
from upge.exact.moments import moments
from upge.exact.objective import Objective
from upge.normalization import TrajectoryMean
from upge.reference import CurrentPolicy, Reference, RolloutPolicy
from upge.stabilization import Clip, DualClip, NoMask, SigmoidGate, Stabilization, WeightClip

#: Estimators without a mask, by name.
UNMASKED: dict[str, Reference] = {
    "none": RolloutPolicy(),
    "current": CurrentPolicy(),
    "trajectory": TrajectoryRatio(),
}


@dataclass(frozen=True)
class Recipe(NetworkRecipe):
    """The problems, how far π_θ moves, and the settings of every mask.

    Args:
        directions: where it moves.
        kl: how far: KL(π_θold ‖ π_θ) of whole trajectories, in nats.
        clip: ε of PPO's clip, both sides.
        clip_low: DAPO's lower ε, and the dual clip's both.
        clip_high: DAPO's upper ε.
        dual_clip: the dual clip's bound on ratios of negative advantages.
        cispo: ε of weights clipped to [1 − ε, 1 + ε].
        tis: cap on the weights.
        sapo: temperature of SAPO's gate for positive advantages.
        sapo_negative: that for negative ones, as a multiple.
    """

    directions: tuple[str, ...]
    kl: tuple[float, ...]
    clip: tuple[float, ...]
    clip_low: float
    clip_high: tuple[float, ...]
    dual_clip: tuple[float, ...]
    cispo: tuple[float, ...]
    tis: tuple[float, ...]
    sapo: tuple[float, ...]
    sapo_negative: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self, DIRECTIONS, "directions")
        check_numbers(self, 0, 100, "kl")
        check_numbers(self, 0, 1, "clip", "clip_low", "cispo")
        check_numbers(self, 0, 100, "clip_high")
        check_numbers(self, 1 + self.clip_low, 1e6, "dual_clip")
        check_numbers(self, 0, 1e6, "tis", "sapo", "sapo_negative", strict=True)

    def masks(self) -> Iterator[tuple[str, float, Stabilization]]:
        """Every mask: its family, setting, and itself."""
        for e in self.clip:
            yield "clip", e, Clip(e, e)
        for e in self.clip_high:
            yield "clip_higher", e, Clip(self.clip_low, e)
        for bound in self.dual_clip:
            yield "dual_clip", bound, DualClip(self.clip_low, self.clip_low, dual=bound)
        for e in self.cispo:
            yield "cispo", e, WeightClip(1 - e, 1 + e)
        for cap in self.tis:
            yield "tis", cap, WeightClip(0.0, cap)
        for tau in self.sapo:
            yield "sapo", tau, SigmoidGate(tau, self.sapo_negative * tau)


def study(recipe: Recipe, progress: Progress = silent) -> list[Row]:
    """Errors of every mask at every setting, relative to ‖∇E[r]‖²."""
    rows: list[Row] = []
    steps = list(product(recipe.seeds, recipe.directions, recipe.kl))
    for seed, direction, nats in watched(steps, progress):
        problem = recipe.problem(seed)
        new = drifted(problem, direction, nats, seed)
        setting = Setting(new, Objective(problem.reward), recipe.group_size, problem.policy)
        shared: Row = {"seed": seed, "direction": direction, "kl": nats}
        for family, value, estimator in _estimators(recipe):
            measured = errors(moments(estimator, setting), setting.truth["reward"])
            rows.append(shared | {"mask": family, "setting": value} | measured)
    return rows


def _estimators(recipe: Recipe) -> Iterator[tuple[str, float, Estimator]]:
    for name, reference in UNMASKED.items():
        yield name, 0.0, _estimator(reference, NoMask())
    for family, value, mask in recipe.masks():
        yield family, value, _estimator(RolloutPolicy(), mask)


def _estimator(reference: Reference, mask: Stabilization) -> Estimator:
    return Estimator((Term("online", reference, LeaveOneOut(), TrajectoryMean(), mask),))


#: The setting each mask is published or run with.
USUAL = {
    "none": 0.0,
    "current": 0.0,
    "trajectory": 0.0,
    "clip": 0.2,
    "clip_higher": 0.28,
    "dual_clip": 3.0,
    "cispo": 0.2,
    "tis": 2.0,
    "sapo": 1.0,
}


def headlines(rows: Rows) -> dict[str, float]:
    """Of every mask at its usual setting and the middle KL: medians, and variance against none."""
    distances = sorted({float(row["kl"]) for row in rows})
    nats = distances[len(distances) // 2]
    numbers = {"kl": nats}
    for direction in sorted({str(row["direction"]) for row in rows}):
        own = chosen(rows, direction=direction, kl=nats)
        for mask, value in USUAL.items():
            series = chosen(own, mask=mask, setting=value)
            if series:
                for column in ("bias_sq", "cosine", "mse_scaled"):
                    numbers[f"{column}_{mask}_{direction}"] = middle(series, column)
                ratio = paired(series, chosen(own, mask="none"), "variance")
                numbers[f"variance_ratio_{mask}_{direction}"] = ratio
    return numbers
