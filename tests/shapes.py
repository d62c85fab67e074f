"""A small model of a shape."""

from __future__ import annotations

import torch
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
    max_position_embeddings=64,
    tie_word_embeddings=False,
)


def model_of(shape, attention="sdpa", device="cpu"):
    given = shape.model_dump()
    config = AutoConfig.for_model(given.pop("model_type"), **given)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
