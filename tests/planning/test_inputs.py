"""What a plan reads: a model's configuration, lengths, a machine and assumptions in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_runs
from typer.testing import CliRunner

from upge.cli.main import app
from upge.common.config import load
from upge.common.errors import UpgeError
from upge.planning import checks
from upge.planning.cluster import Cluster, load_cluster
from upge.planning.plan import Assumptions, make_plan
from upge.planning.shapes import shape_of
from upge.training.loop import Trainer
from upge.training.records import RunFolder

#: A configuration as model folders have it.
CONFIG = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def written(folder: Path, text: str) -> str:
    (folder / "config.json").write_text(text, encoding="utf-8")
    return str(folder)


def with_changes(folder: Path, **changes: object) -> str:
    return written(folder, json.dumps(CONFIG | changes))


# ---------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", None),
        ("num_attention_heads", True),
        ("hidden_size", "x"),
        ("hidden_size", -1),
        ("hidden_size", 0),
        ("hidden_size", 32.5),
        ("hidden_size", 10**400),
        ("vocab_size", None),
        ("num_key_value_heads", 0),
        ("num_key_value_heads", [2]),
        ("num_hidden_layers", 0),
        ("intermediate_size", {}),
        ("max_position_embeddings", "64"),
        ("head_dim", 0),
        ("head_dim", "8"),
        ("tie_word_embeddings", "false"),
    ],
)
def test_a_damaged_number_of_the_model_is_named(tmp_path, key, value):
    path = with_changes(tmp_path, **{key: value})
    with pytest.raises(UpgeError, match=rf"config\.json: is no model's .*\({key}: got .*, wanted "):
        shape_of(path)


@pytest.mark.parametrize("kind", [["llama"], {}, None, 3, "gpt2"])
def test_another_type_of_model_is_named(tmp_path, kind):
    with pytest.raises(
        UpgeError, match=r"a model of type .* can't be planned; known: qwen2, llama"
    ):
        shape_of(with_changes(tmp_path, model_type=kind))


@pytest.mark.parametrize("text", ["[]", "null", '"llama"', "3", "{", "", "[" * 100_000])
def test_a_file_that_describes_no_model(tmp_path, text):
    with pytest.raises(UpgeError, match=r"config\.json: is no model's configuration"):
        shape_of(written(tmp_path, text))


def test_heads_without_a_width(tmp_path):
    with pytest.raises(UpgeError, match="head_dim: got 0, wanted a whole number above 0"):
        shape_of(with_changes(tmp_path, num_attention_heads=33))
    assert shape_of(with_changes(tmp_path, num_attention_heads=33, head_dim=8)).query_width == 264


def test_what_the_model_leaves_open(tmp_path):
    shape = shape_of(with_changes(tmp_path))
    assert (shape.kv_heads, shape.head_dim, shape.tied) == (2, 8, False)
    nulls = {"num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": None}
    shape = shape_of(with_changes(tmp_path, **nulls))
    assert (shape.kv_heads, shape.head_dim, shape.tied) == (4, 8, False)


# ---------------------------------------------------------------------------------------- lengths


def stopped(config, folder: Path, monkeypatch) -> str:
    """Why a run ends before its first step; empty if it gets there."""

    class FirstStepError(Exception):
        pass

    def step(*_: object) -> None:
        raise FirstStepError

    monkeypatch.setattr(Trainer, "_step", step)
    try:
        Trainer(config, RunFolder(folder)).run()
    except FirstStepError:
        return ""
    except UpgeError as error:
        return str(error)
    raise AssertionError("it ended without a step")


@pytest.mark.parametrize("algorithm", ["grpo", "sft", "hpt"])
@pytest.mark.parametrize("fate", ["refuse", "drop"])
@pytest.mark.parametrize("long", ["none", "one", "all", "no demonstration"])
def test_a_plan_foresees_what_long_demonstrations_do(
    tiny, tmp_path, monkeypatch, algorithm, fate, long
):
    """Training itself says which runs are wrong."""
    records = [{"problem": f"{i}+1=", "answer": "1"} for i in range(9)]
    if long != "no demonstration":
        for i, record in enumerate(records):
            is_long = long == "all" or (long == "one" and i == 4)
            record["solution"] = "1" * (9 if is_long else 2)
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    config = tiny.config(
        algorithm,
        data=tiny.data(train=str(path), validation=str(path), test=None),
        long_demonstrations=fate,
    )
    plan = make_plan(config, Cluster(gpus=1), Assumptions())
    foreseen = [check.note for check in plan.checks if check.state == "wrong"]
    said = stopped(config, tmp_path / "run", monkeypatch)
    assert bool(foreseen) == bool(said), (foreseen, said)
    assert len(foreseen) <= 1
    if said.endswith("add solutions, or take an algorithm without") and long == "all":
        assert "9 of 9 are longer than max_tokens 8, which are dropped: none is left" in foreseen[0]


def test_demonstrations_that_are_not_read_need_no_tokens(tiny, tmp_path, monkeypatch):
    path = tmp_path / "own.jsonl"
    record = {"problem": "1+1=", "answer": "1", "solution": "one"}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    data = tiny.data(train=str(path), validation=str(path), test=None)
    for algorithm in ("grpo", "sft"):
        config = tiny.config(algorithm, data=data)
        plan = make_plan(config, Cluster(gpus=1), Assumptions())
        foreseen = [check.note for check in plan.checks if check.state == "wrong"]
        said = stopped(config, tmp_path / algorithm, monkeypatch)
        assert bool(foreseen) == bool(said) == (algorithm == "sft"), (foreseen, said)


def test_one_demonstration_that_was_not_measured_may_be_left(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_MEASURED", 2)
    path = tmp_path / "own.jsonl"
    config = tiny.config(
        "sft",
        data=tiny.data(train=str(path), validation=str(tiny.tests), test=None),
        long_demonstrations="drop",
    )
    for short, state in ((3, "ok"), (None, "wrong")):
        records = [
            {"problem": f"{i}+1=", "answer": "1", "solution": "1" * (1 if i == short else 9)}
            for i in range(9)
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        plan = make_plan(config, Cluster(gpus=1), Assumptions())
        assert [c.state for c in plan.checks if c.what == "lengths"] == [state]


# ------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "text",
    [
        "gpus: 2020-13-45",
        f"gpus: {'1' * 5000}",
        "gpus: !!int abc",
        "gpus: !!timestamp x",
        "gpus: " + "[" * 5000,
        "gpus: &a {b: *a}",
    ],
)
def test_a_machine_or_an_assumption_that_is_no_yaml(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    for read in (load_cluster, lambda path: load(path, Assumptions)):
        with pytest.raises(UpgeError, match=r"own\.yaml: (is no YAML|a value is none)") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_damaged_model_is_a_plan_s_sentence(tmp_path):
    config = tmp_path / "run.yaml"
    model = with_changes(tmp_path, hidden_size="x")
    config.write_text(
        f"name: x\nmodel: {model}\nstages: [{{algorithm: grpo, steps: 1, lr: 1e-6}}]\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, ["plan", str(config)])
    assert isinstance(result.exception, UpgeError), result.exception
    assert "hidden_size: got 'x', wanted a whole number above 0" in str(result.exception)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


# --------------------------------------------------------------------------------- ranges of values


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Assumptions, "gated: .nan", "gated: got nan, wanted a share"),
        (Assumptions, "gated: 2", r"gated: got 2\.0, wanted a share"),
        (Assumptions, "prompt: -5", "prompt: got -5, wanted 1 to"),
        (Assumptions, "response: 0", "response: got 0, wanted 1 to"),
        (Assumptions, "demonstration: -4", "demonstration: got -4"),
        (Assumptions, "validation_responses: -1", "validation_responses: got -1, wanted 0 to"),
        (Assumptions, f"benchmark_responses: {'9' * 400}", "benchmark_responses: got 9999"),
        (Cluster, "layer_seconds: -1", "layer_seconds: got -1"),
        (Cluster, "layer_seconds: .nan", "layer_seconds: got nan"),
        (Cluster, f"gpus: {'9' * 400}", "gpus: got 9999"),
    ],
)
def test_a_value_out_of_its_range_is_a_sentence(tmp_path, kind, given, message):
    path = tmp_path / "given.yaml"
    path.write_text(given)
    with pytest.raises(UpgeError, match=message):
        load(path, kind)


def test_values_at_the_ends_of_their_ranges_are_taken(tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text("{gated: 1, prompt: 1, validation_responses: 0}")
    assert load(path, Assumptions) == Assumptions(gated=1, prompt=1)
