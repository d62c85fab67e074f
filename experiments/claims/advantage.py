"""Equation 5: what centring on a group's mean and dividing by its std do to the gradient.

For one question with R ∈ {0, 1} and success rate p every group rule has E[g] = c(p) ∇E[r], with the
*gain* c(p) = E[Â | R = 1] − E[Â | R = 0], a sum over the number of successes among the others. It
is computed by sympy from the twin of the advantage that trains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache

import sympy
import torch

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, rule
from experiments.claims.lab import (
    SEEDS,
    Case,
    at_success,
    cosine,
    distance,
    estimator,
    moments,
    random_case,
)
from experiments.claims.toys import hunt, toys
from upge.advantage import Advantage, GroupCentered, GroupZScore, LeaveOneOut
from upge.reference import CurrentPolicy
from upge.verification.formulas import FORMULAS, Rows
from upge.verification.maths import Floats, Maths, Scalar, SymbolicOps
from upge.verification.published import Sample

_SUCCESS = sympy.Symbol("p", positive=True)

#: Group sizes that identities are proved for.
SIZES = (2, 3, 4, 5, 6, 7, 8)

_EASY_AND_HARD = (1, 2, 4, 8, 12, 14, 15)  #: success rates, in sixteenths


@cache
def gain(advantage: Advantage, n: int) -> Scalar:
    """c(p) of groups of n, a polynomial in p."""
    maths = SymbolicOps()
    steps = [_of(advantage, 1, k, n, maths) - _of(advantage, 0, k, n, maths) for k in range(n)]
    chances = [math.comb(n - 1, k) * _SUCCESS**k * (1 - _SUCCESS) ** (n - 1 - k) for k in range(n)]
    return sympy.expand(sum(c * step for c, step in zip(chances, steps, strict=True)))


def _of(advantage: Advantage, reward: int, solved: int, n: int, maths: Maths) -> Scalar:
    """Â of a rollout with ``reward``, of whose n − 1 companions so many are ``solved``."""
    rewards = [reward] + [1] * solved + [0] * (n - 1 - solved)
    samples = [Sample([0], [0], r, 0, False) for r in rewards]
    return FORMULAS[type(advantage)](advantage, Rows(samples, 1, maths), 0, 0)


def _range(advantage: Advantage, n: int) -> tuple[float, float]:
    """The smallest and the largest gain at success rates from 1/16 to 15/16, in numbers."""
    steps = [
        _of(advantage, 1, k, n, Floats()) - _of(advantage, 0, k, n, Floats()) for k in range(n)
    ]
    values = [
        sum(math.comb(n - 1, k) * p**k * (1 - p) ** (n - 1 - k) * x for k, x in enumerate(steps))
        for p in (x / 16 for x in _EASY_AND_HARD)
    ]
    return min(values), max(values)


def _equal(x: Scalar, y: Scalar) -> bool:
    """Whether two functions of p are one; a number shows quickly where they are not."""
    difference = sympy.sympify(x - y)
    if abs(sympy.N(difference.subs(_SUCCESS, sympy.Rational(1, 3)))) > TOLERANCE:
        return False
    return bool(sympy.simplify(difference) == 0)


def _constant(advantage: Advantage, n: int) -> bool:
    return _equal(gain(advantage, n).diff(_SUCCESS), sympy.Integer(0))


@claim(
    "eq5",
    "GRPO's advantage (R − mean)/std as Â estimates ∇E[r], up to a factor.",
    "eq. 5",
)
def z_score(advantage: Advantage | None = None, seeds: Sequence[int] = SEEDS[:6]) -> Result:
    """The angle between E[g] and ∇E[r]: pass/fail rewards, graded ones, and two questions."""
    kind, size = advantage or GroupZScore(), 4
    what = estimator(CurrentPolicy(), kind)
    trials, cosines = [], []
    for seed in seeds:
        case = random_case(seed)
        passed = moments(what, case, size, old=False)
        factor = float(gain(kind, size).subs(_SUCCESS, case.success))
        error = distance(passed.mean, factor * case.rl)
        trials.append(Trial(error < TOLERANCE, f"E g is not {factor:.3g} ∇E[r]: {error:.3g} off"))
    for seed in seeds:
        graded = random_case(seed, levels=(0.0, 0.5, 1.0))
        one = cosine(moments(what, graded, size, old=False).mean, graded.rl)
        two = _two_questions(kind, size, seed)
        cosines += [one, two]
        for what_for, c in (("graded rewards", one), ("p = 1/16 and p = 1/2", two)):
            words = f"{what_for}: cosine {c:.4f}"
            trials.append(Trial(1 - c < TOLERANCE, words, inside=False))

    def graded_cosine(case: Case) -> float:
        return cosine(moments(what, case, size, old=False).mean, case.rl)

    return rule(
        trials,
        min(cosines),
        "smallest cosine of E g and ∇E[r] with graded rewards or several questions, n = 4",
        counterexample=hunt(
            lambda case: graded_cosine(case) < 1 - TOLERANCE,
            toys(3, 1, ("theta",), top=2, rewards=(0.0, 0.5, 1.0)),
            ("theta",),
            lambda case: f"cosine {graded_cosine(case):.4f}",
        ),
        condition="all rollouts answer one question and R ∈ {0, 1}; the factor is c(p)",
    )


def _two_questions(advantage: Advantage, n: int, seed: int) -> float:
    """Cosine of E[g] and ∇E[r] over two questions with parameters of their own."""
    case = random_case(seed)
    means, truths = [], []
    for p in (1 / 16, 1 / 2):
        at = at_success(case, p)
        means.append(moments(estimator(CurrentPolicy(), advantage), at, n, old=False).mean)
        truths.append(at.rl)
    return cosine(torch.cat(means), torch.cat(truths))


@claim(
    "eq5-centred",
    "Centring on the mean of the own group leaves the gradient unbiased.",
    "eq. 5, §2.3",
)
def centred(advantage: Advantage | None = None, sizes: Iterable[int] = SIZES) -> Result:
    """The gain of R − mean, for every p at once, as it is and times n/(n − 1)."""
    kind, trials, gains = advantage or GroupCentered(), [], []
    for n in sizes:
        found = gain(kind, n)
        gains.append(f"{found} at n = {n}" if n <= 4 else "")
        words = f"E g = ({found}) ∇E[r] with groups of {n}"
        trials.append(Trial(_equal(found * n, n - 1), words))
        trials.append(Trial(_equal(found, 1), words, inside=False))
    shown = gain(kind, 8)
    left_out = " or ".join(sorted({str(gain(LeaveOneOut(), n)) for n in sizes}))
    return rule(
        trials,
        float(shown.subs(_SUCCESS, sympy.Rational(1, 2))),
        "E g over ∇E[r] with groups of 8",
        symbolic=True,
        unit="group sizes",
        condition="it is multiplied by n/(n − 1)",
        notes=[
            f"E g/∇E[r] is {', '.join(filter(None, gains))}, for any success rate",
            f"leaving the rollout out of its own mean makes it {left_out}",
            _against_enumeration(kind),
        ],
    )


def _against_enumeration(advantage: Advantage) -> str:
    """The gain against exact moments of the package's estimator."""
    case = random_case(0)
    mean = moments(estimator(CurrentPolicy(), advantage), case, 8, old=False).mean
    factor = float(gain(advantage, 8).subs(_SUCCESS, case.success))
    return f"enumeration agrees within {distance(mean, factor * case.rl):.1g}"


