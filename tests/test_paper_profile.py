"""The paper's profile: its recipes make runs, its values have origins, its table is current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_planning import TINY, model_of
from transformers import AutoModelForCausalLM

from experiments.profiles.paper import recipes
from experiments.profiles.paper.positions import copy_model
from experiments.profiles.paper.table import plan_table
from upge.config import load
from upge.errors import UpgeError
from upge.planning.cluster import Cluster, load_cluster
from upge.planning.plan import Assumptions, make_plan

FOLDER = recipes.FOLDER
LAUNCH = FOLDER / ".." / ".." / "launch"
PAPER = FOLDER.parent.parent / "PAPER.md"
RUNS = [
    (model, settings, method)
    for model in recipes.models()
    for settings in recipes.SETTINGS
    for method in recipes.methods(settings)
]


@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_every_recipe_makes_a_run_that_can_be_planned(run):
    config = recipes.run_config(*run)
    plan = make_plan(config, load_cluster(FOLDER / "cluster.yaml"), Assumptions())
    assert plan.memory.fits
    assert plan.expected.seconds > 0
    assert not [check for check in plan.checks if check.state == "wrong"]


#: Section 4.1 and the official scripts, typed here once more: what all runs share …
RUN = {
    "seed": 0,
    "max_tokens": 8192,
    "long_demonstrations": "drop",
    "token_budget": 1024 + 8192,
    "checkpoint_every": 50,
    "norms_every": None,
    "trackers": (),
    "backend": "vllm",
    "precision": "bfloat16",
    "data": {
        "kind": "benchmarks",
        "train_set": "openr1",
        "validation_set": None,
        "test_sets": (),
        "held_out": 500,
        "max_prompt": 1024,
        "overlap": "keep",
        "wrong_demonstrations": "keep",
        "answer_seconds": 1.0,
    },
    "evaluation": {
        "every": 10,
        "validation_samples": 1,
        "test_samples": None,
        "temperature": 0.6,
        "top_p": 0.95,
    },
}

#: … all stages …
STAGE = {
    "options": {},
    "steps": 500,
    "questions": 128,
    "rollouts": 8,
    "epochs": 1,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
    "warmup": 0,
    "max_grad_norm": 1.0,
    "skip_norm": None,
    "temperature": 1.0,
    "on_bad_step": "skip",
    "micro_batch": None,
    "faults": (),
}

#: … all stages as published (one update a batch) and as coded (two mini-batches of 64) …
UPDATES = {
    "published": {"updates": 1, "entropy_bonus": 0.0},
    "coded": {"updates": 2, "entropy_bonus": 0.001},
}

SFT, GRPO = {"algorithm": "sft", "lr": 5e-6}, {"algorithm": "grpo", "lr": 1e-6}
#: No script has SFT: as coded it is as published.
PLAIN_SFT = SFT | UPDATES["published"]

#: … what differs for a method …
METHODS = {
    "published": {
        "sft": [SFT],
        "grpo": [GRPO],
        "sft_grpo": [SFT, GRPO],
        "luffy": [{"algorithm": "luffy", "lr": 1e-6, "rollouts": 7}],
        "srft": [{"algorithm": "srft", "lr": 1e-6}],
        "hpt": [{"algorithm": "hpt", "lr": 5e-6}],
        "hpt_global_token": [{"algorithm": "hpt_global_token", "lr": 5e-6}],
    },
    "coded": {
        "sft": [PLAIN_SFT],
        "grpo": [GRPO],
        "sft_grpo": [PLAIN_SFT, GRPO],
        "luffy": [{"algorithm": "luffy", "lr": 1e-6, "rollouts": 7}],
        "srft_official": [{"algorithm": "srft_official", "lr": 1e-6}],
        "hpt_official": [{"algorithm": "hpt_official", "lr": 5e-6}],
        "off_on": [{"algorithm": "off_on", "lr": 5e-6}],
        "mix_on": [{"algorithm": "mix_on", "lr": 5e-6}],
    },
}

GATED = ("hpt", "hpt_global_token", "hpt_official", "off_on", "mix_on")
AS_CODED = ("hpt_official", "off_on", "mix_on")

#: … and for a model: its name, template, gate γ, SFT coefficient, and the norm that skips a step.
MODELS = {
    "qwen2.5-math-7b": ("models/Qwen2.5-Math-7B-16k", "qwen", 0.0, 1.0, 80.0),
    "qwen2.5-math-1.5b": ("models/Qwen2.5-Math-1.5B-16k", "qwen", 0.0, 0.3, 80.0),
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", "zero", 2 / 8, 1.0, None),
}

#: The copies that Qwen2.5-Math's recipes name.
COPIES = {
    "qwen2.5-math-7b": {
        "of": "Qwen/Qwen2.5-Math-7B",
        "rope_theta": 40_000,
        "max_position_embeddings": 16_384,
    },
    "qwen2.5-math-1.5b": {
        "of": "Qwen/Qwen2.5-Math-1.5B",
        "rope_theta": 40_000,
        "max_position_embeddings": 16_384,
    },
    "llama-3.1-8b": None,
}


def typed(model, settings, method):
    """The whole run, from what is typed above alone."""
    name, template, gamma, coefficient, skip = MODELS[model]
    stages = []
    for given in METHODS[settings][method]:
        stage = STAGE | UPDATES[settings] | given
        if stage["algorithm"] in GATED:
            stage["options"] = {"gamma": gamma}
        if stage["algorithm"] == "hpt_official":
            stage["options"] = {"gamma": gamma, "sft_coefficient": coefficient}
        if stage["algorithm"] in AS_CODED:
            stage["skip_norm"] = skip
        stages.append(stage)
    run = RUN | {"name": f"{model}-{settings}-{method}", "model": name, "stages": tuple(stages)}
    return run | {"data": RUN["data"] | {"template": template}}


def test_the_models_and_methods_are_those_typed():
    typed_runs = [(m, s, name) for m in MODELS for s, names in METHODS.items() for name in names]
    assert sorted(RUNS) == sorted(typed_runs)


@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_settings_are_the_papers(run):
    assert recipes.run_config(*run).model_dump() == typed(*run)


@pytest.mark.parametrize("model", COPIES)
def test_copies_have_the_papers_positions(model):
    assert recipes.model_file(model).get("copy") == COPIES[model]


def test_the_machine_is_the_papers():
    cluster = load_cluster(FOLDER / "cluster.yaml")
    assert (cluster.gpu, cluster.gpus, cluster.type.memory) == ("a800", 8, 80)
    assert (cluster.sharding, cluster.mixed, cluster.checkpointing) == ("full", True, True)


def test_every_value_has_its_origin():
    files = [*FOLDER.rglob("*.yaml"), *LAUNCH.glob("*.yaml")]
    assert len(files) == 12
    bare = [
        f"{path.name}: {line}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(- \{|[\w]+: *[^\s#])", line) and "#" not in line
    ]
    assert not bare


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (("qwen2.5-math-7", "coded", "sft"), "unknown model .*; did you mean 'qwen2.5-math-7b'"),
        (("qwen2.5-math-7b", "code", "sft"), "settings: got 'code', wanted published or coded"),
        (("qwen2.5-math-7b", "coded", "hpt"), "unknown method as coded 'hpt'"),
    ],
)
def test_an_unknown_run_is_a_sentence(run, message):
    with pytest.raises(UpgeError, match=message):
        recipes.run_config(*run)


def test_the_committed_table_follows_from_the_formulas():
    assert (FOLDER / "plan.md").read_text(encoding="utf-8") == plan_table()


def test_a_larger_machine_is_faster():
    config = recipes.run_config("qwen2.5-math-7b", "published", "hpt")
    assumed = load(FOLDER / "assumptions.yaml", Assumptions)
    slow, fast = (
        make_plan(config, Cluster(gpu=gpu), assumed).expected.seconds for gpu in ("a800", "h200")
    )
    assert fast < slow


def test_a_copy_has_more_positions_and_the_same_weights(tmp_path):
    source, target = tmp_path / "model", tmp_path / "models" / "copy"
    model = model_of(TINY)
    model.save_pretrained(source)
    copy_model(str(source), target, {"rope_theta": 40000, "max_position_embeddings": 16384})
    copied = AutoModelForCausalLM.from_pretrained(target)
    assert copied.config.max_position_embeddings == 16384
    assert copied.config.rope_parameters["rope_theta"] == 40000
    before, after = model.state_dict(), copied.state_dict()
    assert all((before[name] == after[name]).all() for name in before)
    with pytest.raises(UpgeError, match="is there already"):
        copy_model(str(source), target, {})


@pytest.mark.parametrize("script", ["train.sh", "slurm.sh"])
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)


def test_the_script_plans_asks_the_doctor_and_then_trains(tmp_path):
    """With an interpreter that only writes down what it is asked, and where one step refuses."""
    log, memory = tmp_path / "log", tmp_path / "memory"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\necho "$@" >> {log}\necho $UPGE_VLLM_MEMORY > {memory}\n'
        '[[ "$*" != *"$REFUSE"* ]]\n'
    )
    python.chmod(0o755)

    def run(refuse):
        log.unlink(missing_ok=True)
        command = ["bash", str(FOLDER / "train.sh"), "llama-3.1-8b", "hpt_official", "coded"]
        settings = {"PYTHON": str(python), "OUT": str(tmp_path / "runs"), "REFUSE": refuse}
        code = subprocess.run(command, env=os.environ | settings, check=False).returncode
        return code, [line.split()[:4] for line in log.read_text().splitlines()]

    code, lines = run("nothing")
    assert code == 0
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "fsdp2.yaml")]
    assert [line[2] for line in lines[:2]] == ["config", "plan"]
    assert lines[2:] == [launch, launch]
    assert float(memory.read_text()) == load_cluster(FOLDER / "cluster.yaml").sampler_memory
    assert run("upge.cli doctor") == (1, lines[:3])
    assert run("upge.cli plan") == (1, lines[:2])


def test_the_document_names_what_is_here():
    text = PAPER.read_text(encoding="utf-8")
    for name in ("train.sh", "slurm.sh", "fsdp2.yaml", "cluster.yaml", "plan.md", "upge doctor"):
        assert name in text


def test_the_command_prints_a_configuration(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-m", "experiments.profiles.paper", "config", "llama-3.1-8b", "sft"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    ).stdout
    assert "name: llama-3.1-8b-published-sft" in printed
