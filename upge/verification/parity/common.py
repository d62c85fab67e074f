"""What both libraries' tables have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upge.algorithms import Value
from upge.estimator import Estimator


@dataclass(frozen=True, kw_only=True)
class Row:
    """One algorithm's counterpart.

    Attributes:
        function: what is called, by the names it has in the library.
        ours: our options; all of them, so that no default is compared by chance.
        note: how the two sides are aligned.
        spread: standard deviation of log(π_θ/π_θold), so that ratios fall on both sides of clips.
        shared: those of ``ours`` that the library has no counterpart of.
    """

    function: str
    ours: Mapping[str, Value]
    note: str
    spread: float = 1.0
    shared: tuple[str, ...] = ()


class Gradients(NamedTuple):
    """The same gradient from both sides, of one shape."""

    ours: Tensor
    theirs: Tensor


@dataclass(frozen=True)
class Library:
    """A library's table.

    Attributes:
        title: its name as its authors write it.
        rows: the counterpart of each algorithm that has one.
        gradients: both gradients of a row for one random batch.
        absent: why there is no counterpart, where more can be said than that.
    """

    title: str
    rows: Mapping[str, Any]
    gradients: Callable[[Any, Estimator, int], Gradients]
    absent: Mapping[str, str] = field(default_factory=dict)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest of ``theirs``; infinite if the latter vanishes."""
    scale = theirs.abs().max()
    if not scale > 0:
        return float("inf")
    return float((ours - theirs).abs().max() / scale)


def earlier_policy(logp: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """A random log π_θold; ratios stay within e^±1.9, where verl's clamp of ±20 does not act."""
    noise = torch.randn(logp.shape, generator=generator, dtype=logp.dtype).to(logp.device)
    return (logp.detach() - (spread * noise).clamp(-1.9, 1.9)).clamp(max=0)
