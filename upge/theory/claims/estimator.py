"""Equations 3 and 6: the change of measure, its support, tokens or trajectories, and the mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from upge.algorithms import REGISTRY
from upge.estimator import Term
from upge.reference import CurrentPolicy
from upge.theory.claims.claim import TOLERANCE, Result, Trial, claim, median, rule, spread
from upge.theory.claims.finite import BETA, MU, REF, SCORE, D, P, R, shown, vanishes
from upge.theory.claims.lab import (
    SEEDS,
    Case,
    cases,
    distance,
    estimator,
    moments,
    random_case,
    reweighted,
    sampled,
)
from upge.theory.claims.toys import smallest, toys
from upge.theory.enumeration import Policy

Level = Literal["token", "trajectory"]


def _unified(case: Case, source: Policy) -> Tensor:
    """(M, 1) weights on ∇log π_θ of (1/π_ref) Â_uni ∇π_θ with π_ref the ``source``."""
    log_pi = case.policy.logp()
    advantage = case.reward + case.mu * (case.demo.logp() - log_pi).exp()
    return (advantage * (log_pi - source.logp()).exp())[:, None]


# ------------------------------------------------------------------------------------- equation 3


@claim(
    "eq3",
    "∇J_μ = E_{π_ref}[(1/π_ref) Â_uni ∇π_θ]: any sampling policy will do.",
    "eq. 3",
)
def change_of_measure(seeds: Sequence[int] = SEEDS) -> Result:
    """Symbolically, for a trajectory that π_ref covers and for one that it doesn't."""
    truth = R * D + MU * BETA * SCORE
    covered = REF * (R + MU * BETA / P) * D / REF
    trials = [
        Trial(vanishes(truth - covered), f"a covered trajectory leaves {shown(truth - covered)}"),
        Trial(
            vanishes(truth), f"a trajectory that π_ref never draws leaves out {shown(truth)}", False
        ),
    ]
    errors = [
        distance(case.sample(case.old, _unified(case, case.old)).mean, case.truth)
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
    return distance(case.sample(case.demo, _unified(case, case.demo)).mean, case.truth)


@claim(
    "eq3-support",
    "With demonstrations as the sample (π_ref = π_β) eq. 3 gives ∇J_μ.",
    "eq. 3, B.1",
)
def support(seeds: Sequence[int] = SEEDS) -> Result:
    """Demonstrators that cover all, all that is rewarded, or a single trajectory."""
    trials, gaps = [], []
    for case in cases(seeds):
        for covers, demo, enough in _demonstrators(case):
            gap = _gap(replace(case, demo=demo))
            trials.append(Trial(gap < TOLERANCE, f"π_β covers {covers}: gap {gap:.3g}", enough))
            if not enough:
                gaps.append(gap)
    toy = smallest(lambda case: _gap(case) > TOLERANCE, toys(2, 1, ("demo",)))
    shown_toy = f"{toy.words('theta', 'demo')}: gap {_gap(toy.case()):.3g}" if toy else None
    return rule(
        trials,
        median(gaps) if gaps else 0.0,
        "‖E g − ∇J_μ‖/‖∇J_μ‖ with a single demonstrated trajectory, μ = 1/2, median",
        condition="π_β covers every trajectory that π_θ is rewarded for",
        counterexample=shown_toy,
        notes=[f"gaps without: {spread(gaps)}" if gaps else "", _noise_of_rare_demonstrations()],
    )


def _noise_of_rare_demonstrations() -> str:
    """How the variance grows as π_β's smallest probability falls, on one question."""
    toy = next(toys(2, 1, ()))
    texts = []
    for rare in (1e-2, 1e-4, 1e-6):
        case = toy.case()
        demo = reweighted(case.demo, torch.tensor([rare, 1 - rare], dtype=torch.float64))
        case = replace(case, demo=demo, reward=torch.tensor([1.0, 0.0], dtype=torch.float64))
        texts.append(f"{case.sample(demo, _unified(case, demo)).trace_cov:.3g}")
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
    toy = smallest(lambda case: _ratio_bias(case, level) > TOLERANCE, toys(2, 2, ("old",), top=3))
    found = f"{toy.words('theta', 'old')}: bias {_ratio_bias(toy.case(), level):.3g}" if toy else None
    return rule(
        trials,
        median(biases),
        f"‖E g − ∇E[r]‖/‖∇E[r]‖ of the {level} ratio, up to 4 tokens, logits 1/2 apart; median",
        condition="π_θold = π_θ or answers have one token",
        counterexample=found,
        notes=[
            f"range {spread(biases)}",
            f"at half the distance of π_θold the bias is {median(order):.2g} of that"
            if level == "token"
            else "",
            _price_of_trajectory_ratios(seeds),
        ],
    )


def _price_of_trajectory_ratios(seeds: Sequence[int]) -> str:
    """Bias and variance of the trajectory ratio beside the token ratio, at 4 tokens."""
    biases, prices = [], []
    for seed in seeds:
        case = random_case(seed, horizon=4)
        ratio = (case.policy.logp() - case.old.logp()).exp()
        whole = case.sample(case.old, (ratio * case.reward)[:, None])
        biases.append(distance(whole.mean, case.rl))
        prices.append(whole.trace_cov / moments(estimator(), case).trace_cov)
    return (
        f"the trajectory's ratio has bias ≤ {max(biases):.1g} and {median(prices):.3g} times the "
        "token ratio's tr Cov (median)"
    )


# ------------------------------------------------------------------------------------- equation 6

Mask = Callable[[Tensor, Tensor], Tensor]


def keep_all(ratio: Tensor, advantage: Tensor) -> Tensor:
    """1_stable ≡ 1."""
    return torch.ones_like(ratio)


def clip(ratio: Tensor, advantage: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """PPO's mask, of trajectories."""
    harmful = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))
    return (~harmful).double()


