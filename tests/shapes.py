"""Small shapes of models, and the models that have them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from upge.models.shapes import ModelShape

TINY = ModelShape(
    model_type="qwen2",
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=48,
    tie_word_embeddings=False,
    max_position_embeddings=64,
)


def with_changes(shape: ModelShape, **changes: Any) -> ModelShape:
    return shape.model_copy(update=changes)


#: Shapes with heads of any number and width that the architectures allow.
shapes = st.builds(
    lambda group, **sizes: with_changes(
        TINY,
        num_attention_heads=group * sizes["num_key_value_heads"],
        hidden_size=group * sizes["num_key_value_heads"] * sizes["head_dim"],
        **sizes,
    ),
    group=st.integers(1, 3),
    model_type=st.sampled_from(["qwen2", "llama"]),
    vocab_size=st.integers(5, 60),
    num_hidden_layers=st.integers(1, 3),
    num_key_value_heads=st.integers(1, 2),
    head_dim=st.sampled_from([4, 8]),
    intermediate_size=st.integers(1, 40),
    tie_word_embeddings=st.booleans(),
)


def model_of(shape: ModelShape, attention: str = "sdpa", device: str = "cpu") -> Any:
    config = AutoConfig.for_model(**shape.model_dump())
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
