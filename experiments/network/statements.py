"""What the enumerated studies found, as numbers of a network that come out one way or the other.

A statement is a number, a threshold and the side on which it holds. It carries over where the
number's whole 95 % interval lies on that side, does not where it lies on the other, and is not
decided at this sample size where the interval holds the threshold, or where :func:`covered` says
that groups of π_θold are too few to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from experiments.bias_variance.mixing_cases import shapes
from experiments.network.laboratory import Sample, Samples
from experiments.network.statistics import Interval, Parts, product
from upge.exact.mixture import Quadratic
from upge.wiener import Wiener

Verdict = Literal["carries over", "does not", "not decided"]

#: Resamples for which gates are tuned anew, at most.
_TUNED = 200

#: The reference policies that are compared, by name.
REFERENCES = ("current", "rollout", "sequence", "one", "trajectory")


@dataclass(frozen=True)
class Statement:
    """A finding of an enumerated study.

    Attributes:
        text: what it says.
        study: which one found it.
        side: where the number lies if it holds.
        threshold: against what.
        number: (R,) of the sample and its resamples.
        tail: of the interval, at each end.
    """

    text: str
    study: str
    side: Literal["above", "below"]
    threshold: float
    number: Callable[[Samples], Tensor]
    tail: float = 0.025

    def __call__(self, samples: Samples) -> tuple[Interval, Verdict]:
        """The number with its interval, and the verdict."""
        found = Interval.of(self.number(samples), self.tail)
        return found, verdict(found, self.side, self.threshold)


def verdict(found: Interval, side: Literal["above", "below"], threshold: float) -> Verdict:
    """Which side of the threshold the whole interval is on."""
    if found.low > threshold:
        return "carries over" if side == "above" else "does not"
    if found.high < threshold:
        return "carries over" if side == "below" else "does not"
    return "not decided"


def covered(samples: Samples) -> tuple[Interval, bool]:
    """The mean of eq. 3's ratio along ∇E[r], and whether it may be 1, which it is in truth.

    Where it is not seen to be, π_θold hardly samples what the ratio would weigh most: resamples of
    groups that lack it tell nothing of it, and no verdict is due.
    """
    found = Interval.of(_measured(samples, "trajectory", "weight"))
    return found, found.low <= 1 <= found.high


# ------------------------------------------------------------------------------ the numbers


def _measured(samples: Samples, name: str, column: str) -> Tensor:
    return samples.pooled(name).measures()[column]


def _weight(*names: str) -> Callable[[Samples], Tensor]:
    """The lowest weight along ∇E[r], in units of its length, among estimators."""
    return lambda s: torch.stack([_measured(s, name, "weight") for name in names]).amin(0)


def _bias(name: str) -> Callable[[Samples], Tensor]:
    return lambda s: _measured(s, name, "bias_sq")


def _spread(parts: Parts) -> Tensor:
    return parts.second - parts.mean


def _variance_ratio(over: str, under: str) -> Callable[[Samples], Tensor]:
    """Of two estimators on the same groups."""
    return lambda s: _spread(s.pooled(over)) / _spread(s.pooled(under))


def _one_against_best(samples: Samples) -> Tensor:
    """MSE of π_ref ≡ 1 minus the lowest of the others'."""
    found = {name: _measured(samples, name, "mse") for name in REFERENCES}
    one = found.pop("one")
    return one - torch.stack(list(found.values())).amin(0)


def _kept_by_scaling(samples: Samples) -> Tensor:
    """π_ref ≡ 1's gain in MSE over π_θ at both best multiples, minus half of that without."""
    raw, scaled = (
        _measured(samples, "current", column) - _measured(samples, "one", column)
        for column in ("mse", "mse_scaled")
    )
    return scaled - raw / 2


def _lowest_angle(samples: Samples) -> Tensor:
    """The cosine of a demonstration's gradient with ∇E[r] on the question that may have the lowest.

    It is that whose interval ends lowest, so that one above 0 speaks for all questions.
    Resamples change m·T alone, not the norms, of which a noisy one may have no root. NaN where no
    question's ‖∇E[r]‖² is above 0.
    """
    every = [samples.question("sft", i) for i in range(len(samples.each))]
    seen = [parts for parts in every if parts.truth[0] > 0]
    cosines = [parts.along / (parts.mean[0] * parts.truth[0]).sqrt() for parts in seen]
    none = torch.full((1 + samples.draws,), torch.nan)
    return min(cosines, key=lambda cosine: cosine.quantile(0.025).item(), default=none)


# ------------------------------------------------------------------------------ gates


@lru_cache(maxsize=2)
def gains(samples: Samples, mu: float, n: int) -> dict[str, Tensor]:
    """(R,) each gate's share of the optimum's gain for ∇J_μ, as the study ``mixing`` has it.

    RL and SFT are token sums; a gate has one factor a term, the best ones for all questions
    together. The optimum has the best weights for every P = 0, 1/n … 1. NaN where it gains nothing.
    """
    gates = {name: shape for (name, _), shape in shapes(n, {"wiener": Wiener(mu)}).items()}
    found: dict[str, list[float]] = {name: [] for name in gates}
    for both in _quadratics(samples, mu, n):
        none = both.nothing
        best = none - both.mse(*both.optimum())
        for name, shape in gates.items():
            gain = none - both.tuned(*shape).mse
            found[name].append(gain / best if best > 0 else math.nan)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def _quadratics(samples: Samples, mu: float, n: int) -> Iterator[Quadratic]:
    """The mean over questions of each one's error as a quadratic, for every resample."""
    index = samples.names.index("rl")
    every = [_coefficients(s, index, n, mu, *samples.counts(i)) for i, s in enumerate(samples.each)]
    mean = [torch.stack(field).mean(0) for field in zip(*every, strict=True)]
    for r in range(min(len(mean[0]), 1 + _TUNED)):
        yield Quadratic(*(field[r] for field in mean))


