"""Table 1 as the paper prints it: group heading and cells of its eight rows, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from upge.advantage import GroupZScore
from upge.algorithms import REGISTRY, Terms
from upge.estimator import Term
from upge.normalization import TokenMean
from upge.reference import RolloutPolicy
from upge.stabilization import CISMask


@dataclass(frozen=True)
class Printed:
    """A row of the paper's Table 1, in LaTeX.

    Args:
        group: the heading above it.
        reference, advantage, gradient: its cells; the gradient's without ∇π_θ, which all have.
        build: the row read literally, from options to terms, where that isn't the registry's.
    """

    group: str
    reference: str
    advantage: str
    gradient: str
    build: Callable[..., Terms] | None = None


def _cispo_as_printed(ratio_max: float, ratio_min: float) -> Terms:
    """The 0/1 mask of arXiv 2506.13585, eq. 7, on the full ratio."""
    mask = CISMask(low=max(1 - ratio_min, 0.0), high=max(ratio_max - 1, 0.0))
    return (Term("online", RolloutPolicy(), GroupZScore(), TokenMean(), mask),)


_OLD = r"\pi_{\theta_{old}}"
_UNION = r"G_{on}\cup G_{off}"

PRINTED: dict[str, Printed] = {
    "sft": Printed("", r"\pi_\theta", "1", r"\frac{1}{\pi_\theta}"),
    "ppo": Printed(
        "online RL", _OLD, r"\mathrm{GAE}", r"\frac{\hat A\,\mathbf{1}_{Clip}}{\pi_{ref}}"
    ),
    "grpo": Printed(
        "online RL",
        _OLD,
        r"\frac{R-\mathrm{mean}_{G_{on}}}{\mathrm{std}_{G_{on}}}",
        r"\frac{\hat A\,\mathbf{1}_{Clip}}{\pi_{ref}}",
    ),
    "reinforce": Printed("online RL", r"\pi_\theta", r"\pm 1", r"\frac{\hat A}{\pi_\theta}"),
    "cispo": Printed(
        "online RL",
        _OLD,
        r"\hat A_{GRPO}",
        r"\frac{\hat A\,\mathbf{1}_{CIS\text{-}Mask}}{\pi_{ref}}",
        _cispo_as_printed,
    ),
    "gspo": Printed(
        "online RL",
        r"\pi_\theta\left(\frac{\pi_{\theta_{old}}(\tau|q)}{\pi_\theta(\tau|q)}\right)^{1/|\tau|}",
        r"\hat A_{GRPO}",
        r"\frac{\hat A\,\mathbf{1}_{Seq\text{-}Clip}}{\pi_{ref}}",
    ),
    "srft_offline": Printed(
        "offline/online RL",
        "1",
        rf"\frac{{R-\mathrm{{mean}}_{{{_UNION}}}}}{{\mathrm{{std}}_{{{_UNION}}}}}",
        r"\frac{\hat A}{1}",
    ),
    "luffy_offline": Printed(
        "offline/online RL", "1", r"\hat A_{SRFT}", r"\frac{\hat A}{1}\cdot f'_{shape}"
    ),
}


def terms_as_printed(name: str, **options: Any) -> Terms:
    """The terms that a printed row says, literally."""
    return (PRINTED[name].build or REGISTRY[name].build)(**options)
