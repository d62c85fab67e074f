"""Equations 7–10 and 13: performance, the switch, and the mixed loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import sympy
import torch
from torch import Tensor

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, rule
from experiments.claims.lab import SEEDS, Case, at_success, distance, random_case
from upge.advantage import Advantage, GroupZScore, One
from upge.algorithms import get
from upge.batch import TrajectoryBatch
from upge.estimator import Estimator, Term, compose, term_metrics
from upge.exact.moments import exact
from upge.feedback import Feedback, Gate, Switch, performance
from upge.normalization import TrajectoryMean
from upge.reference import CurrentPolicy

_SIZES, _SWITCH = (1, 2, 4, 8), Switch()


@claim(
    "eq7",
    "With v(τ) = R(τ) the mean of v is the share of correct rollouts.",
    "eq. 7",
)
def verdicts(levels: Sequence[tuple[int, int]] = ((0, 1), (-1, 1)), size: int = 4) -> Result:
    """All groups of ``size`` rewards of the two ``levels``."""
    trials, gaps = [], []
    for pair in levels:
        for rewards in product(pair, repeat=size):
            mean = Fraction(sum(rewards), size)
            share = Fraction(sum(r > 0 for r in rewards), size)
            words = f"R = {rewards}: mean {mean}, share of correct ones {share}"
            trials.append(Trial(mean == share, words, inside=pair == (0, 1)))
            gaps.append(abs(float(mean - share)))
    return rule(
        trials,
        max(gaps),
        "largest |mean R − share of correct rollouts|, R ∈ {−1, 1} tried too",
        unit="groups",
        condition="R ∈ {0, 1}",
        notes=[_package_counts(levels, size)],
    )


def _package_counts(levels: Sequence[tuple[int, int]], size: int) -> str:
    """The error of the package's P, which counts R > 0."""
    worst = 0.0
    for pair in levels:
        for rewards in product(pair, repeat=size):
            batch = _batch(torch.tensor(rewards, dtype=torch.float64))
            share = sum(r > 0 for r in rewards) / size
            worst = max(worst, abs(performance(batch)[0].item() - share))
    return f"counting R > 0, as the package does, is off by {worst:.1g} at most"


def _batch(
    rewards: Tensor, demonstrations: int = 0, group: Tensor | None = None
) -> TrajectoryBatch:
    """One-token rollouts with ``rewards`` and rewarded demonstrations of the same question(s)."""
    count = len(rewards) + demonstrations
    return TrajectoryBatch(
        mask=torch.ones(count, 1, dtype=torch.bool),
        reward=torch.cat([rewards, torch.ones(demonstrations, dtype=torch.float64)]),
        group=torch.zeros(count, dtype=torch.long) if group is None else group,
        offline=torch.arange(count) >= len(rewards),
        old_logp=torch.full((count, 1), -1.0, dtype=torch.float64),
    )


@claim("eq8", "P = (1/n) Σ v(τ_i) estimates the policy's success rate p without bias.", "eq. 8")
def success_rate(sizes: Sequence[int] = _SIZES, imagined: int = 0) -> Result:
    """E[P] and Var[P] of n independent rollouts as polynomials in p.

    P is divided by n plus a number of ``imagined`` failures.
    """
    p, trials = sympy.Symbol("p"), []
    for n in sizes:
        chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        shares = [sympy.Rational(k, n + imagined) for k in range(n + 1)]
        mean = sum(x * c for x, c in zip(shares, chances, strict=True))
        square = sum(x**2 * c for x, c in zip(shares, chances, strict=True))
        variance = sympy.expand(square - mean**2)
        holds = sympy.expand(mean - p) == 0 and sympy.expand(variance - p * (1 - p) / n) == 0
        trials.append(Trial(bool(holds), f"n = {n}: E[P] = {sympy.expand(mean)}"))
    largest = max(sizes)
    return rule(
        trials,
        0.5 / math.sqrt(largest),
        f"standard deviation of P at p = 1/2 with {largest} rollouts",
        symbolic=True,
        unit="group sizes",
        notes=[
            f"a question of p = 0.2 has P = 0 with probability {0.8**largest:.3g} at n = {largest}"
        ],
    )


@claim(
    "eq9-10",
    "(α, β) = (f(P), g(P)) is (1, 0) if P > γ and (0, 1) if P ≤ γ: one loss at a time.",
    "eq. 9–10",
)
def switch(kind: type[Feedback] = Switch, largest: int = 16) -> Result:
    """The package's gate at every P = k/n and γ = j/n, against exact fractions."""
    trials = []
    for n in range(1, largest + 1):
        for j in range(n + 1):
            gate = kind(j / n) if "gamma" in kind.__dataclass_fields__ else kind()  # type: ignore[call-arg]
            p = torch.tensor([k / n for k in range(n + 1)], dtype=torch.float64)
            pairs = zip(gate.f(p).tolist(), gate.g(p).tolist(), strict=True)
            for k, pair in enumerate(pairs):
                wanted = (1.0, 0.0) if Fraction(k, n) > Fraction(j, n) else (0.0, 1.0)
                trials.append(Trial(pair == wanted, f"P = {k}/{n}, γ = {j}/{n}: (α, β) = {pair}"))
    return rule(
        trials,
        sum(not trial.holds for trial in trials),
        f"wrong pairs of all P and γ in n-ths, n ≤ {largest}",
        unit="pairs (P, γ)",
    )


