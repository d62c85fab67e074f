"""§2.2–2.3, reference policies: bias and variance of 1/π_θ, of 1/π_θold and of π_ref ≡ 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sympy
import torch

from experiments.claims.claim import TOLERANCE, Result, Trial, below, claim, median, rule, spread
from experiments.claims.lab import (
    SEEDS,
    Case,
    at_success,
    cosine,
    distance,
    estimator,
    moments,
    random_case,
    reweighted,
)
from experiments.claims.measure import Level
from experiments.claims.toys import hunt, toys
from upge.advantage import Reward, Signed
from upge.reference import ConstantOne, CurrentPolicy, Reference, RolloutPolicy

_HORIZONS = (1, 2, 3)


@claim("words-reinforce-bias", "1/π_θ (REINFORCE, rollouts of π_θ) is unbiased.", "§2.2–2.3")
def reinforce_bias(shift: float = 0.0, seeds: Sequence[int] = SEEDS) -> Result:
    """Mean of the estimator with Â = R, and with Table 1's ±1, against ∇E[r].

    With ``shift`` the rollouts are of a π_θold so far from π_θ.
    """
    trials, errors = [], []
    for horizon in _HORIZONS:
        for hidden in (0, 4):
            for seed in seeds:
                case = random_case(seed, horizon=horizon, hidden=hidden, shift=shift)
                for advantage, factor in ((Reward(), 1), (Signed(), 2)):
                    mean = moments(estimator(CurrentPolicy(), advantage), case).mean
                    errors.append(distance(mean, factor * case.rl))
                    words = f"Â = {advantage.text}: bias {errors[-1]:.3g} of ‖∇E[r]‖"
                    trials.append(Trial(errors[-1] < TOLERANCE, words))
    return rule(
        trials,
        max(errors),
        "largest ‖E g − c ∇E[r]‖/‖c ∇E[r]‖",
        notes=["c = 1 for Â = R and 2 for Â = ±1: ±1 estimates twice the gradient"],
    )


@claim(
    "words-reinforce-variance",
    "1/π_θ (REINFORCE) has high variance: the noise of a sample exceeds its signal.",
    "§2.2–2.3",
)
def reinforce_variance(
    rates: Sequence[float] = (1 / 16, 1 / 4, 7 / 16, 1 / 2, 3 / 4, 15 / 16),
    seeds: Sequence[int] = SEEDS[:10],
) -> Result:
    """Trace Cov[g]/‖E g‖² of one on-policy sample, Â = R, policies tilted to success rates p."""
    trials, ratios, medians, above, louder = [], [], [], [], 0
    for p in rates:
        here = []
        for horizon in _HORIZONS:
            for seed in seeds:
                case = at_success(random_case(seed, horizon=horizon), p)
                g, one = (moments(estimator(x()), case) for x in (CurrentPolicy, ConstantOne))
                here.append(g.trace_cov / g.signal)
                above.append(here[-1] * p / (1 - p))
                louder += g.trace_cov > one.trace_cov
                words = f"{horizon} token(s), p = {p:g}: tr Cov/‖E g‖² = {here[-1]:.3g}"
                trials.append(Trial(here[-1] > 1, words, inside=p < 1 / 2))
        ratios += here
        medians.append(f"{median(here):.3g} at p = {p:g}")
    return rule(
        trials,
        median(ratios),
        "tr Cov[g]/‖E g‖² of one sample, median",
        condition="the success rate p is below 1/2",
        notes=[
            f"medians: {', '.join(medians)}",
            f"at least {min(above):.3g} times (1 − p)/p, which is Cauchy and Schwarz's bound",
            f"tr Cov exceeds that of π_ref ≡ 1 on the same rollouts in {louder} of {len(trials)}",
        ],
    )


def _second_moments(case: Case, corrected: bool = True) -> tuple[float, float]:
    """E‖g‖² of π_ref = π_θold with the trajectory's ratio, and of π_ref = π_θ on policy."""
    ratio = (case.policy.logp() - case.old.logp()).exp() ** float(corrected)
    off = case.sample(case.old, (ratio * case.reward)[:, None])
    on = case.sample(case.policy, case.reward[:, None])
    return off.square, on.square


def _improved(case: Case, factor: float) -> Case:
    """The case with π_θold so many times likelier, in odds, to succeed than π_θ."""
    weights = torch.ones_like(case.reward).masked_fill(case.reward > 0, factor)
    return replace(case, old=reweighted(case.policy, weights))


@claim(
    "words-ratio-variance",
    "The importance ratio (π_ref = π_θold) lowers the variance of 1/π_θ.",
    "§2.2–2.3",
)
def ratio_variance(
    corrected: bool = True, odds: Sequence[float] = (2.0, 0.5), seeds: Sequence[int] = SEEDS
) -> Result:
    """Both unbiased estimators, Â = R: rollouts of π_θold with the trajectory's ratio, and of π_θ.

    π_θold has its odds of success multiplied by each of ``odds``: above 1 it is the better policy,
    below 1 training has improved on it. Unless ``corrected`` the ratio is left out.
    """
    trials, worse, off_by = [], [], []
    for factor in odds:
        for horizon in _HORIZONS:
            for seed in seeds:
                case = _improved(random_case(seed, horizon=horizon), factor)
                off, on = _second_moments(case, corrected)
                best = int(case.reward.argmax())
                ratio = (case.policy.logp() - case.old.logp())[best].exp().item()
                off_by.append(abs(off / on / ratio - 1))
                words = (
                    f"odds of success of π_θold {factor:g} times π_θ's: E‖g‖² {off / on:.3g} times"
                )
                trials.append(Trial(off < on, words, inside=factor > 1))
                worse += [off / on] if factor < 1 else []
    return rule(
        trials,
        median(worse) if worse else 1.0,
        "E‖g‖² with the ratio over that without, π_θ having twice π_θold's odds of success; median",
        condition="π_θold is likelier than π_θ to draw each rewarded trajectory",
        counterexample=hunt(
            _higher,
            toys(2, 1, ("old",)),
            ("theta", "old"),
            lambda case: f"tr Cov {_variances(case)}",
        ),
        notes=[
            "E‖g‖² is multiplied by π_θ/π_θold of the rewarded trajectories, within "
            f"{max(off_by):.1g}",
            _random_old(seeds),
        ],
    )


