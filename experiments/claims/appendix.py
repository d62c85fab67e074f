"""Appendix B: the lemmas, the trust region, and PPO's clip as a mask (eq. 21)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import sympy
import torch

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, rule
from experiments.claims.finite import (
    BETA,
    F_DOT,
    LAM,
    MU,
    REF,
    SCORE,
    F,
    P,
    R,
    derivative,
    kl_term,
    shown,
    size,
    vanishes,
)
from experiments.claims.lab import SEEDS, cases, distance
from experiments.claims.toys import smallest, toys
from upge.batch import TrajectoryBatch
from upge.exact.objective import Objective
from upge.stabilization import Clip, Stabilization
from upge.verification.maths import Scalar


def _identity(difference: Scalar, notes: Sequence[str] = ()) -> Result:
    return rule(
        [Trial(vanishes(difference), f"the two sides differ by Σ {shown(difference)}")],
        size(difference),
        "symbolic difference of the two sides, for any number of trajectories",
        symbolic=True,
        unit="identities",
        notes=notes,
    )


@claim("B.1-score", "E_{π_θ}[∇log π_θ] = 0.", "B.1, score function")
def score(baseline: float = 1.0, seeds: Sequence[int] = SEEDS) -> Result:
    """Symbolically, and enumerated; a constant ``baseline`` in front changes nothing."""
    largest = max(
        case.sample(case.policy, torch.ones(1, 1, dtype=torch.float64)).mean.norm().item()
        for case in cases(seeds)
    )
    return _identity(
        sympy.sympify(baseline) * P * SCORE, [f"enumerated: at most {largest:.1g} in norm"]
    )


@claim(
    "B.1-derivative",
    "∇E_{π_θ}[f_θ] = E_{π_θ}[f_θ ∇log π_θ] + E_{π_θ}[∇f_θ].",
    "B.1, parametrised integrand",
)
def parametrised(inner: int = 1) -> Result:
    """With ``inner`` times the second term."""
    right = P * F * SCORE + inner * P * F_DOT
    return _identity(derivative(P * F) - right)


@claim(
    "B.1-measure",
    "E_{π_θ}[f] = E_q[(π_θ/q) f] for a density q that is positive wherever π_θ is.",
    "B.1, change of measure",
)
def measure(covering: bool = True) -> Result:
    """Symbolically for a covered trajectory and, unless q is ``covering``, for one that isn't."""
    covered = P * F - REF * (P / REF) * F
    trials = [Trial(vanishes(covered), "a covered trajectory differs")]
    if not covering:
        trials.append(Trial(vanishes(P * F), f"a trajectory with q = 0 leaves out {shown(P * F)}"))
    toy = smallest(
        lambda case: bool(((case.demo.logp().exp() == 0) & (case.reward > 0)).any()),
        toys(2, 1, ("demo",)),
    )
    lost = ""
    if toy:
        case = toy.case()
        missed = case.policy.logp().exp()[case.demo.logp().exp() == 0].sum().item()
        lost = (
            f"without the condition, f = r, q = π_β: {toy.words('theta', 'demo')}, {missed:g} lost"
        )
    return rule(
        trials,
        max(size(covered), 0.0 if covering else size(P * F)),
        "symbolic difference of the two sides, for any number of trajectories",
        symbolic=True,
        unit="kinds of trajectories",
        notes=[lost],
    )


@claim(
    "B.2",
    "The trust region −λ KL(π_θ ‖ π_ref) only changes Â into r − λ log(π_θ/π_ref) + μ π_β/π_θ.",
    "B.2",
)
def trust_region(factor: int = 1, seeds: Sequence[int] = SEEDS) -> Result:
    """∇J_{λ,μ} against E[Â^(λ) ∇log π_θ], λ ``factor`` times as large in Â; autograd likewise."""
    objective = P * R - LAM * kl_term(P, REF) - MU * kl_term(BETA, P)
    advantage = R - factor * LAM * sympy.log(P / REF) + MU * BETA / P
    difference = derivative(objective) - P * advantage * SCORE
    trials, errors = [Trial(vanishes(difference), f"differs by Σ {shown(difference)}")], []
    lam = 0.3
    for case in cases(seeds):
        log_pi, old, demo = case.policy.logp(), case.old.logp(), case.demo.logp()
        unified = case.reward - factor * lam * (log_pi - old) + case.mu * (demo - log_pi).exp()
        truth = Objective(case.reward, case.mu, case.demo, lam, case.old).gradient(case.policy)
        errors.append(distance(case.sample(case.policy, unified[:, None]).mean, truth))
        trials.append(Trial(errors[-1] < TOLERANCE, f"relative error {errors[-1]:.3g}"))
    return rule(
        trials,
        max(errors),
        "largest relative error against autograd of J_{λ,μ} on enumerated policies",
        symbolic=True,
        unit="comparisons (one symbolic, for any finite policy)",
        notes=["a constant −λ in Â has mean 0" if vanishes(LAM * P * SCORE) else ""],
    )


