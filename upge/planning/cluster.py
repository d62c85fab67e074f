"""The machine that a run is planned for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from upge.config import build_dataclass, load, read_yaml
from upge.errors import UpgeError, unknown
from upge.planning.memory import Sharding

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
    layer_seconds: float = 1e-3
    use_of_flops: float = 0.35
    use_of_bandwidth: float = 0.5

    def __post_init__(self) -> None:
        if self.gpu not in gpu_types():
            raise unknown("GPU type", self.gpu, gpu_types())
        if self.gpus < 1:
            raise UpgeError(f"gpus: got {self.gpus}, wanted at least 1")
        for name in ("sampler_memory", "use_of_flops", "use_of_bandwidth"):
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


def load_cluster(path: Path | None, gpu: str | None = None, gpus: int | None = None) -> Cluster:
    """The cluster in a YAML file, or the default one; with another type or number of GPUs.

    Raises:
        UpgeError: see :func:`upge.config.load` and :class:`Cluster`.
    """
    cluster = Cluster() if path is None else load(path, Cluster)
    given = {"gpu": gpu, "gpus": gpus}
    return replace(cluster, **{name: x for name, x in given.items() if x is not None})  # type: ignore[arg-type]
