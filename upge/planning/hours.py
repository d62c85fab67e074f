"""Seconds that work takes: FLOPs and memory traffic, at assumed shares of a GPU's peaks.

Left out: communication, start-up, grading, checkpoints; and that a batch of rollouts waits for its
longest one, but for the least time that takes; and that the loop's own sampler keeps room for the
longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from upge.planning.cluster import Cluster
from upge.planning.flops import block_flops, head_flops, training_flops
from upge.planning.memory import BFLOAT16, FLOAT32
from upge.planning.shapes import ModelShape
from upge.planning.workload import Batch, Work
from upge.rollouts.backends import ENGINES, Backend
from upge.rollouts.cached import LOGIT_BYTES, memory_held, rows_held

_GIGA, _TERA = 1e9, 1e12


@dataclass(frozen=True)
class Cost:
    """Of some work.

    Attributes:
        sampled_tokens, trained_tokens: responses' tokens, and those of whole trained sequences.
        sampling_flops, training_flops: of these.
        sampling_seconds, training_seconds: likewise.
    """

    sampled_tokens: float
    trained_tokens: float
    sampling_flops: float
    training_flops: float
    sampling_seconds: float
    training_seconds: float

    def __add__(self, other: Cost) -> Cost:
        """Of both."""
        return Cost(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def __mul__(self, factor: float) -> Cost:
        """Of the same many times over."""
        return Cost(*(factor * part for part in self.parts))

    @property
    def parts(self) -> tuple[float, ...]:
        """All numbers."""
        return tuple(vars(self).values())

    @property
    def seconds(self) -> float:
        """One after the other."""
        return self.sampling_seconds + self.training_seconds

    @property
    def flops(self) -> float:
        """All."""
        return self.sampling_flops + self.training_flops


NOTHING = Cost(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Setting:
    """What is trained, on what, and how it is sampled from.

    Args:
        shape: the model.
        cluster: the machine.
        backend: of rollouts.
        mixed: whether matrix products are in bfloat16.
    """

    shape: ModelShape
    cluster: Cluster
    backend: Backend
    mixed: bool

    @property
    def has_engine(self) -> bool:
        """Whether every GPU has an engine with weights of its own, beside the policy."""
        return self.backend in ENGINES

    @property
    def sampler_size(self) -> int:
        """Bytes of a number while sampling: the loop's own sampler has the float32 weights."""
        return BFLOAT16 if self.has_engine and self.mixed else FLOAT32


def step_cost(setting: Setting, work: Work) -> Cost:
    """Of one training step."""
    shape, cluster = setting.shape, setting.cluster
    flops = sum(_training(shape, batch, cluster.checkpointing) for batch in work.trained)
    flops += sum(_forward(shape, batch) for batch in work.scored)
    peak = cluster.gpus * cluster.type.tflops * _TERA * cluster.use_of_flops
    trained = sum(batch.tokens for batch in work.trained)
    sampling = sampling_cost(setting, work.sampled, cluster.gpus)
    return Cost(0, trained, 0, flops, 0, flops / peak) + sampling


def _training(shape: ModelShape, batch: Batch, checkpointing: bool) -> float:
    tokens, pairs, scored = round(batch.tokens), round(batch.pairs), round(batch.scored)
    return training_flops(shape, tokens, pairs, scored, checkpointing=checkpointing)


def _forward(shape: ModelShape, batch: Batch) -> float:
    blocks = block_flops(shape, round(batch.tokens), round(batch.pairs))
    return blocks + head_flops(shape, round(batch.scored))


def sampling_cost(setting: Setting, batch: Batch, gpus: int) -> Cost:
    """Of sampling responses token by token, on so many of the GPUs.

    Every token reads the weights, which the sequences sampled together share, and its own
    sequence's cache. What takes longest, that, the FLOPs or the launch of kernels, is the time.
    """
    if not batch.sequences:
        return NOTHING
    shape, cluster = setting.shape, setting.cluster
    flops = _forward(shape, batch)
    own = ceil(batch.sequences / gpus)
    together = min(own, concurrency(setting, batch.prompt + batch.response))
    if together < 1:
        return Cost(batch.scored, 0, flops, 0, float("inf"), 0)
    size = setting.sampler_size
    rounds = ceil(own / together) * batch.response
    read = float(rounds * size * shape.parameters)
    read += shape.cache_bytes(size) * own * batch.response * (batch.prompt + batch.response / 2)
    traffic = read / (cluster.type.bandwidth * _GIGA * cluster.use_of_bandwidth)
    products = flops / gpus / (cluster.type.tflops * _TERA * cluster.use_of_flops)
    launches = 0.0 if setting.has_engine else rounds * shape.layers * cluster.layer_seconds
    return Cost(batch.scored, 0, flops, 0, max(traffic, products, launches), 0)


def concurrency(setting: Setting, length: int) -> int:
    """Sequences of so many tokens whose caches a sampler holds at a time."""
    shape, cluster = setting.shape, setting.cluster
    if not setting.has_engine:
        return rows_held(memory_held("cuda"), loop_row_bytes(shape, length))
    size = setting.sampler_size
    free = cluster.type.memory * _GIGA * cluster.sampler_memory - size * shape.parameters
    return int(max(free // (shape.cache_bytes(size) * length), 0))


def loop_row_bytes(shape: ModelShape, length: float) -> int:
    """Of a sequence in the loop's own sampler: its cache, and its next token's logits."""
    return int(length * shape.cache_bytes(FLOAT32) + shape.vocabulary * LOGIT_BYTES)
