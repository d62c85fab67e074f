"""§2.2–2.3, the stabilization mask: clipping lowers the variance at the price of bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from upge.advantage import Advantage, GroupCentered, Reward, Signed
from upge.reference import RolloutPolicy
from upge.stabilization import Clip, Stabilization
from upge.theory.claims.claim import TOLERANCE, Result, Trial, claim, median, rule, spread
from upge.theory.claims.lab import (
    SEEDS,
    Case,
    Sampled,
    distance,
    estimator,
    moments,
    random_case,
)
from upge.theory.claims.toys import Toy, smallest, toys

_CLIP = Clip(0.2, 0.2)

#: Advantage and group size: raw rewards, Table 1's ±1, and centred on groups of 4.
_KINDS: tuple[tuple[Advantage, int], ...] = (
    (Reward(), 1),
    (Signed(), 1),
    (GroupCentered(), 4),
)


def _pair(
    case: Case, mask: Stabilization, advantage: Advantage, size: int
) -> tuple[Sampled, Sampled]:
    """With the mask and without, token ratios of π_θold."""
    masked, plain = (
        estimator(RolloutPolicy(), advantage, stabilization) for stabilization in (mask, None)
    )
    return moments(masked, case, size), moments(plain, case, size)


def _noisier(pair: tuple[Sampled, Sampled]) -> bool:
    masked, plain = pair
    return masked.trace_cov > plain.trace_cov * (1 + TOLERANCE) + 1e-15


def _search(fails: Callable[[Case], bool], horizon: int, top: int) -> Toy | None:
    return smallest(fails, toys(2, horizon, ("theta", "old"), top=top))


@claim("words-clip-variance", "Clipping lowers the variance.", "§2.2–2.3")
def variance(mask: Stabilization = _CLIP, seeds: Sequence[int] = SEEDS) -> Result:
    """Exact tr Cov with and without the mask: three advantages, tabular policies and networks."""
    trials, ratios, notes = [], [], []
    for advantage, size in _KINDS:
        worse = count = 0
        for horizon in (1, 2, 3):
            for hidden in (0, 4):
                for seed in seeds:
                    case = random_case(seed, horizon=horizon, hidden=hidden)
                    pair = _pair(case, mask, advantage, size)
                    share = pair[0].trace_cov / pair[1].trace_cov
                    inside = isinstance(advantage, Reward) and not hidden
                    words = f"Â = {advantage.text}, {horizon} token(s): tr Cov {share:.4g} times"
                    trials.append(Trial(not _noisier(pair), words, inside))
                    ratios += [share] if inside else []
                    worse, count = worse + _noisier(pair), count + 1
        notes.append(f"Â = {advantage.text}: higher in {worse} of {count}")
    toy = _search(lambda case: _noisier(_pair(case, mask, Signed(), 1)), 1, 3)
    found = None
    if toy:
        masked, plain = _pair(toy.case(), mask, Signed(), 1)
        words = toy.words("theta", "old")
        found = f"Â = ±1, {words}: tr Cov {plain.trace_cov:.3g} becomes {masked.trace_cov:.3g}"
    return rule(
        trials,
        median(ratios),
        "tr Cov with the clip over that without, ε = 0.2, Â = R, logits 1/2 apart; median",
        condition="Â = R ∈ {0, 1}, groups of one, and a logit for every prefix and token",
        counterexample=found,
        notes=notes,
    )


def _less_biased(case: Case, mask: Stabilization) -> bool:
    masked, plain = (m.mean for m in _pair(case, mask, Reward(), 1))
    return distance(masked, case.rl) < distance(plain, case.rl) - TOLERANCE


@claim("words-clip-bias", "Clipping has a price in bias.", "§2.2–2.3")
def bias(mask: Stabilization = _CLIP, seeds: Sequence[int] = SEEDS) -> Result:
    """‖E g − ∇E[r]‖ with and without the mask, Â = R, wherever the mask acts at all."""
    trials, added = [], []
    for horizon in (1, 2, 3):
        for seed in seeds:
            case = random_case(seed, horizon=horizon)
            masked, plain = (m.mean for m in _pair(case, mask, Reward(), 1))
            if distance(masked, plain) < TOLERANCE:
                continue
            costs = distance(masked, case.rl), distance(plain, case.rl)
            words = f"{horizon} token(s): bias {costs[1]:.3g} becomes {costs[0]:.3g}"
            trials.append(Trial(costs[0] > costs[1] + TOLERANCE, words, inside=horizon == 1))
            added.append(costs[0])
    if not added:
        trials.append(Trial(False, "the mask never acts"))
    toy = _search(lambda case: _less_biased(case, mask), 2, 3)
    if toy:
        pair = _pair(toy.case(), mask, Reward(), 1)
        costs = distance(pair[0].mean, toy.case().rl), distance(pair[1].mean, toy.case().rl)
        words = f"{toy.words('theta', 'old')}: bias {costs[1]:.3g} becomes {costs[0]:.3g}"
        trials.append(Trial(False, words, inside=False))
    return rule(
        trials,
        median(added) if added else 0.0,
        "‖E g − ∇E[r]‖/‖∇E[r]‖ with the clip, ε = 0.2, median of instances in which it acts",
        condition="answers have one token, so that the unclipped ratio is unbiased; over several "
        "tokens the clip's bias and the token ratio's can cancel",
        notes=[f"range {spread(added)}" if added else ""],
    )
