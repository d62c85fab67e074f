"""The unified policy gradient estimator: any sum of rows of Table 1 as per-token weights.

For a token of probability π, ∇π = π ∇log π, so every row (eq. 6) is

    ∇J = Σ w · ∇log π_θ(τ_t),   w = c · α · 1_stable · (π_θ/π_ref) · Â · f'(π_θ) / Z

with w a tensor without gradient. The loss for autograd is −Σ w · log π_θ(τ_t).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upge.advantage import Advantage, KLGradient, One, Penalized
from upge.batch import MAX_LOG_RATIO, Samples, TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.component import Component, Limits
from upge.feedback import SIDES, Feedback, Gate
from upge.likelihood import Shaping, Unshaped
from upge.normalization import Counted, Normalizer, normalizer
from upge.reference import CurrentPolicy, Reference, RolloutPolicy
from upge.stabilization import Correction, NoMask, RatioCap, Stabilization

Teacher = Literal["reference", "teacher"]

#: The gradients of a KL penalty that are in use, as π_ref of eq. 6 and ψ of :class:`KLGradient`:
#: k1, k2, k3 differentiated as they are, and times the ratio r = π_θ/π_θold.
KL_GRADIENTS: dict[str, tuple[Reference, Literal["k1", "k2", "k3", "k1+1"]]] = {
    "k1": (CurrentPolicy(), "k1"),
    "k2": (CurrentPolicy(), "k2"),
    "k3": (CurrentPolicy(), "k3"),
    "r*k1": (RolloutPolicy(), "k1+1"),
    "r*k3": (RolloutPolicy(), "k2"),
}

#: No vocabulary has an entropy near it; e^30 keeps weights finite whatever is given.
_MAX_EXPONENT = 30.0

#: A stabilizer this close to 1 changes nothing: soft gates are 1 only up to rounding of the ratio.
_UNCHANGED = 1e-6


@dataclass(frozen=True)
class EntropyWeight(Component):
    """exp(sign · H) without gradient, H a mean entropy in nats (SRFT, arXiv 2506.19767).

    H is taken over the tokens of the trajectory (``level='sequence'``) or over all tokens of the
    term's samples (``level='batch'``), of all processes.
    """

    sign: Literal[-1, 1]
    level: Literal["sequence", "batch"] = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})
    limits: ClassVar[Limits] = {"sign": (-1, 1), "level": ("sequence", "batch")}

    @property
    def text(self) -> str:
        """e^±H."""
        return f"e^{'−' if self.sign < 0 else ''}H"

    def __call__(self, batch: TrajectoryBatch, samples: Samples) -> Tensor:
        """Weights of the rows, (N, 1) or a scalar."""
        entropy = batch.require("entropy", "SRFT's entropy weight")
        if self.level == "sequence":
            mean = batch.trajectory_mean(entropy, samples)
        else:
            tokens = batch.tokens_of(samples)
            total = batch.all_sum(torch.where(tokens, entropy, 0.0).sum())
            mean = total / batch.all_sum(tokens.sum()).clamp(min=1)
        return (self.sign * mean).clamp(max=_MAX_EXPONENT).exp()


@dataclass(frozen=True)
class Term:
    """One row of Table 1: which samples it reads, its four components, normalizer and weight.

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
        corrections: factors that make up for the sampler of the rollouts.

    A term over demonstrations reads ``demo_logp`` where its components say π_θold.

    Raises:
        UpgeError: a coefficient below 0; demonstrations read by what only rollouts have.
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
    corrections: tuple[Correction, ...] = ()

    def __post_init__(self) -> None:
        if self.samples not in ("online", "offline", "all"):
            raise UpgeError(f"samples: got {self.samples!r}, wanted 'online', 'offline' or 'all'")
        if not 0 <= self.coefficient < float("inf"):
            raise UpgeError(f"coefficient: got {self.coefficient}, wanted a finite number ≥ 0")
        if self.samples == "all" and "old_logp" in self.needs:
            raise UpgeError(
                "a term over rollouts and demonstrations has no one π_θold for its reference and "
                "mask; take CurrentPolicy or ConstantOne and no clip, or a term for each"
            )
        if self.samples != "online" and ("values" in self.needs or self.corrections):
            raise UpgeError(
                "a term that reads demonstrations can't use a critic's values or a sampler's "
                "correction, which are of the rollouts"
            )

    @property
    def parts(self) -> tuple[Component, ...]:
        """Its components."""
        weight = () if self.entropy_weight is None else (self.entropy_weight,)
        parts = (self.reference, self.stabilization, self.advantage, self.shaping, self.normalizer)
        return (*parts, *weight, *self.corrections)

    @property
    def weighs_by_batch(self) -> bool:
        """Whether the whole batch's entropy has to be known before it is split."""
        return self.entropy_weight is not None and self.entropy_weight.level == "batch"

    @property
    def choices(self) -> tuple[str, ...]:
        """What the formulas of its components leave open, as decided here."""
        gate = () if self.gate is None else self.gate.choices
        return tuple(choice for part in self.parts for choice in part.choices) + gate

    @property
    def needs(self) -> frozenset[str]:
        """The optional batch fields that the term reads; log π_θ always."""
        needs = frozenset({"logp"}).union(*(part.needs for part in self.parts))
        swap = {"old_logp": "demo_logp"} if self.samples == "offline" else {}
        return frozenset(swap.get(name, name) for name in needs)

    def reads(self, samples: Literal["online", "offline"]) -> bool:
        """Whether its weights depend on rollouts, or on demonstrations: by gate and Â too."""
        gated = self.gate is not None and samples == "online"
        return gated or bool({self.samples, self.advantage.compares} & {samples, "all"})


