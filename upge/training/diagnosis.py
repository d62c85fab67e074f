"""What an optimizer step was made of: the share that each row's gradient has in it.

A step along ∇J is a combination of the rows' gradients, Δθ = k Σ_i c_i Σ_t ∇log π(τ_it). A small
model has far more parameters than a batch has rows, so least squares recovers the c_i from Δθ.
Faults of accumulation and averaging differ in the c_i alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

#: A step shorter than this share of the right one counts as none.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Rows:
    """How the rows of a batch are split.

    Args:
        tokens: (N,) scored tokens of each row.
        process: (N,) its process.
        micro_batch: (N,) its micro-batch there, from 0; the same number in every process.
    """

    tokens: Tensor
    process: Tensor
    micro_batch: Tensor

    @property
    def processes(self) -> int:
        """P, the number of processes."""
        return int(self.process.max()) + 1

    @property
    def micro_batches(self) -> int:
        """M, the number of micro-batches per process."""
        return int(self.micro_batch.max()) + 1

    @cached_property
    def total(self) -> Tensor:
        """The number of scored tokens."""
        return self.tokens.sum()

    def share_of_mean(self, part: Tensor) -> Tensor:
        """Shares (N,) of the rows where the means of the parts are averaged."""
        count = torch.zeros(int(part.max()) + 1, dtype=torch.float64)
        count.index_add_(0, part, self.tokens.double())
        return self.total / len(count) / count[part]


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a step, if anything.

    Attributes:
        shares: (N,) c_i of each row, relative to that of a right step.
        residual: ‖what no row explains‖ / ‖step‖.
        fault: what is wrong, in words; empty if nothing is.
    """

    shares: list[float]
    residual: float
    fault: str


def diagnose(
    step: Tensor, gradients: Tensor, rows: Rows, *, scale: float, tolerance: float
) -> Diagnosis:
    """Compare a step with the right one.

    Args:
        step: (D,) Δθ.
        gradients: (N, D), Σ_t ∇log π of each row at θ before the step.
        rows: how they are split over processes and micro-batches.
        scale: k of a right step, k/Σ tokens · Σ gradients.
        tolerance: of a share, and of the residual.

    Returns:
        The shares of the rows, and the fault that explains them.
    """
    step, gradients = step.double(), gradients.double()
    wanted = scale / rows.total
    if step.norm() <= _NOTHING * (wanted * gradients.sum(0)).norm():
        return Diagnosis([0.0] * len(gradients), 0.0, "nothing stepped: parameters are as before")
    coefficients = torch.linalg.lstsq(gradients.T, step[:, None]).solution[:, 0]
    residual = float((step - coefficients @ gradients).norm() / step.norm())
    shares = coefficients / wanted
    return Diagnosis(shares.tolist(), residual, _fault(shares, residual, rows, tolerance))


def _fault(shares: Tensor, residual: float, rows: Rows, tolerance: float) -> str:
    if not residual <= tolerance:
        return f"{residual:.0%} of the step come from no row of this batch; from an earlier one?"
    for fault, expected in _hypotheses(rows):
        if (shares - expected).abs().max() <= tolerance * expected.abs().max():
            return fault
    low, high = shares.min(), shares.max()
    if high - low <= tolerance * high.abs():
        return f"the step is {shares.mean():.3g} times as long as it should be"
    return f"rows weigh {low:.3g} to {high:.3g} times what they should"


def _hypotheses(rows: Rows) -> Iterator[tuple[str, Tensor]]:
    """Faults and their combinations, with the shares they lead to; no fault comes first."""
    parts = product(_kept(rows).items(), _averaged(rows).items(), _scaled(rows).items())
    found = [
        (tuple(name for name, _ in chosen if name), chosen[0][1] * chosen[1][1] * chosen[2][1])
        for chosen in parts
    ]
    for names, shares in sorted(found, key=lambda pair: len(pair[0])):
        yield "; ".join(names), shares


def _kept(rows: Rows) -> Mapping[str, Tensor]:
    """Which rows' gradients count."""
    last = rows.micro_batches - 1
    return {
        "": torch.ones(len(rows.tokens), dtype=torch.float64),
        "only the last micro-batch counts": (rows.micro_batch == last).double(),
        "only the first micro-batch counts": (rows.micro_batch == 0).double(),
        "gradients are not exchanged: each process trains alone": (rows.process == 0).double(),
    }


def _averaged(rows: Rows) -> Mapping[str, Tensor]:
    """What gradients are divided by: the tokens of all rows, or of parts that are averaged."""
    parts = rows.process * rows.micro_batches + rows.micro_batch
    return {
        "": torch.ones(len(rows.tokens), dtype=torch.float64),
        "each process is divided by its own tokens, not by those of all (a mean of means)": (
            rows.share_of_mean(rows.process)
        ),
        "each micro-batch is divided by its own tokens, not by the step's (a mean of means)": (
            rows.share_of_mean(parts)
        ),
    }


def _scaled(rows: Rows) -> Mapping[str, float]:
    """Factors of the whole step."""
    processes, micro_batches = rows.processes, rows.micro_batches
    return {
        "": 1.0,
        f"the gradient is {processes} times too large, once for each process": processes,
        f"the gradient is divided by the {processes} processes once too often": 1 / processes,
        f"the gradient is divided by the {micro_batches} micro-batches": 1 / micro_batches,
        f"the gradient is {micro_batches} times too large, once for each micro-batch": (
            micro_batches
        ),
    }
