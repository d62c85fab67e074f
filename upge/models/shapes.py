"""Shapes of pre-norm decoders: parameters and bytes of key-value cache, without the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, PositiveInt

from upge.common.config import Config, build
from upge.common.errors import UpgeError
from upge.models.bases import base_folder


class ModelShape(Config):
    """A decoder with grouped-query attention, rotary positions and a gated feed-forward part.

    Fields are those of a Hugging Face ``config.json``, whose other keys are ignored.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model_type: Literal["qwen2", "llama"]
    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    intermediate_size: PositiveInt
    tie_word_embeddings: bool | None = None
    max_position_embeddings: PositiveInt

    @property
    def query_width(self) -> int:
        """Width of all query heads side by side."""
        head = self.head_dim or self.hidden_size // self.num_attention_heads
        return self.num_attention_heads * head

    @property
    def kv_width(self) -> int:
        """Width of all key heads side by side."""
        heads = self.num_key_value_heads or self.num_attention_heads
        return self.query_width * heads // self.num_attention_heads

    @property
    def layer_matrix(self) -> int:
        """Weights of a block that every token is multiplied with."""
        attention = 2 * self.query_width + 2 * self.kv_width
        return self.hidden_size * (attention + 3 * self.intermediate_size)

    @property
    def layer_parameters(self) -> int:
        """All parameters of a block: matrices, biases, two norms."""
        # Qwen2's q, k and v have biases.
        biases = self.query_width + 2 * self.kv_width if self.model_type == "qwen2" else 0
        return self.layer_matrix + biases + 2 * self.hidden_size

    @property
    def outer_parameters(self) -> int:
        """Parameters outside the blocks: embeddings and the last norm."""
        embeddings = 1 if self.tie_word_embeddings else 2
        return self.hidden_size * (embeddings * self.vocab_size + 1)

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.num_hidden_layers * self.layer_parameters + self.outer_parameters

    def cache_bytes(self, size: int) -> int:
        """Bytes of keys and values a token, at ``size`` bytes a number."""
        return 2 * self.num_hidden_layers * self.kv_width * size


#: Published models, from their config.json on the Hugging Face hub; in the order of the fields.
#: The ``-16k`` are the copies with more positions that experiments/profiles/paper makes.
_KNOWN = {
    "Qwen2.5-Math-7B": ("qwen2", 152064, 3584, 28, 28, 4, 128, 18944, False, 4096),
    "Qwen2.5-Math-7B-16k": ("qwen2", 152064, 3584, 28, 28, 4, 128, 18944, False, 16384),
    "Qwen2.5-Math-1.5B": ("qwen2", 151936, 1536, 28, 12, 2, 128, 8960, True, 4096),
    "Qwen2.5-Math-1.5B-16k": ("qwen2", 151936, 1536, 28, 12, 2, 128, 8960, True, 16384),
    "Qwen2.5-1.5B": ("qwen2", 151936, 1536, 28, 12, 2, 128, 8960, True, 32768),
    "Qwen2.5-0.5B": ("qwen2", 151936, 896, 24, 14, 2, 64, 4864, True, 32768),
    "Llama-3.1-8B": ("llama", 128256, 4096, 32, 32, 8, 128, 14336, False, 131072),
    "SmolLM2-135M-Instruct": ("llama", 49152, 576, 30, 9, 3, 64, 1536, True, 8192),
    "smollm2": ("llama", 49152, 576, 30, 9, 3, 64, 1536, True, 8192),
}


def shape_of(model: str) -> ModelShape:
    """The shape of a base, of a folder with a config.json, or of a published model.

    Args:
        model: a name or path; of a published model the last part of its name counts.

    Raises:
        UpgeError: none of these, or an architecture for which the formulas do not hold.
    """
    path = (base_folder(model) or Path(model)) / "config.json"
    if path.is_file():
        return _from_config(path)
    name = model.rstrip("/").rsplit("/", 1)[-1]
    if name in _KNOWN:
        return build(dict(zip(ModelShape.model_fields, _KNOWN[name], strict=True)), ModelShape)
    raise UpgeError(
        f"model: the shape of {model!r} is unknown; name a folder with its config.json, or one of "
        f"{', '.join(_KNOWN)}"
    )


def _from_config(path: Path) -> ModelShape:
    try:
        return build(json.loads(path.read_text(encoding="utf-8")), ModelShape)
    except (OSError, ValueError, RecursionError) as error:
        raise UpgeError(f"{path}: cannot be planned for ({error})") from error
