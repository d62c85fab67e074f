"""Tokens, FLOPs and seconds of a run, from the terms of its algorithms.

A multiplication with its addition counts as two FLOPs, and only matrix products count. Seconds are
FLOPs and memory traffic at assumed shares of a GPU's peaks. They leave out communication, start-up,
grading and checkpoints, and that a batch of rollouts waits for its longest one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from upge.feedback import Switch
from upge.models.shapes import ModelShape
from upge.planning.memory import sequences_held
from upge.planning.setting import Lengths, Setting
from upge.training.config import Stage


@dataclass(frozen=True)
class Cost:
    """What some work takes.

    Attributes:
        sampled_tokens: tokens of responses.
        trained_tokens: tokens of trained sequences, prompts included.
        flops: of everything.
        sampling_seconds, training_seconds: one after the other.
    """

    sampled_tokens: float = 0
    trained_tokens: float = 0
    flops: float = 0
    sampling_seconds: float = 0
    training_seconds: float = 0

    @property
    def seconds(self) -> float:
        """Time in all."""
        return self.sampling_seconds + self.training_seconds

    def __mul__(self, times: float) -> Cost:
        """The cost of the same work many times over."""
        return Cost(*(times * part for part in vars(self).values()))


def total(costs: Iterable[Cost]) -> Cost:
    """The cost of all of it."""
    return Cost(*map(sum, zip(*(vars(cost).values() for cost in costs), strict=True)))


@dataclass(frozen=True)
class Batch:
    """Sequences that are alike.

    Args:
        sequences: how many.
        prompt, response: tokens of each; the response's are scored.
    """

    sequences: float
    prompt: int
    response: int

    @property
    def tokens(self) -> float:
        """All tokens."""
        return self.sequences * (self.prompt + self.response)

    @property
    def scored(self) -> float:
        """Response tokens."""
        return self.sequences * self.response

    @property
    def pairs(self) -> float:
        """Pairs of a query and a key that it sees."""
        length = self.prompt + self.response
        return self.sequences * length * (length + 1) / 2

    def __mul__(self, times: float) -> Batch:
        """As many times the sequences."""
        return Batch(self.sequences * times, self.prompt, self.response)


class Work(NamedTuple):
    """Rollouts, sequences that are trained on, and sequences with another forward pass alone."""

    sampled: Batch
    trained: tuple[Batch, ...]
    scored: tuple[Batch, ...]


def step_work(stage: Stage, lengths: Lengths, gated: float, *, has_engine: bool = False) -> Work:
    """The work of one step; rows that turn out to have no weight are counted.

    Args:
        stage: what is trained.
        lengths: of its sequences.
        gated: share of prompts trained on their demonstration, under a switch.
        has_engine: whether an engine samples, so that the policy scores the rollouts once more.
    """
    terms, prompts = stage.estimator.terms, stage.prompts_per_step
    samples = prompts * stage.group_size if stage.samples_rollouts else 0
    shown = prompts if stage.reads_demonstrations else 0
    rollouts = Batch(samples, lengths.prompt, lengths.response)
    demonstrations = Batch(shown, lengths.prompt, lengths.demonstration)
    online = float(any(term.samples != "offline" for term in terms))
    gates = [term.gate for term in terms]
    # Under a switch a prompt trains on its rollouts or on its demonstration, never on both.
    if all(gate is not None and isinstance(gate.feedback, Switch) for gate in gates):
        trained = (rollouts * (online * (1 - gated)), demonstrations * gated)
    else:
        trained = (rollouts * online, demonstrations)
    scored = (rollouts, demonstrations) if stage.estimator.weighs_by_batch else ()
    return Work(
        rollouts,
        tuple(batch * stage.epochs for batch in trained),
        tuple(batch * stage.epochs for batch in scored) + (rollouts,) * has_engine,
    )


def run_cost(setting: Setting) -> Cost:
    """The cost of all stages and evaluations."""
    stages = [stage_cost(setting, stage) for stage in setting.config.stages]
    return total([*stages, evaluation_cost(setting)])


def stage_cost(setting: Setting, stage: Stage) -> Cost:
    """The cost of all steps of a stage."""
    shape, assumed = setting.shape, setting.assumed
    work = step_work(stage, setting.lengths, assumed.gated, has_engine=setting.has_engine)
    flops = sum(training_flops(shape, batch, assumed.checkpointing) for batch in work.trained)
    flops += sum(_forward_flops(shape, batch) for batch in work.scored)
    trained = Cost(
        trained_tokens=sum(batch.tokens for batch in work.trained),
        flops=flops,
        training_seconds=_seconds(setting, flops / assumed.gpus),
    )
    return total([trained, sampling_cost(setting, work.sampled, assumed.gpus)]) * stage.steps


def evaluation_cost(setting: Setting) -> Cost:
    """The cost of validations and of the last test, which one process makes while others wait."""
    config, assumed = setting.config.evaluation, setting.assumed
    validations = ceil(setting.config.steps / config.every) if config.every else 0
    tests = 1 if config.test_samples else 0

    def cost(responses: int) -> Cost:
        batch = Batch(responses, setting.lengths.prompt, setting.lengths.response)
        return sampling_cost(setting, batch, gpus=1)

    validation, test = cost(assumed.validation_responses), cost(assumed.test_responses)
    return total([validation * validations, test * tests])


def sampling_cost(setting: Setting, batch: Batch, gpus: int) -> Cost:
    """The cost of sampling responses token by token, on so many of the GPUs.

    Every token reads the weights, which the sequences sampled together share, and the cache of
    its sequence. The slowest of that, the FLOPs and the kernel launches is the time.
    """
    if not batch.sequences:
        return Cost()
    shape, assumed, size = setting.shape, setting.assumed, setting.sampler_size
    rows = ceil(batch.sequences / gpus)
    together = min(rows, max(sequences_held(setting, batch.prompt + batch.response), 1))
    rounds = ceil(rows / together) * batch.response
    weights = rounds * size * shape.parameters
    caches = shape.cache_bytes(size) * rows * batch.response * (batch.prompt + batch.response / 2)
    flops = _forward_flops(shape, batch)
    seconds = max(
        (weights + caches) / (setting.gpu.bandwidth * assumed.use_of_bandwidth),
        _seconds(setting, flops / gpus),
        0 if setting.has_engine else rounds * shape.num_hidden_layers * assumed.layer_seconds,
    )
    return Cost(sampled_tokens=batch.scored, flops=flops, sampling_seconds=seconds)


def _seconds(setting: Setting, flops: float) -> float:
    """Time of so many FLOPs on one GPU."""
    return flops / (setting.gpu.flops * setting.assumed.use_of_flops)


def training_flops(shape: ModelShape, batch: Batch, checkpointing: bool) -> float:
    """FLOPs of a forward and a backward pass.

    A backward pass costs two forward passes. Logits are recomputed in it (chunked likelihood), and
    under activation checkpointing so are the blocks, except for the very last product of each.
    """
    passes = 4 if checkpointing else 3
    return passes * _block_flops(shape, batch) + 4 * _head_flops(shape, batch)


def _forward_flops(shape: ModelShape, batch: Batch) -> float:
    return _block_flops(shape, batch) + _head_flops(shape, batch)


def _block_flops(shape: ModelShape, batch: Batch) -> float:
    products = batch.tokens * shape.layer_matrix + 2 * batch.pairs * shape.query_width
    return 2 * shape.num_hidden_layers * products


def _head_flops(shape: ModelShape, batch: Batch) -> float:
    return 2 * batch.scored * shape.vocab_size * shape.hidden_size