def _coefficients(
    sample: Sample, index: int, n: int, mu: float, groups: Tensor, blocks: Tensor
) -> tuple[Tensor, ...]:
    """(R, n + 1) the six coefficients of :class:`upge.exact.mixture.Quadratic` by successes."""
    is_k = torch.nn.functional.one_hot(sample.solved.long(), n + 1).double()
    share = groups / groups.sum(1, keepdim=True)
    truth = product(sample.reference, blocks)
    demo_truth = blocks @ sample.demo_reference / blocks.sum(1)
    along = (blocks @ sample.cross[index].T) / blocks.sum(1, keepdim=True)  # (R, K) g·T
    along = along + mu * sample.demo[index]
    chance = share @ is_k
    return (
        share @ (is_k * sample.gram[index].diagonal()[:, None]),
        share @ (is_k * sample.demo[index][:, None]),
        chance * sample.demo_square,
        (share * along) @ is_k,
        chance * (demo_truth + mu * sample.demo_square)[:, None],
        chance * (truth + 2 * mu * demo_truth + mu**2 * sample.demo_square)[:, None],
    )


def _share(mu: float, n: int, over: str, under: str) -> Callable[[Samples], Tensor]:
    def difference(samples: Samples) -> Tensor:
        found = gains(samples, mu, n)
        return found[over] - found[under]

    return difference


# ------------------------------------------------------------------------------ the statements

#: Bias² and angles, as 1 − cos², that count as small.
SMALL = 0.05


def on_policy(n: int, mu: float, questions: int) -> dict[str, Statement]:
    """Statements on groups that π_θ sampled, by name."""
    return {
        "leave-one-out unbiased": Statement(
            f"bias² of the leave-one-out estimate is below {SMALL:g} ‖∇E[r]‖²",
            "advantage",
            "below",
            SMALL,
            _bias("rloo"),
        ),
        "baseline": Statement(
            "a leave-one-out baseline has less variance than ±1",
            "advantage",
            "below",
            1.0,
            _variance_ratio("rloo", "reinforce"),
        ),
        "difficulty bias": Statement(
            f"the z-score turns the mean step by less than 1 − cos² = {SMALL:g}",
            "advantage",
            "below",
            SMALL,
            lambda s: s.turned("z_score", "rloo"),
        ),
        "imitation helps": Statement(
            "over all questions, SFT's gradient points along ∇E[r]",
            "demonstrations",
            "above",
            0.0,
            _weight("sft"),
        ),
        "obtuse": Statement(
            "on some question the angle of SFT's gradient and ∇E[r] is obtuse",
            "demonstrations",
            "below",
            0.0,
            _lowest_angle,
            0.025 / questions,
        ),
        "fixed over switch": Statement(
            "for ∇J_μ a fixed mix realises more of the gain than the switch",
            "mixing",
            "above",
            0.0,
            _share(mu, n, "fixed", "switch"),
        ),
        "Wiener over switch": Statement(
            "for ∇J_μ the Wiener gate realises more of the gain than the switch",
            "mixing",
            "above",
            0.0,
            _share(mu, n, "wiener", "switch"),
        ),
        "Wiener over fixed": Statement(
            "for ∇J_μ the Wiener gate realises more of the gain than a fixed mix",
            "mixing",
            "above",
            0.0,
            _share(mu, n, "wiener", "fixed"),
        ),
    }


#: Statements on groups that π_θold sampled, by name.
OFF_POLICY: dict[str, Statement] = {
    "clip turns": Statement(
        "PPO's clip turns the mean against ∇E[r]", "mask", "below", 0.0, _weight("clip")
    ),
    "clip loses": Statement(
        "PPO's clip leaves less of the mean along ∇E[r] than SAPO's gate",
        "mask",
        "above",
        0.0,
        lambda s: _measured(s, "sapo", "weight") - _measured(s, "clip", "weight"),
    ),
    "soft masks keep": Statement(
        "SAPO's gate and truncated weights keep the mean along ∇E[r]",
        "mask",
        "above",
        0.0,
        _weight("sapo", "tis"),
    ),
    "ratio's variance": Statement(
        "PPO's ratio has more variance than π_ref = π_θ on the same rollouts",
        "reference",
        "above",
        1.0,
        _variance_ratio("rollout", "current"),
    ),
    "trajectory's variance": Statement(
        "eq. 3's ratio of trajectories has more variance than that of tokens",
        "reference",
        "above",
        1.0,
        _variance_ratio("trajectory", "rollout"),
    ),
    "one's error": Statement(
        "π_ref ≡ 1 has the lowest MSE of all reference policies",
        "reference",
        "below",
        0.0,
        _one_against_best,
    ),
    "one shrinks": Statement(
        "most of π_ref ≡ 1's gain is shrinkage: at the best multiples less than half is left",
        "reference",
        "below",
        0.0,
        _kept_by_scaling,
    ),
}
