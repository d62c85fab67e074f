"""Equation 3: the change of measure, its support, and tokens against trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, median, rule, spread
from experiments.claims.finite import BETA, MU, REF, SCORE, D, P, R, shown, vanishes
from experiments.claims.lab import (
    SEEDS,
    Case,
    cases,
    distance,
    estimator,
    moments,
    random_case,
    reweighted,
)
from experiments.claims.toys import hunt, toys
from upge.exact.enumeration import Policy
from upge.reference import SequenceRatio

Level = Literal["token", "trajectory"]


def unified_weights(case: Case, source: Policy) -> Tensor:
    """(M, 1) weights on ∇log π_θ of (1/π_ref) Â_uni ∇π_θ with π_ref the ``source``."""
    log_pi = case.policy.logp()
    advantage = case.reward + case.mu * (case.demo.logp() - log_pi).exp()
    return (advantage * (log_pi - source.logp()).exp())[:, None]


@claim(
    "eq3",
    "∇J_μ = E_{π_ref}[(1/π_ref) Â_uni ∇π_θ]: any sampling policy will do.",
    "eq. 3",
)
def change_of_measure(covering: bool = False, seeds: Sequence[int] = SEEDS) -> Result:
    """Symbolically, for a trajectory that π_ref covers and for one that it doesn't.

    If π_ref is ``covering`` there are none of the latter.
    """
    truth = R * D + MU * BETA * SCORE
    covered = REF * (R + MU * BETA / P) * D / REF
    left_out = f"a trajectory that π_ref never draws leaves out {shown(truth)}"
    trials = [Trial(vanishes(truth - covered), "a covered trajectory")]
    trials += [] if covering else [Trial(vanishes(truth), left_out, inside=False)]
    errors = [
        distance(case.sample(case.old, unified_weights(case, case.old)).mean, case.truth)
        for case in cases(seeds)
    ]
    trials.append(Trial(max(errors) < TOLERANCE, f"relative error {max(errors):.3g}"))
    return rule(
        trials,
        max(errors),
        "largest relative error on enumerated policies, π_ref = π_θold, ratios of trajectories",
        symbolic=True,
        unit="comparisons",
        condition="π_ref gives positive probability to every trajectory with Â_uni ∇π_θ ≠ 0",
        counterexample=_nothing if covering else _smallest_gap(0),
        notes=["" if covering else left_out],
    )


def _demonstrators(case: Case) -> list[tuple[str, Policy, bool]]:
    """π_β by how much of π_θ's rewarded trajectories it covers, and whether that is all."""
    rewarded = case.reward > 0
    first = torch.zeros_like(case.reward)
    first[int(rewarded.nonzero()[0])] = 1.0
    return [
        ("all trajectories", case.demo, True),
        ("all rewarded trajectories only", reweighted(case.demo, case.reward), True),
        ("one rewarded trajectory only", reweighted(case.demo, first), int(rewarded.sum()) == 1),
    ]


def _gap(case: Case) -> float:
    """‖E_{π_β}[(1/π_β) Â_uni ∇π_θ] − ∇J_μ‖/‖∇J_μ‖."""
    return distance(case.sample(case.demo, unified_weights(case, case.demo)).mean, case.truth)


@claim(
    "eq3-support",
    "With demonstrations as the sample (π_ref = π_β) eq. 3 gives ∇J_μ.",
    "eq. 3, B.1",
)
def support(kinds: Sequence[int] = (0, 1, 2), seeds: Sequence[int] = SEEDS) -> Result:
    """Demonstrators that cover (0) all, (1) all that is rewarded, or (2) a single trajectory."""
    trials, gaps = [], []
    for case in cases(seeds):
        for covers, demo, enough in (_demonstrators(case)[kind] for kind in kinds):
            gap = _gap(replace(case, demo=demo))
            trials.append(Trial(gap < TOLERANCE, f"π_β covers {covers}: gap {gap:.3g}", enough))
            if not enough:
                gaps.append(gap)
    return rule(
        trials,
        median(gaps) if gaps else 0.0,
        "‖E g − ∇J_μ‖/‖∇J_μ‖ with a single demonstrated trajectory, μ = 1/2, median",
        condition="π_β covers every trajectory that π_θ is rewarded for",
        counterexample=_smallest_gap(0 if 2 in kinds else 1),
        notes=[f"gaps without: {spread(gaps)}" if gaps else "", _noise_of_rare_demonstrations()],
    )


