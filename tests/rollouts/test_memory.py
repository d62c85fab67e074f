"""What sampling takes of a GPU, counted by hand on a base of the package."""

from __future__ import annotations

import pytest
import torch

from upge.common.errors import UpgeError
from upge.models.pretrained import load_pretrained
from upge.rollouts.cached import LOGIT_BYTES, ROWS
from upge.rollouts.memory import check_gpu_memory, check_sampler_memory, sampler_bytes


def test_sampling_takes_the_weights_and_the_rows_held_together() -> None:
    request = {"size": 4, "rows": 6, "group": 2, "length": 100}
    model, tokenizer = load_pretrained("tiny")
    config, weights = model.config, sum(p.numel() for p in model.parameters())
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    cache, logits = 2 * config.num_hidden_layers * width, len(tokenizer) * LOGIT_BYTES
    row = 100 * cache * 4 + logits
    for changes, needed in (
        ({}, 4 * weights + 6 * row),
        ({"size": 2}, 2 * weights + 6 * (100 * cache * 2 + logits)),
        ({"rows": 10**9}, 4 * weights + ROWS * row),
        ({"group": 9999}, 4 * weights + 9999 * row),
    ):
        assert sampler_bytes("tiny", **request | changes) == needed
        check_sampler_memory("tiny", **request | changes, free=needed)
        with pytest.raises(UpgeError, match=r"^tiny: needs about .* GB of GPU memory, of which "):
            check_sampler_memory("tiny", **request | changes, free=needed - 1)


def test_a_model_of_unknown_shape_is_not_refused() -> None:
    assert sampler_bytes("some/model", size=4, rows=1, group=1, length=1) is None
    check_sampler_memory("some/model", size=4, rows=1, group=1, length=1, free=0)


def test_memory_is_that_of_this_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_gpu_memory("r", 10**12, "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7 * 10**9, 80 * 10**9))
    check_gpu_memory("r", 7 * 10**9, "")
    with pytest.raises(UpgeError, match=r"^r: needs about 9\.0 GB .* 7\.0 are free; buy another$"):
        check_gpu_memory("r", 9 * 10**9, "buy another")