@claim(
    "eq6-mask",
    "With Â_uni and π_ref = π_θold grad_uni = E[1_stable (1/π_ref) Â ∇π_θ] is ∇J_μ.",
    "eq. 6",
)
def masked(mask: Mask = clip, seeds: Sequence[int] = SEEDS) -> Result:
    """Exact expectations without a mask and with PPO's, at the level of trajectories."""
    trials, biases = [], []
    for case in cases(seeds):
        weights = _unified(case, case.old)
        ratio = (case.policy.logp() - case.old.logp()).exp()[:, None]
        for kept, inside in ((keep_all, True), (mask, False)):
            stable = kept(ratio, weights)
            bias = distance(case.sample(case.old, stable * weights).mean, case.truth)
            trials.append(Trial(bias < TOLERANCE, f"with the mask the bias is {bias:.3g}", inside))
            if not inside:
                biases.append(bias)
    return rule(
        trials,
        median(biases),
        "‖E g − ∇J_μ‖/‖∇J_μ‖ with the mask, ε = 0.2, logits 1/2 apart; median",
        condition="1_stable ≡ 1",
    )


@claim(
    "eq6-sample",
    "E_{π_ref}[1_stable (1/π_ref) Â ∇π_θ] = 1_stable (1/π_ref) Â ∇π_θ: the second = of eq. 6.",
    "eq. 6",
)
def one_sample(seeds: Sequence[int] = SEEDS) -> Result:
    """The right-hand side of one trajectory: its mean, and how far it scatters."""
    trials, noise = [], []
    for case in cases(seeds):
        g = case.sample(case.old, _unified(case, case.old))
        noise.append((g.trace_cov / (case.truth @ case.truth).item()) ** 0.5)
        trials += [
            Trial(distance(g.mean, case.truth) < TOLERANCE, "the mean differs"),
            Trial(noise[-1] < TOLERANCE, f"relative standard deviation {noise[-1]:.3g}", False),
        ]
    return rule(
        trials,
        median(noise),
        "standard deviation of one sample over ‖∇J_μ‖, median",
        condition="it is read as an unbiased estimate (=, in the mean)",
    )


@claim(
    "eq6-reference",
    "π_ref of a row of Table 1 is the policy that its samples are drawn from, as τ ~ π_ref in eq. 6 "
    "says.",
    "eq. 6, Table 1",
)
def sampling_policy(names: Sequence[str] | None = None, seed: int = 0) -> Result:
    """π_ref(τ) of each printed row against the probability with which its samples are drawn."""
    case = random_case(seed)
    chosen = names or [name for name, entry in REGISTRY.items() if entry.printed]
    found = {name: _against_source(REGISTRY[name].terms[0], case) for name in chosen}
    fitting = [name for name, (gap, _) in found.items() if gap < TOLERANCE]
    far = [name for name in chosen if name not in fitting]
    trials = [
        Trial(
            name in fitting,
            f"{name}: Σ_τ π_ref(τ) = {mass:.3g}, |π_ref − sampling policy| up to {gap:.3g}",
            inside=name in fitting or not fitting,
        )
        for name, (gap, mass) in found.items()
    ]
    literal = sampled(case.policy, case.policy, torch.ones(1, 1, dtype=torch.float64)).mean.norm()
    return rule(
        trials,
        len(far),
        "of the printed rows do not",
        unit="rows",
        condition="the row is one of " + ", ".join(fitting) if fitting else "",
        notes=[
            f"not so: {', '.join(far)}" if far else "",
            f"SFT's row read literally, τ ~ π_ref = π_θ, has expectation {literal.item():.1g}, as "
            "scores have mean 0; it is SFT's gradient for τ ~ π_β",
        ],
    )


def _against_source(term: Term, case: Case) -> tuple[float, float]:
    """Largest |π_ref(τ) − probability of drawing τ|, and Σ_τ π_ref(τ)."""
    offline = term.samples == "offline"
    on_policy = not offline and isinstance(term.reference, CurrentPolicy)
    source = case.demo if offline else case.policy if on_policy else case.old
    draws = case.setting().draws(estimator())
    batch = replace(draws.batch, offline=torch.zeros_like(draws.offline)).at(draws.logp)
    reference = torch.where(batch.mask, term.reference(batch), 0.0).sum(1).exp()
    gap = (reference - source.logp().exp()[draws.trajectory]).abs().max().item()
    return gap, reference.sum().item()