@claim(
    "words-std",
    "Dividing by the group's std brings a difficulty bias: questions weigh by their success rate.",
    "§2.3",
)
def std_bias(advantage: Advantage | None = None, sizes: Iterable[int] = SIZES) -> Result:
    """Whether c(p) of the z-score varies with p, group size by group size."""
    kind, sizes = advantage or GroupZScore(), tuple(sizes)
    trials = [
        Trial(
            not _constant(kind, n),
            f"groups of {n}: c(p) = {gain(kind, n)} for every p, no difficulty bias",
            inside=n >= 4,
        )
        for n in sizes
    ]
    low, high = _range(kind, max(sizes))
    spans = [(n, *_range(kind, n)) for n in (4, 8, 64)]
    return rule(
        trials,
        high / low,
        f"largest over smallest weight of a question, p from 1/16 to 15/16, groups of {max(sizes)}",
        symbolic=True,
        unit="group sizes",
        condition="n ≥ 4 (R ∈ {0, 1})",
        notes=[
            "weights c(p): " + ", ".join(f"{a:.3g} to {b:.3g} at n = {n}" for n, a, b in spans),
            "1/√(p(1 − p)), the usual account, would span "
            + " to ".join(f"{1 / math.sqrt(p * (1 - p)):.3g}" for p in (1 / 2, 1 / 16)),
        ],
    )


@claim(
    "words-centring",
    "Re-centring alone brings no difficulty bias: all questions keep one weight.",
    "§2.3",
)
def centring_alone(advantage: Advantage | None = None, sizes: Iterable[int] = SIZES) -> Result:
    """Whether c(p) of R − mean is the same for every p."""
    kind = advantage or GroupCentered()
    trials = [Trial(_constant(kind, n), f"groups of {n}: c(p) = {gain(kind, n)}") for n in sizes]
    low, high = _range(kind, 8)
    return rule(
        trials,
        high / low,
        "largest over smallest weight of a question, p from 1/16 to 15/16, groups of 8",
        symbolic=True,
        unit="group sizes",
    )
