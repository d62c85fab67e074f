"""The tiny model: Qwen2's architecture over single characters, from random weights.

It is saved in the Hugging Face format, so that whatever loads a hub model loads it.
"""

from __future__ import annotations

from typing import Any

import torch

from upge.common.optional import require

PAD, EOS = "<pad>", "<eos>"


def build_tokenizer(alphabet: str) -> Any:
    """A tokenizer that takes each character of ``alphabet`` for a token, after PAD and EOS."""
    tokenizers = require("tokenizers", "train")
    transformers = require("transformers", "train")
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *alphabet])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=PAD))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=EOS, padding_side="right"
    )


def build_model(
    vocabulary: int,
    hidden: int,
    layers: int,
    heads: int,
    seed: int,
    *,
    feed_forward: int | None = None,
    positions: int = 256,
) -> Any:
    """A Qwen2 causal language model with tied embeddings and random weights, float32.

    Args:
        vocabulary: number of tokens V.
        hidden: width H.
        layers: number of blocks.
        heads: attention heads, with half as many key-value heads.
        seed: of the weights.
        feed_forward: width of the feed-forward layers; 4 H if not given.
        positions: the longest sequence, in tokens.
    """
    transformers = require("transformers", "train")
    config = transformers.Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=feed_forward or 4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 2, 1),
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.Qwen2ForCausalLM(config)
