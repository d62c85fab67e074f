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


def test_settings_are_the_papers():
    """Section 4.1 and the official scripts, typed here once more."""
    for model, gamma, coefficient, skip in (
        ("qwen2.5-math-7b", 0.0, 1.0, 80.0),
        ("qwen2.5-math-1.5b", 0.0, 0.3, 80.0),
        ("llama-3.1-8b", 0.25, 1.0, None),
    ):
        published = recipes.run_config(model, "published", "hpt").stages[0]
        coded = recipes.run_config(model, "coded", "hpt_official").stages[0]
        assert published.options == {"gamma": gamma}
        assert coded.options == {"gamma": gamma, "sft_coefficient": coefficient}
        assert (published.skip_norm, coded.skip_norm) == (None, skip)
        assert (published.updates, coded.updates) == (1, 2)
        assert (published.entropy_bonus, coded.entropy_bonus) == (0.0, 0.001)
        for stage in (published, coded):
            assert (stage.lr, stage.steps, stage.questions, stage.rollouts) == (5e-6, 500, 128, 8)
    luffy = recipes.run_config("qwen2.5-math-7b", "coded", "luffy")
    assert (luffy.stages[0].lr, luffy.stages[0].rollouts, luffy.max_tokens) == (1e-6, 7, 8192)


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
        f'#!/bin/bash\necho "$@" >> {log}\necho $UPGE_VLLM_MEMORY > {memory}\n[[ "$*" != *"$REFUSE"* ]]\n'
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
