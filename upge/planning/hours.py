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


def step_cost(shape: ModelShape, cluster: Cluster, work: Work) -> Cost:
    """Of one training step."""
    flops = sum(_training(shape, batch, cluster.checkpointing) for batch in work.trained)
    flops += sum(_forward(shape, batch) for batch in work.scored)
    peak = cluster.gpus * cluster.type.tflops * _TERA * cluster.use_of_flops
    trained = sum(batch.tokens for batch in work.trained)
    return Cost(0, trained, 0, flops, 0, flops / peak) + sampling_cost(shape, cluster, work.sampled)


def _training(shape: ModelShape, batch: Batch, checkpointing: bool) -> float:
    tokens, pairs, scored = round(batch.tokens), round(batch.pairs), round(batch.scored)
    return training_flops(shape, tokens, pairs, scored, checkpointing=checkpointing)


def _forward(shape: ModelShape, batch: Batch) -> float:
    blocks = block_flops(shape, round(batch.tokens), round(batch.pairs))
    return blocks + head_flops(shape, round(batch.scored))


def sampling_cost(shape: ModelShape, cluster: Cluster, batch: Batch) -> Cost:
    """Of sampling responses token by token.

    Every token reads the weights, which the sequences sampled together share, and its own
    sequence's cache. What takes longest, that, the FLOPs or the launch of kernels, is the time.
    """
    if not batch.sequences:
        return NOTHING
    flops = _forward(shape, batch)
    engine_gpus = cluster.tensor_parallel if cluster.sampler == "vllm" else 1
    engines = cluster.gpus // engine_gpus
    own = ceil(batch.sequences / engines)
    together = min(own, concurrency(shape, cluster, batch.prompt + batch.response))
    if together < 1:
        return Cost(batch.scored, 0, flops, 0, float("inf"), 0)
    size = sampler_size(cluster)
    rounds = ceil(own / together) * batch.response
    read = float(rounds * size * shape.parameters)
    read += shape.cache_bytes(size) * own * batch.response * (batch.prompt + batch.response / 2)
    gpu = cluster.type
    traffic = read / (engine_gpus * gpu.bandwidth * _GIGA * cluster.use_of_bandwidth)
    products = flops / engines / (engine_gpus * gpu.tflops * _TERA * cluster.use_of_flops)
    launches = rounds * shape.layers * cluster.layer_seconds if cluster.sampler == "loop" else 0.0
    return Cost(batch.scored, 0, flops, 0, max(traffic, products, launches), 0)


def sampler_size(cluster: Cluster) -> int:
    """Bytes of a number while sampling: the loop's own sampler has the trained float32 weights."""
    return BFLOAT16 if cluster.sampler == "vllm" else FLOAT32


def concurrency(shape: ModelShape, cluster: Cluster, length: int) -> float:
    """Sequences of so many tokens whose caches a sampler holds at a time."""
    if cluster.sampler == "loop":
        return rows_held(memory_held("cuda"), loop_row_bytes(shape, length))
    engine = cluster.tensor_parallel * cluster.type.memory * _GIGA * cluster.sampler_memory
    free = engine - BFLOAT16 * shape.parameters
    return max(free // (shape.cache_bytes(BFLOAT16) * length), 0)


def loop_row_bytes(shape: ModelShape, length: float) -> int:
    """Of a sequence in the loop's own sampler: its cache, and its next token's logits."""
    return int(length * shape.cache_bytes(FLOAT32) + shape.vocabulary * LOGIT_BYTES)
