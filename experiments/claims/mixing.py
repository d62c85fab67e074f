"""§2.3: a weighted average of estimators can be more accurate than each; the best one varies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from experiments.claims.claim import Result, Trial, claim, median, rule, spread
from experiments.claims.lab import SEEDS, Case, Sampled, at_success, moments, random_case
from upge.exact.moments import prepared

_RATES = (1 / 16, 1 / 4, 1 / 2, 3 / 4, 15 / 16)


@dataclass(frozen=True)
class Average:
    """The best w in [0, 1] of w g_RL + (1 − w) g_SFT, and mean squared errors against ∇J_μ."""

    weight: float
    mixed: float
    rl: float
    sft: float

    @property
    def gain(self) -> float:
        """Its error over that of the better one alone; 1 if that is 0."""
        better = min(self.rl, self.sft)
        return self.mixed / better if better else 1.0


def best_average(case: Case, rl: Sampled, sft: Sampled) -> Average:
    """Closed form for independent estimators: the error is a parabola in w."""
    b, c = rl.mean - case.truth, sft.mean - case.truth
    width = rl.trace_cov + sft.trace_cov + ((b - c) @ (b - c)).item()
    free = (sft.trace_cov + (c @ (c - b)).item()) / width
    w = min(max(free, 0.0), 1.0)
    bias = w * b + (1 - w) * c
    mixed = w**2 * rl.trace_cov + (1 - w) ** 2 * sft.trace_cov + (bias @ bias).item()
    return Average(w, mixed, rl.mse(case.truth), sft.mse(case.truth))


Partner = Callable[[Case], Sampled]


def one_demonstration(case: Case) -> Sampled:
    """∇log π_θ of one demonstration."""
    return case.sample(case.demo, torch.ones(1, 1, dtype=torch.float64))


def _average(case: Case, size: int, partner: Partner = one_demonstration) -> Average:
    """Leave-one-out REINFORCE on ``size`` rollouts, and its partner."""
    return best_average(case, moments(prepared("rloo"), case, size, old=False), partner(case))


@claim(
    "words-average",
    "A weighted average of several estimators can be more accurate than each, as in a "
    "complementary filter.",
    "§2.3",
)
def average(
    partner: Partner = one_demonstration, size: int = 8, seeds: Sequence[int] = SEEDS
) -> Result:
    """Mean squared errors against ∇J_μ of RL, of its ``partner``, and of their best average."""
    gains, weights = [], []
    for seed in seeds:
        found = _average(random_case(seed), size, partner)
        gains.append(found.gain)
        weights.append(found.weight)
    better = sum(gain < 1 - 1e-9 for gain in gains)
    return rule(
        [Trial(better > 0, f"never better in {len(gains)} instances")],
        median(gains),
        f"error of the best average over the better one's, n = {size}, μ = 1/2; median",
        unit="searches for an instance",
        notes=[
            f"better in {better} of {len(gains)}, error {spread(gains)} times the better one's",
            f"weights of RL {spread(weights)}",
        ],
    )


@claim(
    "words-weighting",
    "The best weighting depends on the state of the policy and on the task.",
    "§2.3",
)
def weighting(
    rates: Sequence[float] = _RATES, sizes: Sequence[int] = (8,), seeds: Sequence[int] = SEEDS[:8]
) -> Result:
    """The best weight over success rates of one task (the policy's state), and over tasks."""
    by_task = [
        [_average(at_success(random_case(seed), p), n).weight for p in rates for n in sizes]
        for seed in seeds
    ]
    state = [max(weights) - min(weights) for weights in by_task]
    task = [max(column) - min(column) for column in zip(*by_task, strict=True)]
    flat = [weight for weights in by_task for weight in weights]
    trials = [
        Trial(max(state) > 1e-6, f"one weight for all success rates of a task: {flat[0]:.3g}"),
        Trial(max(task) > 1e-6, f"one weight for all tasks: {flat[0]:.3g}"),
    ]
    return rule(
        trials,
        max(flat) - min(flat),
        "span of the best weight of RL, over success rates 1/16 to 15/16 and tasks",
        unit="dependences (state, task)",
        notes=[
            f"within a task it moves by {spread(state)}",
            f"between tasks at one success rate by {spread(task)}",
            f"all weights: {spread(flat)}",
        ],
    )
