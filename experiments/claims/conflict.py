"""§2.2: do SFT and RL optimise one objective without intrinsic conflict?

Three statements hide in that sentence: both gradients are terms of one objective; they never point
apart; both goals can be reached at once. The first is an identity, the others depend on what the
demonstrations show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, median, rule, spread
from experiments.claims.finite import BETA, MU, SCORE, D, P, R, derivative, kl_term, shown, vanishes
from experiments.claims.finite import size as size_of
from experiments.claims.lab import SEEDS, Case, cosine, random_case, reweighted
from experiments.claims.toys import Role, hunt, toys

#: What the demonstrations are, given a case: π_β and the rewards.
Demonstrations = Callable[[Case], Case]


def _only(case: Case, index: int) -> Tensor:
    chosen = torch.zeros_like(case.reward)
    chosen[index] = 1.0
    return chosen


def unique(case: Case) -> Case:
    """A single trajectory is rewarded, and it is the one demonstrated."""
    first = _only(case, int(case.reward.nonzero()[0]))
    return replace(case, demo=reweighted(case.demo, first), reward=first)


def own_successes(case: Case) -> Case:
    """π_β is π_θ given that it succeeds (rejection sampling)."""
    return replace(case, demo=reweighted(case.policy, case.reward))


def correct(case: Case) -> Case:
    """Another policy given that it succeeds: all demonstrations are rewarded."""
    return replace(case, demo=reweighted(case.demo, case.reward))


def any_policy(case: Case) -> Case:
    """Another policy, whatever it earns."""
    return case


_AGREEING: tuple[Demonstrations, ...] = (unique, own_successes)
_OTHERS: tuple[Demonstrations, ...] = (correct, any_policy)


def _family(kind: Demonstrations, seeds: Sequence[int]) -> Iterator[Case]:
    """Tabular policies and networks with shared parameters, up to 3 tokens."""
    for horizon in (1, 2, 3):
        for hidden in (0, 4):
            for seed in seeds:
                yield kind(random_case(seed, horizon=horizon, hidden=hidden))


@claim(
    "words-one-objective",
    "SFT and RL optimise one objective: both gradients are terms of ∇J_μ.",
    "§2.2",
)
def one_objective(sign: int = 1) -> Result:
    """∇J_μ is the RL gradient plus ``sign`` · μ times the SFT gradient, for any finite policy."""
    difference = derivative(P * R - MU * kl_term(BETA, P)) - (R * D + sign * MU * BETA * SCORE)
    return rule(
        [Trial(vanishes(difference), f"the two sides differ by Σ {shown(difference)}")],
        size_of(difference),
        "symbolic difference of the two sides, for any number of trajectories",
        symbolic=True,
        unit="identities",
        notes=["a sum of terms says nothing of the angle between them: words-conflict"],
    )


def _earns(case: Case) -> float:
    return (case.demo.logp().exp() @ case.reward).item()


def _opposed(case: Case) -> bool:
    return cosine(case.rl, case.sft) < -TOLERANCE


@claim(
    "words-conflict",
    "SFT and RL do not conflict: the angle between their gradients is never obtuse.",
    "§2.2",
)
def angle(
    agreeing: Sequence[Demonstrations] = _AGREEING,
    others: Sequence[Demonstrations] = _OTHERS,
    seeds: Sequence[int] = SEEDS,
) -> Result:
    """The exact cosine of ∇E[r] and E_{π_β}[∇log π_θ] over kinds of demonstrations."""
    trials, notes, lowest = [], [], 1.0
    outdone, ahead = list[bool](), list[bool]()  # obtuse, by whether π_θ earns more than π_β
    for kind in (*agreeing, *others):
        family = list(_family(kind, seeds))
        cosines = [cosine(case.rl, case.sft) for case in family]
        inside = kind in agreeing
        for case, c in zip(family, cosines, strict=True):
            (outdone if _earns(case) < case.success else ahead).append(c < -TOLERANCE)
        trials += [Trial(c > -TOLERANCE, f"cosine {c:.3g}", inside) for c in cosines]
        share = sum(c < -TOLERANCE for c in cosines) / len(cosines)
        name = (kind.__doc__ or kind.__name__).rstrip(".")
        notes.append(f"“{name}”: {share:.0%} obtuse, cosine {spread(cosines)}")
        lowest = min(lowest, *cosines)
    return rule(
        trials,
        lowest,
        "smallest cosine of the SFT and the RL gradient",
        condition="one trajectory alone is rewarded and it is demonstrated, or π_β is π_θ given "
        "success",
        counterexample=_smallest_conflicts,
        notes=[
            *notes,
            f"{_share(outdone)} where π_θ earns more than π_β, {_share(ahead)} elsewhere",
        ],
    )


def _share(obtuse: Sequence[bool]) -> str:
    return f"obtuse in {sum(obtuse)} of {len(obtuse)}"


def _smallest_conflicts() -> str | None:
    """The smallest toys, with any demonstrations and with ones that are all rewarded."""

    def faultless(case: Case) -> bool:
        return _earns(case) > 1 - TOLERANCE and _opposed(case)

    roles: tuple[Role, Role] = ("theta", "demo")
    found = [
        hunt(fails, toys(answers, 1, roles), roles, lambda c: f"cosine {cosine(c.rl, c.sft):.3g}")()
        for fails, answers in ((_opposed, 2), (faultless, 3))
    ]
    return "; with faultless demonstrations: ".join(filter(None, found)) or None


def natural_inner_product(case: Case) -> float:
    """⟨∇E[r], E_{π_β}[∇log π_θ]⟩ in the inverse of the Fisher matrix of the trajectories."""
    scores = torch.func.jacrev(lambda theta: case.policy.logp(theta=theta))(case.policy.theta)
    fisher = scores.T @ (case.policy.logp().exp()[:, None] * scores)
    return float(case.rl @ torch.linalg.pinv(fisher, rtol=1e-12, hermitian=True) @ case.sft)


@claim(
    "words-conflict-natural",
    "Measured as natural gradients, SFT and RL do not conflict.",
    "§2.2",
)
def natural(
    metric: Callable[[Case], float] = natural_inner_product,
    kinds: Sequence[Demonstrations] = (correct, any_policy),
    seeds: Sequence[int] = SEEDS,
) -> Result:
    """The inner product in the Fisher ``metric``, against E_{π_β}[r] − E_{π_θ}[r]."""
    trials, errors, opposed = [], [], []
    for kind in kinds:
        for horizon in (1, 2, 3):
            for seed in seeds:
                case = kind(random_case(seed, horizon=horizon))
                product, gain = metric(case), _earns(case) - case.success
                errors.append(abs(product - gain))
                opposed.append(product)
                words = f"E_π_β[r] − E_π_θ[r] = {gain:.3g}, inner product {product:.3g}"
                trials.append(Trial(product >= 0, words, inside=gain >= 0))
    return rule(
        trials,
        min(opposed),
        "smallest inner product of the natural gradients",
        condition="demonstrations earn at least what the policy earns, E_π_β[r] ≥ E_π_θ[r] "
        "(tabular policies)",
        counterexample=hunt(
            lambda case: metric(case) < -TOLERANCE,
            toys(2, 1, ("demo",), lowest=1),
            ("theta", "demo"),
            lambda case: f"inner product {metric(case):.3g}",
        ),
        notes=[f"the inner product is E_π_β[r] − E_π_θ[r], within {max(errors):.1g}"],
    )


def optimum(reward: Tensor, beta: Tensor, mu: float) -> Tensor:
    """(k,) the maximiser of Σ p r + μ Σ β log p over distributions p: p = μ β/(ν − r).

    ν > max r over the support of β makes the sum 1; it is found by bisection. Rewards outside the
    support must not exceed those inside.
    """
    low, high = reward.max(), reward.max() + mu
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (mu * beta / (middle - reward)).sum() > 1 else (low, middle)
    return mu * beta / (high - reward)


@claim(
    "words-conflict-optimum",
    "SFT and RL have a common optimum, so neither holds the other back where J_μ is largest.",
    "§2.2",
)
def common_optimum(faultless: bool = True, seeds: Sequence[int] = SEEDS, mu: float = 0.5) -> Result:
    """Both gradients over the logits at the maximiser of J_μ, answers of one token.

    All answers but the last are rewarded. π_β gives that one nothing, inside the condition if
    ``faultless``, or a share.
    """
    trials, cosines, short, left = [], [], [], []
    for k in (2, 3, 4):
        reward = (torch.arange(k) < k - 1).double()
        for seed in (None, *seeds):
            for inside in (True, False):
                beta = _demonstrator(k, seed) * (reward if inside and faultless else 1)
                beta = beta / beta.sum()
                p = optimum(reward, beta, mu)
                rl, sft = p * (reward - p @ reward), beta - p
                c = cosine(rl, sft)
                left.append((rl + mu * sft).norm().item())
                words = f"r = {_tuple(reward)}, π_β = {_tuple(beta)}, μ = {mu:g}: cosine {c:.3g}"
                trials.append(Trial(c > -TOLERANCE, words, inside))
                if not inside:
                    cosines.append(c)
                    short.append((1 - p @ reward).item())
    return rule(
        trials,
        min(cosines),
        "cosine of the two gradients at the maximiser of J_μ",
        condition="π_β itself earns the largest reward there is; both gradients vanish then",
        notes=[
            f"∇E[r] + μ E_π_β[∇log π_θ] vanishes there, within {max(left):.1g}",
            f"else E[r] there falls short of the largest reward by {median(short):.2g} (median)",
        ],
    )


def _demonstrator(k: int, seed: int | None) -> Tensor:
    """(k,) odds of one-token answers: even ones without a seed."""
    if seed is None:
        return torch.ones(k, dtype=torch.float64)
    return torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def _tuple(numbers: Tensor) -> str:
    return f"({', '.join(f'{x:.2g}' for x in numbers.tolist())})"
