"""Small models in the Hugging Face format."""

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

WORDS = [
    *(
        "<eos>",
        "<unk>",
        "Question",
        ":",
        "Answer",
        "a",
        "has",
        "apples",
        "and",
        "more",
        "in",
        "all",
    ),
    *(".", "?", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
]


def save_tiny_model(folder: Path) -> Any:
    """A random Llama of one-word tokens, and its tokenizer, as transformers saves them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>"
    )
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    config = transformers.LlamaConfig(vocab_size=len(WORDS), eos_token_id=0, **sizes, **heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def gpt2(vocabulary):
    """Float64 throughout, unlike newer architectures, whose norms are taken in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
        special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes, **special))
