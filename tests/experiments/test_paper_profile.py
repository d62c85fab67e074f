"""The paper's profile: its recipes make runs, its values have origins, its table is current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from shapes import TINY, model_of
from transformers import AutoModelForCausalLM

from experiments.profiles.paper import recipes
from experiments.profiles.paper.positions import copy_model
from experiments.profiles.paper.table import plan_table
from upge.common.config import build, load, read_yaml
from upge.common.errors import UpgeError
from upge.planning.cluster import Cluster, load_cluster
from upge.planning.plan import Assumptions, make_plan, run_memory
from upge.tasks.benchmarks import BENCHMARKS, SAMPLES, local_file
from upge.tasks.benchmarks import load as load_problems
from upge.training.config import RunConfig
from upge.training.records import run_folder

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
    "tokens_per_microbatch": 1024 + 8192,
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
    "prompts_per_step": 128,
    "group_size": 8,
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
    "published": {"minibatches": 1, "entropy_bonus": 0.0},
    "coded": {"minibatches": 2, "entropy_bonus": 0.001},
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
        "luffy": [{"algorithm": "luffy", "lr": 1e-6, "group_size": 7}],
        "srft": [{"algorithm": "srft", "lr": 1e-6}],
        "hpt": [{"algorithm": "hpt", "lr": 5e-6}],
        "hpt_global_token": [{"algorithm": "hpt_global_token", "lr": 5e-6}],
    },
    "coded": {
        "sft": [PLAIN_SFT],
        "grpo": [GRPO],
        "sft_grpo": [PLAIN_SFT, GRPO],
        "luffy": [{"algorithm": "luffy", "lr": 1e-6, "group_size": 7}],
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
ENGINES = {
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


@pytest.mark.parametrize("model", ENGINES)
def test_copies_have_the_papers_positions(model):
    assert recipes.model_file(model).get("copy") == ENGINES[model]


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


ASSUMED = load(FOLDER / "assumptions.yaml", Assumptions)

SCRIPTS = ("train.sh", "slurm.sh", "evaluate.sh")

ROOT = FOLDER.parents[2]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash_that_may_be_run(script):
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)
    assert os.access(FOLDER / script, os.X_OK)


@pytest.mark.parametrize("script", ["train.sh", "evaluate.sh"])
def test_a_script_without_a_method_says_how_it_goes(script):
    done = subprocess.run(
        ["bash", str(FOLDER / script), "llama-3.1-8b"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"{script} MODEL METHOD [published|coded]" in done.stderr


#: The run that the scripts are tried with, and their arguments for it.
RUN_OF = ("llama-3.1-8b", "coded", "hpt_official")
ARGUMENTS = ("llama-3.1-8b", "hpt_official", "coded")


@dataclass(frozen=True)
class Machine:
    """A machine whose interpreter only writes down what it is asked, and may refuse it.

    It prints the configuration of ``RUN_OF``; a run's folder is asked of the real one.
    """

    folder: Path

    def __post_init__(self):
        printed = yaml.safe_dump(recipes.run_config(*RUN_OF).model_dump(mode="json"))
        (self.folder / "run.yaml").write_text(printed)
        self._command(
            "python",
            'echo "$UPGE_VLLM_MEMORY $@" >> "$LOG"\n'
            f'[[ " $* " == *" config "* ]] && exec cat {self.folder}/run.yaml\n'
            f'[[ " $* " == *" --dry-run "* ]] && exec {sys.executable} "$@"\n'
            '[[ "$*" != *"$REFUSE"* ]]\n',
        )

    def _command(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(0o755)

    @property
    def out(self):
        return self.folder / "runs"

    def run(self, script, *arguments, refuse="nothing", **settings):
        """The exit code, what was said, and each command's words with vLLM's share before them."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        log.touch()
        own = {"PYTHON": "python", "OUT": str(self.out), "REFUSE": refuse, "LOG": str(log)}
        own["PATH"] = f"{self.folder}:{os.environ['PATH']}"
        command = ["bash", str(FOLDER.relative_to(ROOT) / script), *arguments]
        done = subprocess.run(
            command,
            env=os.environ | own | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, [line.split(" ") for line in log.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_script_plans_asks_the_doctor_and_then_trains(machine):
    """And stops where one step refuses."""
    done, lines = machine.run("train.sh", *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    config, plan, doctor, train = lines
    command = "config llama-3.1-8b hpt_official --settings coded"
    assert config[2:] == ["experiments.profiles.paper", *command.split()]
    run = machine.out / "llama-3.1-8b-coded-hpt_official.yaml"
    assert build(read_yaml(run), RunConfig) == recipes.run_config(*RUN_OF)
    assert plan[2:5] == ["upge.cli", "plan", str(run)]
    launch = doctor[doctor.index("--config_file") + 1]
    assert (ROOT / launch).resolve() == (LAUNCH / "fsdp2.yaml").resolve()
    for line in (doctor, train):
        assert line[1:5] == ["-m", "accelerate.commands.launch", "--config_file", launch]
    assert doctor[5:] == ["-m", "upge.cli", "doctor"]
    assert train[5:] == ["-m", "upge.cli", "train", str(run), "--out", str(machine.out)]
    share = load_cluster(FOLDER / "cluster.yaml").sampler_memory
    assert {float(line[0]) for line in lines[1:]} == {share}
    for refuse, done_before in (("upge.cli doctor", 3), ("upge.cli plan", 2)):
        done, some = machine.run("train.sh", *ARGUMENTS, refuse=refuse)
        assert (done.returncode, some) == (1, lines[:done_before])


def option(line, name):
    return line[line.index(name) + 1] if name in line else None


@pytest.mark.parametrize("launch", ["ddp.yaml", "fsdp2.yaml", "deepspeed_zero2.yaml"])
def test_what_is_planned_is_what_is_launched(machine, launch):
    for options, gpus in (("", None), ("--num_machines 2 --num_processes 16", "16")):
        done, lines = machine.run("train.sh", *ARGUMENTS, LAUNCH=launch, LAUNCH_OPTIONS=options)
        assert done.returncode == 0, done.stderr
        _, plan, _, train = lines
        assert Path(option(plan, "--launch")).name == launch
        assert option(plan, "--launch") == option(train, "--config_file")
        assert option(plan, "--gpus") == gpus == option(train, "--num_processes")


def test_the_plan_of_the_paper_s_machine_is_that_of_its_launch():
    cluster = FOLDER / "cluster.yaml"
    assert load_cluster(cluster, launch=LAUNCH / "fsdp2.yaml") == load_cluster(cluster)


def test_memory_under_each_launch_is_the_document_s():
    config = recipes.run_config("qwen2.5-math-7b", "coded", "hpt_official")
    needed = {}
    for path in LAUNCH.glob("*.yaml"):
        memory = run_memory(config, load_cluster(FOLDER / "cluster.yaml", launch=path), ASSUMED)
        needed[path.name] = f"{memory.needed / 1e9:.0f}"
        assert memory.fits == (path.name == "fsdp2.yaml")
    text = " ".join(PAPER.read_text(encoding="utf-8").split())
    assert (
        f"{needed['fsdp2.yaml']} GB by the plan, against {needed['deepspeed_zero3.yaml']} under "
        f"`deepspeed_zero3.yaml`, {needed['deepspeed_zero2.yaml']} under `deepspeed_zero2.yaml` "
        f"and {needed['ddp.yaml']} under `ddp.yaml`"
    ) in text


def test_nodes_share_one_plan(machine):
    """The batch script writes and plans; each of two nodes asks the doctor and trains."""
    machine._command("scontrol", "printf 'first\\nsecond\\n'\n")
    machine._command(
        "srun", 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "${@:2}" || exit 1; done\n'
    )
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7"}
    job["SLURM_JOB_NODELIST"] = "n[1-2]"
    done, lines = machine.run("slurm.sh", *ARGUMENTS, **job)
    assert done.returncode == 0, done.stderr
    (_, plan), nodes = lines[:2], lines[2:]
    assert option(plan, "--gpus") == "8"
    assert [line[line.index("upge.cli") + 1] for line in nodes] == ["doctor", "train"] * 2
    assert [option(line, "--machine_rank") for line in nodes] == ["0", "0", "1", "1"]
    for line in nodes:
        assert (option(line, "--num_machines"), option(line, "--num_processes")) == ("2", "8")
        assert (option(line, "--main_process_ip"), option(line, "--main_process_port")) == (
            "first",
            "20007",
        )
    done, refused = machine.run("slurm.sh", *ARGUMENTS, refuse="upge.cli plan", **job)
    assert (done.returncode, refused) == (1, lines[:2])


def test_benchmarks_are_measured_on_the_run_s_folder(machine):
    done, lines = machine.run("evaluate.sh", *ARGUMENTS)
    assert (done.returncode, lines) == (2, [])
    assert "hpt_official.yaml: is not there; train.sh writes it, run that first" in done.stderr
    machine.run("train.sh", *ARGUMENTS)
    for settings in ({}, {"BENCHMARKS": "aime24"}):
        done, lines = machine.run("evaluate.sh", *ARGUMENTS, **settings)
        assert done.returncode == 0, done.stderr
        evaluate = lines[-1]
        trained = run_folder(machine.out, recipes.run_config(*RUN_OF))
        assert evaluate[2:5] == ["upge.cli", "evaluate", str(trained.path)]
        named = option(evaluate, "--benchmark")
        assert named == settings.get("BENCHMARKS", ",".join(BENCHMARKS))
        assert option(evaluate, "--backend") == "vllm"
        # Samples, temperature, top-p and length are the paper's by default.
        assert not {"--samples", "--temperature", "--top-p", "--max-tokens"} & set(evaluate)
        assert option(evaluate, "--out") == str(machine.out / "evaluations" / trained.path.name)
        assert float(evaluate[0]) == load_cluster(FOLDER / "cluster.yaml").evaluator_memory


#: Problems of each benchmark; those of GPQA-Diamond, which may not be shared, as its page has it.
PROBLEMS = {
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 674,
    "arc_challenge": 1172,
    "gpqa_diamond": 198,
}


def test_the_plan_counts_the_responses_of_the_benchmarks():
    """32 to a problem of AIME and AMC, one to the others; where the problems are here, these."""
    assert set(PROBLEMS) == set(BENCHMARKS)
    for name, count in PROBLEMS.items():
        if local_file(name) is not None:
            assert len(load_problems(name)) == count
    samples = {name: 32 if name in ("aime24", "aime25", "amc23") else 1 for name in BENCHMARKS}
    assumed = load(FOLDER / "assumptions.yaml", Assumptions)
    total = sum(samples[name] * count for name, count in PROBLEMS.items())
    assert assumed.benchmark_responses == total
    assert assumed.test_responses == 0  # training ends without a test
    assert {name: SAMPLES.get(name, 1) for name in BENCHMARKS} == samples


def test_the_document_names_what_is_here():
    text = PAPER.read_text(encoding="utf-8")
    for name in (*SCRIPTS, "fsdp2.yaml", "cluster.yaml", "plan.md", "upge doctor"):
        assert name in text


def test_the_command_prints_a_configuration(tmp_path):
    printed = subprocess.run(
        [sys.executable, "-m", "experiments.profiles.paper", "config", "llama-3.1-8b", "sft"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert "name: llama-3.1-8b-published-sft" in printed
