"""Equation 6: the mask, the single sample, and what the reference policy is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, median, rule
from experiments.claims.lab import SEEDS, Case, cases, distance, random_case, sampled
from experiments.claims.measure import unified_weights
from experiments.claims.toys import hunt, toys
from upge.algorithms import REGISTRY
from upge.batch import TrajectoryBatch
from upge.estimator import Term
from upge.reference import CurrentPolicy
from upge.verification.printed import PRINTED

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
        for kept, inside in ((keep_all, True), (mask, False)):
            bias = _masked_bias(case, kept)
            trials.append(Trial(bias < TOLERANCE, f"with the mask the bias is {bias:.3g}", inside))
            if not inside:
                biases.append(bias)
    return rule(
        trials,
        median(biases),
        "‖E g − ∇J_μ‖/‖∇J_μ‖ with the mask, ε = 0.2, logits 1/2 apart; median",
        condition="1_stable ≡ 1",
        counterexample=hunt(
            lambda case: TOLERANCE < _masked_bias(case, mask) < math.inf,
            toys(2, 1, ("theta", "old")),
            ("theta", "old", "demo"),
            lambda case: f"μ = 1/2, bias {_masked_bias(case, mask):.3g} of ‖∇J_μ‖",
        ),
    )


def _masked_bias(case: Case, mask: Mask) -> float:
    weights = unified_weights(case, case.old)
    ratio = (case.policy.logp() - case.old.logp()).exp()[:, None]
    stable = mask(ratio, weights)
    return distance(case.sample(case.old, stable * weights).mean, case.truth)


@claim(
    "eq6-sample",
    "E_{π_ref}[1_stable (1/π_ref) Â ∇π_θ] = 1_stable (1/π_ref) Â ∇π_θ: the second = of eq. 6.",
    "eq. 6",
)
def one_sample(seeds: Sequence[int] = SEEDS) -> Result:
    """The right-hand side of one trajectory: its mean, and how far it scatters."""
    trials, noise = [], []
    for case in cases(seeds):
        g = case.sample(case.old, unified_weights(case, case.old))
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
    "π_ref of a row of Table 1 is the policy that its samples are drawn from: τ ~ π_ref in eq. 6.",
    "eq. 6, Table 1",
)
def sampling_policy(names: Sequence[str] | None = None, seed: int = 0) -> Result:
    """π_ref(τ) of each printed row against the probability with which its samples are drawn."""
    case = random_case(seed)
    chosen = names or [name for name, entry in REGISTRY.items() if name in PRINTED]
    found = {name: _against_source(REGISTRY[name].terms[0], case) for name in chosen}
    fitting = [name for name, (gap, _, _) in found.items() if gap < TOLERANCE]
    far = [name for name in chosen if name not in fitting]
    trials = [
        Trial(
            name in fitting,
            f"{name}: Σ_τ π_ref(τ) = {mass:.3g}, |π_ref − sampling policy| up to {gap:.3g}",
            inside=name in fitting or not fitting,
        )
        for name, (gap, _, mass) in found.items()
    ]
    uneven = [name for name in fitting if found[name][1] > TOLERANCE]
    literal = sampled(case.policy, case.policy, torch.ones(1, 1, dtype=torch.float64)).mean.norm()
    return rule(
        trials,
        len(far),
        "printed rows whose π_ref their samples are not drawn from",
        unit="rows",
        condition="the row is one of " + ", ".join(fitting) if fitting else "",
        notes=[
            f"not so: {', '.join(far)}" if far else "",
            f"only as a product over the tokens, not token by token: {', '.join(uneven)}"
            if uneven
            else "",
            f"SFT's row read literally, τ ~ π_ref = π_θ, has expectation {literal.item():.1g}, as "
            "scores have mean 0",
        ],
    )


def _against_source(term: Term, case: Case) -> tuple[float, float, float]:
    """Largest |π_ref − sampling policy| of a trajectory and of a token, and Σ_τ π_ref(τ)."""
    offline = term.samples == "offline"
    on_policy = not offline and isinstance(term.reference, CurrentPolicy)
    source = case.demo if offline else case.policy if on_policy else case.old
    tree = case.policy.tree
    batch = TrajectoryBatch(
        mask=tree.mask,
        reward=case.reward,
        group=torch.zeros(tree.trajectories, dtype=torch.long),
        offline=torch.zeros(tree.trajectories, dtype=torch.bool),
        old_logp=case.old.token_logp(),
        logp=case.policy.token_logp(),
    )
    token = torch.where(batch.mask, term.reference(batch), 0.0)
    drawn = source.token_logp()
    gaps = [
        (a.exp() - b.exp()).abs().max() for a, b in ((token.sum(1), drawn.sum(1)), (token, drawn))
    ]
    return gaps[0].item(), gaps[1].item(), token.sum(1).exp().sum().item()
