"""Appendix B: the lemmas, the trust region, and PPO's clip as a mask (eq. 21)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
import torch

from upge.batch import TrajectoryBatch
from upge.objective import Objective
from upge.stabilization import Clip, Stabilization
from upge.theory.claims.claim import TOLERANCE, Result, Trial, claim, rule
from upge.theory.claims.finite import (
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
from upge.theory.claims.lab import SEEDS, cases, distance
from upge.theory.claims.toys import smallest, toys
from upge.theory.maths import Scalar


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

_LOW = _HIGH = sympy.Rational(1, 5)
_RATIO = sympy.Symbol("ratio", positive=True)

Slope = Callable[[Scalar, int], Scalar]


def _surrogate(ratio: Scalar, sign: int) -> Scalar:
    """min(r Â, clip(r) Â) for Â = ``sign``."""
    inside = sympy.Min(sympy.Max(ratio, 1 - _LOW), 1 + _HIGH)
    return sympy.Min(ratio * sign, inside * sign)


def _one_sided(ratio: Scalar, sign: int, side: int) -> Scalar:
    """Its derivative from the left (−1) or right (1): the loss is linear between kinks."""
    step = side * sympy.Rational(1, 1000)
    return (_surrogate(ratio + step, sign) - _surrogate(ratio, sign)) / step


def _mask(stabilization: Stabilization, ratio: Scalar, sign: int) -> int:
    """1_stable of the package on one token of that ratio."""
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = TrajectoryBatch(
        mask=one.bool(),
        reward=one[0],
        group=torch.zeros(1, dtype=torch.long),
        offline=torch.zeros(1, dtype=torch.bool),
        old_logp=-5 * one,
    ).at(-5 * one + float(sympy.log(ratio)))
    return round(stabilization(batch, sign * one).item())


#: A ratio in each interval that the thresholds 1 ∓ 1/5 and 1 make.
_INTERVALS = tuple(sympy.Rational(k, 20) for k in (2, 12, 17, 19, 21, 23, 30, 60))


def _slopes(stabilization: Stabilization, ratios: Sequence[Scalar], inside: bool) -> list[Trial]:
    trials = []
    for sign in (1, -1):
        for ratio in ratios:
            left, right = (_one_sided(ratio, sign, side) for side in (-1, 1))
            mask = _mask(stabilization, ratio, sign) * sign
            words = (
                f"ratio {ratio}, Â = {sign:+d}: derivatives {left} and {right}, mask · Â = {mask}"
            )
            trials.append(Trial(left == right == mask, words, inside))
    return trials


_DEFAULT_CLIP = Clip(float(_LOW), float(_HIGH))


@claim(
    "B.3",
    "PPO's clipped surrogate has derivative 0 outside the trusted region in the harmful direction "
    "and Â elsewhere: that is 1_stable with π_ref = π_θold.",
    "B.3",
)
def clip_is_mask(stabilization: Stabilization = _DEFAULT_CLIP) -> Result:
    """The surrogate is piecewise linear in the ratio: one exact slope an interval and sign of Â."""
    trials = _slopes(stabilization, _INTERVALS, inside=True)
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
def approximately(stabilization: Stabilization = _DEFAULT_CLIP) -> Result:
    """One-sided derivatives inside the intervals, and at the kinks 1 ∓ ε."""
    kinks = _slopes(stabilization, (1 - _LOW, 1 + _HIGH), inside=False)
    trials = _slopes(stabilization, _INTERVALS, inside=True) + kinks
    return rule(
        trials,
        sum(not trial.holds for trial in kinks),
        "kinks, of 4 pairs of ratio 1 ∓ ε and sign of Â, without a derivative",
        symbolic=True,
        unit="ratios and signs of Â",
        condition="the ratio is at no threshold",
    )
