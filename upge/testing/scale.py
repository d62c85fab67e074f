"""Advantage and normalizer: what is left of the weights when the skeleton is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from upge.advantage import Advantage, GroupCentered, GroupZScore, One, Reward
from upge.algorithms import REGISTRY
from upge.batch import Samples
from upge.common.errors import UpgeError
from upge.normalization import NORMALIZERS, Counted, Normalizer
from upge.testing.components import PlusEpsilon, QuestionCount, QuestionTokenMean, Standardized
from upge.testing.curves import snap
from upge.testing.designs import build, lengths_mask
from upge.testing.inputs import Inputs
from upge.testing.reader import Reader, Side, Undecided
from upge.testing.skeleton import Skeleton

#: A power of 2 so large that no ε in a standard deviation is seen beside it.
LARGE = 2.0**40

#: Rewards and Â of the rows of a design; the first two rows of each question differ.
_REWARDS = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.0, 1.0, 3.0, 0.5], dtype=torch.float64)
_ADVANTAGES = torch.tensor([1.0, -2.0, 0.5, -0.25, 1.5, -1.0, 2.0, -0.5], dtype=torch.float64)

#: Lengths, questions and width of designs; the last has questions of unequal size.
_SHAPES = (
    ((3, 1, 4, 2), (0, 0, 1, 1), 5),
    ((1, 2, 6, 3, 2, 5), (0, 0, 1, 1, 2, 2), 6),
    ((2, 3, 1, 4, 5, 2, 6, 1), (0, 0, 0, 0, 1, 1, 1, 1), 7),
    ((4, 1, 2, 3, 2), (0, 0, 0, 1, 1), 6),
)


@dataclass(frozen=True)
class Scale:
    """Advantage and normalizer.

    Attributes:
        has_length: whether L is the longest response; if not, the width of the batch.
        factor: measured over predicted weights.
        error: the largest difference, relative to the largest weight of its batch.
        epsilon: what is added to the standard deviation.
        notes: what else the advantage does.
        faults: names of faults that it shows.
    """

    advantage: Advantage
    normalizer: Normalizer
    has_length: bool
    factor: float
    error: float
    epsilon: float = 0.0
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def with_(self, **changes: Any) -> Scale:
        """A copy with other values."""
        return replace(self, **changes)


def designs(reader: Reader, side: Side, size: float = LARGE) -> list[Inputs]:
    """Ragged batches of equal policies, with rewards of ``size``."""
    found = []
    for i, (lengths, group, width) in enumerate(_SHAPES):
        if len(set(map(group.count, group))) > 1 and reader.subject.has_equal_groups:
            continue
        rows = len(lengths)
        reward = _REWARDS[:rows] if i != 1 else (_REWARDS[:rows] > 0).double()
        inputs = build(
            lengths_mask(lengths, width),
            reward=reward * size,
            advantage=_ADVANTAGES[:rows],
            group=torch.tensor(group),
            max_length=width + 4 + i,
        )
        found.append(reader.sided(inputs, side))
    return found


def read_scale(reader: Reader, side: Side, skeleton: Skeleton) -> Scale:
    """Advantage and normalizer, up to one factor for all batches.

    Raises:
        Undecided: no pair of known ones.
    """
    batches = designs(reader, side)
    measured = [reader.policy_weights(inputs) for inputs in batches]
    sizes = [float(w.abs().max()) or 1.0 for w in measured]
    goal = _flat(measured, sizes)
    own = _flat([skeleton.factor(x) for x in batches], sizes)
    rules = advantages(reader, side)
    table = [(rule, _of_rule(rule, reader, batches)) for rule in rules]
    known = [(rule, torch.cat([v.flatten() for v in values])) for rule, values in table if values]
    rows = torch.stack([values for _, values in known])

    best = Scale(known[0][0], next(iter(NORMALIZERS.values()))(), False, 1.0, math.inf)
    for normalizer, has_length in normalizers(reader):
        spread = torch.cat(
            [_of_normalizer(normalizer, x, side, has_length).flatten() for x in batches]
        )
        i, factor, error = _nearest(rows * own * spread, goal)
        if error < best.error and not (best.error <= reader.tolerance):
            best = Scale(known[i][0], normalizer, has_length, factor, error)
    if best.error > reader.tolerance:
        values = rows[[rule for rule, _ in known].index(best.advantage)]
        if best.error > 1e-2 and (alone := _normalizer_alone(reader, side, skeleton)) is not None:
            raise UnknownAdvantage(alone)
        best = _with_epsilon(best, values * own, goal, batches, side, reader.tolerance)
    return best


class UnknownAdvantage(Undecided):
    """An advantage that is none of the known ones, beside a normalizer that is."""

    def __init__(self, normalizer: Normalizer) -> None:
        super().__init__("none of the known rules gives these values of Â")
        self.normalizer = normalizer


def _normalizer_alone(reader: Reader, side: Side, skeleton: Skeleton) -> Normalizer | None:
    """The normalizer that leaves each row one number, however long the rows are.

    Rewards stay the same, so that Â does, whatever its rule.
    """
    batches, width = [], 6
    for lengths in ((3, 1, 4, 2), (1, 2, 2, 5), (4, 4, 1, 3)):
        mask = lengths_mask(lengths, width)
        batch = build(mask, reward=_REWARDS[:4] * LARGE, advantage=_ADVANTAGES[:4], max_length=9)
        batches.append(reader.sided(batch, side))
    first = [reader.policy_weights(x)[:, 0] / skeleton.factor(x)[:, 0] for x in batches]
    for normalizer, has_length in normalizers(reader):
        rows = torch.stack(
            [
                w / _of_normalizer(normalizer, x, side, has_length)[:, 0]
                for w, x in zip(first, batches, strict=True)
            ]
        )
        if bool(((rows - rows[0]).abs() <= reader.tolerance * rows.abs().max()).all()):
            return normalizer
    return None


def _nearest(predicted: Tensor, goal: Tensor) -> tuple[int, float, float]:
    """The first row that fits the goal best, its factor and its error."""
    norms = (predicted**2).sum(1)
    factors = torch.where(norms > 0, predicted @ goal / norms, 0.0)
    errors = (predicted * factors[:, None] - goal).abs().amax(1)
    errors = torch.where(errors.isnan(), math.inf, errors)
    good = errors <= max(10 * float(errors.min()), 1e-13)
    i = int(good.nonzero()[0])
    return i, float(factors[i]), float(errors[i])


def _flat(batches: Sequence[Tensor], sizes: Sequence[float]) -> Tensor:
    return torch.cat([(x / size).flatten() for x, size in zip(batches, sizes, strict=True)])


def _with_epsilon(
    best: Scale,
    values: Tensor,
    goal: Tensor,
    batches: Sequence[Inputs],
    side: Side,
    tolerance: float,
) -> Scale:
    """The same with an ε added to the normalizer's count, as in ``mask.sum() + 1e-8``.

    Raises:
        Undecided: that explains the difference neither.
    """
    near = f"; nearest are {best.advantage.text} and {best.normalizer.text}, off by "
    near = f"{near}{best.error:.2g} of the largest weight" if best.error < 0.1 else ""
    if best.error < 1e-2:
        for exponent, digit in product(range(-12, -2), (1.0, 5.0)):
            normalizer = PlusEpsilon(inner=best.normalizer, epsilon=digit * 10.0**exponent)
            spread = [_of_normalizer(normalizer, x, side, best.has_length) for x in batches]
            predicted = values * torch.cat([s.flatten() for s in spread])
            _, factor, error = _nearest(predicted[None], goal)
            if error <= tolerance:
                return best.with_(normalizer=normalizer, factor=factor, error=error)
    raise Undecided(
        f"no pair of a known advantage and a known normalizer gives these weights{near}"
    )


def advantages(reader: Reader, side: Side) -> list[Advantage]:
    """Rules that the Â of a loss may follow, the registry's first."""
    if reader.imitates:
        return [One()]
    registered = [
        term.advantage
        for entry in REGISTRY.values()
        for term in entry.terms
        if not term.advantage.is_late and not isinstance(term.advantage, Reward | One)
    ]
    overs: tuple[Samples, ...] = ("online", "all") if reader.reads_demos else ("online",)
    if side == "offline":
        overs = ("all", "offline", "online")
    if reader.handed:
        rules: list[Advantage] = [Reward(), One()]
        rules += [r for r in [*registered, *_standardized(overs)] if not _by_group(r)]
    else:
        centered = [GroupCentered(over) for over in overs]
        registered = [r for r in registered if getattr(r, "over", overs[0]) in overs]
        rules = [*registered, *centered, One(), Reward(), *_standardized(overs)]
    return list(dict.fromkeys(rules))


