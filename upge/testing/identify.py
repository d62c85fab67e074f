"""What a loss is: its components read off w = −∂loss/∂log π_θ on designed batches.

Each component is read separately; the estimator composed of them is then compared with the loss on
random batches, which nothing was read from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from upge.advantage import Advantage, GroupCentered, KLGradient, One, Reward
from upge.algorithms import REGISTRY
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.estimator import KL_GRADIENTS, Estimator, Term
from upge.likelihood import Shaping, Unshaped
from upge.normalization import NORMALIZERS, Counted, Normalizer, TokenSum
from upge.reference import ConstantOne, CurrentPolicy, Reference, RolloutPolicy, SequenceRatio
from upge.stabilization import Correction, NoMask, Stabilization
from upge.testing.call import CallError, Subject
from upge.testing.components import (
    PaddedMean,
    Piecewise,
    PlusEpsilon,
    QuestionCount,
    QuestionTokenMean,
    Standardized,
    Stretches,
)
from upge.testing.curves import Curve, read_curves, snap
from upge.testing.designs import LOGP, build, lengths_mask, ordinary, pairs, random_batch
from upge.testing.inputs import Inputs
from upge.testing.report import Reading

Side = Literal["online", "offline"]

#: Relative difference up to which weights are equal, in float64 and where it computes in float32.
EXACT, SINGLE = 1e-9, 2e-5

#: A power of 2 so large that no ε in a standard deviation is seen beside it.
LARGE = 2.0**40


class Undecided(UpgeError):
    """Something can't be told, and why."""


@dataclass(frozen=True)
class Composed:
    """An estimator that stands for a loss.

    Attributes:
        estimator: the sum of its terms; a term that takes the Â handed in has ``Reward()``.
        handed: whether Â is handed in, and stands in the place of rewards.
        has_length: whether the loss knows the longest response; if not, the width stands for it.
    """

    estimator: Estimator
    handed: bool
    has_length: bool = True

    def weights(self, inputs: Inputs) -> Tensor:
        """(N, T) w."""
        batch = self.batch(inputs)
        assert batch.logp is not None
        return self.estimator(batch, batch.logp, batch.entropy).weights.double()

    def batch(self, inputs: Inputs) -> TrajectoryBatch:
        """What the estimator reads."""
        if self.handed:
            inputs = inputs.with_(reward=inputs.advantage[:, 0])
        return inputs.batch(self.has_length)


@dataclass(frozen=True)
class Agreement:
    """How a loss's weights go with an estimator's: one factor, and what is left."""

    factor: float
    error: float
    batches: int


def agree(pairs_of: Sequence[tuple[Tensor, Tensor]]) -> Agreement:
    """The factor that fits measured to predicted weights over all batches, and the largest error.

    The error is relative to the largest measured weight of its batch.
    """
    ab = sum(float((a * b).sum()) for a, b in pairs_of)
    bb = sum(float((b * b).sum()) for a, b in pairs_of)
    if bb == 0 or not math.isfinite(ab):
        zero = all(not a.any() for a, _ in pairs_of) and bb == 0
        return Agreement(1.0 if zero else 0.0, 0.0 if zero else math.inf, len(pairs_of))
    # The mean of several elements' factors is exact to rounding; one element's is as good.
    a, b = max(pairs_of, key=lambda pair: float(pair[1].abs().max()))
    place = b.abs().argmax()
    factor = float(a.flatten()[place] / b.flatten()[place])
    if abs(factor * bb - ab) > 1e-7 * abs(ab):
        factor = ab / bb
    errors = []
    for a, b in pairs_of:
        scale = float(torch.maximum(a.abs().max(), (factor * b).abs().max()))
        errors.append(float((a - factor * b).abs().max()) / scale if scale else 0.0)
    bad = any(math.isnan(error) for error in errors)
    return Agreement(factor, math.inf if bad else max(errors), len(pairs_of))


