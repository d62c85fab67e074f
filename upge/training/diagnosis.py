"""What an optimizer step was made of: the share that each row's gradient had in it.

A step along ∇J is a combination of the rows' own gradients, Δθ = k Σ_i c_i Σ_t ∇log π(τ_it), and a
small model has far more parameters than a batch has rows: so the c_i can be read off Δθ. Faults of
accumulation and averaging differ in nothing but these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

#: Below this share of what it should be, a step is none.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Rows:
    """How the rows of a batch were spread.

    Args:
        tokens: (N,) scored tokens of each row.
        process: (N,) the process that has it.
        micro_batch: (N,) its micro-batch there, from 0; as many in every process.
    """

    tokens: Tensor
    process: Tensor
    micro_batch: Tensor

    @property
    def processes(self) -> int:
        """P, how many processes there are."""
        return int(self.process.max()) + 1

    @property
    def micro_batches(self) -> int:
        """M, micro-batches in each process."""
        return int(self.micro_batch.max()) + 1

    @cached_property
    def total(self) -> Tensor:
        """All scored tokens."""
        return self.tokens.sum()

    def share_of_mean(self, part: Tensor) -> Tensor:
        """Shares (N,) where each part has its own mean, and these are averaged."""
        count = torch.zeros(int(part.max()) + 1, dtype=torch.float64)
        count.index_add_(0, part, self.tokens.double())
        return self.total / len(count) / count[part]


@dataclass(frozen=True)
class Diagnosis:
    """What one step was found to be.

    Attributes:
        shares: (N,) what each row's gradient had in the step; 1 is right.
        residual: the part of the step that no row explains, relative.
        fault: what is wrong, in words; empty if nothing is.
    """

    shares: list[float]
    residual: float
    fault: str


def diagnose(
    step: Tensor, gradients: Tensor, rows: Rows, *, scale: float, tolerance: float
) -> Diagnosis:
    """Read off what a step was made of.

    Args:
        step: (D,) θ after it minus θ before.
        gradients: (N, D), Σ_t ∇log π of each row at θ before.
        rows: how they were spread over processes and micro-batches.
        scale: k of a right step, k/Σ tokens · Σ gradients.
        tolerance: of a share, and of the residual.
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
        return f"{residual:.0%} of the step come from no row of this batch, as of one before it"
    for fault, expected in _hypotheses(rows):
        if (shares - expected).abs().max() <= tolerance * expected.abs().max():
            return fault
    low, high = shares.min(), shares.max()
    if high - low <= tolerance * high.abs():
        return f"every row weighs {shares.mean():.3g} times what it should: the step is that long"
    return f"rows that should weigh alike weigh {low:.3g} to {high:.3g} times what they should"


def _hypotheses(rows: Rows) -> Iterator[tuple[str, Tensor]]:
    """Names of faults, alone and together, with the shares they lead to; no fault comes first."""
    parts = product(_kept(rows).items(), _averaged(rows).items(), _scaled(rows).items())
    found = [
        (tuple(name for name, _ in chosen if name), chosen[0][1] * chosen[1][1] * chosen[2][1])
        for chosen in parts
    ]
    for names, shares in sorted(found, key=lambda pair: len(pair[0])):
        yield "; ".join(names), shares


def _kept(rows: Rows) -> Mapping[str, Tensor]:
    """Which rows' gradients arrive."""
    last = rows.micro_batches - 1
    return {
        "": torch.ones(len(rows.tokens), dtype=torch.float64),
        "only the last micro-batch counts": (rows.micro_batch == last).double(),
        "only the first micro-batch counts": (rows.micro_batch == 0).double(),
        "gradients are not exchanged, each process goes its own way": (rows.process == 0).double(),
    }


def _averaged(rows: Rows) -> Mapping[str, Tensor]:
    """What is divided by: the tokens of all rows, or of a part whose mean is then averaged."""
    parts = rows.process * rows.micro_batches + rows.micro_batch
    return {
        "": torch.ones(len(rows.tokens), dtype=torch.float64),
        "each process is divided by its own tokens, in place of all processes' (a mean of means)": (
            rows.share_of_mean(rows.process)
        ),
        "each micro-batch is divided by its own tokens, in place of the step's (a mean of means)": (
            rows.share_of_mean(parts)
        ),
    }


def _scaled(rows: Rows) -> Mapping[str, float]:
    """By what the whole is too long or too short."""
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
