"""Tokens that a stage's step samples and trains on, from the terms of its algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from upge.estimator import Term
from upge.feedback import Switch
from upge.training.config import Stage
from upge.training.gradient import weighs_by_batch


@dataclass(frozen=True)
class Lengths:
    """Tokens of a sequence's parts, and how many questions are gated.

    Args:
        prompt: of a question.
        response: of a rollout.
        demonstration: of a demonstration.
        gated: share of questions that learn from their demonstration under a switch; None for the
            share that costs most.
    """

    prompt: int
    response: int
    demonstration: int
    gated: float | None = None


@dataclass(frozen=True)
class Batch:
    """Sequences of one kind that are alike.

    Args:
        sequences: how many.
        prompt, response: tokens of each; the response's are scored.
    """

    sequences: float
    prompt: int
    response: int

    @property
    def tokens(self) -> float:
        """Of all of them, prompts included."""
        return self.sequences * (self.prompt + self.response)

    @property
    def scored(self) -> float:
        """Response tokens of all of them."""
        return self.sequences * self.response

    @property
    def pairs(self) -> float:
        """Of a query and a key."""
        length = self.prompt + self.response
        return self.sequences * length * (length + 1) / 2


@dataclass(frozen=True)
class Work:
    """What a step does.

    Attributes:
        sampled: rollouts.
        trained: sequences with a forward and a backward pass, all epochs together.
        scored: sequences with another forward pass alone.
    """

    sampled: Batch
    trained: tuple[Batch, ...]
    scored: tuple[Batch, ...]


def step_work(stage: Stage, lengths: Lengths, *, measures_mismatch: bool = False) -> Work:
    """The work of one step; rows that turn out to have no weight are counted.

    Args:
        stage: what is trained.
        lengths: of its sequences.
        measures_mismatch: whether rollouts are scored once more, since another engine sampled them.
    """
    rollouts = Batch(
        stage.prompts_per_step * stage.group_size if stage.samples_rollouts else 0,
        lengths.prompt,
        lengths.response,
    )
    demonstrations = Batch(
        stage.prompts_per_step if stage.reads_demonstrations else 0,
        lengths.prompt,
        lengths.demonstration,
    )
    online, offline = _open(stage, lengths, rollouts, demonstrations)
    trained = (
        _times(rollouts, online * stage.epochs),
        _times(demonstrations, offline * stage.epochs),
    )
    everything = (_times(rollouts, stage.epochs), _times(demonstrations, stage.epochs))
    scored = everything if weighs_by_batch(stage.estimator) else ()
    return Work(rollouts, trained, scored + (rollouts,) * measures_mismatch)


def _open(
    stage: Stage, lengths: Lengths, rollouts: Batch, demonstrations: Batch
) -> tuple[float, float]:
    """Shares of rollouts and of demonstrations that bear weight."""
    terms = stage.estimator.terms
    online = any(term.samples != "offline" for term in terms)
    offline = any(term.samples != "online" for term in terms)
    if not all(map(_switched, terms)):
        return float(online), float(offline)
    gated = lengths.gated
    if gated is None:
        gated = float(demonstrations.tokens > rollouts.tokens)
    return online * (1 - gated), offline * gated


def _switched(term: Term) -> bool:
    """Whether rollouts and demonstrations of a question exclude each other."""
    return term.gate is not None and isinstance(term.gate.feedback, Switch)


def _times(batch: Batch, factor: float) -> Batch:
    return Batch(batch.sequences * factor, batch.prompt, batch.response)