@dataclass
class Identity:
    """What a loss is.

    Attributes:
        readings: component by component.
        composed: an estimator with its weights, up to ``agreement.factor``.
        agreement: of the two on random batches.
        curves: of the rollouts' stabilizer, by sign of Â.
        undecided: why there is no estimator.
        handed: whether Â is handed in.
    """

    readings: list[Reading] = field(default_factory=list)
    composed: Composed | None = None
    agreement: Agreement | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    undecided: str = ""
    handed: bool = False

    def reading(self, component: str) -> Reading | None:
        """The reading of a component."""
        return next((r for r in self.readings if r.component == component), None)


@dataclass(frozen=True)
class _Skeleton:
    """What turns Â into a weight, up to a factor a row."""

    reference: Reference
    stabilization: Stabilization
    shaping: Shaping
    error: float = 0.0


@dataclass(frozen=True)
class _Scale:
    """Advantage and normalizer: what is left when the skeleton is known."""

    advantage: Advantage
    normalizer: Normalizer
    has_length: bool
    factor: float
    error: float
    fits_length: bool = False


class Reader:
    """Reads one loss."""

    def __init__(self, subject: Subject, thorough: bool = False) -> None:
        self.subject = subject
        self.thorough = thorough
        self.asks = subject.asks
        self.handed = "advantage" in self.asks
        self.rewarded = "reward" in self.asks or "reward_parts" in self.asks
        self.imitates = not (self.handed or self.rewarded)
        self.reads_demos = bool(self.asks & {"offline", "online"})
        self.has_length = "max_length" in self.asks

    # ------------------------------------------------------------------ what it computes in

    @cached_property
    def noise(self) -> float:
        """Relative rounding of the weights: float64's, or float32's if all are float32 numbers."""
        w = self.subject.weights(self._sided(ordinary(spread=0.05), "online"))
        if not w.any():
            w = self.subject.weights(self._sided(ordinary(spread=0.05), "offline"))
        return 2e-7 if torch.equal(w, w.float().double()) and w.any() and _rounds(w) else 1e-14

    @property
    def tolerance(self) -> float:
        """Relative difference up to which weights count as equal."""
        return EXACT if self.noise < 1e-10 else SINGLE

    # ------------------------------------------------------------------ designed batches

    def _sided(self, inputs: Inputs, side: Side) -> Inputs:
        offline = inputs.mask & (side == "offline")
        return inputs.with_(offline=offline)

    def _neutral(self, inputs: Inputs) -> Inputs:
        """The same with Â = 0, or with equal rewards."""
        return inputs.with_(
            advantage=torch.zeros_like(inputs.advantage), reward=torch.ones_like(inputs.reward)
        )

    @cached_property
    def has_additive(self) -> bool:
        """Whether some of the weight is there without an advantage."""
        if self.imitates or not self.asks & {"ref_logp", "teacher_logp", "inputs"}:
            return False
        inputs = self._neutral(self._sided(random_batch(3, equal_groups=True), "online"))
        return bool(self.subject.weights(inputs).abs().max() > 0)

    def policy_weights(self, inputs: Inputs) -> Tensor:
        """The part of the weights that comes with the advantage."""
        w = self.subject.weights(inputs)
        return w - self.subject.weights(self._neutral(inputs)) if self.has_additive else w

    def response(self, side: Side) -> Callable[[Tensor], Tensor]:
        """w against the ratio over w at ratio 1, for either sign of Â."""
        bases: dict[int, Tensor] = {}

        def at(x: Tensor) -> Tensor:
            return self.policy_weights(self._sided(pairs(x[:, None]), side)).view(len(x), 2)

        def respond(x: Tensor) -> Tensor:
            if len(x) not in bases:
                bases[len(x)] = at(torch.zeros_like(x))
            base = bases[len(x)]
            return at(x) / torch.where(base == 0, torch.nan, base)

        return respond

    # ------------------------------------------------------------------ reference, mask, shaping

    def fit_batches(self, side: Side) -> list[tuple[Inputs, Inputs]]:
        """Batches of equal rows with ratios of all sizes, each with its base at ratio 1."""
        batches = []
        gen = torch.Generator().manual_seed(7)
        for scale, count in ((3e-4, 12), (0.2, 12), (1.2, 16)):
            log_ratio = scale * torch.randn(count, 3, generator=gen, dtype=torch.float64)
            logp = -0.05 - 4 * torch.rand(count, 3, generator=gen, dtype=torch.float64)
            logp = torch.minimum(logp, log_ratio - 1e-3)  # log π_θold stays below 0
            inputs = self._sided(pairs(log_ratio, logp), side)
            base = self._sided(pairs(torch.zeros_like(log_ratio)), side)
            batches.append((inputs, base))
        return batches

    def measured_fits(self, side: Side) -> list[tuple[Inputs, Tensor]]:
        """Weights on the batches of :meth:`fit_batches`, over those of their base."""
        fits = []
        for inputs, base in self.fit_batches(side):
            below = self.policy_weights(base)
            ratio = self.policy_weights(inputs) / torch.where(below == 0, torch.nan, below)
            fits.append((inputs, ratio))
        return fits

    def skeleton_error(
        self,
        fits: Sequence[tuple[Inputs, Tensor]],
        reference: Reference,
        stabilization: Stabilization,
        shaping: Shaping,
    ) -> float:
        """How far a skeleton is from what was measured, relative to each weight."""
        worst = 0.0
        base = _factor(build(lengths_mask((1, 1))), reference, stabilization, shaping)
        for inputs, measured in fits:
            predicted = _factor(inputs, reference, stabilization, shaping)
            scale = torch.where(base[0, 0] == 0, torch.nan, base[0, 0])
            sides = torch.arange(len(measured)) % 2 == 1
            below = torch.where(sides[:, None], base[1, 0], scale)
            difference = (measured - predicted / below).abs() / (measured.abs() + 1e-3)
            difference = difference[~measured.isnan()]
            if len(difference):
                worst = max(worst, float(difference.max().nan_to_num(math.inf)))
        return worst

    def skeleton(self, side: Side, curves: Sequence[Curve | None]) -> _Skeleton:
        """Reference, stabilizer and shaping that give the measured weights.

        Raises:
            Undecided: none that is known does.
        """
        fits = self.measured_fits(side)
        best = math.inf
        pool = _pool(curves)
        for reference, stabilization, shaping in self._candidates(side, curves):
            for filled in _filled(stabilization, pool):
                for shaped in _filled(shaping, pool):
                    error = self.skeleton_error(fits, reference, filled, shaped)
                    best = min(best, error)
                    if error <= self.tolerance:
                        return _Skeleton(reference, _snapped(filled), _snapped(shaped), error)
        for reference, stabilization, shaping in self._candidates(side, curves):
            solved = self._solve(fits, reference, stabilization, shaping)
            if solved is not None:
                return solved
        raise Undecided(
            f"no known reference, stabilizer and shaping give these weights (nearest: off by "
            f"{best:.1%})"
        )

    def _candidates(
        self, side: Side, curves: Sequence[Curve | None]
    ) -> Iterator[tuple[Reference, Stabilization, Shaping]]:
        """Those of all registered rows, by kind; and the stabilizer as measured."""
        plain: list[tuple[Reference, Stabilization, Shaping]] = [
            (reference, NoMask(), Unshaped())
            for reference in (CurrentPolicy(), RolloutPolicy(), ConstantOne(), SequenceRatio())
        ]
        seen = {tuple(map(type, triple)) for triple in plain}
        found = list(plain)
        for entry in REGISTRY.values():
            for term in entry.terms:
                triple = (term.reference, term.stabilization, term.shaping)
                key = (type(term.reference), _kind(term.stabilization), _kind(term.shaping))
                if key not in seen:
                    seen.add(key)
                    found.append(triple)
        # Few numbers first; and what rows of this side have before what the other has.
        found.sort(key=lambda t: len(_numbers(t[1])) + len(_numbers(t[2])))
        yield from found
        if all(curve is None or not curve.is_smooth for curve in curves) and any(curves):
            for level in get_args(Literal["token", "sequence"]):
                reference = CurrentPolicy()
                yield reference, _piecewise(curves, level), Unshaped()

    def _solve(
        self,
        fits: Sequence[tuple[Inputs, Tensor]],
        reference: Reference,
        stabilization: Stabilization,
        shaping: Shaping,
    ) -> _Skeleton | None:
        """Newton's method on the numbers of a smooth stabilizer or shaping, from its defaults."""
        names = [(0, n) for n in _numbers(stabilization)] + [(1, n) for n in _numbers(shaping)]
        if not names or len(names) > 4:
            return None
        parts = (stabilization, shaping)
        x = torch.tensor([float(getattr(parts[i], n)) for i, n in names], dtype=torch.float64)

        def made(values: Tensor) -> tuple[Stabilization, Shaping] | None:
            changed = list(parts)
            for (i, n), v in zip(names, values.tolist(), strict=True):
                try:
                    changed[i] = replace(changed[i], **{n: v})
                except UpgeError:
                    return None
            return changed[0], changed[1]  # type: ignore[return-value]

        def residual(values: Tensor) -> Tensor | None:
            both = made(values)
            if both is None:
                return None
            base = _factor(build(lengths_mask((1, 1))), reference, *both)
            rest = []
            for inputs, measured in fits:
                sides = torch.arange(len(measured)) % 2 == 1
                below = torch.where(sides[:, None], base[1, 0], base[0, 0])
                predicted = _factor(inputs, reference, *both) / below
                rest.append(((measured - predicted) / (measured.abs() + 1e-3)).flatten())
            return torch.cat(rest).nan_to_num(0.0)

        for _ in range(30):
            now = residual(x)
            if now is None:
                return None
            columns = []
            for j in range(len(x)):
                step = torch.zeros_like(x)
                step[j] = 1e-6 * max(1.0, abs(float(x[j])))
                up, down = residual(x + step), residual(x - step)
                if up is None or down is None:
                    return None
                columns.append((up - down) / (2 * step[j]))
            jacobian = torch.stack(columns, 1)
            if not jacobian.isfinite().all() or not jacobian.any():
                return None
            move = torch.linalg.lstsq(jacobian, -now[:, None]).solution[:, 0]
            length = 1.0
            while length > 1e-3:
                trial = residual(x + length * move)
                if trial is not None and trial.norm() < now.norm():
                    break
                length /= 2
            else:
                break
            x = x + length * move
            if float(move.abs().max()) < 1e-13:
                break
        both = made(torch.tensor([snap(v, 1e-7) for v in x.tolist()], dtype=torch.float64))
        both = both or made(x)
        if both is None:
            return None
        error = self.skeleton_error(fits, reference, *both)
        if error > self.tolerance:
            both = made(x)
            assert both is not None
            error = self.skeleton_error(fits, reference, *both)
        return _Skeleton(reference, *both, error) if error <= self.tolerance else None

    # ------------------------------------------------------------------ advantage and normalizer

    def scale_batches(self, side: Side) -> list[Inputs]:
        """Ragged batches on-policy, with rewards so large that no ε is seen beside them."""
        found = []
        shapes = [((3, 1, 4, 2), (0, 0, 1, 1), 5), ((1, 2, 6, 3, 2, 5), (0, 0, 1, 1, 2, 2), 6)]
        shapes += [((2, 3, 1, 4, 5, 2, 6, 1), (0, 0, 0, 0, 1, 1, 1, 1), 7)]
        if not self.subject.has_equal_groups:
            shapes += [((4, 1, 2, 3, 2), (0, 0, 0, 1, 1), 6)]
        rewards = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.0, 1.0, 3.0, 0.5], dtype=torch.float64)
        advantage = torch.tensor([1.0, -2.0, 0.5, -0.25, 1.5, -1.0, 2.0, -0.5]).double()
        for i, (lengths, group, width) in enumerate(shapes):
            rows = len(lengths)
            inputs = build(
                lengths_mask(lengths, width),
                reward=(rewards[:rows] if i != 1 else (rewards[:rows] > 0).double()) * LARGE,
                advantage=advantage[:rows],
                group=torch.tensor(group),
                max_length=width + 4 + i,
            )
            found.append(self._sided(inputs, side))
        return found

    def scale(self, side: Side, skeleton: _Skeleton) -> _Scale:
        """Advantage and normalizer, up to one factor for all batches.

        Raises:
            Undecided: no pair of known ones.
        """
        batches = self.scale_batches(side)
        measured = [self.policy_weights(inputs) for inputs in batches]
        owns = [
            _factor(x, skeleton.reference, skeleton.stabilization, skeleton.shaping)
            for x in batches
        ]
        advantages = [
            (rule, values)
            for rule in self._advantages(side)
            if (values := self._of_rule(rule, batches)) is not None
        ]
        best: _Scale | None = None
        lengths = (True, False) if self.has_length else (False,)
        for has_length in lengths:
            for normalizer in self._normalizers():
                factors = [self._of_normalizer(normalizer, x, side, has_length) for x in batches]
                for rule, values in advantages:
                    predicted = [v * o * f for v, o, f in zip(values, owns, factors, strict=True)]
                    found = agree(list(zip(measured, predicted, strict=True)))
                    if best is None or found.error < 0.1 * best.error:
                        best = _Scale(rule, normalizer, has_length, found.factor, found.error)
                    if found.error <= self.tolerance:
                        return replace(best, fits_length=has_length)
        assert best is not None
        return self._with_epsilon(best, batches, measured, owns, side)

    def _with_epsilon(
        self,
        best: _Scale,
        batches: Sequence[Inputs],
        measured: Sequence[Tensor],
        owns: Sequence[Tensor],
        side: Side,
    ) -> _Scale:
        """A normalizer whose count has an ε added, as in ``mask.sum() + 1e-8``."""
        if best.error > 1e-3:
            raise Undecided(
                f"no pair of a known advantage and a known normalizer gives these weights "
                f"(nearest: {best.advantage.text}, {best.normalizer.text}; off by {best.error:.1%})"
            )
        values = self._of_rule(best.advantage, batches)
        assert values is not None
        for exponent in range(-12, -3):
            for digit in (1.0, 5.0):
                normalizer = PlusEpsilon(inner=best.normalizer, epsilon=digit * 10.0**exponent)
                factors = [
                    self._of_normalizer(normalizer, x, side, best.has_length) for x in batches
                ]
                predicted = [v * o * f for v, o, f in zip(values, owns, factors, strict=True)]
                found = agree(list(zip(measured, predicted, strict=True)))
                if found.error <= self.tolerance:
                    return _Scale(
                        best.advantage, normalizer, best.has_length, found.factor, found.error
                    )
        raise Undecided(
            f"nearest are {best.advantage.text} and {best.normalizer.text}, off by "
            f"{best.error:.1e}, more than rounding"
        )

    def _advantages(self, side: Side) -> list[Advantage]:
        if self.imitates:
            return [One()]
        rules: list[Advantage] = [Reward()] if self.handed else []
        registered = [
            term.advantage
            for entry in REGISTRY.values()
            for term in entry.terms
            if not term.advantage.is_late
        ]
        own = [rule for rule in registered if not isinstance(rule, Reward | One)]
        batchwide = [rule for rule in own if not _by_group(rule)]
        rules += batchwide if self.handed else own
        rules += [] if self.handed else [GroupCentered(keep_singletons=True)]
        rules += [One(), Reward()] if not self.handed else [One()]
        overs: tuple[Any, ...] = ("online", "all") if self.reads_demos else ("online",)
        if side == "offline":
            overs = ("all", "offline", "online")
        choices = _standardized(overs)
        rules += [r for r in choices if not self.handed or not _by_group(r)]
        return list(dict.fromkeys(rules))

    def _of_rule(self, rule: Advantage, batches: Sequence[Inputs]) -> list[Tensor] | None:
        values = []
        for inputs in batches:
            if self.handed:
                inputs = inputs.with_(reward=inputs.advantage[:, 0])
            try:
                value = rule(inputs.batch(True))
            except UpgeError:
                return None
            if not value.isfinite().all():
                return None
            values.append(value.expand(inputs.mask.shape))
        return values if any(v.any() for v in values) else None

    def _normalizers(self) -> list[Normalizer]:
        known: list[Normalizer] = [NORMALIZERS[name]() for name in NORMALIZERS]
        by_group = "group" in self.asks or "group_size" in self.asks
        if not by_group:
            known = [n for n in known if "question" not in n.text]
        known += [PaddedMean()]
        return known + ([QuestionTokenMean(), QuestionCount()] if by_group else [])

    def _of_normalizer(
        self, normalizer: Normalizer, inputs: Inputs, side: Side, has_length: bool
    ) -> Tensor:
        batch = inputs.batch(has_length)
        read = Counted(batch.tokens_of(side), batch.rows_of(side))
        return normalizer(batch, read, read).expand(inputs.mask.shape) * inputs.mask


