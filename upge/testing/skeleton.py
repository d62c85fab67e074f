"""Reference, stabilizer and shaping: what turns Â into a weight, up to a factor a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from upge.algorithms import REGISTRY
from upge.common.errors import UpgeError
from upge.likelihood import Shaping, Unshaped
from upge.reference import ConstantOne, CurrentPolicy, Reference, RolloutPolicy, SequenceRatio
from upge.stabilization import NoMask, Stabilization
from upge.testing.components import Piecewise, Stretches
from upge.testing.curves import Curve, snap
from upge.testing.designs import LOGP, build, lengths_mask, pairs
from upge.testing.inputs import Inputs
from upge.testing.reader import Reader, Side, Undecided

#: Small weights are compared with this much added to their size.
_FLOOR = 1e-3

_Triple = tuple[Reference, Stabilization, Shaping]


@dataclass(frozen=True)
class Skeleton:
    """Reference, stabilizer and shaping, and how far their weights are from the measured ones."""

    reference: Reference
    stabilization: Stabilization
    shaping: Shaping
    error: float = 0.0

    def factor(self, inputs: Inputs) -> Tensor:
        """(N, T) 1_stable · π_θ/π_ref · f' for Â of the rows' signs, 0 where masked."""
        return _factor(inputs, (self.reference, self.stabilization, self.shaping))


@dataclass(frozen=True)
class Fits:
    """Measured weights on batches of equal rows, over those of a base at ratio 1."""

    batches: tuple[tuple[Inputs, Tensor], ...]

    def residuals(self, triple: _Triple) -> Iterator[Tensor]:
        """Measured less predicted weights, relative to the measured; NaN where nothing is."""
        base = _factor(build(lengths_mask((1, 1))), triple)
        for inputs, measured in self.batches:
            odd = torch.arange(len(measured)) % 2 == 1
            below = torch.where(odd[:, None], base[1, 0], base[0, 0])
            predicted = _factor(inputs, triple) / torch.where(below == 0, torch.nan, below)
            unfit = measured.isfinite() & ~predicted.isfinite()
            rest = (measured - predicted) / (measured.abs() + _FLOOR)
            yield torch.where(unfit, math.inf, rest)

    def error(self, triple: _Triple, enough: float = math.inf) -> float:
        """The largest residual; at least ``enough`` if it is no smaller than that."""
        worst = 0.0
        for rest in self.residuals(triple):
            rest = rest[~rest.isnan()]
            worst = max(worst, float(rest.abs().max())) if len(rest) else worst
            if worst >= enough:
                break
        return worst


def fits(reader: Reader, side: Side, curves: Sequence[Curve | None]) -> Fits:
    """Weights of rows of three tokens, for either sign of Â.

    Ratios are of all sizes, and on both sides of each break of the curves: two bounds may be so
    close that no random ratio falls between them.
    """
    batches = []
    gen = torch.Generator().manual_seed(7)
    drawn = [
        size * torch.randn(count, 3, generator=gen, dtype=torch.float64)
        for size, count in ((1.2, 16), (0.2, 12), (3e-4, 12))
    ]
    breaks = [x for curve in curves if curve is not None for x in curve.breaks]
    near = max(1e-6, 10 * reader.rounding)
    edges = torch.tensor([x + s * near for x in breaks for s in (-1, 1)], dtype=torch.float64)
    for log_ratio in [*drawn, *([edges[:, None].expand(-1, 3)] if breaks else [])]:
        count = len(log_ratio)
        logp = -0.05 - 4 * torch.rand(count, 3, generator=gen, dtype=torch.float64)
        inputs = reader.sided(pairs(log_ratio, logp), side)
        base = reader.policy_weights(reader.sided(pairs(torch.zeros_like(log_ratio)), side))
        ratio = reader.policy_weights(inputs) / torch.where(base == 0, torch.nan, base)
        batches.append((inputs, ratio))
    return Fits(tuple(batches))


def read_skeleton(reader: Reader, side: Side, curves: Sequence[Curve | None]) -> Skeleton:
    """Reference, stabilizer and shaping that give the measured weights.

    Raises:
        Undecided: none that is known does.
    """
    measured = fits(reader, side, curves)
    pool, best = _pool(curves, reader.rounding), math.inf
    candidates = list(_candidates(curves))
    for reference, stabilization, shaping in candidates:
        for filled in _filled(stabilization, pool):
            triple = (reference, filled, shaping)
            error = measured.error(triple, 1e-3)
            best = min(best, error)
            if error <= reader.tolerance:
                return Skeleton(*triple, error)
    is_hard = any(curves) and not any(c is not None and c.is_smooth for c in curves)
    for triple in candidates:
        if is_hard and numbers(triple[1]):
            continue  # its bounds were looked for where the curves break
        solved = _solve(measured, triple, reader.tolerance)
        if solved is not None:
            return solved
    raise Undecided("no known reference, stabilizer and shaping give these weights")


def _candidates(curves: Sequence[Curve | None]) -> Iterator[_Triple]:
    """Those of all registered rows, by kind; then the stabilizer as measured."""
    found: list[_Triple] = [
        (reference, NoMask(), Unshaped())
        for reference in (CurrentPolicy(), RolloutPolicy(), ConstantOne(), SequenceRatio())
    ]
    seen = {tuple(map(kind, triple)) for triple in found}
    for entry in REGISTRY.values():
        for term in entry.terms:
            triple = (term.reference, term.stabilization, term.shaping)
            if (key := tuple(map(kind, triple))) not in seen:
                seen.add(key)
                found.append(triple)
    found.sort(key=lambda t: len(numbers(t[1])) + len(numbers(t[2])))
    yield from found
    if any(curves) and not any(curve is not None and curve.is_smooth for curve in curves):
        for level in get_args(Literal["token", "sequence"]):
            yield CurrentPolicy(), _piecewise(curves, level), Unshaped()


def _solve(measured: Fits, triple: _Triple, tolerance: float) -> Skeleton | None:
    """Gauss-Newton on the numbers of stabilizer and shaping, from their registered values."""
    _, *parts = triple
    names = [(i, name) for i, part in enumerate(parts) for name in numbers(part)]
    if not names or len(names) > 4:
        return None

    def made(values: Sequence[float]) -> _Triple | None:
        changed: list[Any] = list(parts)
        try:
            for (i, name), value in zip(names, values, strict=True):
                changed[i] = replace(changed[i], **{name: value})
        except UpgeError:
            return None
        return triple[0], changed[0], changed[1]

    def residual(values: Tensor) -> Tensor | None:
        trial = made(values.tolist())
        if trial is None:
            return None
        rest = torch.cat([r.flatten() for r in measured.residuals(trial)])
        return rest.nan_to_num(0.0, 1e6, -1e6)

    x = torch.tensor([float(getattr(parts[i], n)) for i, n in names], dtype=torch.float64)
    for _ in range(40):
        move = _newton(residual, x)
        if move is None:
            break
        x = x + move
        if float((move.abs() / (x.abs() + 1e-3)).max()) < 1e-13:
            break
    loose = max(1e-7, 0.1 * tolerance)
    for values in ([snap(v, loose) for v in x.tolist()], [snap(v) for v in x.tolist()], x.tolist()):
        trial = made(values)
        if trial is not None and (error := measured.error(trial)) <= tolerance:
            return Skeleton(*trial, error)
    return None


def _newton(residual: Any, x: Tensor) -> Tensor | None:
    """One step that makes the residual smaller; None where there is none."""
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
    for _ in range(6):
        trial = residual(x + move)
        if trial is not None and trial.norm() < 0.999 * now.norm():
            return move  # type: ignore[no-any-return]
        move = move / 2
    return None


def _factor(inputs: Inputs, triple: _Triple) -> Tensor:
    reference, stabilization, shaping = triple
    batch = inputs.batch()
    if inputs.offline.any():
        batch = batch.of_demonstrations().at(inputs.logp, inputs.entropy)
    assert batch.logp is not None
    advantage = torch.where(inputs.advantage == 0, 1.0, inputs.advantage).to(batch.logp.dtype)
    ratio = (batch.logp - reference(batch)).exp()
    return ratio * stabilization(batch, advantage) * shaping(batch) * inputs.mask


def numbers(component: Any) -> list[str]:
    """Names of a component's fields that are real numbers."""
    if not is_dataclass(component):
        return []
    return [f.name for f in fields(component) if type(getattr(component, f.name)) is float]


