"""§2.2–2.3, the stabilization mask: clipping lowers the variance at the price of bias."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.claims.claim import TOLERANCE, Result, Trial, below, claim, median, rule, spread
from experiments.claims.lab import (
    SEEDS,
    Case,
    Sampled,
    distance,
    estimator,
    moments,
    random_case,
)
from experiments.claims.toys import hunt, toys
from upge.advantage import Advantage, GroupCentered, Reward, Signed
from upge.reference import RolloutPolicy
from upge.stabilization import Clip, Stabilization

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
    return rule(
        trials,
        median(ratios),
        "tr Cov with the clip over that without, ε = 0.2, Â = R, logits 1/2 apart; median",
        condition="Â = R ∈ {0, 1}, groups of one, and a logit for every prefix and token",
        counterexample=hunt(
            lambda case: _noisier(_pair(case, mask, Signed(), 1)),
            toys(2, 1, ("theta", "old"), top=3),
            ("theta", "old"),
            lambda case: "Â = ±1, tr Cov {1:.3g} becomes {0:.3g}".format(
                *(m.trace_cov for m in _pair(case, mask, Signed(), 1))
            ),
        ),
        notes=notes,
    )


def _costs(case: Case, mask: Stabilization) -> tuple[float, float]:
    """‖E g − ∇E[r]‖/‖∇E[r]‖ with the mask and without, Â = R."""
    masked, plain = _pair(case, mask, Reward(), 1)
    return distance(masked.mean, case.rl), distance(plain.mean, case.rl)


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
            costs = _costs(case, mask)
            words = f"{horizon} token(s): bias {costs[1]:.3g} becomes {costs[0]:.3g}"
            trials.append(Trial(costs[0] > costs[1] + TOLERANCE, words, inside=horizon == 1))
            added.append(costs[0])
    if not added:
        trials.append(Trial(False, "the mask never acts"))
    return rule(
        trials,
        median(added) if added else 0.0,
        "‖E g − ∇E[r]‖/‖∇E[r]‖ with the clip, ε = 0.2, median of instances in which it acts",
        condition="answers have one token, so that the unclipped ratio is unbiased",
        counterexample=hunt(
            lambda case: below(*_costs(case, mask)),
            toys(2, 2, ("theta", "old"), top=3),
            ("theta", "old"),
            lambda case: "bias {1:.3g} becomes {0:.3g}".format(*_costs(case, mask)),
        ),
        notes=[f"range {spread(added)}" if added else ""],
    )
