"""Equation 4: the unified advantage in its two versions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, median, rule
from experiments.claims.finite import BETA, MU, REF, SCORE, D, P, R, shown, vanishes
from experiments.claims.lab import SEEDS, Case, cases, distance
from experiments.claims.toys import hunt, toys
from upge.verification.maths import Scalar

#: One trajectory's part of ∇E_{π_θ}[r], and of E_{π_β}[∇log π_θ].
_RL, _SFT = R * D, BETA * SCORE


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
    lost = [_lost(case, indicator) for case in cases(seeds)]
    trials = _versions(indicator)
    return rule(
        trials,
        median(lost),
        "‖E g − ∇J_μ‖/‖∇J_μ‖ with π_ref = π_θold, μ = 1/2, median of enumerated policies",
        symbolic=True,
        unit="choices of π_ref",
        condition="π_ref = π_β, which then has to cover what π_θ is rewarded for (eq3-support)",
        counterexample=hunt(
            lambda case: TOLERANCE < _lost(case, indicator) < math.inf,
            toys(2, 1, ("demo",), lowest=1),
            ("theta", "demo"),
            lambda case: (
                f"π_ref = π_θold = π_θ, μ = 1/2, E g is off by {_lost(case, indicator):.3g} of "
                "‖∇J_μ‖"
            ),
        ),
        notes=[trials[1].words if indicator else ""],
    )


def _lost(case: Case, indicator: bool) -> float:
    """‖E g − ∇J_μ‖/‖∇J_μ‖ with π_ref = π_θold, where the indicator is 0."""
    log_pi = case.policy.logp()
    imitation = torch.zeros(()) if indicator else case.mu * (case.demo.logp() - log_pi).exp()
    weight = (case.reward + imitation) * (log_pi - case.old.logp()).exp()
    return distance(case.sample(case.old, weight[:, None]).mean, case.truth)


@claim(
    "eq4-split",
    "Rollouts that carry r and demonstrations that carry μ π_β/π_θ, each with the policy it was "
    "drawn from as π_ref, add up to ∇J_μ, without π_β having to cover π_θ.",
    "eq. 4, as Table 1 uses it",
)
def split(reward_on_demonstrations: bool = False) -> Result:
    """Two expectations, one a source; with r on the demonstrations too, if so asked (v1)."""
    trials = []
    for covered in (True, False):
        on_rollouts = REF * R * D / REF
        beta = BETA if covered else 0
        extra = R if reward_on_demonstrations and covered else 0
        on_demonstrations = (beta * (extra + MU * beta / P) * D / beta) if covered else 0
        difference = _RL + MU * beta * SCORE - on_rollouts - on_demonstrations
        kind = "in" if covered else "outside"
        words = (
            f"for a trajectory {kind} the support of π_β the sides differ by {shown(difference)}"
        )
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
