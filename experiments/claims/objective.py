"""Equations 1 and 2: the common objective and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, rule
from experiments.claims.finite import (
    BETA,
    MU,
    SCORE,
    P,
    R,
    derivative,
    kl_term,
    shown,
    size,
    vanishes,
)
from experiments.claims.lab import SEEDS, cases, distance, random_case
from experiments.claims.toys import toys
from upge.exact.objective import Objective
from upge.verification.maths import Scalar

Divergence = Literal["forward", "reverse"]

#: One trajectory's part of E_{π_β}[∇log π_θ].
_SFT = BETA * SCORE


def _divergence(kind: Divergence) -> Scalar:
    return kl_term(BETA, P) if kind == "forward" else kl_term(P, BETA)


@claim(
    "eq1",
    "In J_μ = E_{π_θ}[r] − μ KL(π_β ‖ π_θ) the second term is supervised fine-tuning: its gradient "
    "is μ times that of the demonstrations' log-likelihood.",
    "eq. 1",
)
def objective(divergence: Divergence = "forward") -> Result:
    """Differentiates the divergence, from π_β to π_θ or the other way round."""
    difference = derivative(-_divergence(divergence)) - _SFT
    holds = vanishes(difference)
    words = f"−∇KL ({divergence}) and E_π_β[∇log π_θ] differ by Σ {shown(difference)}"
    return rule(
        [Trial(holds, words)],
        size(difference),
        "symbolic difference of the two sides, for any number of trajectories",
        symbolic=True,
        unit="identities",
        notes=[_other(divergence)],
    )


def _other(divergence: Divergence) -> str:
    """What the other direction of the divergence would give."""
    other: Divergence = "reverse" if divergence == "forward" else "forward"
    difference = derivative(-_divergence(other)) - _SFT
    would = "would too" if vanishes(difference) else f"would not: Σ {shown(difference)} is left"
    return f"the {other} divergence {would}"


@claim("eq1-finite", "J_μ is finite, so that it has a gradient.", "eq. 1")
def finite(logit: float = -math.inf, seeds: Sequence[int] = SEEDS) -> Result:
    """J_μ of policies that cover π_β, and of one whose second answer has the ``logit``."""
    trials = []
    for seed in seeds:
        case = random_case(seed, horizon=1)
        value = Objective(case.reward, case.mu, case.demo)(case.policy).item()
        trials.append(Trial(math.isfinite(value), f"seed {seed}: J_μ = {value:g}"))
    toy = next(toys(2, 1, ()))
    case = toy.case()
    lacking = torch.tensor([0.0, logit], dtype=torch.float64)
    value = Objective(case.reward, 1.0, case.demo)(case.policy, lacking).item()
    words = f"{toy.words('demo')}, logits of π_θ (0, {logit:g}), μ = 1: J_μ = {value:g}"
    trials.append(Trial(math.isfinite(value), words, inside=math.isfinite(logit)))
    return rule(
        trials,
        value,
        f"J_μ where π_θ gives a demonstrated answer the logit {logit:g}",
        condition="π_θ gives every trajectory of π_β positive probability, as a softmax of finite "
        "logits does",
    )


@claim(
    "eq2",
    "∇J_μ = E_{π_θ}[r ∇log π_θ] + μ E_{π_β}[∇log π_θ].",
    "eq. 2",
)
def gradient(sign: int = 1, seeds: Sequence[int] = SEEDS) -> Result:
    """Symbolically for any finite policy; on enumerated ones against autograd of J_μ."""
    term = P * R - MU * _divergence("forward")
    difference = derivative(term) - (P * R * SCORE + sign * MU * _SFT)
    trials = [Trial(vanishes(difference), f"the two sides differ by Σ {shown(difference)}")]
    errors = []
    for case in cases(seeds):
        right = case.sample(case.policy, case.reward[:, None]).mean + sign * case.mu * case.sft
        errors.append(distance(right, case.truth))
        trials.append(Trial(errors[-1] < TOLERANCE, f"relative error {errors[-1]:.3g}"))
    return rule(
        trials,
        max(errors),
        "largest relative error against autograd of J_μ on enumerated policies",
        symbolic=True,
        unit="comparisons, one of them symbolic, for any finite policy",
    )


@claim(
    "eq2-sign",
    "The second term of ∇J_μ leads towards the demonstrations: along it KL(π_β ‖ π_θ) falls.",
    "eq. 2",
)
def direction(sign: int = 1, seeds: Sequence[int] = SEEDS) -> Result:
    """The slope of the divergence along ``sign`` · E_{π_β}[∇log π_θ], of unit length."""
    trials, slopes = [], []
    for case in cases(seeds):
        zero = torch.zeros_like(case.reward)
        pull = Objective(zero, 1.0, case.demo).gradient(case.policy)  # −∇KL by autograd
        along = sign * case.sft / case.sft.norm()
        slopes.append(-(pull @ along).item() / pull.norm().item())
        trials.append(Trial(slopes[-1] < 0, f"slope {slopes[-1]:+.3g}"))
    return rule(
        trials,
        max(slopes),
        "largest slope of KL along the term, over that of steepest ascent; −1 is steepest descent",
    )
