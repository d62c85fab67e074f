"""What names a run: all that determines its result, in files too."""

from __future__ import annotations

import json
import os

import pytest

from upge import UpgeError
from upge.algorithms import REGISTRY, Algorithm
from upge.common import files
from upge.common.config import build
from upge.models.tiny import build_model, build_tokenizer
from upge.training import config
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


def test_what_no_number_depends_on(model):
    given = {"name": "x", "model": str(model), "stages": []}
    base = build(given, RunConfig)
    for change in ({"name": "y"}, {"checkpoint_every": 7}, {"trackers": ["wandb"]}):
        other = build(given | change, RunConfig)
        assert (other.setup, other.key) == (base.setup, base.key), change


def test_everything_else_counts(model):
    stage = {"algorithm": "hpt", "steps": 3, "lr": 1e-3}
    given = {"name": "x", "model": str(model), "stages": [stage]}
    changes = [
        {"seed": 1}, {"max_tokens": 63}, {"norms_every": 24}, {"precision": "float32"},
        {"tokens_per_microbatch": 8191}, {"backend": "vllm"}, {"long_demonstrations": "drop"},
        {"evaluation": {"test_samples": 7}}, {"data": {"kind": "synthetic", "test": 19}},
        {"stages": [stage, stage]},
        *({"stages": [stage | own]} for own in (
            {"algorithm": "sft"}, {"options": {"gamma": 0.5}}, {"steps": 4}, {"lr": 2e-3},
            {"warmup": 4}, {"minibatches": 2}, {"epochs": 2}, {"temperature": 0.5},
        )),
    ]  # fmt: skip
    keys = [build(given | change, RunConfig).key for change in ({}, *changes)]
    assert len(set(keys)) == len(keys)


def test_a_run_of_more_steps_has_the_same_course(model):
    def run(*steps, **changes):
        stages = [{"algorithm": "sft", "steps": n, "lr": 1e-3} for n in steps]
        return build({"name": "x", "model": str(model), "stages": stages} | changes, RunConfig)

    short = run(3, 4)
    assert short.course == run(3, 9).course != run(4, 4).course
    assert short.key != run(3, 9).key
    assert short.course != run(3, 4, seed=1).course
    assert build({"name": "x", "stages": []}, RunConfig).course


def test_of_data_every_byte_counts(model, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_DIGESTED", 8)  # the first 64 MiB, of larger ones
    path = tmp_path / "data.jsonl"
    path.write_text('{"problem": "0", "answer": "1"}\n')
    data = {"kind": "jsonl", "train": str(path)}
    given = {"name": "x", "model": str(model), "stages": [], "data": data}
    before = build(given, RunConfig).key
    path.write_text('{"problem": "0", "answer": "2"}\n')
    os.utime(path, ns=(0, 0))
    assert build(given, RunConfig).key != before


def test_code_and_versions_count(model, monkeypatch):
    given = {"name": "x", "model": str(model), "stages": []}
    base = build(given, RunConfig)
    assert {"upge.batch", "upge.training.update", "torch", "transformers"} <= base.code.keys()
    assert "upge.rollouts.vllm" not in base.code
    assert "upge.rollouts.vllm" in build(given | {"backend": "vllm"}, RunConfig).code
    before = base.key
    monkeypatch.setattr(config, "versions", lambda *packages: {"torch": "1.0"})
    assert base.key != before


def test_a_registered_algorithm_counts_by_what_it_is_now(model, monkeypatch):
    """Registered again in the same process, as in a notebook."""
    given = {"name": "x", "stages": [{"algorithm": "own", "steps": 1, "lr": 1}]}
    made = []
    for text in ("One()", "Signed()"):
        space = {"__name__": "somewhere"}
        exec(OWN.format(advantage=text), space)
        monkeypatch.setitem(REGISTRY, "own", Algorithm("own", "", "", space["own"], {}))
        run = build(given, RunConfig)
        assert any(name.startswith("somewhere") for name in run.code)
        made.append((run.key, type(run.stages[0].estimator.terms[0].advantage).__name__))
    assert made[0][0] != made[1][0]
    assert [name for _, name in made] == ["One", "Signed"]


OWN = """
from upge.advantage import One, Signed
from upge.estimator import Term
from upge.normalization import TokenMean
from upge.reference import ConstantOne

def own():
    return (Term("offline", ConstantOne(), {advantage}, TokenMean()),)
"""
