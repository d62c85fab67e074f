"""A small model of a shape."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from upge.planning.shapes import ModelShape

TINY = ModelShape("test", "qwen2", 50, 32, 2, 4, 2, 8, 48, False, 64)


def model_of(shape, attention="sdpa", device="cpu"):
    config = AutoConfig.for_model(
        shape.architecture,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.positions,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