def _standardized(overs: Sequence[Samples]) -> list[Advantage]:
    centers = ("nothing", "group", "others", "batch", "batch_tokens")
    scales = ("nothing", "group_std", "batch_std", "batch_token_std", "group_mean")
    return [
        Standardized(center, scale, ddof, over=over)  # type: ignore[arg-type]
        for over in overs
        for scale, center in product(scales, centers)
        for ddof in ((1,) if scale in ("nothing", "group_mean") else (1, 0))
    ]


def _by_group(rule: Advantage) -> bool:
    """Whether a rule looks at questions."""
    if isinstance(rule, Standardized):
        return rule.center in ("group", "others") or rule.scale in ("group_std", "group_mean")
    return rule.compares is None or "batch" not in rule.text


def normalizers(reader: Reader) -> list[tuple[Normalizer, bool]]:
    """Normalizers that a loss may have, and whether L is the longest response."""
    known: list[Normalizer] = [kind() for kind in NORMALIZERS.values()]
    if reader.asks & {"group", "group_size"}:
        known += [QuestionTokenMean(), QuestionCount()]
    else:
        known = [n for n in known if not n.text.startswith("question")]
    lengths = (True, False) if reader.has_length else (False,)
    pairs = [(n, has_length) for n in known for has_length in lengths]
    return [p for p in pairs if p[1] == lengths[0] or "length" in p[0].text]


