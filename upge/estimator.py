"""The unified policy gradient estimator: any sum of rows of Table 1 as per-token weights.

For a token of probability π, ∇π = π ∇log π, so every row (eq. 6) is

    ∇J = Σ w · ∇log π_θ(τ_t),   w = c · α · 1_stable · (π_θ/π_ref) · Â · f'(π_θ) / Z

with w a tensor without gradient. The loss for autograd is −Σ w · log π_θ(τ_t).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from upge.advantage import Advantage
from upge.batch import MAX_LOG_RATIO, Samples, TrajectoryBatch
from upge.common.errors import UpgeError
from upge.feedback import Feedback, Gate
from upge.likelihood import Shaping, Unshaped
from upge.normalization import Normalizer, normalizer
from upge.reference import CurrentPolicy, Reference, RolloutPolicy
from upge.stabilization import NoMask, RatioCap, Stabilization

#: No vocabulary has an entropy near it; e^30 keeps weights finite whatever is given.
_MAX_EXPONENT = 30.0


@dataclass(frozen=True)
class EntropyWeight:
    """exp(sign · H) without gradient, H a mean entropy in nats (SRFT, arXiv 2506.19767).

    H is taken over the tokens of the trajectory (``level='sequence'``) or over all tokens of the
    term's samples (``level='batch'``), of all processes.
    """

    sign: Literal[-1, 1]
    level: Literal["sequence", "batch"] = "sequence"

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1) or self.level not in ("sequence", "batch"):
            raise UpgeError(
                f"EntropyWeight: got ({self.sign!r}, {self.level!r}), wanted a sign of -1 or 1 and "
                "the level 'sequence' or 'batch'"
            )

    @property
    def latex(self) -> str:
        """e^{±H}."""
        return rf"e^{{{'-' if self.sign < 0 else ''}H}}"

    @property
    def text(self) -> str:
        """e^±H."""
        return f"e^{'−' if self.sign < 0 else ''}H"

    def __call__(self, batch: TrajectoryBatch, samples: Samples) -> Tensor:
        """Weights of the rows, (N, 1) or a scalar."""
        entropy = batch.require("entropy", "SRFT's entropy weight")
        if self.level == "sequence":
            return (
                (self.sign * batch.trajectory_mean(entropy, samples)).clamp(max=_MAX_EXPONENT).exp()
            )
        tokens = batch.tokens_of(samples)
        total = batch.all_sum(torch.where(tokens, entropy, 0.0).sum())
        mean = total / batch.all_sum(tokens.sum()).clamp(min=1)
        return (self.sign * mean).clamp(max=_MAX_EXPONENT).exp()


_KINDS: dict[str, type] = {
    "reference": Reference,
    "advantage": Advantage,
    "normalizer": Normalizer,
    "stabilization": Stabilization,
    "shaping": Shaping,
    "coefficient": (int | float),  # type: ignore[dict-item]
}


@dataclass(frozen=True)
class Term:
    """One row of Table 1: which samples it reads, its four components, normaliser and weight.

    Args:
        samples: rollouts (``online``), demonstrations (``offline``) or ``all``.
        reference: π_ref.
        advantage: Â.
        normalizer: 1/Z.
        stabilization: 1_stable.
        shaping: f'.
        coefficient: c, ≥ 0.
        gate: α(P) or β(P) of the performance feedback, if the term is gated.
        entropy_weight: exp(±H), if the term is so weighted.
    """

    samples: Samples
    reference: Reference
    advantage: Advantage
    normalizer: Normalizer
    stabilization: Stabilization = NoMask()
    shaping: Shaping = Unshaped()
    coefficient: float = 1.0
    gate: Gate | None = None
    entropy_weight: EntropyWeight | None = None

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(part := getattr(self, name), kind):
                raise UpgeError(f"{name}: got {part!r:.60}, wanted an instance of {kind.__name__}")
        if self.samples not in ("online", "offline", "all"):
            raise UpgeError(f"samples: got {self.samples!r}, wanted 'online', 'offline' or 'all'")
        if not 0 <= self.coefficient < float("inf"):
            raise UpgeError(f"coefficient: got {self.coefficient}, wanted a finite number ≥ 0")
        if self.samples != "online" and "old_logp" in self.reference.needs | self.mask_needs:
            raise UpgeError(
                "a term that reads demonstrations has no rollout policy: its reference and mask "
                "can't use π_θold; take CurrentPolicy or ConstantOne, and no clip"
            )
        if self.samples != "online" and "values" in self.advantage.needs:
            raise UpgeError(
                "a term that reads demonstrations can't use a critic's values, which are of the "
                "rollouts; take another advantage"
            )

    @property
    def mask_needs(self) -> frozenset[str]:
        """The optional batch fields that the stabilizer reads."""
        return self.stabilization.needs

    @property
    def takes_is_cap(self) -> bool:
        """Whether it reads rollouts, and weighs them token by token if by a ratio."""
        weighed = isinstance(self.reference, CurrentPolicy | RolloutPolicy)
        return self.samples == "online" and weighed

    @property
    def choices(self) -> tuple[str, ...]:
        """What the formulas of its components leave open, as this package decides it."""
        parts = (self.reference, self.stabilization, self.advantage, self.shaping, self.normalizer)
        gate = () if self.gate is None else self.gate.choices
        return tuple(choice for part in parts for choice in part.choices) + gate

    @property
    def needs(self) -> frozenset[str]:
        """The optional batch fields that the term reads; log π_θ always."""
        entropy = {"entropy"} if self.entropy_weight else set()
        parts = (self.reference, self.advantage, self.stabilization, self.shaping)
        return frozenset({"logp"} | entropy).union(*(part.needs for part in parts))


#: A stabilizer so near to 1 changes nothing: soft gates are 1 only up to rounding where ratios are.
_UNCHANGED = 1e-6


@dataclass(frozen=True)
class TermEstimate:
    """One term's part: w, and the ratio π_θ/π_ref and stabilizer it was made of, all (N, T).

    ``live`` marks the tokens whose weight does not vanish before ratio and stabilizer are known.
    """

    weights: Tensor
    ratio: Tensor
    stabilizer: Tensor
    live: Tensor

    def sums(self) -> Tensor:
        """What :func:`term_metrics` reads, (5,) float64; adds up over micro-batches, processes."""
        rho = torch.where(self.live, self.ratio, 0.0).double()
        changed = self.live & ((self.stabilizer - 1).abs() > _UNCHANGED)
        parts = (self.weights.double().abs(), self.live, changed, rho, rho**2)
        return torch.stack([part.sum().double() for part in parts])

    def metrics(self) -> dict[str, float]:
        """Weight mass, clip fraction and effective sample size of the term."""
        return term_metrics(self.sums())


def term_metrics(sums: Tensor) -> dict[str, float]:
    """Weight mass Σ|w|, share of live tokens the stabilizer changes, effective sample size.

    The effective sample size is (Σ ρ)²/Σ ρ² of the ratios ρ over the live tokens, over their
    count: 1 where all ratios are equal, 0 without live tokens.

    Args:
        sums: (5,), :meth:`TermEstimate.sums`, added up over the parts of a batch.
    """
    mass, live, changed, rho, squared = sums.tolist()
    count, squared = max(live, 1), max(squared, torch.finfo(torch.float64).tiny)
    return {
        "mass": mass,
        "clip_fraction": changed / count,
        "effective_sample_size": rho**2 / squared / count,
    }


@dataclass(frozen=True)
class Estimate:
    """What one call returns.

    Attributes:
        loss: scalar −Σ w log π_θ, whose gradient is minus the estimator; differentiable.
        weights: (N, T), w, so that ∇J = Σ w ∇log π_θ.
        terms: the estimator's terms, one by one.
        batch: what it was computed from.
    """

    loss: Tensor
    weights: Tensor
    terms: tuple[TermEstimate, ...]
    batch: TrajectoryBatch = field(repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers read off the weights: each term's, and the share of demonstrations.

        ``offline_ratio`` is the share of demonstrations among the rows that bear any weight. The
        records of a training run count all rows of open gates instead, as the paper does.
        """
        named = {
            f"term{i}/{name}": value
            for i, term in enumerate(self.terms)
            for name, value in term.metrics().items()
        }
        live = (self.weights != 0).any(1)
        offline = live & ~self.batch.rows_of("online")
        return named | {"offline_ratio": offline.sum().item() / max(int(live.sum()), 1)}


