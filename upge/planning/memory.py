"""Bytes that training and sampling hold on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf

from upge.common.errors import UpgeError
from upge.models.policy import positions_at_a_time
from upge.models.shapes import ModelShape
from upge.planning.setting import BFLOAT16, FLOAT32, Assumptions, Setting, setting_of
from upge.rollouts.cached import memory_held, rows_held
from upge.rollouts.memory import check_gpu_memory, row_bytes
from upge.training.config import RunConfig
from upge.training.launch import launched_processes

#: Bytes for CUDA's context, communication and fragmentation; assumed.
_OVERHEAD = 3 * 10**9

#: Bytes a logit of a chunk: log π, π and the masked log π kept for the backward pass, with a mask;
#: and two gradients while that lasts.
LOGIT_KEPT, _LOGIT_PASSING = 3 * FLOAT32 + 1, 2 * FLOAT32

#: A process by itself; how fast its GPU is does not matter.
_ALONE = Assumptions(gpus=1, sharding="none", checkpointing=False, mixed=False)


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU.

    Attributes:
        training, sampling: bytes by part.
        available: the GPU's bytes.
        sequences: responses of full length that a sampler holds at a time; None if none is sampled.
    """

    training: dict[str, int]
    sampling: dict[str, int]
    available: int
    sequences: int | None

    @property
    def needed(self) -> int:
        """Peak bytes."""
        return max(sum(self.training.values()), sum(self.sampling.values()))

    @property
    def fits(self) -> bool:
        """Whether there is enough for training, and for the cache of at least one response."""
        return self.needed <= self.available and self.sequences != 0


def check_run_memory(config: RunConfig, free: int | None = None) -> None:
    """Refuse a run that needs more memory than is free on this machine's GPU.

    Not checked: several processes, which may shard the model; an engine beside the policy; models
    of unknown shape.

    Args:
        config: the run.
        free: bytes; those of this machine's GPU by default.

    Raises:
        UpgeError: the run needs more than ``free``.
    """
    if launched_processes() > 1 or config.backend != "transformers" or not config.stages:
        return
    try:
        needed = run_memory(setting_of(config, _ALONE)).needed
    except UpgeError:
        return
    remedy = (
        f"lower tokens_per_microbatch (now {config.tokens_per_microbatch}), take a smaller model "
        "or precision: bfloat16, or free the GPU (see upge plan)"
    )
    check_gpu_memory(config.name, needed, remedy, free)


def run_memory(setting: Setting) -> Memory:
    """What a run holds on one GPU."""
    state, sampler = state_bytes(setting), _sampler(setting)
    always = {name: state.pop(name) for name in ("weights", "optimizer", "whole copy")}
    always |= {"overhead (assumed)": _OVERHEAD} | (sampler if setting.has_engine else {})
    activations = {"activations": block_bytes(setting), "logits": logit_bytes(setting)}
    return Memory(
        always | state | activations,
        always | sampler,
        int(setting.gpu.memory),
        sequences_held(setting, setting.longest) if sampler else None,
    )


def state_bytes(setting: Setting) -> dict[str, int]:
    """Bytes of weights, AdamW's moments and gradients on one GPU, and of weights gathered to it."""
    shape, assumed, mixed = setting.shape, setting.assumed, setting.mixed
    gpus, full = assumed.gpus, assumed.sharding == "full"
    whole = FLOAT32 * shape.parameters
    share = whole if assumed.sharding == "none" else -(-whole // gpus)
    sharded = share < whole
    # Fully sharded: the outer parameters, a block, and the next one that is being fetched.
    together = shape.outer_parameters + 2 * shape.layer_parameters if full else shape.parameters
    size = BFLOAT16 if mixed else FLOAT32
    # ZeRO-2 shards float32 weights beside whole ones, whose gradients have the products' size.
    zero2 = assumed.sharding == "gradients"
    return {
        "weights": share,
        "optimizer": 0 if assumed.offload else 2 * share,
        # From which the built-in sampler samples.
        "whole copy": whole if sharded and not setting.has_engine else 0,
        "gradients": -(-size * shape.parameters // gpus) if zero2 else share,
        "gathered": size * together if mixed or zero2 or sharded else 0,
    }


def block_bytes(setting: Setting) -> int:
    """Bytes that the blocks keep of a micro-batch, which under checkpointing are their inputs."""
    shape, tokens = setting.shape, setting.config.tokens_per_microbatch
    block = tokens * block_activations(shape, mixed=setting.mixed)
    inputs = tokens * FLOAT32 * shape.hidden_size
    checkpointing, blocks = setting.assumed.checkpointing, shape.num_hidden_layers
    return blocks * inputs + block if checkpointing else blocks * block


def block_activations(shape: ModelShape, *, mixed: bool) -> int:
    """Bytes a token that one block keeps for its backward pass, under a fused attention kernel.

    Kept: each norm's input, normalized input and output; q, k, v and the attention's output with
    its float32 log-sum-exp; the feed-forward part's gate, its activation, the other factor, and
    their product. Mixed precision has the norms' first two in float32, and their outputs once for
    each of the five products that read them.
    """
    size = BFLOAT16 if mixed else FLOAT32
    norms = shape.hidden_size * (4 * FLOAT32 + size * (5 if mixed else 2))
    attention = size * 2 * (shape.query_width + shape.kv_width)
    log_sum_exp = FLOAT32 * shape.num_attention_heads
    return norms + attention + log_sum_exp + size * 4 * shape.intermediate_size


def logit_bytes(setting: Setting) -> int:
    """Bytes of the logits that exist at a time, kept and passing."""
    vocabulary = setting.shape.vocab_size
    size = LOGIT_KEPT + _LOGIT_PASSING + (BFLOAT16 if setting.mixed else 0)
    chunk = min(positions_at_a_time(vocabulary), setting.config.tokens_per_microbatch)
    return chunk * vocabulary * size


def sequences_held(setting: Setting, length: int) -> int:
    """Responses that a sampler holds at a time, with ``length`` tokens of prompt and response."""
    if setting.has_engine:
        return _engine_cache(setting) // (setting.shape.cache_bytes(setting.sampler_size) * length)
    return rows_held(memory_held("cuda"), row_bytes(setting.shape, setting.sampler_size, length))


def _sampler(setting: Setting) -> dict[str, int]:
    """Bytes of what samples: an engine, or the built-in sampler; nothing where none is sampled."""
    config = setting.config
    rows: list[float] = [
        ceil(stage.prompts_per_step * stage.group_size / setting.assumed.gpus)
        for stage in config.stages
        if stage.samples_rollouts
    ]
    if config.evaluation.every or config.evaluation.test_samples:
        rows.append(inf)  # one process evaluates, with as many rows as it can hold
    if not rows:
        return {}
    if setting.has_engine:
        weights = setting.sampler_size * setting.shape.parameters
        return {"engine's weights": weights, "engine's KV cache": _engine_cache(setting)}
    together = min(max(rows), sequences_held(setting, setting.longest))
    row = row_bytes(setting.shape, setting.sampler_size, setting.longest)
    return {"sampler": int(together) * row}


def _engine_cache(setting: Setting) -> int:
    memory = setting.gpu.memory * setting.assumed.sampler_memory
    return max(int(memory) - setting.sampler_size * setting.shape.parameters, 0)