@dataclass(frozen=True)
class TermEstimate:
    """One term's part: w, and the ratio π_θ/π_ref and stabilizer it was made of, all (N, T).

    ``active`` marks the tokens whose weight does not vanish before ratio and stabilizer are known.
    """

    weights: Tensor
    ratio: Tensor
    stabilizer: Tensor
    active: Tensor

    def sums(self) -> Tensor:
        """What :func:`term_metrics` reads, (5,) float64; adds up over micro-batches, processes."""
        rho = torch.where(self.active, self.ratio, 0.0).double()
        changed = self.active & ((self.stabilizer - 1).abs() > _UNCHANGED)
        parts = (self.weights.double().abs(), self.active, changed, rho, rho**2)
        return torch.stack([part.sum().double() for part in parts])


def term_metrics(sums: Tensor) -> dict[str, float]:
    """Weight mass Σ|w|, share of active tokens the stabilizer changes, effective sample size.

    The effective sample size is (Σ ρ)²/Σ ρ² of the ratios ρ over the active tokens, over their
    count: 1 where all ratios are equal, 0 without active tokens.

    Args:
        sums: (5,), :meth:`TermEstimate.sums`, added up over the parts of a batch.
    """
    mass, active, changed, rho, squared = sums.tolist()
    count, squared = max(active, 1), max(squared, torch.finfo(torch.float64).tiny)
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
            for name, value in term_metrics(term.sums()).items()
        }
        active = (self.weights != 0).any(1)
        offline = active & ~self.batch.rows_of("online")
        return named | {"offline_ratio": offline.sum().item() / max(int(active.sum()), 1)}


