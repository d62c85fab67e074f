"""The machine and the assumptions, from files and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from upge.common.config import build
from upge.common.errors import UpgeError
from upge.planning.setting import GPUS, Assumptions, load_assumptions, setting_of
from upge.training.config import RunConfig

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_every_type_of_gpu_can_be_named() -> None:
    assert set(GPUS) == set(get_args(Assumptions.model_fields["gpu"].annotation))


@pytest.mark.parametrize(
    ("assumed", "lengths"),
    [({}, (150, 64, 64)), ({"response": 50, "demonstration": 99, "prompt": 99}, (99, 50, 64))],
)
def test_responses_and_demonstrations_have_at_most_the_run_s_tokens(
    assumed: dict[str, int], lengths: tuple[int, ...]
) -> None:
    stage = {"algorithm": "hpt", "steps": 1, "lr": 1e-3}
    run = build({"name": "r", "max_tokens": 64, "stages": [stage]}, RunConfig)
    assert setting_of(run, Assumptions(**assumed)).lengths == lengths


@pytest.mark.parametrize(
    ("file", "sharding", "mixed", "checkpointing"),
    [
        ("ddp", "none", False, False),
        ("fsdp2", "full", True, True),
        ("deepspeed_zero2", "gradients", True, False),
        ("deepspeed_zero3", "full", True, False),
    ],
)
def test_a_launch_is_planned_as_it_runs(
    tmp_path: Path, file: str, sharding: Any, mixed: bool, checkpointing: bool
) -> None:
    """The launch overrides the file, and the options both."""
    mine = write(tmp_path, "{gpu: h100, gpus: 3, sharding: none, offload: true, prompt: 40}")
    made = load_assumptions(mine, launch=LAUNCH / f"{file}.yaml")
    assert made == Assumptions(
        gpu="h100", sharding=sharding, mixed=mixed, checkpointing=checkpointing, prompt=40
    )
    made = load_assumptions(mine, launch=LAUNCH / f"{file}.yaml", gpu="h200", gpus=16)
    assert (made.gpu, made.gpus) == ("h200", 16)


def test_every_launch_file_can_be_planned() -> None:
    for path in LAUNCH.glob("*.yaml"):
        assert load_assumptions(launch=path).gpus == 8


@pytest.mark.parametrize(
    ("launch", "wanted"),
    [
        ("num_processes: 2", {"gpus": 2}),
        ("mixed_precision: no", {}),
        ("mixed_precision: fp16", {"mixed": True}),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {offload_optimizer_device: cpu}}",
            {"sharding": "gradients", "offload": True},
        ),
        (
            "{distributed_type: FSDP, fsdp_config: {fsdp_offload_params: true}}",
            {"sharding": "full", "offload": True},
        ),
    ],
)
def test_what_a_launch_leaves_out_has_accelerate_s_default(
    tmp_path: Path, launch: str, wanted: dict[str, Any]
) -> None:
    default = {"gpus": 1, "sharding": "none", "mixed": False, "checkpointing": False}
    assert load_assumptions(launch=write(tmp_path, launch)) == Assumptions(**default | wanted)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ("distributed_type: TPU", "distributed_type: got 'TPU', wanted 'NO', 'MULTI_GPU', 'FSDP'"),
        ("mixed_precision: fp8", "mixed_precision: got 'fp8', wanted 'no', 'bf16', 'fp16'"),
        ("num_processes: 0", "num_processes: got 0, wanted greater than 0"),
        ("fsdp_config: 2", "fsdp_config: got 2, wanted a mapping"),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 1}}",
            "deepspeed_config.zero_stage: got 1, wanted 2 or 3",
        ),
    ],
)
def test_an_impossible_launch_is_a_sentence(tmp_path: Path, launch: str, message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        load_assumptions(launch=write(tmp_path, launch))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu: a1000", "gpu: got 'a1000', wanted 'a100', 'a800', 'h100', 'h200' or 'rtx4090'"),
        ("gpus: 0", "gpus: got 0, wanted greater than 0"),
        (f"gpus: {'9' * 400}", "gpus: got 9999"),
        ("sampler_memory: 2", r"sampler_memory: got 2, wanted less than or equal to 1"),
        ("shard: full", "unknown key 'shard'; did you mean 'sharding'"),
        ("layer_seconds: .nan", "layer_seconds: got '.nan', wanted a number"),
        ("gated: .nan", "gated: got '.nan', wanted a number"),
        ("response: 0", "response: got 0, wanted greater than 0"),
        ("test_responses: -1", "test_responses: got -1"),
        ("gpus: [", r"mine\.yaml: is no YAML"),
    ],
)
def test_an_impossible_assumption_is_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        load_assumptions(write(tmp_path, text))
