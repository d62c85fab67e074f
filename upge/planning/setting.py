"""The machine that a run is planned for, and what no configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, PositiveInt

from upge.common.config import Config, build, read_yaml
from upge.models.shapes import ModelShape, shape_of
from upge.rollouts.backends import ENGINES
from upge.training.config import RunConfig

#: Bytes of a number.
FLOAT32, BFLOAT16 = 4, 2


class GPU(NamedTuple):
    """Bytes of memory, peak FLOP/s of dense bfloat16 products, bytes/s to and from memory."""

    memory: float
    flops: float
    bandwidth: float


#: From NVIDIA's data sheets, which print twice these FLOP/s where they assume sparsity. The A800 is
#: the A100 with a slower NVLink; the RTX 4090's FLOP/s are those with float32 accumulation.
GPUS = {
    "a100": GPU(80e9, 312e12, 2039e9),
    "a800": GPU(80e9, 312e12, 2039e9),
    "h100": GPU(80e9, 989e12, 3350e9),
    "h200": GPU(141e9, 989e12, 4800e9),
    "rtx4090": GPU(24e9, 165e12, 1008e9),
}

_Share = Annotated[float, Field(gt=0, le=1)]
_Tokens = Annotated[int, Field(gt=0, le=10**9)]
_Responses = Annotated[int, Field(ge=0, le=10**9)]


class Assumptions(Config):
    """The machine, and what no run configuration says; :func:`load_assumptions` reads them.

    Args:
        gpu: type of GPU.
        gpus: how many.
        sharding: what is spread over them: nothing (DDP); float32 weights, gradients and moments
            beside whole bfloat16 weights (ZeRO-2); everything (FSDP2, ZeRO-3).
        mixed: whether matrix products are in bfloat16, unless the run says so itself.
        checkpointing: whether the backward pass recomputes activations.
        offload: whether the optimizer's state is in the host's memory.
        sampler_memory: share of a GPU's memory that a vLLM engine takes (``UPGE_VLLM_MEMORY``).
        layer_seconds: the least time a block takes for a token of all sequences together in the
            built-in sampler (Python and kernel launches).
        use_of_flops, use_of_bandwidth: shares of the GPU's peaks that are reached.
        prompt: mean tokens.
        response, demonstration: mean tokens; None for the run's ``max_tokens``.
        gated: share of prompts trained on their demonstration, under HPT's switch.
        validation_responses, test_responses: of a validation, and of the test after the last step.
    """

    gpu: Literal["a100", "a800", "h100", "h200", "rtx4090"] = "a800"
    gpus: Annotated[int, Field(gt=0, le=10**6)] = 8
    sharding: Literal["none", "gradients", "full"] = "full"
    mixed: bool = True
    checkpointing: bool = True
    offload: bool = False
    sampler_memory: _Share = 0.3
    layer_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    use_of_flops: _Share = 0.35
    use_of_bandwidth: _Share = 0.5
    prompt: _Tokens = 150
    response: _Tokens | None = None
    demonstration: _Tokens | None = None
    gated: Annotated[float, Field(ge=0, le=1)] = 0.5
    validation_responses: _Responses = 0
    test_responses: _Responses = 0


def load_assumptions(
    *files: Path, launch: Path | None = None, gpu: str | None = None, gpus: int | None = None
) -> Assumptions:
    """The assumptions in YAML files, over the defaults.

    Args:
        files: later ones override earlier ones.
        launch: a configuration of ``accelerate launch``, which overrides the files; what it leaves
            out has Accelerate's default.
        gpu: type of GPU, overriding all others.
        gpus: number of GPUs, overriding all others.

    Raises:
        UpgeError: a file that cannot be read, an unknown key, a value out of its range, or a launch
            that the training loop does not support.
    """
    values: dict[str, Any] = {}
    for path in files:
        values |= read_yaml(path)
    if launch is not None:
        values |= build(read_yaml(launch), _Launch).assumptions()
    values |= {key: x for key, x in {"gpu": gpu, "gpus": gpus}.items() if x is not None}
    return build(values, Assumptions)


class _LaunchPart(Config):
    """Keys that a plan reads; it ignores all others."""

    model_config = ConfigDict(extra="ignore")


class _FSDP(_LaunchPart):
    fsdp_activation_checkpointing: bool = False
    fsdp_offload_params: bool = False


class _DeepSpeed(_LaunchPart):
    zero_stage: Literal[2, 3] = 2
    offload_optimizer_device: str = "none"


class _Launch(_LaunchPart):
    """A configuration of ``accelerate launch``, with Accelerate's defaults."""

    distributed_type: Literal["NO", "MULTI_GPU", "FSDP", "DEEPSPEED"] = "NO"
    # YAML reads a bare ``no`` as false.
    mixed_precision: Literal["no", "bf16", "fp16", False] = "no"
    num_processes: PositiveInt = 1
    fsdp_config: _FSDP = _FSDP()
    deepspeed_config: _DeepSpeed = _DeepSpeed()

    def assumptions(self) -> dict[str, Any]:
        """As the keys of :class:`Assumptions`."""
        sharded_by_zero = {2: "gradients", 3: "full"}[self.deepspeed_config.zero_stage]
        sharding = {"FSDP": "full", "DEEPSPEED": sharded_by_zero}
        return {
            "gpus": self.num_processes,
            "sharding": sharding.get(self.distributed_type, "none"),
            "mixed": self.mixed_precision in ("bf16", "fp16"),
            "checkpointing": self.fsdp_config.fsdp_activation_checkpointing,
            "offload": self.fsdp_config.fsdp_offload_params
            or self.deepspeed_config.offload_optimizer_device != "none",
        }


class Lengths(NamedTuple):
    """Mean tokens of prompts, responses and demonstrations."""

    prompt: int
    response: int
    demonstration: int


@dataclass(frozen=True)
class Setting:
    """A run, its model's shape, and the assumptions that it is planned under."""

    config: RunConfig
    shape: ModelShape
    assumed: Assumptions

    @property
    def gpu(self) -> GPU:
        """The GPU's numbers."""
        return GPUS[self.assumed.gpu]

    @property
    def mixed(self) -> bool:
        """Whether matrix products are in bfloat16."""
        precision = self.config.precision
        return self.assumed.mixed if precision is None else precision == "bfloat16"

    @property
    def has_engine(self) -> bool:
        """Whether every GPU holds an engine with its own weights, beside the policy."""
        return self.config.backend in ENGINES

    @property
    def sampler_size(self) -> int:
        """Bytes of a number while sampling: the built-in sampler has the float32 weights."""
        return BFLOAT16 if self.has_engine and self.mixed else FLOAT32

    @property
    def lengths(self) -> Lengths:
        """The assumed lengths; responses and demonstrations have at most ``max_tokens``."""
        limit, assumed = self.config.max_tokens, self.assumed
        means = (min(x or limit, limit) for x in (assumed.response, assumed.demonstration))
        return Lengths(assumed.prompt, *means)

    @property
    def longest(self) -> int:
        """Tokens of a prompt and the longest response."""
        return self.assumed.prompt + self.config.max_tokens


def setting_of(config: RunConfig, assumed: Assumptions) -> Setting:
    """The run under these assumptions.

    Raises:
        UpgeError: a model of unknown shape.
    """
    return Setting(config, shape_of(config.model), assumed)