@dataclass(frozen=True)
class Estimator:
    """A sum of terms: what an algorithm is.

    Args:
        terms: what is summed.
        name: for messages.
        entropy_bonus: c of + c·H, H the mean entropy over the tokens of all rows whose weight can
            be nonzero. Its gradient reads the whole vocabulary, so it is no weight on a token.
    """

    terms: tuple[Term, ...]
    name: str = "custom"
    entropy_bonus: float = 0.0

    def __post_init__(self) -> None:
        if not self.terms:
            raise UpgeError(f"{self.name}: got no terms, wanted at least one")

    def __call__(
        self, batch: TrajectoryBatch, logp: Tensor, entropy: Tensor | None = None
    ) -> Estimate:
        """Loss, weights and metrics at the current policy's ``logp`` (N, T), which has gradient.

        Raises:
            UpgeError: the batch lacks what a term reads; a number that is no log-probability.
        """
        scored = batch.at(logp, entropy)
        return self.plan(scored)._estimate(scored, logp, entropy)

    def _each(self, change: Callable[[Term], Term]) -> Estimator:
        return replace(self, terms=tuple(map(change, self.terms)))

    def with_normalizer(self, name: str) -> Estimator:
        """The same with another normalizer in every term, each counting what it counted."""
        return self._each(lambda t: replace(t, normalizer=normalizer(name, t.normalizer.scope)))

    def with_feedback(self, feedback: Feedback) -> Estimator:
        """The same with another f, g pair in every gated term.

        Raises:
            UpgeError: no term is gated.
        """
        if all(term.gate is None for term in self.terms):
            raise UpgeError(f"{self.name} has no gated term, so it takes no feedback function")
        gates = {side: Gate(feedback, side) for side in SIDES}
        return self._each(lambda t: replace(t, gate=gates[t.gate.side]) if t.gate else t)

    def with_is_cap(self, cap: float) -> Estimator:
        """The same with rollouts weighed by min(π_θ/π_θold, cap): truncated importance sampling.

        It corrects for a sampler that is not quite the policy. Terms without π_θold as their
        reference, which trust the sampler to be the policy, get it.

        Raises:
            UpgeError: no term reads rollouts, or one has a ratio of whole sequences.
        """

        def capped(term: Term) -> Term:
            if term.samples != "online":
                return term
            if not isinstance(term.reference, CurrentPolicy | RolloutPolicy):
                raise UpgeError(
                    f"is_cap: {self.name} weighs by {term.reference.text}, not by a token's "
                    "π_θ/π_θold; take an algorithm that does, as grpo or tis"
                )
            mask = RatioCap(term.stabilization, cap)
            return replace(term, reference=RolloutPolicy(), stabilization=mask)

        self._first_online("is_cap")
        return self._each(capped)

    def with_correction(self, correction: Correction) -> Estimator:
        """The same with one more correction of the sampler in every term over rollouts.

        Raises:
            UpgeError: no term reads rollouts.
        """
        self._first_online("a sampler's correction")
        corrected = [
            replace(t, corrections=(*t.corrections, correction)) if t.samples == "online" else t
            for t in self.terms
        ]
        return replace(self, terms=tuple(corrected))

    def with_kl(self, beta: float, gradient: str = "k2", to: Teacher = "reference") -> Estimator:
        """The same with a KL penalty on the rollouts, under the gate and normalizer of the first.

        Args:
            beta: its coefficient, ≥ 0.
            gradient: a name of :data:`KL_GRADIENTS`.
            to: π_ref, the reference or a teacher.

        Raises:
            UpgeError: no term reads rollouts; an unknown name.
        """
        first = self._first_online("a KL term")
        if gradient not in KL_GRADIENTS:
            raise unknown("KL gradient", gradient, KL_GRADIENTS)
        reference, psi = KL_GRADIENTS[gradient]
        advantage, coefficient = KLGradient(psi, to), first.coefficient * beta
        kl = Term("online", reference, advantage, first.normalizer, coefficient=coefficient)
        return replace(self, terms=(*self.terms, replace(kl, gate=first.gate)))

    def with_kl_reward(self, beta: float) -> Estimator:
        """The same with β Σ_t log(π_θold/π_ref) taken off the rollouts' rewards.

        Raises:
            UpgeError: no term reads rollouts.
        """
        self._first_online("a KL in the reward")
        return self._each(
            lambda t: (
                replace(t, advantage=Penalized(t.advantage, beta)) if t.samples == "online" else t
            )
        )

    def _first_online(self, reader: str) -> Term:
        for term in self.terms:
            if term.samples == "online":
                return term
        raise UpgeError(f"{self.name} reads no rollouts, so it takes no {reader}")

    @property
    def needs(self) -> frozenset[str]:
        """The optional batch fields that some term reads."""
        bonus = {"entropy"} if self.entropy_bonus else frozenset[str]()
        return frozenset(bonus).union(*(term.needs for term in self.terms))

    def reads(self, samples: Literal["online", "offline"]) -> bool:
        """Whether some term's weights depend on rollouts, or on demonstrations."""
        return any(term.reads(samples) for term in self.terms)

    @property
    def weighs_by_batch(self) -> bool:
        """Whether some term weighs by the whole batch's entropy."""
        return any(term.weighs_by_batch for term in self.terms)

    def plan(self, batch: TrajectoryBatch, partial: bool = False) -> Plan:
        """All that is known before the forward pass: advantages, gates, global normalizers.

        Args:
            batch: the whole batch, or a process's part of it.
            partial: whether the batch may lack rollouts or demonstrations that a term reads, as a
                batch of a run whose problems don't all have a demonstration.

        Raises:
            UpgeError: the batch lacks what a term reads.
        """
        self._check(batch, partial)
        gates = [None if term.gate is None else term.gate(batch) for term in self.terms]
        read = [Counted(batch.tokens_of(t.samples), batch.rows_of(t.samples)) for t in self.terms]
        opened = [
            own if gate is None else Counted(own.tokens & (gate != 0), own.rows & (gate[:, 0] != 0))
            for own, gate in zip(read, gates, strict=True)
        ]
        joint = Counted(*(torch.stack(kind).any(0) for kind in zip(*opened, strict=True)))
        every = Counted(batch.mask, batch.rows_of("all"))
        parts = []
        for term, gate, own, gated_in in zip(self.terms, gates, read, opened, strict=True):
            counts = {"term": own, "open": gated_in, "joint": joint, "batch": every}
            factor = term.normalizer(batch, own, counts[term.normalizer.scope])
            for further in (gate, *(correction(batch) for correction in term.corrections)):
                factor = factor if further is None else factor * further
            scale = torch.where(own.tokens, term.coefficient * factor, 0.0)
            rule = One() if term.advantage.is_late else term.advantage
            advantage = rule(batch).expand(batch.mask.shape)
            parts.append(TermPlan(own.tokens, advantage, scale, _batch_weight(term, batch)))
        plan = Plan(self, batch, tuple(parts))
        return replace(plan, bonus=self._bonus(plan)) if self.entropy_bonus else plan

    def _bonus(self, plan: Plan) -> Tensor:
        """(N, T) c over the number of tokens of all rows whose weight can be nonzero."""
        tokens = plan.batch.mask & plan.nonzero_rows()[:, None]
        count = plan.batch.all_sum(tokens.sum()).double().clamp(min=1)
        return torch.where(tokens, self.entropy_bonus / count, 0.0)

    def _check(self, batch: TrajectoryBatch, partial: bool) -> None:
        for name in sorted(self.needs - {"logp", "entropy"}):
            batch.require(name, self.name)
        if partial or not batch.all_sum(batch.mask.sum()):
            return
        kinds: tuple[Samples, ...] = ("offline", "online")
        for kind, remedy in zip(kinds, ("add demonstrations", "add rollouts"), strict=True):
            reads = any(term.samples == kind for term in self.terms)
            if reads and not batch.all_sum(batch.rows_of(kind).sum()):
                raise UpgeError(
                    f"{self.name} has an {kind} term, but the batch has no {kind} samples; {remedy}"
                )