def _of_rule(rule: Advantage, reader: Reader, batches: Sequence[Inputs]) -> list[Tensor] | None:
    values = []
    for inputs in batches:
        if reader.handed:
            inputs = inputs.with_(reward=inputs.advantage[:, 0])
        try:
            value = rule(inputs.batch())
        except UpgeError:
            return None
        if not value.isfinite().all():
            return None
        values.append(value.expand(inputs.mask.shape))
    return values if any(v.any() for v in values) else None


def _of_normalizer(normalizer: Normalizer, inputs: Inputs, side: Side, has_length: bool) -> Tensor:
    batch = inputs.batch(has_length)
    read = Counted(batch.tokens_of(side), batch.rows_of(side))
    return normalizer(batch, read, read).expand(inputs.mask.shape) * inputs.mask


# ------------------------------------------------------------------ what an advantage does at edges

#: Gives Â of each row of a question from its rewards, up to one factor for all calls.
Rule = Callable[[Sequence[float]], Tensor]


def rule_of(reader: Reader, side: Side, scale: Scale, skeleton: Skeleton) -> Rule:
    """Â of the loss, from weights of single-token rows; the second question stays the same."""

    def rule(rewards: Sequence[float]) -> Tensor:
        rows = len(rewards)
        inputs = reader.sided(
            build(
                lengths_mask((1,) * rows, 2),
                reward=torch.tensor(rewards, dtype=torch.float64),
                group=torch.zeros(rows, dtype=torch.long),
            ),
            side,
        )
        spread = _of_normalizer(scale.normalizer, inputs, side, scale.has_length)
        own = skeleton.factor(inputs) * spread * scale.factor
        w = reader.policy_weights(inputs)[:, 0]
        return w / torch.where(own[:, 0] == 0, 1.0, own[:, 0])

    return rule