# ---------------------------------------------------------------------------------- small pieces


def _rounds(w: Tensor) -> bool:
    """Whether the numbers are of a kind that would not be float32's by chance."""
    return bool((w != w.bfloat16().double()).any())


def _factor(
    inputs: Inputs, reference: Reference, stabilization: Stabilization, shaping: Shaping
) -> Tensor:
    """(N, T) 1_stable · π_θ/π_ref · f' for Â of the rows' signs, 0 where masked."""
    batch = inputs.batch()
    if inputs.offline.any():
        batch = batch.of_demonstrations().at(inputs.logp, inputs.entropy)
    assert batch.logp is not None
    advantage = torch.where(inputs.advantage == 0, 1.0, inputs.advantage).to(batch.logp.dtype)
    ratio = (batch.logp - reference(batch)).exp()
    return ratio * stabilization(batch, advantage) * shaping(batch) * inputs.mask


def _numbers(component: Any) -> list[str]:
    """The float fields of a component."""
    if not is_dataclass(component):
        return []
    values = ((f.name, getattr(component, f.name)) for f in fields(component))
    return [n for n, v in values if isinstance(v, float) and not isinstance(v, bool)]


def _kind(component: Any) -> Any:
    """A component's type with what of it is no number."""
    if not is_dataclass(component):
        return type(component)
    rest = tuple(
        (f.name, _kind(v) if is_dataclass(v) else v)
        for f in fields(component)
        if not isinstance(v := getattr(component, f.name), float)
    )
    return (type(component), rest) if rest else type(component)


