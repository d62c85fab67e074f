"""What can't be meant is refused before anything is trained, in one sentence."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import tiny_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from upge.algorithms import REGISTRY
from upge.common.config import Config, build, merge, override, parse_value, read_yaml
from upge.common.errors import UpgeError
from upge.training import loop
from upge.training.config import RunConfig, Stage
from upge.training.loop import Trainer
from upge.training.records import RunFolder

BASE = {
    "name": "x",
    "data": {"kind": "synthetic", "supply": {"problems": 60}},
    "stages": [{"algorithm": "hpt", "steps": 3, "lr": 1e-3}],
    "evaluation": {"every": 5},
}


def refused(setting: str, value) -> str:
    """The sentence by which a configuration with this value is refused."""
    config = copy.deepcopy(BASE)
    *path, last = setting.split(".")
    place = config
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(UpgeError) as error:
        build(config, RunConfig)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 250
    return sentence


def test_the_base_is_accepted():
    config = build(BASE, RunConfig)
    assert config.steps == 3
    assert config.stages[0].estimator.name == "hpt"


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("modell", "tiny", "unknown key 'modell'; did you mean 'model'?"),
        ("stages.0.learning_rte", 1, "unknown key 'stages.0.learning_rte'; did you mean"),
        ("stages.0.lrr", 1e-3, "unknown key 'stages.0.lrr'; did you mean 'stages.0.lr'?"),
        ("data.suply", {}, "unknown key 'data.suply'; did you mean 'data.supply'?"),
        ("data.supply.problem", 9, "'data.supply.problem'; did you mean 'data.supply.problems'?"),
        ("evaluation.evry", 9, "unknown key 'evaluation.evry'; did you mean 'evaluation.every'?"),
        ("data.kind", "jsonlines", "unknown data.kind 'jsonlines'; did you mean 'jsonl'?"),
        ("data.kind", None, "data.kind: is missing"),
        ("data", "x", "data: got 'x', wanted a mapping"),
        ("model", "\ud800", "a value is no Unicode text, or holds too many others"),
        ("name", " ", "name: got ' ', wanted what can be a folder's name"),
        ("name", "a\nb", "name: got 'a\\nb', wanted what can be a folder's name"),
        ("name", "a/b", "name: got 'a/b', wanted what can be a folder's name"),
        ("name", "é" * 101, "wanted what can be a folder's name, of at most 200 bytes"),
        (
            "stages.0.prompts_per_step",
            10**9,
            "prompts_per_step: got 1000000000, wanted less than",
        ),
        ("stages.0.group_size", 10**30, "wanted less than or equal to 1000000"),
        ("stages.0.epochs", 10**30, "wanted less than or equal to 1000000"),
        ("evaluation.test_samples", 10**9, "wanted less than or equal to 1000000"),
        ("data.supply.problems", 10**9, "wanted less than or equal to 1000000"),
        ("stages.0.temperature", 1e-45, "temperature: got 1e-45, wanted 0, which is greedy, or at"),
        ("evaluation.temperature", 1e-320, "evaluation: temperature: got 1e-320, wanted 0, which"),
        ("stages", None, "stages: is missing"),
        ("stages.0.lr", None, "stages.0.lr: is missing"),
        ("stages.0.algorithm", None, "stages.0.algorithm: is missing"),
        ("stages", {"a": 1}, "stages: got {'a': 1}, wanted a list"),
        ("data", {"kind": "jsonl"}, "data.train: is missing"),
        ("stages.0.lr", "fast", "stages.0.lr: got 'fast', wanted a number"),
        ("stages.0.lr", "1e-3", "stages.0.lr: got '1e-3', wanted a number"),
        ("stages.0.lr", True, "stages.0.lr: got True, wanted a number"),
        ("stages.0.lr", 0, "stages.0.lr: got 0, wanted greater than 0"),
        ("stages.0.lr", float("nan"), "stages.0.lr: got nan, wanted a finite number"),
        ("stages.0.lr", float("inf"), "stages.0.lr: got inf, wanted a finite number"),
        ("stages.0.steps", 2.5, "stages.0.steps: got 2.5, wanted a whole number"),
        ("stages.0.betas", [0.9, 1.0], "stages.0.betas.1: got 1.0, wanted less than 1"),
        ("stages.0.on_bad_step", "halt", "on_bad_step: got 'halt', wanted 'stop' or 'skip'"),
        ("stages.0.max_grad_norm", -1, "max_grad_norm: got -1, wanted greater than 0"),
        ("name", "", "name: got '', wanted what can be a folder's name"),
        ("seed", -1, "seed: got -1, wanted greater than or equal to 0"),
        ("evaluation.top_p", 1.2, "evaluation.top_p: got 1.2, wanted less than or equal to 1"),
        ("data.supply.levels", [9], "levels: got 9, wanted some of (1, 2, 3, 4, 5)"),
        ("data.supply.families", ["sums"], "unknown family 'sums'"),
        # Algorithms and their options.
        (
            "stages.0.algorithm",
            "grppo",
            "stages.0: unknown algorithm 'grppo'; did you mean 'grpo'?",
        ),
        ("stages.0.options", {"gama": 0.5}, "unknown option of hpt 'gama'; did you mean 'gamma'?"),
        ("stages.0.options", {"gamma": 1.5}, "gamma: got 1.5, wanted a number from 0 to 1"),
        ("stages.0.options", {"gamma": -0.1}, "gamma: got -0.1, wanted a number from 0 to 1"),
        ("stages.0.options", {"gamma": "half"}, "hpt.gamma: got 'half', wanted a number"),
        ("stages.0.options", {"gate": "swich"}, "unknown gate 'swich'; did you mean 'switch'?"),
        ("stages.0.options", {"normalizer": "x"}, "unknown normalizer 'x'"),
        ("stages.0.algorithm", "ppo", "ppo needs a critic, which the loop doesn't train"),
        ("stages.0.options", {"kl": 0.1}, "hpt with these reads ref_logp, which the loop doesn't"),
        (
            "stages.0.group_size",
            1,
            "hpt compares the rollouts of a prompt with each other",
        ),
        ("stages.0.minibatches", 17, "minibatches: got 17 of 16 prompts"),
        (
            "tokens_per_microbatch",
            63,
            "got 63, which a response of max_tokens 64 exceeds; raise it",
        ),
    ],
)
def test_it_is_refused_in_a_sentence(setting, value, sentence):
    assert sentence in refused(setting, value)


@pytest.mark.parametrize(
    "name", ["grpo", "rloo", "dr_grpo", "gspo", "hpt", "chord", "dapo", "hpt_global_token"]
)
def test_one_rollout_has_nothing_to_be_compared_with(name):
    with pytest.raises(UpgeError, match=r"group_size: got 1, but .* wanted at least 2"):
        build({"algorithm": name, "steps": 1, "lr": 1, "group_size": 1}, Stage)


def test_faults_are_of_gradient_accumulation():
    given = {"algorithm": "sft", "steps": 1, "lr": 1, "faults": ["last_micro_batch_only"]}
    with pytest.raises(UpgeError, match="set micro_batch too"):
        build(given, Stage)
    assert build(given | {"micro_batch": 2}, Stage).faults == ("last_micro_batch_only",)
    torn = {"algorithm": "grpo", "micro_batch": 2, "faults": ["mean_of_means"]}
    with pytest.raises(UpgeError, match="would split the groups of grpo"):
        build(given | torn, Stage)


@pytest.mark.parametrize(
    "name", ["reinforce", "reinforce_plus_plus", "luffy", "srft", "luffy_offline", "sft"]
)
def test_one_rollout_is_enough_for_what_compares_it_with_others(name):
    build({"algorithm": name, "steps": 1, "lr": 1, "group_size": 1}, Stage)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_what_an_algorithm_reads_is_known(name):
    given = {"algorithm": name, "steps": 1, "lr": 1e-3}
    if "values" in REGISTRY[name]().needs:
        return
    stage, terms = build(given, Stage), REGISTRY[name].terms
    assert stage.reads_demonstrations == any(term.samples == "offline" for term in terms)
    assert stage.samples_rollouts == (name not in ("sft", "dft", "offline_reinforce"))


# ------------------------------------------------------------- what only shows with data and model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fails(tiny, tmp_path, monkeypatch):
    """The sentence by which a run ends before its first step."""

    def check(algorithm="hpt", records=None, **changes):
        data = tiny.data(**changes.pop("data", {}))
        if records is not None:
            path = tmp_path / "own.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
            data |= {"train": str(path), "validation": str(path), "test": None}
        config = tiny.config(algorithm, data=data, **changes)
        monkeypatch.setattr(Trainer, "step", None)
        with pytest.raises(UpgeError) as error:
            Trainer(config, RunFolder(tmp_path / "run")).run()
        assert not (tmp_path / "run" / "config.json").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    return check


BARE = [{"problem": f"{i}+1=", "answer": str(i)} for i in range(9)]
WORKED = [record | {"solution": "11"} for record in BARE]


@pytest.mark.parametrize("name", ["sft", "hpt", "luffy", "chord"])
def test_demonstrations_are_needed_by_who_reads_them(fails, monkeypatch, name):
    monkeypatch.setattr(loop, "load_pretrained", None)  # before anything expensive starts
    sentence = fails(name, records=BARE)
    assert f"{name} learns from demonstrations, but no training problem has one" in sentence


def test_no_problems(fails, tmp_path):
    assert "own.jsonl: has no problems" in fails(records=[])
    assert "nowhere.jsonl: " in fails(data={"train": str(tmp_path / "nowhere.jsonl")})
    assert "held_out: got 99, but there are only" in fails(data={"held_out": 99})


def test_a_demonstration_that_is_too_long(fails):
    records = [*WORKED, {"problem": "1+1=", "answer": "2", "solution": "1" * 9}]
    sentence = fails("sft", records=records)
    assert "a demonstration has 12 tokens, but max_tokens is 8" in sentence
    assert "set long_demonstrations: drop" in sentence
    only = fails("sft", records=records[-1:], long_demonstrations="drop")
    assert (
        "sft learns from demonstrations, but all 1 are longer than max_tokens 8; raise it" in only
    )


def test_a_batch_that_no_micro_batch_holds(fails):
    records = [*WORKED, {"problem": "1+1=" * 5, "answer": "1"}]
    sentence = fails(records=records, tokens_per_microbatch=27)
    assert sentence == (
        "tokens_per_microbatch: got 27, but the longest prompt (20 tokens) and a response of "
        "max_tokens 8 need 28; raise it"
    )


def test_more_tokens_than_the_model_has_positions(fails):
    sentence = fails(max_tokens=300, tokens_per_microbatch=1000)
    assert "exceeds the model's 256 positions; wanted at most 252" in sentence


def test_a_test_prompt_longer_than_the_model_has_positions(fails, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"problem": "1" * 250, "answer": "1"}) + "\n")
    sentence = fails(data={"test": str(path)})
    assert "with the longest prompt (250 tokens) exceeds the model's 256 positions" in sentence


def test_a_tokenizer_that_knows_no_end(fails, tiny, tmp_path):
    folder = tmp_path / "endless"
    shutil.copytree(tiny.model, folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            given = json.loads((folder / name).read_text())
            given.pop("eos_token", None)
            (folder / name).write_text(json.dumps(given))
    assert "its tokenizer has no end-of-sequence token" in fails(model=str(folder))


@pytest.mark.parametrize("field", ["problem", "solution"])
def test_a_tokenizer_that_lacks_a_character(fails, field):
    records = [*WORKED, {"problem": "1+1=", "answer": "1", "solution": "11"} | {field: "x"}]
    assert "the model's tokenizer can't encode 'x" in fails(records=records)


def test_a_test_problem_that_it_lacks(fails, tmp_path):
    path = tmp_path / "strange.jsonl"
    path.write_text('{"problem": "what?", "answer": "1"}\n')
    assert "can't encode 'what?'" in fails(data={"test": str(path)})
    assert "can't encode 'what?'" in fails(data={"validation": str(path)})


def test_demonstrations_that_do_not_end_in_their_answer(fails):
    sentence = fails("sft", records=WORKED, data={"demonstration": "{solution}"})
    assert "no demonstration passes the verifier (the first ends in '11')" in sentence
    sentence = fails("sft", records=WORKED, data={"demonstration": "{solution}{answers}"})
    assert "a template is wrong (KeyError('answers'))" in sentence


@pytest.mark.parametrize(
    "template",
    ["{solution.x}", "{solution[x]}", "{solution[0]}", "{answer!r}", "{answer:>9999999}"],
)
def test_a_template_that_wants_more_than_the_text(fails, template):
    assert "a template is wrong" in fails("sft", records=WORKED, data={"demonstration": template})


def test_a_model_that_is_not_there(fails, tmp_path):
    assert "no model can be loaded from" in fails(model=str(tmp_path / "nowhere"))


# ----------------------------------------------------------------------------------- YAML and paths


def test_yaml_numbers(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "a: 1e-3\nb: 3\nc: 1.5\nd: .5\ne: -2E4\nf: text\ng: [1, 2e1]\nh: null\ni: 007\n"
    )
    assert read_yaml(path) == {
        "a": 1e-3,
        "b": 3,
        "c": 1.5,
        "d": 0.5,
        "e": -2e4,
        "f": "text",
        "g": [1, 20.0],
        "h": None,
        "i": 7,
    }
    assert isinstance(read_yaml(path)["b"], int)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_as_it_is_written(x):
    assert parse_value(repr(x)) == x


@given(st.integers())
def test_a_whole_number_stays_one(x):
    assert parse_value(str(x)) == x
    assert isinstance(parse_value(str(x)), int)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1\n", "got list, wanted a mapping"),
        ("", "got NoneType, wanted a mapping"),
        ("a: [1", "is no YAML"),
        ("a: !!python/object:os.system 1", "is no YAML"),
        (f"a: 1\nseed: {'1' * 5000}", r"is no YAML \('1+ can't be read as int .* line 2"),
        ("a: !!int abc", "'abc' can't be read as int"),
        ("a: !!int ''", "'' can't be read as int"),
        ("a: !!float x", "'x' can't be read as float"),
        ("a: !!bool x", "'x' can't be read as bool"),
        ("a: !!timestamp 2020-01-01", "could not determine a constructor for the tag"),
        ("a: [1, &x [2, *x]]", "its aliases stand for too many values"),
        ("a: " + "[" * 5000, "is no YAML .too many values inside each other"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, text, sentence):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UpgeError, match=sentence) as error:
        read_yaml(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UpgeError, match="can't be read"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_settings_reach_any_place():
    config = copy.deepcopy(BASE)
    for setting in ("stages.0.lr=3e-4", "stages.0.options.gamma=0.5", "seed=7", "model=m"):
        override(config, setting)
    run = build(config, RunConfig)
    stage = run.stages[0]
    assert (stage.lr, stage.options, run.seed, run.model) == (3e-4, {"gamma": 0.5}, 7, "m")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("seed", "wanted KEY=VALUE"),
        ("=3", "wanted KEY=VALUE"),
        ("stages.1.lr=3", "there is no item '1'; items are numbered from 0"),
        ("stages.first.lr=3", "there is no item 'first'"),
        ("name.first=3", "'name' holds a value, not a mapping"),
        ("stages.².lr=1", "there is no item '²'"),
        ("stages.٠.lr=1", "there is no item '٠'"),
        (f"stages.{'9' * 5000}.lr=1", "there is no item '9"),
        ("stages.²=1", "there is no item '²'"),
    ],
)
def test_a_setting_that_leads_nowhere(setting, sentence):
    with pytest.raises(UpgeError, match=sentence) as error:
        override(copy.deepcopy(BASE), setting)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    "text", ["[x", '"abc', "@x", "%x", "{problem}?", "a\x07", "\udcff", "[" * 5000]
)
def test_a_setting_whose_value_is_no_yaml(text):
    config = copy.deepcopy(BASE)
    sentence = r"^--set data\.prompt: .* is no YAML value; quote it, as 'data\.prompt=\"…\"'$"
    with pytest.raises(UpgeError, match=sentence) as error:
        override(config, f"data.prompt={text}")
    assert repr(text)[:50] in str(error.value)
    assert config == BASE
    if text.isprintable():
        override(config, f"data.prompt='{text}'")
        assert config["data"]["prompt"] == text


def test_merging_changes_neither():
    base, difference = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2], "e": 4}
    kept = copy.deepcopy((base, difference))
    assert merge(base, difference) == {"a": {"b": 3, "c": 2}, "d": [2], "e": 4}
    assert (base, difference) == kept


def test_a_value_that_no_configuration_can_hold():
    class Own(Config):
        a: int

    deep = 1
    for _ in range(250):
        deep = [deep]
    with pytest.raises(UpgeError, match=r"holds too many others in each other"):
        build({"a": deep}, Own)
    with pytest.raises(UpgeError, match=r"unknown key 'b'; did you mean|unknown key 'b'; known: a"):
        build({"a": 1, "b": 2}, Own)


def test_of_no_known_names_none_are_listed():
    class Empty(Config):
        pass

    with pytest.raises(UpgeError, match=r"^unknown key 'b'; there is none to choose$"):
        build({"b": 2}, Empty)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("stages.0.options", {"gamma": [1]}, "stages.0.options.gamma: got [1], wanted a number"),
        ("data", {"kind": "jsonl", "train": 3}, "data.train: got 3, wanted a text"),
        ("data.supply.levels", [1, "x"], "data.supply.levels.1: got 'x', wanted a whole number"),
        ("stages.0.questions", -1, "stages.0.questions: got -1, wanted greater than 0"),
        ("seed", "2020-13-45", "seed: got '2020-13-45', wanted a whole number"),
    ],
)
def test_a_place_is_called_as_the_user_calls_it(setting, value, sentence):
    assert refused(setting, value) == sentence


def test_words_of_other_schemas_are_texts(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: no\nb: on\nc: 2020-01-01\nd: 1_000\ne: 1:30\nf: 010\ng: .5e3\nh: Yes\n")
    read = {"a": "no", "b": "on", "c": "2020-01-01", "d": "1_000", "e": "1:30", "f": 10, "g": 500.0}
    assert read_yaml(path) == read | {"h": "Yes"}


BOMBS = {
    "lists": "a0: &a0 [x, x]\n"
    + "\n".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}x]" for i in range(1, 40)),
    "texts": f"a: &a {'x' * 10**6}\nb: [{'*a, ' * 10**4}x]",
    "merges": "a0: &a0 {k: 1}\n"
    + "\n".join(
        f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}*a{i - 1}], k{i}: 1}}" for i in range(1, 40)
    ),
    "a mapping in itself": "a: &a {b: *a}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_aliases_that_explode_are_a_sentence(tmp_path, name):
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[name])
    with pytest.raises(UpgeError, match="its aliases stand for too many values") as error:
        read_yaml(path)
    assert len(str(error.value)) < 400


def test_aliases_and_merges_of_a_few_values_are_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 3}\nc: *a\n")
    assert read_yaml(path)["b"] == {"x": 3, "y": [1, 2]}


@settings(max_examples=200)
@given(st.text(alphabet="ab:-[]{}&*<!#'\"|>%@`0.,\n \t\u00e9", max_size=60))
def test_whatever_a_file_holds_it_is_a_mapping_or_a_sentence(text):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        try:
            values = read_yaml(Path(file.name))
            build(values, RunConfig)
        except UpgeError as error:
            assert "\n" not in str(error)