@dataclass(frozen=True)
class Estimator:
    """A sum of terms: what an algorithm is."""

    terms: tuple[Term, ...]
    name: str = "custom"

    def __post_init__(self) -> None:
        if not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise UpgeError(f"{self.name}: got no terms, wanted at least one")

    def __call__(
        self, batch: TrajectoryBatch, logp: Tensor, entropy: Tensor | None = None
    ) -> Estimate:
        """Loss, weights and metrics at the current policy's ``logp`` (N, T), which has gradient.

        Raises:
            UpgeError: the batch lacks what a term reads.
        """
        return self.plan(batch.at(logp, entropy)).estimate(logp, entropy)

    def with_normalizer(self, name: str) -> Estimator:
        """The same with another normaliser in every term, each counting what it counted."""
        terms = (replace(t, normalizer=normalizer(name, t.normalizer.scope)) for t in self.terms)
        return replace(self, terms=tuple(terms))

    def with_feedback(self, feedback: Feedback) -> Estimator:
        """The same with another f, g pair in every gated term.

        Raises:
            UpgeError: no term is gated.
        """
        if all(term.gate is None for term in self.terms):
            raise UpgeError(f"{self.name} has no gated term, so it takes no feedback function")
        terms = (
            replace(t, gate=replace(t.gate, feedback=feedback)) if t.gate else t for t in self.terms
        )
        return replace(self, terms=tuple(terms))

    def with_is_cap(self, cap: float) -> Estimator:
        """The same with rollouts weighed by min(π_θ/π_θold, cap): truncated importance sampling.

        It corrects for a sampler that is not quite the policy. Terms without π_θold as their
        reference, which trust the sampler to be the policy, get it.

        Raises:
            UpgeError: no term reads rollouts, or one has a ratio of whole sequences.
        """
        if all(term.samples != "online" for term in self.terms):
            raise UpgeError(f"{self.name} reads no rollouts, so it takes no is_cap")
        return replace(self, terms=tuple(_capped(term, cap, self.name) for term in self.terms))

    @property
    def needs(self) -> frozenset[str]:
        """The optional batch fields that some term reads."""
        return frozenset().union(*(term.needs for term in self.terms))

    def plan(self, batch: TrajectoryBatch, partial: bool = False) -> Plan:
        """All that is known before the forward pass: advantages, gates, global normalisers.

        Args:
            batch: the whole batch, or a process's part of it.
            partial: whether the batch may lack rollouts or demonstrations that a term reads, as a
                batch of a run whose problems don't all have a demonstration.

        Raises:
            UpgeError: the batch lacks what a term reads.
        """
        self._check(batch, partial)
        opened = [_open_tokens(term, batch) for term in self.terms]
        joint = torch.stack(opened).any(0)
        parts = tuple(
            _plan_term(term, batch, own, joint)
            for term, own in zip(self.terms, opened, strict=True)
        )
        return Plan(self, batch, parts)

    def _check(self, batch: TrajectoryBatch, partial: bool) -> None:
        for name in sorted(self.needs & {"old_logp", "values"}):
            batch.require(name, self.name)
        if partial or not batch.all_sum(batch.mask.sum()):
            return
        for kind, remedy in (("offline", "add demonstrations"), ("online", "add rollouts")):
            reads = any(term.samples == kind for term in self.terms)
            if reads and not batch.all_sum(batch.rows_of(kind).sum()):  # type: ignore[arg-type]
                raise UpgeError(
                    f"{self.name} has an {kind} term, but the batch has no {kind} samples; {remedy}"
                )


