"""The paper's profile: its recipes make runs that fit, and its scripts run the right commands."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from shapes import TINY, model_of
from transformers import AutoModelForCausalLM

from experiments.profiles.paper import recipes
from experiments.profiles.paper.positions import copy_model
from upge.common.config import build, read_yaml
from upge.common.errors import UpgeError
from upge.models.shapes import shape_of
from upge.planning.plan import RunPlan, make_plan
from upge.planning.setting import load_assumptions
from upge.tasks.benchmarks import BENCHMARKS
from upge.training.config import RunConfig
from upge.training.records import run_folder

FOLDER = recipes.FOLDER
ROOT = FOLDER.parents[2]
LAUNCH = ROOT / "experiments" / "launch"
ASSUMPTIONS = FOLDER / "assumptions.yaml"
RUNS = [
    (model, settings, method)
    for model in recipes.models()
    for settings in recipes.SETTINGS
    for method in recipes.methods(settings)
]
DOCUMENT = " ".join((ROOT / "experiments" / "PAPER.md").read_text(encoding="utf-8").split())


def plan(*run: str, launch: str = "fsdp2.yaml") -> RunPlan:
    assumed = load_assumptions(ASSUMPTIONS, launch=LAUNCH / launch)
    return make_plan(recipes.run_config(*run), assumed)


# --------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("run", RUNS, ids="-".join)
def test_every_recipe_makes_a_run_that_fits(run: tuple[str, str, str]) -> None:
    made = plan(*run)
    config, shape = made.setting.config, made.setting.shape
    assert config.name == "-".join(run)
    assert made.memory.fits and made.cost.seconds > 0
    data: Any = config.data
    assert data.max_prompt + config.max_tokens <= shape.max_position_embeddings
    assert data.max_prompt + config.max_tokens <= config.tokens_per_microbatch


def test_runs_of_a_model_differ_in_their_stages_alone() -> None:
    for model in recipes.models():
        runs = [
            recipes.run_config(*run).model_dump(exclude={"name", "stages"})
            for run in RUNS
            if run[0] == model
        ]
        assert all(run == runs[0] for run in runs)


def test_gated_methods_of_a_model_have_one_gate() -> None:
    """Section 4.1: γ is 0 for Qwen2.5-Math, and 2/8 for LLaMA."""
    gates: dict[str, set[Any]] = {}
    for run in RUNS:
        for stage in recipes.run_config(*run).stages:
            if any(term.gate is not None for term in stage.estimator.terms):
                gates.setdefault(run[0], set()).add(stage.options["gamma"])
    assert gates == {"qwen2.5-math-7b": {0}, "qwen2.5-math-1.5b": {0}, "llama-3.1-8b": {2 / 8}}


def test_a_seed_is_the_run_s() -> None:
    assert recipes.run_config(*RUNS[0], seed=3).seed == 3 != recipes.run_config(*RUNS[0]).seed


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (("qwen2.5-math-7", "coded", "sft"), "unknown model .*; did you mean 'qwen2.5-math-7b'"),
        (("qwen2.5-math-7b", "code", "sft"), "settings: got 'code', wanted published or coded"),
        (("qwen2.5-math-7b", "coded", "hpt"), "unknown method as coded 'hpt'"),
    ],
)
def test_an_unknown_run_is_a_sentence(run: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UpgeError, match=message):
        recipes.run_config(*run)


def test_the_document_states_the_planned_numbers() -> None:
    run = ("qwen2.5-math-7b", "coded", "hpt_official")
    plans = {path.name: plan(*run, launch=path.name) for path in LAUNCH.glob("*.yaml")}
    assert {name for name, made in plans.items() if made.memory.fits} == {"fsdp2.yaml"}
    gb = {name: f"{made.memory.needed / 1e9:.0f}" for name, made in plans.items()}
    hours = [
        plan(model, "published", "hpt").cost.seconds / 3600
        for model in ("qwen2.5-math-1.5b", "qwen2.5-math-7b", "llama-3.1-8b")
    ]
    for sentence in (
        f"needs {gb['fsdp2.yaml']} GB a GPU, against {gb['deepspeed_zero3.yaml']} under "
        f"`deepspeed_zero3.yaml`, {gb['deepspeed_zero2.yaml']} under `deepspeed_zero2.yaml` "
        f"and {gb['ddp.yaml']} under `ddp.yaml`",
        "HPT takes {:.1f} hours for the 1.5B model, {:.0f} for the 7B and {:.0f} for LLaMA".format(
            *hours
        ),
    ):
        assert sentence in DOCUMENT


def test_a_copy_has_more_positions_and_the_same_weights(tmp_path: Path) -> None:
    source, target = tmp_path / "model", tmp_path / "models" / "copy"
    model = model_of(TINY)
    model.save_pretrained(source)
    copy_model(str(source), target, {"rope_theta": 40000, "max_position_embeddings": 16384})
    copied = AutoModelForCausalLM.from_pretrained(target)
    assert shape_of(str(target)).max_position_embeddings == 16384
    assert copied.config.rope_parameters["rope_theta"] == 40000
    before, after = model.state_dict(), copied.state_dict()
    assert all((before[name] == after[name]).all() for name in before)
    with pytest.raises(UpgeError, match="exists already"):
        copy_model(str(source), target, {})


def test_planned_copies_have_the_positions_of_their_recipes() -> None:
    for model in recipes.models():
        settings = recipes.model_file(model)
        if "copy" in settings:
            copied, origin = shape_of(settings["run"]["model"]), shape_of(settings["copy"]["of"])
            positions = settings["copy"]["max_position_embeddings"]
            assert copied == origin.model_copy(update={"max_position_embeddings": positions})


def test_the_command_prints_a_configuration() -> None:
    command = [sys.executable, "-m", "experiments.profiles.paper", "config", "llama-3.1-8b", "sft"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    wanted = recipes.run_config("llama-3.1-8b", "published", "sft")
    assert build(yaml.safe_load(printed), RunConfig) == wanted


# --------------------------------------------------------------------------------------- scripts

SCRIPTS = ("train.sh", "slurm.sh", "evaluate.sh")

#: The run that the scripts are tried with, and their arguments for it.
RUN = ("llama-3.1-8b", "coded", "hpt_official")
ARGUMENTS = ("llama-3.1-8b", "hpt_official", "coded")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable_bash_that_the_document_names(script: str) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)
    assert os.access(FOLDER / script, os.X_OK)
    assert f"`{script}`" in DOCUMENT


@pytest.mark.parametrize("script", ["train.sh", "evaluate.sh"])
def test_a_script_without_a_method_prints_its_usage(script: str) -> None:
    command = ["bash", str(FOLDER / script), "llama-3.1-8b"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{script} MODEL METHOD [published|coded]" in done.stderr


@dataclass(frozen=True)
class Machine:
    """A machine whose interpreter only writes down its commands, and may refuse one.

    It prints the configuration of ``RUN``; the folder of a run it asks of the real interpreter.
    """

    folder: Path

    def __post_init__(self) -> None:
        printed = yaml.safe_dump(recipes.run_config(*RUN).model_dump(mode="json"))
        (self.folder / "run.yaml").write_text(printed)
        self.command(
            "python",
            'echo "$UPGE_VLLM_MEMORY $@" >> "$LOG"\n'
            f'[[ " $* " == *" config "* ]] && exec cat {self.folder}/run.yaml\n'
            f'[[ " $* " == *" --dry-run "* ]] && exec {sys.executable} "$@"\n'
            '[[ "$*" != *"$REFUSE"* ]]\n',
        )

    def command(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)

    @property
    def out(self) -> Path:
        return self.folder / "runs"

    def run(self, script: str, refuse: str = "nothing", **settings: str) -> tuple[Any, list[Any]]:
        """The finished process, and the words of each command after vLLM's share of memory."""
        log = self.folder / "log"
        log.write_text("")
        environment = os.environ | {
            "PYTHON": "python",
            "OUT": str(self.out),
            "REFUSE": refuse,
            "LOG": str(log),
            "PATH": f"{self.folder}:{os.environ['PATH']}",
        }
        done = subprocess.run(
            ["bash", str(FOLDER.relative_to(ROOT) / script), *ARGUMENTS],
            env=environment | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, [line.split(" ") for line in log.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def option(line: list[str], name: str) -> str | None:
    return line[line.index(name) + 1] if name in line else None


def test_a_run_is_planned_then_checked_by_the_doctor_then_trained(machine: Machine) -> None:
    """And ends where one of them refuses."""
    done, lines = machine.run("train.sh")
    assert done.returncode == 0, done.stderr
    config, planned, doctor, train = lines
    command = "config llama-3.1-8b hpt_official --settings coded"
    assert config[2:] == ["experiments.profiles.paper", *command.split()]
    run = machine.out / "llama-3.1-8b-coded-hpt_official.yaml"
    assert build(read_yaml(run), RunConfig) == recipes.run_config(*RUN)
    assert planned[2:5] == ["upge.cli", "plan", str(run)]
    launch = str(option(doctor, "--config_file"))
    assert (ROOT / launch).resolve() == LAUNCH / "fsdp2.yaml"
    for line in (doctor, train):
        assert line[1:5] == ["-m", "accelerate.commands.launch", "--config_file", launch]
    assert doctor[5:] == ["-m", "upge.cli", "doctor"]
    assert train[5:] == ["-m", "upge.cli", "train", str(run), "--out", str(machine.out)]
    share = load_assumptions(ASSUMPTIONS).sampler_memory
    assert {float(line[0]) for line in lines[1:]} == {share}
    for refuse, done_before in (("upge.cli doctor", 3), ("upge.cli plan", 2)):
        done, some = machine.run("train.sh", refuse=refuse)
        assert (done.returncode, some) == (1, lines[:done_before])


@pytest.mark.parametrize("launch", ["ddp.yaml", "deepspeed_zero2.yaml"])
def test_what_is_planned_is_what_is_launched(machine: Machine, launch: str) -> None:
    for options, gpus in (("", None), ("--num_machines 2 --num_processes 16", "16")):
        done, lines = machine.run("train.sh", LAUNCH=launch, LAUNCH_OPTIONS=options)
        assert done.returncode == 0, done.stderr
        _, planned, _, train = lines
        assert Path(str(option(planned, "--launch"))).name == launch
        assert option(planned, "--launch") == option(train, "--config_file")
        assert option(planned, "--gpus") == gpus == option(train, "--num_processes")
        assert option(planned, "--assume") == str(ASSUMPTIONS.relative_to(ROOT))


def test_the_paper_s_machine_is_that_of_its_launch() -> None:
    assert load_assumptions(ASSUMPTIONS, launch=LAUNCH / "fsdp2.yaml") == load_assumptions(
        ASSUMPTIONS
    )


def test_nodes_share_one_plan(machine: Machine) -> None:
    """The batch script writes and plans; each of two nodes asks the doctor and trains."""
    machine.command("scontrol", "printf 'first\\nsecond\\n'\n")
    machine.command(
        "srun", 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "${@:2}" || exit 1; done\n'
    )
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}
    job["SLURM_JOB_NODELIST"] = "n[1-2]"
    done, lines = machine.run("slurm.sh", **job)
    assert done.returncode == 0, done.stderr
    (_, planned), nodes = lines[:2], lines[2:]
    assert option(planned, "--gpus") == "8"
    assert [line[line.index("upge.cli") + 1] for line in nodes] == ["doctor", "train"] * 2
    assert [option(line, "--machine_rank") for line in nodes] == ["0", "0", "1", "1"]
    for line in nodes:
        assert (option(line, "--num_machines"), option(line, "--num_processes")) == ("2", "8")
        address = (option(line, "--main_process_ip"), option(line, "--main_process_port"))
        assert address == ("first", "20007")
    done, refused = machine.run("slurm.sh", refuse="upge.cli plan", **job)
    assert (done.returncode, refused) == (1, lines[:2])


@pytest.mark.slow
def test_benchmarks_are_measured_on_the_run_s_folder(machine: Machine) -> None:
    done, lines = machine.run("evaluate.sh")
    assert (done.returncode, lines) == (2, [])
    assert "hpt_official.yaml: is not there; train.sh writes it, run that first" in done.stderr
    machine.run("train.sh")
    for settings in ({}, {"BENCHMARKS": "aime24"}):
        done, lines = machine.run("evaluate.sh", **settings)
        assert done.returncode == 0, done.stderr
        evaluate = lines[-1]
        trained = run_folder(machine.out, recipes.run_config(*RUN))
        assert evaluate[2:5] == ["upge.cli", "evaluate", str(trained.path)]
        named = option(evaluate, "--benchmark")
        assert named == settings.get("BENCHMARKS", ",".join(BENCHMARKS))
        assert option(evaluate, "--backend") == "vllm"
        # Samples, temperature, top-p and length are the paper's by default.
        assert not {"--samples", "--temperature", "--top-p", "--max-tokens"} & set(evaluate)
        assert option(evaluate, "--out") == str(machine.out / "evaluations" / trained.path.name)
        assert float(evaluate[0]) == 0.9
