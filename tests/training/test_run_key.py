"""What names a run: all that determines its result, in files too."""

from __future__ import annotations

import json

import pytest

from upge import UpgeError
from upge.common.config import build
from upge.models.tiny import build_model, build_tokenizer
from upge.training.config import RunConfig


@pytest.fixture
def model(tmp_path):
    tokenizer = build_tokenizer("01+=")
    folder = tmp_path / "model"
    build_model(len(tokenizer), hidden=8, layers=1, heads=2, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def key(model):
    given = {"name": "x", "model": str(model), "stages": []}
    return build(given, RunConfig).key


@pytest.mark.parametrize(
    "file", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_a_models_settings_and_tokenizer_determine_its_run(model, file):
    before = key(model)
    path = model / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"changed": 1}))
    assert key(model) != before


def test_a_chat_template_does_and_a_note_does_not(model):
    before = key(model)
    (model / "README.md").write_text("my model")
    assert key(model) == before
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert key(model) != before


def test_test_sets_of_one_name_are_a_sentence(tmp_path):
    names = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "test.jsonl"
        path.write_text(json.dumps({"problem": "1?", "answer": "1"}))
        names.append(str(path))
    data = {"kind": "benchmarks", "train_set": names[0], "test_sets": names}
    with pytest.raises(UpgeError, match="test_sets: two are called 'test'; rename one"):
        build({"name": "x", "stages": [], "data": data}, RunConfig)