def _capped(term: Term, cap: float, name: str) -> Term:
    if term.samples != "online":
        return term
    if not term.takes_is_cap:
        raise UpgeError(
            f"is_cap: {name} weighs by {term.reference.text}, not by a token's π_θ/π_θold; "
            "take an algorithm that does, as grpo or tis"
        )
    return replace(term, reference=RolloutPolicy(), stabilization=RatioCap(term.stabilization, cap))


def _open_tokens(term: Term, batch: TrajectoryBatch) -> Tensor:
    tokens = batch.tokens_of(term.samples)
    return tokens if term.gate is None else tokens & (term.gate(batch) != 0)


@dataclass(frozen=True)
class _Part:
    """A term's factors that don't depend on the current policy."""

    tokens: Tensor
    advantage: Tensor
    scale: Tensor
    batch_weight: Tensor | None = None

    def select(self, rows: Tensor) -> _Part:
        return replace(
            self,
            tokens=self.tokens[rows],
            advantage=self.advantage[rows],
            scale=self.scale[rows],
        )


def _plan_term(term: Term, batch: TrajectoryBatch, own: Tensor, joint: Tensor) -> _Part:
    tokens = batch.tokens_of(term.samples)
    counted = {"term": tokens, "open": own, "joint": joint, "batch": batch.mask}
    factor = term.normalizer(batch, tokens, counted[term.normalizer.scope])
    if term.gate is not None:
        factor = factor * term.gate(batch)
    advantage = term.advantage(batch).expand(batch.mask.shape)
    scale = torch.where(tokens, term.coefficient * factor, 0.0)
    return _Part(tokens, advantage, scale, _batch_weight(term, batch))