@dataclass(frozen=True)
class TermPlan:
    """A term's factors that don't depend on the current policy, (N, T).

    ``advantage`` is 1 where it does. ``batch_weight`` is the entropy weight of the whole batch, if
    the term has one and it is known.
    """

    tokens: Tensor
    advantage: Tensor
    scale: Tensor
    batch_weight: Tensor | None

    def nonzero(self) -> Tensor:
        """(N, T) bool: tokens whose weight can be nonzero."""
        return self.scale * self.advantage != 0

    def select(self, rows: Tensor) -> TermPlan:
        tensors = (self.tokens[rows], self.advantage[rows], self.scale[rows])
        return TermPlan(*tensors, self.batch_weight)


def _batch_weight(term: Term, batch: TrajectoryBatch) -> Tensor | None:
    if term.entropy_weight is None or not term.weighs_by_batch or batch.entropy is None:
        return None
    return term.entropy_weight(batch, term.samples)


@dataclass(frozen=True)
class Plan:
    """An estimator on a batch before the forward pass; micro-batches are selections of it."""

    estimator: Estimator
    batch: TrajectoryBatch
    parts: tuple[TermPlan, ...]
    bonus: Tensor | None = None

    def nonzero_rows(self) -> Tensor:
        """(N,) bool: rows whose weight can be nonzero for some policy."""
        return torch.stack([part.nonzero().any(1) for part in self.parts]).any(0)

    def gated_in(self) -> Tensor:
        """(N,) bool: rows that some term reads with an open gate, whatever their advantage."""
        return torch.stack([(part.scale != 0).any(1) for part in self.parts]).any(0)

    def select(self, rows: Tensor) -> Plan:
        """The plan for some rows, with the whole batch's normalizers.

        Raises:
            UpgeError: a weight needs the whole batch's entropy, which was not known when planned.
        """
        if self.estimator.weighs_by_batch and self.batch.entropy is None:
            raise UpgeError(
                f"{self.estimator.name} weighs by the whole batch's entropy: set the batch's "
                "entropy before planning, then split it"
            )
        parts = tuple(part.select(rows) for part in self.parts)
        bonus = None if self.bonus is None else self.bonus[rows]
        return Plan(self.estimator, self.batch.select(rows), parts, bonus)

    def estimate(self, logp: Tensor, entropy: Tensor | None = None) -> Estimate:
        """Loss, weights and metrics; ``logp`` (N, T) has gradient.

        Values are not looked at, which would wait for a GPU: a NaN ends in the loss. ``entropy``
        has gradient where there is an entropy bonus; weights take it as a constant.

        Raises:
            UpgeError: another shape than the mask's; entropies that are needed and lacking.
        """
        return self._estimate(self.batch.at(logp, entropy, check=False), logp, entropy)

    def _estimate(self, batch: TrajectoryBatch, logp: Tensor, entropy: Tensor | None) -> Estimate:
        for name in self.estimator.needs:
            batch.require(name, self.estimator.name)
        pairs = zip(self.estimator.terms, self.parts, strict=True)
        terms = tuple(_estimate_term(term, part, batch) for term, part in pairs)
        weights = torch.stack([term.weights for term in terms]).sum(0)
        loss = -(weights * torch.where(batch.mask, logp, 0.0)).sum()
        if self.bonus is not None and entropy is not None:
            bonus = self.bonus.to(batch.dtype)
            loss = loss - (bonus * torch.where(batch.mask, entropy, 0.0)).sum()
        return Estimate(loss, weights, terms, batch)


def _estimate_term(term: Term, part: TermPlan, batch: TrajectoryBatch) -> TermEstimate:
    seen = batch.of_demonstrations() if "demo_logp" in term.needs else batch
    log_ratio = seen.require("logp", "the estimator") - term.reference(seen)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    advantage = term.advantage(batch) if term.advantage.is_late else part.advantage
    stabilizer = term.stabilization(seen, advantage.to(batch.dtype))
    static = (part.scale * advantage).to(batch.dtype)
    weights = static * stabilizer * ratio * term.shaping(batch)
    if part.batch_weight is not None:
        weights = weights * part.batch_weight
    elif term.entropy_weight is not None:
        weights = weights * term.entropy_weight(batch, term.samples)
    active = static != 0
    return TermEstimate(torch.where(active, weights, 0.0), ratio, stabilizer, active)


def compose(*terms: Term, name: str = "custom") -> Estimator:
    """The sum of ``terms``: ``compose(Term(...), Term(...))``.

    Raises:
        UpgeError: no terms.
    """
    return Estimator(terms, name)
