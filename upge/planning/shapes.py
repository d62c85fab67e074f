"""Shapes of transformers: how many parameters, how many bytes of cache a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upge.common.config import build_dataclass, read_yaml
from upge.common.errors import UpgeError
from upge.models.bases import base_folder

#: Shapes known without a network.
_KNOWN = Path(__file__).with_name("models.yaml")

#: Architectures of which these formulas hold, and whether q, k and v have biases.
_BIASED = {"qwen2": True, "llama": False}


@dataclass(frozen=True)
class ModelShape:
    """A decoder of pre-norm blocks: grouped-query attention, rotary positions, gated feed-forward.

    Args:
        source: where the numbers are from.
        architecture: as transformers calls it.
        vocabulary: tokens V.
        hidden: width H.
        layers: blocks.
        heads, kv_heads: of queries, and of keys and values.
        head_dim: width of a head.
        intermediate: width I of the feed-forward part.
        tied: whether the output embedding is the input's.
        positions: the longest sequence.
    """

    source: str
    architecture: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    tied: bool
    positions: int

    def __post_init__(self) -> None:
        _check_architecture(self.architecture)

    @property
    def query_width(self) -> int:
        """All query heads side by side."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """All key heads side by side."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrix(self) -> int:
        """Weights of a block that every token is multiplied with."""
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        """All parameters of a block."""
        bias = self.query_width + 2 * self.kv_width if _BIASED[self.architecture] else 0
        return self.layer_matrix + bias + 2 * self.hidden

    @property
    def outer_parameters(self) -> int:
        """Those outside of the blocks: embeddings and the last norm."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All of them, tied ones once."""
        return self.layers * self.layer_parameters + self.outer_parameters

    def cache_bytes(self, size: int) -> int:
        """Of keys and values, a token, at ``size`` bytes a number."""
        return 2 * self.layers * self.kv_width * size


def _check_architecture(name: object) -> None:
    if name not in tuple(_BIASED):  # which may be something without a hash
        known = ", ".join(_BIASED)
        raise UpgeError(f"a model of type {name!r:.40} can't be planned; known: {known}")


def known_shapes() -> dict[str, ModelShape]:
    """The shapes in ``models.yaml``, by the last part of the model's name."""
    return {name: build_dataclass(given, ModelShape) for name, given in read_yaml(_KNOWN).items()}


def shape_of(model: str) -> ModelShape:
    """The shape of a model by a base's name, a folder with config.json, or a known model's name.

    Raises:
        UpgeError: none of these, or an architecture of which the formulas don't hold.
    """
    folder = base_folder(model) or Path(model)
    if (folder / "config.json").is_file():
        return _from_config(folder / "config.json")
    known = known_shapes()
    name = model.rstrip("/").rsplit("/", 1)[-1]
    if name in known:
        return known[name]
    raise UpgeError(
        f"model: the shape of {model!r} is not known here; name a folder with its config.json, or "
        f"one of {', '.join(known)}"
    )


#: What config.json calls the numbers of a shape.
_NUMBERS = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "positions": "max_position_embeddings",
}

#: No number of a shape is larger.
_LARGEST = 2**31


def _from_config(path: Path) -> ModelShape:
    try:
        config = _read(path)
        _check_architecture(config.get("model_type"))
        numbers = {ours: _number(config, theirs) for ours, theirs in _NUMBERS.items()}
        heads = numbers["heads"]
        return ModelShape(
            source=str(path),
            architecture=config["model_type"],
            kv_heads=_number(config, "num_key_value_heads", heads),
            head_dim=_number(config, "head_dim", numbers["hidden"] // heads),
            tied=_truth(config, "tie_word_embeddings"),
            **numbers,
        )
    except (OSError, ValueError, RecursionError) as error:
        raise UpgeError(
            f"{path}: is no model's configuration that can be planned ({error})"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise UpgeError(f"got {config!r:.40}, wanted an object")
    return config


def _number(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A number of the model's; null is as good as none."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise UpgeError(f"{key}: got {value!r:.40}, wanted a whole number above 0")
    return value


def _truth(config: dict[str, Any], key: str) -> bool:
    value = config.get(key)
    if not isinstance(value, bool | None):
        raise UpgeError(f"{key}: got {value!r:.40}, wanted true or false")
    return bool(value)