def read_edges(rule: Rule, scale: Scale, equal_groups: bool, tolerance: float) -> Scale:
    """ε in the standard deviation, and what lone and equal rewards give."""
    scale = _read_epsilon(rule, scale, tolerance)
    notes, faults = list(scale.notes), list(scale.faults)
    if scale.advantage.centers:
        same, close = rule([0.3, 0.3, 0.3]), rule([0.1 + 0.2 - 0.3, 0.0, 0.0])
        if not same.isfinite().all():
            notes.append("equal rewards give NaN")
            faults.append("equal_rewards")
        elif (same.abs() > 1e-6).any():
            notes.append("equal rewards don't give Â = 0")
            faults.append("equal_rewards")
        elif (close.abs() > 1e-3).any() or not close.isfinite().all():
            notes.append("rewards that differ by rounding (0.1 + 0.2 − 0.3 and 0) count as unequal")
    if scale.advantage.centers and not equal_groups:
        lone = float(rule([1.0])[0])
        if lone == 0:
            notes.append("a lone rollout has Â = 0")
        elif abs(lone - 1) <= 1e-3:
            notes.append("a lone rollout keeps its reward as Â")
            if isinstance(scale.advantage, GroupCentered):
                kept = replace(scale.advantage, keep_singletons=True)
                scale = scale.with_(advantage=kept)
            elif isinstance(scale.advantage, Standardized):
                scale = scale.with_(advantage=replace(scale.advantage, singletons="reward"))
        else:
            notes.append(f"a lone rollout has Â = {lone:.3g}")
            faults += ["equal_rewards"] if math.isnan(lone) else []
    return scale.with_(notes=tuple(notes), faults=tuple(faults))


def _read_epsilon(rule: Rule, scale: Scale, tolerance: float) -> Scale:
    """ε from two sizes of rewards: Â(s) = Â(∞) s σ/(s σ + ε)."""
    large = rule([LARGE, 0.0, LARGE])
    if not scale.advantage.centers or not large.isfinite().all() or not large[0]:
        return scale
    probes, found = (1.0, 1e-2), []
    for size in probes:
        ratio = float(rule([size, 0.0, size])[0] / large[0])
        deviation = _deviation(scale.advantage, size)
        if deviation is None or ratio <= 0:
            return scale
        found.append((deviation * (1 / ratio - 1), deviation**2 * (1 / ratio**2 - 1)))
    (a, root_a), (b, root_b) = found
    if max(abs(a), abs(b)) <= 1e-12 + tolerance / 10:
        return scale
    if abs(a - b) <= 1e-4 * abs(b):
        epsilon = snap(b, 1e-5)
        advantage = _as_standardized(scale.advantage)
        if advantage is not None:
            scale = scale.with_(advantage=replace(advantage, epsilon=epsilon))
        return scale.with_(epsilon=epsilon)
    if abs(root_a - root_b) <= 1e-3 * abs(root_b):
        return scale.with_(
            epsilon=snap(root_b, 1e-4),
            notes=(*scale.notes, f"ε = {snap(root_b, 1e-4):g} is added under the root"),
        )
    return scale.with_(notes=(*scale.notes, "small rewards are treated otherwise than large ones"))


def _as_standardized(rule: Advantage) -> Standardized | None:
    if isinstance(rule, Standardized):
        return rule
    return Standardized(over=rule.over) if isinstance(rule, GroupZScore) else None


def _deviation(rule: Advantage, size: float) -> float | None:
    """The standard deviation of rewards (size, 0, size) that a rule divides by."""
    over_n = isinstance(rule, Standardized) and rule.ddof == 0
    if isinstance(rule, Standardized) and rule.scale in ("nothing", "group_mean"):
        return None
    if isinstance(rule, GroupCentered) or "std" not in rule.text:
        return None
    return size * math.sqrt(2 / 9 if over_n else 1 / 3)