def _by_group(rule: Advantage) -> bool:
    """Whether a rule compares rows of one question only."""
    if isinstance(rule, Standardized):
        return rule.center in ("group", "others") or rule.scale in ("group_std", "group_mean")
    return rule.compares is not None and "batch" not in rule.text


def _standardized(overs: Sequence[Any]) -> list[Standardized]:
    centers = ("nothing", "group", "others", "batch", "batch_tokens")
    scales = ("nothing", "group_std", "batch_std", "batch_token_std", "group_mean")
    return [
        Standardized(center, scale, ddof, over=over)  # type: ignore[arg-type]
        for over in overs
        for scale, center in product(scales, centers)
        for ddof in ((1,) if scale in ("nothing", "group_mean") else (1, 0))
    ]


def _pool(curves: Sequence[Curve | None]) -> list[float]:
    """Numbers that a bound may be, given where the curves break."""
    breaks = [x for curve in curves if curve is not None for x in curve.breaks]
    found: list[float] = []
    for x in breaks:
        r = math.exp(x)
        difference = abs(math.exp(LOGP) - math.exp(LOGP - x))
        found += [r - 1 if r > 1 else 1 - r, r, abs(x), difference]
    return list(dict.fromkeys(snap(v) for v in found if v > 0))


def _filled(component: Any, pool: Sequence[float]) -> Iterator[Any]:
    """The component with its numbers at their defaults, then with any of the pool's."""
    yield component
    names = _numbers(component)
    if not names or not pool or len(names) > 3:
        return
    for values in product(dict.fromkeys([*pool, *(getattr(component, n) for n in names)]),
                          repeat=len(names)):
        try:
            yield replace(component, **dict(zip(names, values, strict=True)))
        except UpgeError:
            continue


def _snapped(component: Any) -> Any:
    names = _numbers(component)
    return replace(component, **{n: snap(getattr(component, n)) for n in names})


def _piecewise(curves: Sequence[Curve | None], level: Any) -> Piecewise:
    sides = []
    for curve in curves:
        pieces = () if curve is None else curve.pieces
        stretches: Stretches = tuple((p.high, p.power, snap(p.level)) for p in pieces)
        sides.append(stretches or ((math.inf, 0.0, 1.0),))
    return Piecewise(sides[0], sides[1], level)


__all__ = ["Composed", "Identity", "Reader", "agree"]

_ = (CallError, KL_GRADIENTS, KLGradient, Correction, Term, TokenSum, read_curves, Reading)
