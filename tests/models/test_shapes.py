"""Shapes count the parameters of real models, and are read from their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from safetensors import safe_open
from shapes import TINY, model_of, shapes

from upge.common.errors import UpgeError
from upge.models.bases import CHECKPOINTS
from upge.models.shapes import ModelShape, shape_of

#: Parameters as the models' pages on the hub state them.
PUBLISHED = {
    "Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen2.5-0.5B": 494_032_768,
    "SmolLM2-135M-Instruct": 134_515_008,
}


def write(folder: Path, **changes: Any) -> str:
    config = {key: value for key, value in (TINY.model_dump() | changes).items() if value != "gone"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


@settings(max_examples=20, deadline=None)
@given(shapes)
def test_parameters_are_those_of_the_model(shape: ModelShape) -> None:
    model = model_of(shape, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_known_shapes_have_the_published_parameters() -> None:
    assert {name: shape_of(f"someone/{name}").parameters for name in PUBLISHED} == PUBLISHED


def test_a_shape_is_read_from_a_folder_and_from_a_base(tmp_path: Path) -> None:
    model_of(TINY).save_pretrained(tmp_path)
    assert shape_of(str(tmp_path)) == TINY
    with safe_open(CHECKPOINTS / "tiny" / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert shape_of("tiny").parameters == stored
    assert shape_of("models/Qwen2.5-Math-7B-16k").max_position_embeddings == 16384


@pytest.mark.parametrize("value", [None, "gone"])
def test_what_a_configuration_leaves_open_has_its_default(tmp_path: Path, value: Any) -> None:
    keys = ("num_key_value_heads", "head_dim", "tie_word_embeddings")
    shape = shape_of(write(tmp_path, **dict.fromkeys(keys, value)))
    assert (shape.query_width, shape.kv_width) == (32, 32)
    assert shape.parameters == TINY.parameters + 2 * 2 * (32 + 1) * (32 - 16)  # k and v are as wide


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: got 'gpt2', wanted 'qwen2' or 'llama'"),
        ({"hidden_size": "x"}, "hidden_size: got 'x', wanted a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads: got 0, wanted greater than 0"),
        ({"vocab_size": "gone"}, "vocab_size: is missing"),
    ],
)
def test_a_configuration_that_cannot_be_planned_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UpgeError, match=rf"config\.json: cannot be planned for \({message}"):
        shape_of(write(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_file_that_describes_no_model_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UpgeError, match=r"config\.json: cannot be planned for"):
        shape_of(str(tmp_path))


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UpgeError, match=r"the shape of .* is unknown; name a folder"):
        shape_of(str(tmp_path))
