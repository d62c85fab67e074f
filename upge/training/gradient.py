"""∇J of a batch: micro-batches under global normalizers, without rows whose weight is 0.

A batch is planned as a whole and split afterwards, so the gradient doesn't depend on how it is
split, over micro-batches or processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.estimator import Estimator, Plan, term_metrics
from upge.training.processes import sum_over_processes

#: Known trainer bugs, injectable for ablation; they spoiled baselines (arXiv 2604.23747).
#: ``last_micro_batch_only``: gradient accumulation loses the gradients of all micro-batches but the
#: last (DeepSpeed ZeRO 1/2 with an offloaded optimizer). ``mean_of_means``: each micro-batch is
#: divided by its own number of tokens, and the means are averaged (OpenRLHF).
Fault = Literal["last_micro_batch_only", "mean_of_means"]


@dataclass
class GradientReport:
    """Statistics of a gradient, summed over micro-batches and processes.

    Attributes:
        terms: (terms, 5), :meth:`upge.estimator.TermEstimate.sums` of each.
        loss: −Σ w log π, without the entropy bonus.
        computed, avoided: tokens (prompt and response) that went through the policy, and those of
            rows without weight.
        finite: whether every log-probability and the loss are finite.
        updates: the number of gradients that this is a sum over.
    """

    terms: Tensor
    loss: Tensor
    computed: Tensor
    avoided: Tensor
    finite: Tensor
    updates: int = 1

    def __add__(self, other: GradientReport) -> GradientReport:
        """The statistics of both gradients."""
        return GradientReport(
            self.terms + other.terms,
            self.loss + other.loss,
            self.computed + other.computed,
            self.avoided + other.avoided,
            self.finite & other.finite,
            self.updates + other.updates,
        )

    def metrics(self) -> dict[str, float]:
        """Entries of metrics.jsonl: masses and loss as means, tokens as sums."""
        named = {
            f"term{i}/{name}": value
            for i, sums in enumerate(self.terms / self.updates)
            for name, value in term_metrics(sums).items()
        }
        return named | {
            "loss": self.loss.item() / self.updates,
            "tokens_computed": self.computed.item(),
            "tokens_avoided": self.avoided.item(),
        }


class GradientAccumulator:
    """Takes gradients of estimators on batches.

    Args:
        policy: π_θ, as prepared by Accelerate.
        accelerator: Accelerate's object, for backward passes and sums over processes.
        tokens_per_microbatch: the most padded tokens of a micro-batch (but at least a row).
        micro_batch: rows per micro-batch, in order, in place of a number of tokens.
        faults: bugs to inject, see :data:`Fault`.
    """

    def __init__(
        self,
        policy: Any,
        accelerator: Any,
        tokens_per_microbatch: int,
        micro_batch: int | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.policy, self.accelerator, self.tokens_per_microbatch = (
            policy,
            accelerator,
            tokens_per_microbatch,
        )
        self.micro_batch, self.faults = micro_batch, faults

    def plan(self, estimator: Estimator, batch: TrajectoryBatch) -> Plan:
        """The estimator on the batch, with the batch's entropy if a term weighs by it."""
        scored = self._scored(batch) if estimator.weighs_by_batch else batch
        return estimator.plan(scored, partial=True)

    def score(self, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """Log π_θ and entropy (N, T) of all rows, float64, without gradient."""
        rows = torch.arange(len(batch.mask), device=batch.mask.device)
        logp = torch.zeros(batch.mask.shape, dtype=torch.float64, device=batch.mask.device)
        entropy = torch.zeros_like(logp)
        with torch.no_grad():
            for micro in self._micro_batches(batch, rows):
                found = self._likelihood(batch.select(micro))
                logp[micro], entropy[micro] = (part.double() for part in found)
        return logp, entropy

    def _scored(self, batch: TrajectoryBatch) -> TrajectoryBatch:
        entropy = self.score(batch)[1].nan_to_num(0, 0, 0)  # the step is found not finite later
        return batch.at(torch.zeros_like(entropy), entropy)

    def __call__(
        self, plan: Plan, entropy_bonus: float = 0.0, only: int | None = None
    ) -> GradientReport:
        """Add −∇J (and −c ∇H) to the parameters' gradients.

        Args:
            plan: the estimator on the process's part of the batch.
            entropy_bonus: c; H is the mean entropy over all tokens of rows with nonzero weight.
            only: the one term to take; all of them if not given.
        """
        batch, needed = plan.batch, plan.nonzero_rows()
        rows = needed.nonzero().flatten()
        active_tokens = self._sum(batch.mask[rows].sum()).clamp(min=1)
        report = _empty_report(len(plan.parts), batch.mask.device)
        micros = list(self._micro_batches(batch, rows))
        for i, micro in enumerate(micros):
            last = i + 1 == len(micros)
            if "last_micro_batch_only" in self.faults and not last:
                continue
            with self._last_only(last):
                part = plan.select(micro)
                if "mean_of_means" in self.faults:
                    part = _with_own_counts(part, len(micros))
                logp, entropy = self._likelihood(part.batch)
                report.finite &= logp.isfinite().all() & entropy.isfinite().all()
                logp, entropy = logp.nan_to_num(0, 0, 0), entropy.nan_to_num(0, 0, 0)
                estimate = part.estimate(logp, entropy.detach())
                loss = estimate.loss
                report.loss += loss.detach()
                report.finite &= loss.isfinite()
                if only is not None:
                    loss = -(estimate.terms[only].weights * logp).sum()
                if entropy_bonus:
                    loss = loss - entropy_bonus * entropy.sum() / active_tokens
                # Accelerate averages gradients over processes; ours are parts of one sum.
                self.accelerator.backward(loss * self.accelerator.num_processes)
                report.terms += torch.stack([term.sums() for term in estimate.terms])
        report.computed += batch.attention[rows].sum()  # type: ignore[index]
        report.avoided += batch.attention[~needed].sum()  # type: ignore[index]
        return self._reduced(report)

    def _micro_batches(self, batch: TrajectoryBatch, rows: Tensor) -> Iterator[Tensor]:
        """The rows in parts, the same number in every process."""
        parts = self._by_length(_lengths(batch)[rows])
        if self.micro_batch is not None:
            places = list(range(len(rows)))
            starts = range(0, len(rows), self.micro_batch)
            parts = [places[start : start + self.micro_batch] for start in starts]
        count = len(parts)
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.gather(torch.tensor([count], device=rows.device))
            count = int(counts.max())
        if self.accelerator.distributed_type == "DEEPSPEED":
            count = max(count, 1)  # its engine needs a backward pass before a step, if of zeros
        for part in parts:
            yield rows[torch.tensor(part, device=rows.device)]
        for _ in range(count - len(parts)):
            yield rows[:0]

    def _by_length(self, lengths: Tensor) -> list[list[int]]:
        """Places of rows of similar length, in parts within ``tokens_per_microbatch``."""
        parts: list[list[int]] = []
        for place in lengths.argsort(stable=True).tolist():
            length = int(lengths[place])
            if not parts or (len(parts[-1]) + 1) * length > self.tokens_per_microbatch:
                parts.append([])
            parts[-1].append(place)
        return parts

    def _likelihood(self, part: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """Log π_θ and entropy (N, T) of a micro-batch, cut to its longest row for the policy."""
        assert part.tokens is not None
        width = max(int(_lengths(part).max()), 2) if len(part.mask) else 2
        tokens, mask = part.tokens[:, :width], part.mask[:, :width]
        if not len(mask):  # an empty part still takes part in collectives
            tokens, mask = tokens.new_zeros(1, 2), mask.new_zeros(1, 2)
        logp, entropy = self.policy(tokens, mask)
        missing = part.mask.shape[1] - logp.shape[1]
        pad = torch.nn.functional.pad
        rows = len(part.mask)
        return pad(logp, (0, missing))[:rows], pad(entropy, (0, missing))[:rows]

    @contextmanager
    def _last_only(self, last: bool) -> Iterator[None]:
        """Sum gradients over processes with the last micro-batch; of shards, with each.

        Otherwise FSDP would keep unsharded gradients, 4 bytes per parameter on every GPU.
        """
        self.accelerator.sync_gradients = last
        at_once = last or self.accelerator.distributed_type == "FSDP"
        try:
            with nullcontext() if at_once else self.accelerator.no_sync(self.policy):
                yield
        finally:
            self.accelerator.sync_gradients = True

    def _sum(self, x: Tensor) -> Tensor:
        return sum_over_processes(self.accelerator, x)

    def _reduced(self, report: GradientReport) -> GradientReport:
        seen = {name: x for name, x in vars(report).items() if isinstance(x, Tensor)}
        fields = {name: self._sum(x.double()) for name, x in seen.items()}
        fields["finite"] = fields["finite"] == self.accelerator.num_processes
        return replace(report, **fields)  # type: ignore[arg-type]


def _with_own_counts(part: Plan, parts: int) -> Plan:
    """A micro-batch normalized by its own counts and averaged over ``parts``: the bug."""
    own = part.estimator.plan(part.batch, partial=True)
    scaled = (
        replace(mine, advantage=whole.advantage, scale=mine.scale / parts)
        for mine, whole in zip(own.parts, part.parts, strict=True)
    )
    return replace(part, parts=tuple(scaled))


def _lengths(batch: TrajectoryBatch) -> Tensor:
    assert batch.attention is not None
    return batch.attention.sum(1)


def _empty_report(terms: int, device: torch.device) -> GradientReport:
    def zero() -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=device)

    return GradientReport(
        terms=torch.zeros(terms, 5, dtype=torch.float64, device=device),
        loss=zero(),
        computed=zero(),
        avoided=zero(),
        finite=torch.ones((), dtype=torch.bool, device=device),
    )