# ------------------------------------------------------------------------------------ equation 13


@claim(
    "eq13-exclusive",
    "In L = α L_RL + β L_SFT with the switch the two losses are never active together.",
    "eq. 13 with eq. 10",
)
def exclusive(gate: str = "switch", gammas: Sequence[float] = (0.0, 0.25), size: int = 8) -> Result:
    """Weight mass of both terms for every number of successes, one question and two."""
    trials, silent = [], set[int]()
    for gamma in gammas:
        estimator = get("hpt", gate=gate, gamma=gamma)
        for solved in range(size + 1):
            rewards = (torch.arange(size) < solved).double()
            rl, sft = _masses(estimator, _batch(rewards, 1))
            words = (
                f"γ = {gamma:g}, {solved} of {size} correct: Σ|w| {rl:.3g} of RL, {sft:.3g} of SFT"
            )
            trials.append(Trial(not (rl and sft), words))
            silent |= set() if rl or sft else {solved}
    for gamma in gammas:
        rewards = torch.cat([torch.zeros(size), (torch.arange(size) < size // 2)]).double()
        group = torch.cat([torch.arange(2).repeat_interleave(size), torch.arange(2)])
        rl, sft = _masses(get("hpt", gate=gate, gamma=gamma), _batch(rewards, 2, group))
        words = f"γ = {gamma:g}, a failed and a half-solved question: Σ|w| {rl:.3g} and {sft:.3g}"
        trials.append(Trial(not (rl and sft), words, inside=False))
    both = sum(not trial.holds for trial in trials if trial.inside)
    return rule(
        trials,
        both,
        f"numbers of successes of {size} with which both act on a question",
        unit="groups",
        condition="all samples answer one question",
        notes=[f"neither acts with {sorted(silent)} of {size} correct (all rewards equal)"],
    )


def _masses(estimator: Estimator, batch: TrajectoryBatch) -> tuple[float, float]:
    terms = estimator(batch, torch.full_like(batch.mask, -1.0, dtype=torch.float64)).terms
    rl, sft = (term_metrics(term.sums())["mass"] for term in terms)
    return rl, sft


@claim(
    "eq13-objective",
    "The gated mixed loss ascends, in expectation, the common objective J_μ with one μ.",
    "eq. 13, §2.3",
)
def one_objective(
    gate: Feedback | None = _SWITCH,
    advantage: Advantage | None = None,
    size: int = 8,
    seed: int = SEEDS[0],
) -> Result:
    """The μ that E[∇(−L)] implies at success rates from 1/16 to 15/16; no gate: α = β = 1."""
    case, trials = random_case(seed, horizon=2), []
    implied = {}
    for sixteenths in (1, 2, 4, 8, 12, 14, 15):
        p = sixteenths / 16
        a, b, residual = _parts(_mixed(gate, advantage), at_success(case, p), size)
        implied[p] = b / a
        words = f"p = {p:g}: E g is no sum of the two gradients, {residual:.1g} is left"
        trials.append(Trial(residual < 1e-6, words))
    low, high = min(implied.values()), max(implied.values())
    pairs = ", ".join(f"{mu:.2g} at p = {p:.2g}" for p, mu in implied.items())
    words = f"two questions of different success rates; the implied μ is {pairs}"
    trials.append(Trial(high - low < TOLERANCE * high, words, inside=False))
    return rule(
        trials,
        high / low if low > 0 else math.inf,
        f"largest over smallest μ implied at success rates from 1/16 to 15/16, n = {size}",
        unit="sets of questions",
        condition="there is a single question (μ then depends on its success rate)",
    )


def _mixed(gate: Feedback | None, advantage: Advantage | None) -> Estimator:
    """Eq. 13 on one question, both losses as token sums averaged over trajectories."""
    alpha, beta = (None, None) if gate is None else (Gate(gate, "rl"), Gate(gate, "sft"))
    own, rule_ = CurrentPolicy(), advantage or GroupZScore()
    return compose(
        Term("online", own, rule_, TrajectoryMean(), gate=alpha),
        Term("offline", own, One(), TrajectoryMean(), gate=beta),
    )


def _parts(estimator: Estimator, case: Case, size: int) -> tuple[float, float, float]:
    """E[g] as a ∇E[r] + b E_{π_β}[∇log π_θ]: a, b, and the relative residual."""
    mean = exact(estimator, case.setting(size)).mean
    basis = torch.stack([case.rl, case.sft], 1)
    solution = torch.linalg.lstsq(basis, mean[:, None]).solution
    residual = distance((basis @ solution)[:, 0], mean)
    return solution[0].item(), solution[1].item(), residual