def _batch_weight(term: Term, batch: TrajectoryBatch) -> Tensor | None:
    weight = term.entropy_weight
    if weight is None or weight.level != "batch" or batch.entropy is None:
        return None
    return weight(batch, term.samples)


@dataclass(frozen=True)
class Plan:
    """An estimator on a batch before the forward pass; micro-batches are selections of it."""

    estimator: Estimator
    batch: TrajectoryBatch
    parts: tuple[_Part, ...]

    def nonzero_rows(self) -> Tensor:
        """(N,) bool: rows whose weights don't all vanish whatever the policy says."""
        live = [((part.scale * part.advantage) != 0).any(1) for part in self.parts]
        return torch.stack(live).any(0)

    def gated_in(self) -> Tensor:
        """(N,) bool: rows that some term reads with an open gate, whatever their advantage."""
        return torch.stack([(part.scale != 0).any(1) for part in self.parts]).any(0)

    def select(self, rows: Tensor) -> Plan:
        """The plan for some rows, with the whole batch's normalisers.

        Raises:
            UpgeError: a weight needs the whole batch's entropy, which was not known when planned.
        """
        for term, part in zip(self.estimator.terms, self.parts, strict=True):
            weight = term.entropy_weight
            if weight is not None and weight.level == "batch" and part.batch_weight is None:
                raise UpgeError(
                    f"{self.estimator.name} weighs by the whole batch's entropy: set the batch's "
                    "entropy before planning, then split it"
                )
        parts = tuple(part.select(rows) for part in self.parts)
        return replace(self, batch=self.batch.select(rows), parts=parts)

    def estimate(self, logp: Tensor, entropy: Tensor | None = None) -> Estimate:
        """Loss, weights and metrics; ``logp`` (N, T) has gradient, ``entropy`` is detached."""
        batch = self.batch.at(logp, entropy)
        for name in self.estimator.needs:
            batch.require(name, self.estimator.name)
        terms = tuple(
            _estimate_term(term, part, batch)
            for term, part in zip(self.estimator.terms, self.parts, strict=True)
        )
        weights = torch.stack([term.weights for term in terms]).sum(0)
        loss = -(weights * torch.where(batch.mask, logp, 0.0)).sum()
        return Estimate(loss, weights, terms, batch)


def _estimate_term(term: Term, part: _Part, batch: TrajectoryBatch) -> TermEstimate:
    logp = batch.require("logp", "the estimator")
    log_ratio = (logp - term.reference(batch)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    advantage = part.advantage.to(batch.dtype)
    ratio, stabilizer = log_ratio.exp(), term.stabilization(batch, advantage)
    static = (part.scale * part.advantage).to(batch.dtype)
    weights = static * stabilizer * ratio * term.shaping(batch)
    if part.batch_weight is not None:
        weights = weights * part.batch_weight
    elif term.entropy_weight is not None:
        weights = weights * term.entropy_weight(batch, term.samples)
    weights = torch.where(static != 0, weights, 0.0)
    return TermEstimate(torch.where(part.tokens, weights, 0.0), ratio, stabilizer, static != 0)


def compose(*terms: Term, name: str = "custom") -> Estimator:
    """An estimator of one's own: ``compose(Term(...), Term(...))``."""
    return Estimator(tuple(terms), name)
