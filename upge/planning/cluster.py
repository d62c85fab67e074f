"""The machine that a run is planned for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upge.common.config import build_dataclass, load, read_yaml
from upge.common.errors import UpgeError, unknown
from upge.planning.memory import Sharding

#: GPUs that nobody has more of.
_MOST_GPUS = 10**6

_GPUS = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True)
class GPU:
    """A type of GPU.

    Args:
        memory: GB (10⁹ bytes).
        tflops: peak of dense bfloat16 matrix products, 10¹² FLOP/s.
        bandwidth: of its memory, GB/s.
        source: where the numbers are from.
    """

    memory: float
    tflops: float
    bandwidth: float
    source: str


@dataclass(frozen=True)
class Cluster:
    """GPUs, and how a run is spread over them.

    Args:
        gpu: the type, one of ``gpus.yaml``.
        gpus: how many.
        sharding: what is spread over them.
        mixed: whether matrix products are in bfloat16, where the run leaves that to the launcher.
        checkpointing: whether activations are computed anew in the backward pass.
        offload: whether the optimizer's state lies in the host's memory.
        sampler_memory: share of a GPU's memory that a vLLM engine takes (``UPGE_VLLM_MEMORY``).
        evaluator_memory: likewise for ``upge evaluate`` after the run, which has a GPU to itself.
        layer_seconds: the least time that the loop's own sampler takes for a block and a token of
            all sequences together: Python and the launch of kernels; assumed.
        use_of_flops, use_of_bandwidth: shares of the peaks that are reached; assumed, never
            measured here.
    """

    gpu: str = "a800"
    gpus: int = 8
    sharding: Sharding = "full"
    mixed: bool = True
    checkpointing: bool = True
    offload: bool = False
    sampler_memory: float = 0.3
    evaluator_memory: float = 0.9
    layer_seconds: float = 1e-3
    use_of_flops: float = 0.35
    use_of_bandwidth: float = 0.5

    def __post_init__(self) -> None:
        if self.gpu not in gpu_types():
            raise unknown("GPU type", self.gpu, gpu_types())
        if not 1 <= self.gpus <= _MOST_GPUS:
            raise UpgeError(f"gpus: got {self.gpus!s:.20}, wanted at least 1, at most {_MOST_GPUS}")
        if not 0 <= self.layer_seconds < float("inf"):
            raise UpgeError(f"layer_seconds: got {self.layer_seconds}, wanted a time of 0 or more")
        for name in ("sampler_memory", "evaluator_memory", "use_of_flops", "use_of_bandwidth"):
            if not 0 < getattr(self, name) <= 1:
                raise UpgeError(
                    f"{name}: got {getattr(self, name)}, wanted a share above 0 and at most 1"
                )

    @property
    def type(self) -> GPU:
        """The GPU's numbers."""
        return gpu_types()[self.gpu]


def gpu_types() -> dict[str, GPU]:
    """The types in ``gpus.yaml``."""
    return {name: build_dataclass(given, GPU) for name, given in read_yaml(_GPUS).items()}


def load_cluster(
    path: Path | None, gpu: str | None = None, gpus: int | None = None, launch: Path | None = None
) -> Cluster:
    """The cluster in a YAML file, or the default one.

    Args:
        path: the file.
        gpu: another type of GPU.
        gpus: another number of them.
        launch: a configuration of ``accelerate launch``, see :func:`launched`.

    Raises:
        UpgeError: see :func:`upge.common.config.load`, :func:`launched` and :class:`Cluster`.
    """
    cluster = Cluster() if path is None else load(path, Cluster)
    if launch is not None:
        cluster = launched(cluster, launch)
    given = {"gpu": gpu, "gpus": gpus}
    return replace(cluster, **{name: x for name, x in given.items() if x is not None})  # type: ignore[arg-type]


#: What a stage of DeepSpeed's ZeRO spreads.
_ZERO: dict[Any, Sharding] = {0: "none", 1: "optimizer", 2: "gradients", 3: "full"}

#: What Accelerate's kinds of launch spread; None where a stage of ZeRO says it.
_KINDS: dict[Any, Sharding | None] = {
    "NO": "none",
    "MULTI_GPU": "none",
    "FSDP": "full",
    "DEEPSPEED": None,
}

#: Accelerate's words for the precision of products, and whether that is mixed; YAML reads a bare
#: ``no`` as false.
_MIXED: dict[Any, bool] = {"no": False, False: False, "bf16": True, "fp16": True}


def launched(cluster: Cluster, path: Path) -> Cluster:
    """The cluster, with a run spread over it as a configuration of ``accelerate launch`` does.

    From it come the number of processes, what is sharded or offloaded, mixed precision and
    activation checkpointing; what it leaves out has Accelerate's default.

    Raises:
        UpgeError: a file that can't be read, or a launch that the training loop doesn't know.
    """
    given = read_yaml(path)
    fsdp, zero = (_mapping(path, given, name) for name in ("fsdp_config", "deepspeed_config"))
    sharding = _one_of(path, given, "distributed_type", "NO", _KINDS)
    if sharding is None:
        sharding = _one_of(path, zero, "zero_stage", 2, _ZERO)
    gpus = given.get("num_processes", 1)
    if type(gpus) is not int:
        raise UpgeError(f"{path}: num_processes: got {gpus!r}, wanted a whole number")
    return replace(
        cluster,
        gpus=gpus,
        sharding=sharding,
        mixed=_one_of(path, given, "mixed_precision", "no", _MIXED),
        checkpointing=fsdp.get("fsdp_activation_checkpointing") is True,
        offload=zero.get("offload_optimizer_device", "none") != "none"
        or fsdp.get("fsdp_offload_params") is True,
    )


def _mapping(path: Path, given: dict[str, Any], name: str) -> dict[str, Any]:
    found = given.get(name) or {}
    if not isinstance(found, dict):
        raise UpgeError(f"{path}: {name}: got {found!r}, wanted a mapping of keys to values")
    return found


def _one_of(path: Path, given: dict[str, Any], name: str, default: Any, known: Any) -> Any:
    value = given.get(name, default)
    if not isinstance(value, str | int) or value not in known:
        wanted = " or ".join(str(key) for key in known if key is not False)
        raise UpgeError(f"{path}: {name}: got {value!r}, wanted {wanted}")
    return known[value]