# ------------------------------------------------------------------------------ B.3 and equation 21

#: Clip ranges, below and above 1.
_RANGES = (
    (sympy.Rational(1, 5), sympy.Rational(1, 5)),
    (sympy.Rational(1, 10), sympy.Rational(3, 10)),
)

#: Makes a mask of a clip range.
MaskOf = Callable[[float, float], Stabilization]


def _surrogate(ratio: Scalar, sign: int, low: Scalar, high: Scalar) -> Scalar:
    """min(r Â, clip(r, 1 − low, 1 + high) Â) for Â = ``sign``."""
    inside = sympy.Min(sympy.Max(ratio, 1 - low), 1 + high)
    return sympy.Min(ratio * sign, inside * sign)


def _mask(stabilization: Stabilization, ratio: Scalar, sign: int) -> float:
    """1_stable of the package on one token of that ratio."""
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = TrajectoryBatch(
        mask=one.bool(),
        reward=one[0],
        group=torch.zeros(1, dtype=torch.long),
        offline=torch.zeros(1, dtype=torch.bool),
        old_logp=-5 * one,
    ).at(-5 * one + math.log(ratio))
    return stabilization(batch, sign * one).item()


def _slopes(mask: MaskOf, kinks: bool) -> list[Trial]:
    """1_stable Â against the surrogate's derivatives from both sides.

    It is piecewise linear in the ratio with corners at 1 − low, 1 and 1 + high at most: it is
    looked at inside each interval between these, or at the two ``kinks``.
    """
    trials = []
    for low, high in _RANGES:
        corners = (1 - low, sympy.Integer(1), 1 + high)
        between = (corners[0] / 2, *((a + b) / 2 for a, b in pairwise(corners)), corners[2] * 2)
        for ratio, sign in product(corners[::2] if kinks else between, (1, -1)):
            at = _surrogate(ratio, sign, low, high)
            left, right = (
                (_surrogate(ratio + step, sign, low, high) - at) / step
                for step in (-sympy.Rational(1, 1000), sympy.Rational(1, 1000))
            )
            masked = _mask(mask(float(low), float(high)), ratio, sign) * sign
            words = (
                f"ratio {ratio} of the range {corners[0]} to {corners[2]}, Â = {sign:+d}: "
                f"derivatives {left} and {right} from left and right, 1_stable Â = {masked:g}"
            )
            holds = bool(left == right) and float(left) == masked
            trials.append(Trial(holds, words, inside=not kinks))
    return trials


@claim(
    "B.3",
    "PPO's clipped surrogate has derivative 0 outside the trusted region in the harmful direction "
    "and Â elsewhere: that is 1_stable with π_ref = π_θold.",
    "B.3",
)
def clip_is_mask(mask: MaskOf = Clip) -> Result:
    """The surrogate is piecewise linear in the ratio: one exact slope an interval and sign of Â."""
    trials = _slopes(mask, kinks=False)
    return rule(
        trials,
        sum(not trial.holds for trial in trials),
        "intervals of the ratio, by sign of Â, where the mask is not the derivative",
        symbolic=True,
        unit="intervals and signs",
    )


@claim(
    "eq21",
    "The ≈ of eq. 21, the surrogate's gradient as 1_stable Â ∇π_θ/π_θold, is an equality.",
    "eq. 21",
)
def approximately(mask: MaskOf = Clip) -> Result:
    """One-sided derivatives inside the intervals, and at the kinks 1 − ε and 1 + ε."""
    kinks = _slopes(mask, kinks=True)
    return rule(
        [*_slopes(mask, kinks=False), *kinks],
        sum(not trial.holds for trial in kinks),
        f"of {len(kinks)} pairs of ratio 1 ∓ ε and sign of Â without a derivative",
        symbolic=True,
        unit="ratios and signs of Â",
        condition="the ratio is neither 1 − ε nor 1 + ε",
    )
