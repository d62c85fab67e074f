"""Equations 1, 2 and 4: the common objective, its gradient, and the unified advantage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from upge.objective import Objective
from upge.theory.claims.claim import TOLERANCE, Result, Trial, claim, rule
from upge.theory.claims.finite import (
    BETA,
    MU,
    REF,
    SCORE,
    D,
    P,
    R,
    derivative,
    kl_term,
    shown,
    size,
    vanishes,
)
from upge.theory.claims.lab import SEEDS, cases, distance, random_case
from upge.theory.claims.toys import toys
from upge.theory.maths import Scalar

Divergence = Literal["forward", "reverse"]

#: One trajectory's part of E_{π_θ}[r], differentiated, and of E_{π_β}[log π_θ], likewise.
_RL, _SFT = R * D, BETA * SCORE


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
        notes=["the reverse divergence would not do" if divergence == "forward" else ""],
    )


@claim("eq1-finite", "J_μ is finite, so that it has a gradient.", "eq. 1")
def finite(seeds: Sequence[int] = SEEDS) -> Result:
    """J_μ of policies that cover π_β, and of policies that lack one answer of its."""
    trials = []
    for seed in seeds:
        case = random_case(seed, horizon=1)
        value = Objective(case.reward, case.mu, case.demo)(case.policy).item()
        trials.append(Trial(abs(value) < float("inf"), f"seed {seed}"))
    toy = next(toys(2, 1, ()))
    case = toy.case()
    lacking = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    value = Objective(case.reward, 1.0, case.demo)(case.policy, lacking).item()
    words = f"{toy.words('demo')}, π_θ = (1, 0), μ = 1: J_μ = {value:g}"
    trials.append(Trial(value > -float("inf"), words, inside=False))
    return rule(
        trials,
        value,
        "J_μ where π_θ rules out a demonstrated answer",
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
        "largest relative error on enumerated policies; symbolically no difference"
        if trials[0].holds
        else "largest relative error on enumerated policies",
        symbolic=True,
        unit="comparisons (one symbolic, for any finite policy; the others against autograd)",
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


# ---------------------------------------------------------------- equation 4 and its two versions


def _by_reference(indicator: bool, same: bool) -> Scalar:
    """E_{π_ref}'s part of (1/π_ref) Â ∇π_θ with eq. 4's Â, π_ref being π_β (``same``) or not."""
    reference = BETA if same else REF
    kept = 1 if same or not indicator else 0
    advantage = R + kept * MU * BETA / P
    return reference * advantage * D / reference


def _versions(indicator: bool) -> list[Trial]:
    trials = []
    for same in (True, False):
        difference = _RL + MU * _SFT - _by_reference(indicator, same)
        words = f"with π_ref {'=' if same else '≠'} π_β Σ {shown(difference)} is missing from ∇J_μ"
        trials.append(Trial(vanishes(difference), words, inside=same))
    return trials


@claim(
    "eq4-v2",
    "Â_uni = r + μ π_β/π_θ, whatever π_ref (as v2 prints it), makes eq. 3 ∇J_μ for every π_ref "
    "that covers the trajectories.",
    "eq. 4 (v2)",
)
def version2(indicator: bool = False) -> Result:
    """Both choices of π_ref, symbolically for any finite policy."""
    trials = [Trial(trial.holds, trial.words) for trial in _versions(indicator)]
    number = sum(not trial.holds for trial in trials)
    return rule(
        trials,
        number,
        "choices of π_ref, of π_β and another, with which it is not ∇J_μ",
        symbolic=True,
        unit="choices of π_ref",
    )


@claim(
    "eq4-v1",
    "Â_uni = r + 1{π_ref = π_β} μ π_β/π_θ (as v1 prints it) makes eq. 3 ∇J_μ.",
    "eq. 4 (v1)",
)
def version1(indicator: bool = True, seeds: Sequence[int] = SEEDS) -> Result:
    """The same with the indicator; what is lost with π_ref = π_θold, on enumerated policies."""
    lost = []
    for case in cases(seeds):
        old = case.old.logp()
        kept = torch.zeros(()) if indicator else case.mu * (case.demo.logp() - case.policy.logp()).exp()
        weight = (case.reward + kept) * (case.policy.logp() - old).exp()
        lost.append(distance(case.sample(case.old, weight[:, None]).mean, case.truth))
    number = sorted(lost)[len(lost) // 2]
    return rule(
        _versions(indicator),
        number,
        "‖E g − ∇J_μ‖/‖∇J_μ‖ with π_ref = π_θold, μ = 1/2, median of enumerated policies",
        symbolic=True,
        unit="choices of π_ref",
        condition="π_ref = π_β",
        notes=["then it also needs π_β to cover what π_θ is rewarded for (eq3-support)"],
    )


@claim(
    "eq4-split",
    "Rollouts that carry r and demonstrations that carry μ π_β/π_θ, each with the policy it was "
    "drawn from as π_ref, add up to ∇J_μ, without π_β having to cover π_θ.",
    "eq. 4, as Table 1 uses it",
)
def split(reward_on_demonstrations: bool = False) -> Result:
    """Two expectations, one a source; optionally with r on the demonstrations too (v1, literally)."""
    trials = []
    for covered in (True, False):
        on_rollouts = REF * R * D / REF
        beta = BETA if covered else 0
        extra = R if reward_on_demonstrations and covered else 0
        on_demonstrations = (beta * (extra + MU * beta / P) * D / beta) if covered else 0
        difference = _RL + MU * beta * SCORE - on_rollouts - on_demonstrations
        kind = "in" if covered else "outside"
        words = f"for a trajectory {kind} the support of π_β the sides differ by {shown(difference)}"
        trials.append(Trial(vanishes(difference), words))
    twice = _RL + MU * _SFT - (_RL + (R + MU * BETA / P) * D)
    return rule(
        trials,
        sum(not trial.holds for trial in trials),
        "kinds of trajectories, demonstrated or not, on which the sides differ",
        symbolic=True,
        unit="kinds of trajectories",
        notes=[
            f"with r on the demonstrations too, as v1's Â reads, Σ {shown(-twice)} over what π_β "
            "covers is counted twice"
        ],
    )