def _higher(case: Case) -> bool:
    off, on = _second_moments(case)
    return off > on * (1 + TOLERANCE)


def _variances(case: Case) -> str:
    mean = (case.rl @ case.rl).item()
    off, on = (square - mean for square in _second_moments(case))
    return f"{off:.3g} with the ratio, {on:.3g} without"


def _random_old(seeds: Sequence[int]) -> str:
    """How often token ratios of a random π_θold lower the variance, with their bias unmentioned."""
    lower = total = 0
    for horizon in _HORIZONS:
        for seed in seeds:
            case = random_case(seed, horizon=horizon)
            off = moments(estimator(RolloutPolicy()), case).trace_cov
            lower += off < moments(estimator(CurrentPolicy()), case, old=False).trace_cov
            total += 1
    return f"with token ratios of a random π_θold it is lower in {lower} of {total}"


@claim(
    "words-ratio-bias",
    "PPO's importance ratio can bring systematic bias.",
    "§2.2–2.3",
)
def ratio_bias(level: Level = "token", seeds: Sequence[int] = SEEDS) -> Result:
    """An instance is enough: 3-token answers, Â = R, no clip, ratios of ``level``."""
    biases = []
    for seed in seeds:
        case = random_case(seed)
        ratio = (case.policy.logp() - case.old.logp()).exp()
        whole = case.sample(case.old, (ratio * case.reward)[:, None]).mean
        mean = whole if level == "trajectory" else moments(estimator(), case).mean
        biases.append(distance(mean, case.rl))
    biased = sum(bias > TOLERANCE for bias in biases)
    return rule(
        [Trial(biased > 0, f"no bias above {TOLERANCE:g} in {len(biases)} instances")],
        max(biases),
        "largest ‖E g − ∇E[r]‖/‖∇E[r]‖",
        unit="searches for an instance",
        notes=[
            f"biased in {biased} of {len(biases)}, {spread(biases)}; systematic: it stays in E g"
        ],
    )


@claim(
    "words-one-bias",
    "π_ref ≡ 1 brings much bias: more than the importance ratio that it replaces.",
    "§2.2–2.3",
)
def one_bias(reference: type[Reference] = ConstantOne, seeds: Sequence[int] = SEEDS) -> Result:
    """‖E g − ∇E[r]‖ of π_ref ≡ 1 and of token ratios, the same rollouts of π_θold, Â = R."""
    trials, biases, angles = [], [], []
    for horizon in _HORIZONS:
        for seed in seeds:
            case = random_case(seed, horizon=horizon)
            one, ratio = _biases(case, reference)
            biases.append(one)
            angles.append(cosine(moments(estimator(reference()), case).mean, case.rl))
            words = f"{horizon} token(s): bias {one:.3g}, of the ratio {ratio:.3g}"
            trials.append(Trial(one > ratio + TOLERANCE, words, inside=horizon == 1))
    return rule(
        trials,
        median(biases),
        "‖E g − ∇E[r]‖/‖∇E[r]‖ of π_ref ≡ 1, median",
        condition="answers have one token, so that the ratio is unbiased",
        counterexample=hunt(
            lambda case: below(*_biases(case, reference)),
            toys(2, 2, ("old",)),
            ("theta", "old"),
            lambda case: "bias {:.3g}, of the ratio {:.3g}".format(*_biases(case, reference)),
        ),
        notes=[f"cosine of E g and ∇E[r]: {spread(angles)}"],
    )


def _biases(case: Case, reference: type[Reference]) -> tuple[float, float]:
    one, ratio = (moments(estimator(x()), case).mean for x in (reference, RolloutPolicy))
    return distance(one, case.rl), distance(ratio, case.rl)


@claim(
    "words-one-stability",
    "π_ref ≡ 1 buys numerical stability: its weights stay bounded where 1/π_ref's do not.",
    "§2.2–2.3",
)
def one_stability() -> Result:
    """Weights π_θ/π_ref on ∇log π_θ, and their limits as a probability goes to 0."""
    pi, ref = sympy.symbols("pi ref", positive=True)
    weights = {"1": pi, "π_ref, the sampling policy": pi / ref, "π_θ": pi / pi}
    limits = {
        name: max(
            sympy.limit(w.subs(pi, sympy.Rational(1, 2)), ref, 0, "+"),
            sympy.limit(w.subs(ref, sympy.Rational(1, 2)), pi, 0, "+"),
        )
        for name, w in weights.items()
    }
    bounded = limits["1"] <= 1
    trials = [
        Trial(
            bool(bounded and limits[name] == sympy.oo),
            f"against 1/{name}: the weight on ∇log π_θ has the limit {limits[name]}",
            inside=name != "π_θ",
        )
        for name in ("π_ref, the sampling policy", "π_θ")
    ]
    return rule(
        trials,
        float(sympy.limit(weights["1"], pi, 1)),
        "largest weight on ∇log π_θ with π_ref ≡ 1; π_θ/π_ref has none",
        symbolic=True,
        unit="rivals",
        condition="the rival is a sampling policy of its own, not π_θ: (1/π_θ) ∇π_θ = ∇log π_θ",
    )
