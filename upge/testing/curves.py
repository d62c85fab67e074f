"""Reading a stabilizer off its weights: w against the ratio, with its breaks by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: A response: w at log-ratios (M,), over w at 0, for Â > 0 and Â < 0: (M, 2); NaN where w is 0.
Response = Callable[[Tensor], Tensor]

_FLAT = 1e-7
_ROUNDS, _POINTS = 14, 24


def grid(noise: float) -> Tensor:
    """log-ratios to look at: both sides of 0, from below GSPO's clip to a ratio of 545.

    Args:
        noise: relative rounding of the weights.
    """
    least = math.log10(max(1e-5, 300 * noise))
    near = torch.logspace(least, 0.0, 48, dtype=torch.float64)
    side = torch.cat([near, torch.linspace(1.0, 6.3, 28, dtype=torch.float64)[1:]])
    return torch.cat([-side.flip(0), torch.zeros(1, dtype=torch.float64), side])


@dataclass(frozen=True)
class Piece:
    """A stretch of a curve.

    Attributes:
        low, high: log-ratios where it begins and ends; infinite at the ends of the grid.
        power: p where w ∝ r^p; None where w is 0, NaN where no power fits.
        level: w/r^p over w at ratio 1.
    """

    low: float
    high: float
    power: float | None
    level: float

    @property
    def is_smooth(self) -> bool:
        """Whether w is no power of r there."""
        return self.power is not None and math.isnan(self.power)


@dataclass(frozen=True)
class Curve:
    """w against the ratio, for one sign of Â."""

    pieces: tuple[Piece, ...]
    values: Tensor

    @property
    def breaks(self) -> tuple[float, ...]:
        """Log-ratios where it changes its law."""
        return tuple(piece.high for piece in self.pieces[:-1])

    @property
    def is_smooth(self) -> bool:
        """Whether some stretch of it is no power of r."""
        return any(piece.is_smooth for piece in self.pieces)

    def text(self, below: float = 0.0) -> str:
        """The stretches in words, as powers of the ratio over r^below."""
        return ", ".join(_words(piece, below) for piece in self.pieces)


def snap(x: float, tolerance: float = 1e-9) -> float:
    """The shortest decimal within ``tolerance`` of x, relative to its size."""
    for digits in range(1, 13):
        near = float(f"{x:.{digits}g}")
        if abs(near - x) <= tolerance * max(abs(x), 1e-6):
            return near
    return x


def _words(piece: Piece, below: float) -> str:
    if piece.power is None:
        law = "0"
    elif piece.is_smooth:
        law = "smooth"
    else:
        power = piece.power - below
        level = snap(piece.level)
        factor = "1" if power == 0 else "r" if power == 1 else f"r^{power:g}"
        law = factor if level == 1 else f"{level:g}" if power == 0 else f"{level:g}·{factor}"
    low, high = (snap(math.exp(x)) for x in (piece.low, piece.high))
    if math.isinf(piece.low) and math.isinf(piece.high):
        return f"{law} everywhere"
    if math.isinf(piece.low):
        return f"{law} below {high:.10g}"
    return f"{law} above {low:.10g}" if math.isinf(piece.high) else f"{law} to {high:.10g}"


def read_curves(response: Response, noise: float = 1e-14) -> tuple[Curve | None, Curve | None]:
    """The curves of Â > 0 and Â < 0; None where the weight is 0 whatever the ratio."""
    x = grid(noise)
    values = response(x)
    both = [_read(response, x, values[:, sign], sign, noise) for sign in (0, 1)]
    return both[0], both[1]


def _read(response: Response, x: Tensor, values: Tensor, sign: int, noise: float) -> Curve | None:
    if values.isnan().all():
        return None
    laws = [_law(x, values, j, noise) for j in range(len(x) - 1)]
    starts = [0]
    for j in range(1, len(laws)):
        if not _alike(laws[j], laws[j - 1]):
            starts.append(j)
    stretches = [(a, b, laws[a]) for a, b in zip(starts, [*starts[1:], len(laws)], strict=True)]
    # An interval that holds a break has a law of its own, shared with no neighbor.
    solid = [s for s in stretches if s[1] - s[0] > 1]
    if not solid or sum(b - a for a, b, law in solid if not _is_nan(law)) < len(laws) // 2:
        piece = Piece(-math.inf, math.inf, math.nan, 1.0)
        return Curve((piece,), values)
    pieces, low = [], -math.inf
    for i, (start, end, law) in enumerate(solid):
        high = math.inf
        if i + 1 < len(solid):
            left, right = float(x[end]), float(x[solid[i + 1][0]])
            ends = (left if left < right else float(x[end - 1]), right)
            anchor = (float(x[start]), float(values[start]))
            high = _bisect(response, sign, law, anchor, ends, noise)
        middle = (start + end) // 2
        level = 1.0
        if law is not None and not _is_nan(law):
            level = float(values[middle]) / math.exp(law * float(x[middle]))
        pieces.append(Piece(low, high, law, level))
        low = high
    return Curve(tuple(_merged(pieces)), values)


def _merged(pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        same = last is not None and _alike(last.power, piece.power) and not piece.is_smooth
        if last is not None and same and abs(last.level - piece.level) <= 1e-9 * abs(last.level):
            merged[-1] = Piece(last.low, piece.high, last.power, last.level)
        else:
            merged.append(piece)
    return merged


def _law(x: Tensor, values: Tensor, j: int, noise: float) -> float | None:
    """The power of r between two neighbors of the grid; None where both are 0, NaN if none fits."""
    a, b = float(values[j]), float(values[j + 1])
    if a == 0 and b == 0:
        return None
    if a == 0 or b == 0 or a * b < 0 or not (math.isfinite(a) and math.isfinite(b)):
        return math.nan
    width = float(x[j + 1] - x[j])
    power = math.log(b / a) / width
    near = round(power * 2) / 2
    # Rounding of a and b moves the slope by their relative error over the width.
    return near if abs(power - near) <= max(_FLAT, noise / width) else math.nan


def _is_nan(law: float | None) -> bool:
    return law is not None and math.isnan(law)


def _alike(a: float | None, b: float | None) -> bool:
    return a == b or (_is_nan(a) and _is_nan(b))


def _bisect(
    response: Response,
    sign: int,
    law: float | None,
    anchor: tuple[float, float],
    ends: tuple[float, float],
    noise: float,
) -> float:
    """Where the law of the left stretch stops to hold, between ``ends``, to rounding."""
    low, high = ends
    where, value = anchor
    for _ in range(_ROUNDS):
        x = torch.linspace(low, high, _POINTS, dtype=torch.float64)
        seen = response(x)[:, sign]
        if law is None:
            holds = seen == 0
        else:
            expected = value * torch.exp(law * (x - where))
            holds = (seen - expected).abs() <= 20 * noise * expected.abs()
        wrong = (~holds).nonzero()
        first = int(wrong[0]) if len(wrong) else _POINTS - 1
        low, high = float(x[max(first - 1, 0)]), float(x[first])
        if high - low <= 4e-16 * max(abs(high), 1e-3):
            break
    return high if law is None else (low + high) / 2