def _nothing() -> None:
    """No search."""


def _smallest_gap(lowest: int) -> Callable[[], str | None]:
    """A search for the smallest toy whose π_β, of odds from ``lowest``, fails as π_ref."""
    return hunt(
        lambda case: TOLERANCE < _gap(case) < math.inf,
        toys(2, 1, ("theta", "demo"), lowest=lowest),
        ("theta", "demo"),
        lambda case: f"π_ref = π_β, μ = 1/2, E g is off by {_gap(case):.3g} of ‖∇J_μ‖",
    )


def _noise_of_rare_demonstrations() -> str:
    """How the variance grows as π_β's smallest probability falls, on one question."""
    toy = next(toys(2, 1, ()))
    texts = []
    for rare in (1e-2, 1e-4, 1e-6):
        case = toy.case()
        demo = reweighted(case.demo, torch.tensor([rare, 1 - rare], dtype=torch.float64))
        case = replace(case, demo=demo, reward=torch.tensor([1.0, 0.0], dtype=torch.float64))
        texts.append(f"{case.sample(demo, unified_weights(case, demo)).trace_cov:.3g}")
    return f"covering barely is no cure: tr Cov is {', '.join(texts)} at min π_β = 1e-2, 1e-4, 1e-6"


def _ratio_bias(case: Case, level: Level) -> float:
    """‖E g − ∇E[r]‖/‖∇E[r]‖ of rollouts of π_θold with Â = R and ratios of ``level``."""
    if level == "token":
        return distance(moments(estimator(), case).mean, case.rl)
    ratio = (case.policy.logp() - case.old.logp()).exp()
    return distance(case.sample(case.old, (ratio * case.reward)[:, None]).mean, case.rl)


@claim(
    "eq3-tokens",
    "Eq. 3 may be read token by token: rollouts of π_θold weighted by the tokens' own ratios "
    "π_θ/π_θold (PPO, GRPO) give its gradient.",
    "eq. 3 with eq. 11, 16–18",
)
def token_ratios(level: Level = "token", seeds: Sequence[int] = SEEDS) -> Result:
    """The exact bias with Â = R and no clip, by length and by distance of π_θold."""
    trials, biases, order = [], [], []
    for horizon in (1, 2, 3, 4):
        for seed in seeds:
            case, nearer, same = (
                random_case(seed, horizon=horizon, shift=shift) for shift in (0.5, 0.25, 0.0)
            )
            off, on = _ratio_bias(case, level), _ratio_bias(same, level)
            words = f"{horizon} tokens, seed {seed}: bias {off:.3g} of ‖∇E[r]‖"
            trials += [
                Trial(on < TOLERANCE, words),
                Trial(off < TOLERANCE, words, inside=horizon == 1),
            ]
            if horizon == 4:
                biases.append(off)
                order.append(_ratio_bias(nearer, level) / off)
    return rule(
        trials,
        median(biases),
        f"‖E g − ∇E[r]‖/‖∇E[r]‖ of the {level} ratio, up to 4 tokens, logits 1/2 apart; median",
        condition="π_θold = π_θ or answers have one token",
        counterexample=hunt(
            lambda case: _ratio_bias(case, level) > TOLERANCE,
            toys(2, 2, ("old",), top=3),
            ("theta", "old"),
            lambda case: f"bias {_ratio_bias(case, level):.3g} of ‖∇E[r]‖",
        ),
        notes=[
            f"range {spread(biases)}",
            f"at half the distance of π_θold the bias is {median(order):.2g} of that"
            if level == "token"
            else "",
            _other_ratios(seeds),
        ],
    )


def _other_ratios(seeds: Sequence[int]) -> str:
    """The trajectory's ratio and GSPO's length-normalised one beside the token ratio, 4 tokens."""
    biases, prices, sequence = [], [], []
    for seed in seeds:
        case = random_case(seed, horizon=4)
        ratio = (case.policy.logp() - case.old.logp()).exp()
        whole = case.sample(case.old, (ratio * case.reward)[:, None])
        biases.append(distance(whole.mean, case.rl))
        prices.append(whole.trace_cov / moments(estimator(), case).trace_cov)
        sequence.append(distance(moments(estimator(SequenceRatio()), case).mean, case.rl))
    return (
        f"the trajectory's ratio has bias ≤ {max(biases):.1g} and {median(prices):.3g} times the "
        f"token ratio's tr Cov (median), GSPO's sequence ratio bias {spread(sequence)}"
    )