def kind(component: Any) -> Any:
    """A component's type, and what of it is no real number."""
    if not is_dataclass(component):
        return component
    rest = tuple(
        (f.name, kind(value))
        for f in fields(component)
        if type(value := getattr(component, f.name)) is not float
    )
    return (type(component), rest)


def _pool(curves: Sequence[Curve | None], rounding: float) -> list[float]:
    """Numbers that a bound may be, by where the curves break."""
    found: list[float] = []
    for x in (x for curve in curves if curve is not None for x in curve.breaks):
        r = math.exp(x)
        difference = abs(math.exp(LOGP) - math.exp(LOGP - x))
        found += [r - 1 if r > 1 else 1 - r, r, abs(x), difference]
    return list(dict.fromkeys(snap(v, rounding) for v in found if v > 0))


def _filled(component: Any, pool: Sequence[float]) -> Iterator[Any]:
    """The component with its numbers at their defaults, then with any of the pool's."""
    yield component
    names = numbers(component)
    if not names or not pool or len(names) > 3:
        return
    defaults = [getattr(component, name) for name in names]
    for values in product(dict.fromkeys([*pool, *defaults]), repeat=len(names)):
        try:
            yield replace(component, **dict(zip(names, values, strict=True)))
        except UpgeError:
            continue


def _piecewise(curves: Sequence[Curve | None], level: Any) -> Piecewise:
    sides = []
    for curve in curves:
        pieces = () if curve is None else curve.pieces
        stretches: Stretches = tuple((p.high, p.power, snap(p.level)) for p in pieces)
        sides.append(stretches or ((math.inf, 0.0, 1.0),))
    return Piecewise(sides[0], sides[1], level)
