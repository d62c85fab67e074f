"""bfloat16 products: the same while sampling and training, over weights that stay float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import Tiny, numbers, run, weights

from upge.common.errors import UpgeError
from upge.rollouts import cached
from upge.rollouts.decoding import Cached
from upge.training import loop, prepare
from upge.training.gradient import GradientAccumulator
from upge.training.precision import AutocastSampler


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """As in a new process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()


def test_another_precision_in_one_process_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Accelerate would go on in the first one, without a word."""
    run(tiny.config("sft"), tmp_path / "first")
    with pytest.raises(UpgeError, match=r"got bfloat16, but Accelerate keeps .* float32; start"):
        run(tiny.config("sft", precision="bfloat16"), tmp_path / "second")


def test_sampling_and_training_are_of_one_precision(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else most of the ratios π_θ/π_θold would be off by as much as rounding to 8 bits makes."""
    seen: list[torch.dtype] = []
    differences: list[float] = []
    sample, likelihood = Cached._forward, GradientAccumulator._likelihood

    def sampled(self, ids, *rest):
        logits = sample(self, ids, *rest)
        seen.append(logits.dtype)
        return logits

    def scored(self, part):
        logp, entropy = likelihood(self, part)
        differences.extend((logp - part.old_logp)[part.mask].abs().tolist())
        return logp, entropy

    compare = cached.find_decoding

    def compared(model):
        decoding = compare(model)
        seen.clear()  # whose forward passes sample nothing
        return decoding

    monkeypatch.setattr(cached, "find_decoding", compared)
    monkeypatch.setattr(Cached, "_forward", sampled)
    monkeypatch.setattr(GradientAccumulator, "_likelihood", scored)
    folder = run(tiny.config("grpo", precision="bfloat16"), tmp_path / "run")
    assert set(seen) == {torch.bfloat16}
    close = max(differences)
    assert close < 1e-3
    stored = load_file(folder.policy / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float32}
    assert weights(folder) != (tiny.model / "model.safetensors").read_bytes()
    monkeypatch.setattr(AutocastSampler, "__call__", lambda self, *asked: self.sampler(*asked))
    run(tiny.config("grpo", precision="bfloat16"), tmp_path / "other")
    assert set(seen) == {torch.float32}
    assert max(differences) > max(10 * close, 1e-3)


def test_float32_is_what_no_precision_is_where_no_launcher_says_otherwise(
    tiny: Tiny, tmp_path: Path
) -> None:
    none, whole = tiny.config("hpt"), tiny.config("hpt", precision="float32")
    assert none.key != whole.key
    assert numbers(run(none, tmp_path / "none")) == numbers(run(whole, tmp_path / "whole"))


def test_precision_changes_the_numbers(tiny: Tiny, tmp_path: Path) -> None:
    whole = numbers(run(tiny.config("sft", precision="float32"), tmp_path / "whole"))
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    mixed = numbers(run(tiny.config("sft", precision="bfloat16"), tmp_path / "mixed"))
    assert [line["loss"] for line in mixed] == pytest.approx(
        [line["loss"] for line in whole], rel=0.02
    )
    assert mixed != whole


class Opened(Exception):
    """A sampler is asked for."""


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(None, torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_an_engine_is_of_the_policys_precision(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str | None, dtype: Any
) -> None:
    asked: dict[str, Any] = {}

    def opened(*given: Any, **options: Any) -> None:
        asked.update(options)
        raise Opened

    monkeypatch.setattr(prepare, "check_backend", lambda name: None)
    monkeypatch.setattr(loop, "open_sampler", opened)
    with pytest.raises(Opened):
        run(tiny.config("grpo", precision=precision, backend="vllm"), tmp_path / "run")
    assert asked == {"dtype": dtype, "device": torch.device("cpu")}
