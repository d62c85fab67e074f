"""``upge train``, ``evaluate`` and ``sample`` from end to end, on small random models."""

import json
import os
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from upge.cli import main as cli
from upge.cli import train as train_cli
from upge.common.config import build
from upge.models.tiny import build_tokenizer
from upge.tasks.synthetic import ALPHABET
from upge.training import config
from upge.training.config import RunConfig


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The installed command, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["upge", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return call


def save_model(folder: Path, alphabet: str) -> Path:
    """A random model whose tokens are characters."""
    tokenizer = build_tokenizer(alphabet)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=600,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of all that stands on a keyboard."""
    return save_model(tmp_path_factory.mktemp("reader"), string.printable)


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of so few letters that it is right by chance."""
    return save_model(tmp_path_factory.mktemp("speller"), "ab=")


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def sums(path: Path, count: int = 12, solution: bool = True) -> Path:
    records: list[dict[str, Any]] = [
        {"problem": f"What is {i} + {i}?", "answer": 2 * i} for i in range(count)
    ]
    if solution:
        records = [r | {"solution": f"It is {r['answer']}."} for r in records]
    return write(path, records)


def test_the_tiny_base_reads_problems_of_its_own_letters(run: Run, tmp_path: Path) -> None:
    pairs = [(f"{100 + i}-001=", f"{i + 99:03}") for i in range(12)]
    data = write(
        tmp_path / "own.jsonl",
        [{"problem": p, "answer": a, "solution": p + a} for p, a in pairs],
    )
    done = run("train", "-a", "hpt", "--data", data, "--steps", 1, "--out", tmp_path / "runs")
    assert done.code == 0, done.err


def test_another_model_in_the_same_folder_is_another_run(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "ab=")
    given = {"name": "a", "model": str(folder), "stages": []}
    before = build(given, RunConfig).key
    assert build(given, RunConfig).key == before
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, ns=(0, 0))
    assert build(given, RunConfig).key != before


def test_a_run_without_a_name_is_called_after_its_algorithms(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    stages = "stages: [{algorithm: sft, steps: 1, lr: 1e-3}, {algorithm: grpo, steps: 1, lr: 1e-3}]"
    config.write_text(stages)
    done = run("train", config, "--dry-run")
    assert done.code == 0, done.err
    assert "\nname: sft-grpo\n" in done.out and "/sft-grpo-s0-" in done.out
    config.write_text(f"name: mine\n{stages}")
    assert "\nname: mine\n" in run("train", config, "--dry-run").out


SMALL = (
    "--steps",
    3,
    "--prompts-per-step",
    4,
    "--group-size",
    2,
    "--max-tokens",
    24,
    "--lr",
    "1e-2",
)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "cpu_seconds")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


# ------------------------------------------------------------------------------------------- train


@pytest.mark.parametrize("algorithm", ["sft", "grpo", "hpt"])
def test_a_file_of_problems_trains_by_one_command(
    run: Run, tmp_path: Path, reader: Path, algorithm: str
) -> None:
    data, out = sums(tmp_path / "sums.jsonl"), tmp_path / "runs"
    done = run("train", "-a", algorithm, "--model", reader, "--data", data, *SMALL, "--out", out)
    assert done.code == 0, done.err
    (folder,) = out.iterdir()
    line = f"{algorithm}, seed 0: 3 steps; validation 0.000; results in {folder}"
    assert done.out.splitlines() == [line]
    assert [m["step"] for m in metrics_of(folder)] == [1, 2, 3]
    assert ("reward" in metrics_of(folder)[0]) == (algorithm != "sft")
    before = load_file(reader / "model.safetensors")
    after = load_file(folder / "policy" / "model.safetensors")
    learns = algorithm != "grpo"  # no rollout of a random model is right, so no group compares
    assert all(torch.equal(before[name], after[name]) != learns for name in before)


def test_demonstrations_are_learnt(run: Run, tmp_path: Path, reader: Path) -> None:
    data = sums(tmp_path / "sums.jsonl", 3)
    command = ("train", "-a", "sft", "--model", reader, "--data", data, *SMALL, "--steps", 25)
    assert run(*command, "--out", tmp_path / "runs").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    losses = [m["loss"] for m in metrics_of(folder)]
    assert losses[-1] < 0.7 * losses[0]


def test_without_data_there_are_the_synthetic_suites(run: Run, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", ALPHABET)
    sizes = ("supply.problems=60", "validation=1", "test=1")
    settings = [x for size in sizes for x in ("--set", f"data.{size}")]
    command = ("train", "-a", "grpo", "--model", base, *SMALL, "--max-tokens", 64, *settings)
    done = run(*command, "--out", tmp_path / "runs")
    assert done.code == 0, done.err
    assert "; test sum 0.000, aff " in done.out and ", mix " in done.out


def test_a_configuration_is_what_a_dry_run_prints(run: Run, tmp_path: Path) -> None:
    data = sums(tmp_path / "sums.jsonl")
    shown = run("train", "-a", "hpt", "--data", data, *SMALL, "--seed", 3, "--dry-run")
    assert shown.code == 0 and not (tmp_path / "runs").exists()
    config = yaml.safe_load(shown.out)
    assert config["seed"] == 3 and config["stages"][0]["group_size"] == 2
    assert config["data"]["train"] == str(data) and config["data"]["held_out"] == 1
    key = shown.out.split()[2].rstrip(";")
    assert shown.out.startswith(f"# key {key}; results go to runs/hpt-s3-{key}")
    as_yaml, as_json = tmp_path / "run.yaml", tmp_path / "run.json"
    as_yaml.write_text(shown.out, encoding="utf-8")
    as_json.write_text(json.dumps(config), encoding="utf-8")
    of_a_run = tmp_path / "config.json"
    of_a_run.write_text(json.dumps({"key": key} | config), encoding="utf-8")
    for file in (as_yaml, as_json, of_a_run):
        assert run("train", file, "--dry-run").out == shown.out
        changed = run("train", file, "--set", "stages.0.lr=3e-4", "--dry-run").out
        assert yaml.safe_load(changed)["stages"][0]["lr"] == 3e-4
        assert changed.split()[2] != f"{key};"


@pytest.mark.parametrize(
    ("options", "lr", "max_tokens"), [([], 1e-3, 64), (["--model", "org/name"], 5e-6, 64)]
)
def test_defaults_follow_the_model(
    run: Run, options: list[str], lr: float, max_tokens: int
) -> None:
    config = yaml.safe_load(run("train", "-a", "grpo", *options, "--dry-run").out)
    assert (config["stages"][0]["lr"], config["max_tokens"]) == (lr, max_tokens)
    assert config["stages"][0]["steps"] == 200 and config["data"]["kind"] == "synthetic"


def test_defaults_follow_the_data_and_the_model(run: Run, tmp_path: Path) -> None:
    for count, held_out in ((2, 1), (50, 5), (900, 64)):
        data = sums(tmp_path / f"{count}.jsonl", count)
        for model, tokens, marker in (("smollm2", 512, "####"), ("tiny", 64, "#")):
            made = ("train", "-a", "sft", "--model", model, "--data", data, "--dry-run")
            config = yaml.safe_load(run(*made).out)
            found = (config["data"]["held_out"], config["max_tokens"], config["data"]["marker"])
            assert found == (held_out, tokens, marker)


def test_a_finished_run_is_not_repeated(run: Run, tmp_path: Path, reader: Path) -> None:
    data = sums(tmp_path / "sums.jsonl")
    command = ("train", "-a", "sft", "--model", reader, "--data", data, *SMALL)
    first = run(*command, "--out", tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    stamp = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = run(*command, "--out", tmp_path / "runs")
    assert again.code == 0 and again.out == first.out.replace("3 steps", "finished before")
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert run(*command, "--seed", 1, "--out", tmp_path / "runs").code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_an_interrupted_run_goes_on(
    run: Run, tmp_path: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sums(tmp_path / "sums.jsonl")
    often = ("--set", "checkpoint_every=2", "--set", "evaluation.every=1")
    command = ("train", "-a", "hpt", "--model", reader, "--data", data, *SMALL, "--steps", 5)
    whole = run(*command, *often, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    shown = train_cli._numbers

    def interrupt(metrics: dict[str, Any]) -> str:
        if metrics["step"] == 4:
            raise KeyboardInterrupt
        return shown(metrics)

    with monkeypatch.context() as patch:
        patch.setattr(train_cli, "_numbers", interrupt)
        cut = run(*command, *often, "--out", tmp_path / "cut")
    (folder,) = (tmp_path / "cut").iterdir()
    assert cut.code == 130 and cut.out == ""
    sentence = "Interrupted at step 4 of 5; rerun the command: it resumes from step 4 in"
    assert f"{sentence} {folder}" in cut.err
    assert not (folder / "result.json").exists()
    again = run(*command, *often, "--out", tmp_path / "cut")
    assert again.code == 0 and again.out == whole.out.replace("/whole/", "/cut/")
    assert "step 5/5: " in again.err and "step 4/5: " not in again.err
    (uninterrupted,) = (tmp_path / "whole").iterdir()
    assert metrics_of(folder) == metrics_of(uninterrupted)
    for name, tensor in load_file(uninterrupted / "policy" / "model.safetensors").items():
        assert torch.equal(load_file(folder / "policy" / "model.safetensors")[name], tensor)


@pytest.mark.parametrize(
    ("options", "terminal", "shown"),
    [
        ([], False, ["step 2/3: reward 0.000", "step 3/3: reward 0.000"]),
        ([], True, ["3/3", "reward 0.000", "valid 0.000", "testing"]),
        (["--quiet"], False, []),
        (["--quiet"], True, []),
    ],
)
def test_progress(
    run: Run,
    tmp_path: Path,
    reader: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    terminal: bool,
    shown: list[str],
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TTY_INTERACTIVE", "1")
    data = sums(tmp_path / "sums.jsonl")
    command = ("train", "-a", "grpo", "--model", reader, "--data", data, *SMALL, *options)
    done = run(*command, "--set", "evaluation.every=2", "--out", tmp_path / "runs")
    assert done.code == 0 and done.out.startswith("grpo, seed 0: 3 steps; ")
    for text in shown:
        assert text in done.err
    assert shown or ("step " not in done.err and "reward 0.000" not in done.err)


# ------------------------------------------------------------------------------------- other code


@pytest.fixture
def by_other_code(
    run: Run, tmp_path: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[tuple[Any, ...], Path]]:
    """Make a run by other code, to its end or to some step: the command, and its folder."""

    def make(until: int | None = None) -> tuple[tuple[Any, ...], Path]:
        data, out = sums(tmp_path / "sums.jsonl"), tmp_path / "runs"
        command = ("train", "-a", "sft", "--model", reader, "--data", data, *SMALL, "--out", out)
        shown = train_cli._numbers

        def interrupt(metrics: dict[str, Any]) -> str:
            if metrics["step"] == until:
                raise KeyboardInterrupt
            return shown(metrics)

        with monkeypatch.context() as patch:
            today = config._loop_code(config._ENGINE_MODULES)
            patch.setattr(config, "_loop_code", lambda _: today | {"upge.advantage": "old"})
            patch.setattr(train_cli, "_numbers", interrupt)
            assert run(*command).code == (0 if until is None else 130)
        (folder,) = out.iterdir()
        return command, folder

    return make


def test_what_other_code_made_is_not_taken_for_todays(
    run: Run, tmp_path: Path, by_other_code: Callable[..., tuple[tuple[Any, ...], Path]]
) -> None:
    command, old = by_other_code()
    kept = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    done = run(*command)
    (new,) = set((tmp_path / "runs").iterdir()) - {old}
    sentence = (
        f"{old} (finished) is this run by other code: upge.advantage; training anew in {new} "
        "(--keep takes the old one)\n"
    )
    assert done.code == 0 and sentence in done.err
    assert done.out.startswith("sft, seed 0: 3 steps; ") and str(new) in done.out
    assert metrics_of(new) == metrics_of(old)
    assert {path: path.read_bytes() for path in kept} == kept
    again = run(*command)
    assert again.out == done.out.replace("3 steps", "finished before") and again.err == ""


def test_what_other_code_made_can_be_kept(
    run: Run, tmp_path: Path, by_other_code: Callable[..., tuple[tuple[Any, ...], Path]]
) -> None:
    command, old = by_other_code()
    done = run(*command, "--keep")
    assert done.code == 0 and f"{old} (finished) is this run by other code" in done.err
    assert done.out.startswith("sft, seed 0: finished before by other code (upge.advantage); ")
    assert str(old) in done.out and list((tmp_path / "runs").iterdir()) == [old]


def test_what_other_code_began_can_be_kept_and_stays_of_both(
    run: Run, tmp_path: Path, by_other_code: Callable[..., tuple[tuple[Any, ...], Path]]
) -> None:
    command, old = by_other_code(until=2)
    done = run(*command, "--keep")
    assert done.code == 0 and f"{old} (left after step 2) is this run by other code" in done.err
    assert done.out.startswith("sft, seed 0: 3 steps begun by other code (upge.advantage); ")
    assert list((tmp_path / "runs").iterdir()) == [old]
    assert [m["step"] for m in metrics_of(old)] == [1, 2, 3]
    assert json.loads((old / "code.json").read_text())["code"]["upge.advantage"] == (
        "several versions"
    )
    anew = run(*command)
    assert anew.code == 0 and "training anew" in anew.err
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.slow
def test_a_changed_module_is_noticed(tmp_path: Path) -> None:
    """From end to end, in a copy of the package: a comment changes nothing, a statement does."""
    root = Path(train_cli.__file__).parents[2]
    shutil.copytree(root / "upge", tmp_path / "upge", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "upge" / "advantage.py"
    command = ("train", "-a", "sft", "--steps", 1, "--set", "evaluation.every=null", "--set")
    command = (*command, "evaluation.test_samples=null", "--set", "data.supply.problems=60")

    def train() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "upge.cli", *map(str, command)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    assert "sft, seed 0: 1 steps; " in train().stdout
    module.write_text("# A comment.\n" + module.read_text(encoding="utf-8"), encoding="utf-8")
    assert "sft, seed 0: finished before; " in train().stdout
    module.write_text(module.read_text(encoding="utf-8") + "\nUNUSED = 1\n", encoding="utf-8")
    changed = train()
    assert "is this run by other code: upge.advantage; training anew" in changed.stderr
    assert "sft, seed 0: 1 steps; " in changed.stdout


# -------------------------------------------------------------------------------- records and logs


@pytest.fixture
def tested(run: Run, tmp_path: Path, reader: Path) -> tuple[Any, ...]:
    """A finished run with a test suite: the command, and what it said last."""
    data = sums(tmp_path / "sums.jsonl")
    settings = ("--set", f"data.test={data}", "--set", "evaluation.every=1")
    command = ("train", "-a", "sft", "--model", reader, "--data", data, *SMALL, *settings)
    command = (*command, "--out", tmp_path / "runs")
    done = run(*command)
    assert done.code == 0 and "; validation 0.000; test sums 0.000; " in done.out, done.err
    return command, done.out


@pytest.mark.spread(6)
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"suites": {}}',
        '{"suites": [1]}',
        '{"suites": null}',
        '{"suites": "x"}',
        '{"suites": {"sums": "x"}}',
        '{"suites": {"sums": null}}',
        '{"suites": {"sums": 1e999}}',
        '{"suites": {"sums": NaN}}',
        '{"suites": {"sums": 1' + "0" * 400 + "}}",
        '{"suites": {"sums": 0.5}, "in_distribution": "x"}',
    ],
)
def test_a_result_that_was_changed(
    run: Run, tmp_path: Path, tested: tuple[Any, ...], text: str
) -> None:
    command, line = tested
    (folder,) = (tmp_path / "runs").iterdir()
    path = folder / "result.json"
    path.write_text(text, encoding="utf-8")
    done = run(*command)
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1, done.err
    assert f"{path}: doesn't hold the run's accuracies any more; restore it" in done.err
    assert path.read_text(encoding="utf-8") == text
    policy = (folder / "policy" / "model.safetensors").read_bytes()
    metrics = metrics_of(folder)
    path.unlink()
    assert run(*command).out == line
    assert (folder / "policy" / "model.safetensors").read_bytes() == policy
    assert metrics_of(folder) == metrics


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "[]", "{"])
def test_a_result_that_is_no_json_is_made_anew(
    run: Run, tmp_path: Path, tested: tuple[Any, ...], text: str
) -> None:
    command, line = tested
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "result.json").write_text(text, encoding="utf-8")
    assert run(*command).out == line


@pytest.mark.spread(4)
@pytest.mark.parametrize("value", ["x", None, [0.5], {}, float("nan"), 10**400])
def test_metrics_that_were_changed(
    run: Run, tmp_path: Path, tested: tuple[Any, ...], value: Any
) -> None:
    command, line = tested
    (folder,) = (tmp_path / "runs").iterdir()
    whole = metrics_of(folder)
    changed = [*whole[:2], whole[2] | {"validation": value}]
    write(folder / "metrics.jsonl", changed)
    again = run(*command)
    assert again.code == 2 and again.out == "" and again.err.count("\n") == 1, again.err
    assert (
        f"upge: {folder / 'metrics.jsonl'}: isn't what the run wrote; restore it, or" in again.err
    )
    (folder / "result.json").unlink()
    assert run(*command).out == line
    assert metrics_of(folder) == whole


@pytest.mark.spread(6)
@pytest.mark.parametrize("how", ["empty", "changed", "gone"])
@pytest.mark.parametrize(
    "name", ["policy/model.safetensors", "policy/tokenizer.json", "evaluation/sums.parquet"]
)
def test_files_that_are_not_what_a_finished_run_wrote(
    run: Run, tmp_path: Path, tested: tuple[Any, ...], name: str, how: str
) -> None:
    """As a power failure leaves them: there, and empty."""
    command, line = tested
    (folder,) = (tmp_path / "runs").iterdir()
    whole = (folder / name).read_bytes()
    if how == "gone" and len(list((folder / name).parent.iterdir())) > 1:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"" if how != "changed" else bytes([whole[0] ^ 1]) + whole[1:])
    done = run(*command)
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1, done.err
    assert f"upge: {folder / name}: isn't what the run wrote; restore it, or delete" in done.err
    (folder / "result.json").unlink()
    assert run(*command).out == line
    assert (folder / name).read_bytes() == whole


def test_a_policy_that_was_deleted_to_free_space_misleads_nobody(
    run: Run, tmp_path: Path, tested: tuple[Any, ...]
) -> None:
    command, line = tested
    (folder,) = (tmp_path / "runs").iterdir()
    shutil.rmtree(folder / "policy")
    assert run(*command).out == line.replace("3 steps", "finished before")


@pytest.mark.parametrize("name", ["policy", "evaluation", "result.json"])
def test_what_the_last_step_writes_is_tried_before_the_first(
    run: Run, tmp_path: Path, tested: tuple[Any, ...], name: str
) -> None:
    command, line = tested
    (folder,) = (tmp_path / "runs").iterdir()
    shutil.rmtree(folder)
    folder.mkdir()
    blocked = folder / name
    _ = blocked.mkdir() if name == "result.json" else blocked.touch()
    done = run(*command)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert f"upge: {blocked}: can't be used (" in done.err and "mend that, or choose" in done.err
    assert not (folder / "metrics.jsonl").exists()
    _ = blocked.rmdir() if name == "result.json" else blocked.unlink()
    assert run(*command).out == line


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path, reader: Path) -> None:
    data = sums(tmp_path / "sums.jsonl")
    command = ("train", "-a", "sft", "--model", reader, "--data", data, *SMALL)
    options = ("--set", "evaluation.every=1", "--out", tmp_path / "runs")
    code = "import sys, upge.cli.main; sys.argv[0] = 'upge'; upge.cli.main.main()"
    for again in (False, True):
        read, written = os.pipe()
        os.close(read)
        child = subprocess.run(
            [sys.executable, "-c", code, *map(str, (*command, *options))],
            stdout=written,
            stderr=written,
            check=False,
        )
        os.close(written)
        (folder,) = (tmp_path / "runs").iterdir()
        assert child.returncode == 0, again
        assert [m["step"] for m in metrics_of(folder)] == [1, 2, 3]
        assert (folder / "result.json").exists()


@pytest.mark.parametrize(
    ("environment", "speaks"),
    [
        ({}, True),
        ({"RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
    ],
)
def test_of_several_processes_one_speaks(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], speaks: bool
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert train_cli._speaks() == speaks


def test_a_rank_alone_silences_nobody(
    run: Run, tested: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, line = tested
    monkeypatch.setenv("RANK", "1")
    assert run(*command).out == line.replace("3 steps", "finished before")


def test_a_dry_run_that_does_not_fit_says_so_by_its_code(run: Run) -> None:
    command = ("train", "-a", "sft", "--model", "Qwen/Qwen2.5-Math-7B", "--dry-run")
    tight = run(*command, "--gpu", "rtx4090")
    assert "DOES NOT FIT" in tight.out and tight.code == 1
    roomy = run(*command, "--gpu", "h200")
    assert "DOES NOT FIT" not in roomy.out and roomy.code == 0, roomy.out
    assert run(*command).code == 0


# ------------------------------------------------------------------------------------ user mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "what to train? Name a CONFIG.yaml, or an algorithm by --algorithm"),
        (["-a", "grpp"], "unknown algorithm 'grpp'; did you mean 'grpo'?"),
        (["-a", "sft", "--lr", "-1"], "stages.0.lr: got -1"),
        (["-a", "sft", "--steps", "0"], "stages.0.steps: got 0"),
        (["-a", "grpo", "--prompts-per-step", "0"], "stages.0.prompts_per_step: got 0"),
        (["-a", "grpo", "--rollouts", "1"], "stages.0: group_size: got 1, but grpo compares"),
        (["-a", "sft", "--set", "stages.0.lrr=1"], "did you mean 'stages.0.lr'?"),
        (["-a", "sft", "--set", "lr"], "--set lr: wanted KEY=VALUE"),
        (["nowhere.yaml"], "nowhere.yaml: can't be read"),
        (["nowhere.yaml", "--lr", "1"], "--lr: goes without a CONFIG"),
        (["-a", "sft", "--data", "nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
    ],
)
def test_what_cannot_be_trained(run: Run, arguments: list[str], sentence: str) -> None:
    done = run("train", *arguments, "--dry-run")
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("upge: ") and sentence in done.err and done.err.count("\n") == 1


def test_a_run_without_any_reward_ends_with_a_hint(
    run: Run, tmp_path: Path, reader: Path, speller: Path
) -> None:
    data, out = sums(tmp_path / "sums.jsonl"), tmp_path / "runs"
    for algorithm, hints in (("grpo", 1), ("hpt", 1), ("sft", 0)):
        command = ("train", "-a", algorithm, "--model", reader, "--data", data, *SMALL, "-q")
        done = run(*command, "--out", out)
        assert done.code == 0 and done.err.count("Hint: the reward was 0 in all 3 steps") == hints
    easy = write(
        tmp_path / "easy.jsonl", [{"problem": "ab"[i % 2] * i, "answer": "a"} for i in range(1, 9)]
    )
    command = ("train", "-a", "grpo", "--model", speller, "--data", easy, *SMALL, "--out", out)
    options = ("--max-tokens", 6, "--set", "data.marker='='", "--set", "data.prompt='{problem}'")
    done = run(*command, *options)
    assert done.code == 0 and "Hint" not in done.err, done.err


def test_a_run_that_is_refused_leaves_no_folder(run: Run, tmp_path: Path, reader: Path) -> None:
    data, out = sums(tmp_path / "sums.jsonl", solution=False), tmp_path / "new" / "runs"
    command = ("train", "-a", "hpt", "--model", reader, "--data", data, *SMALL, "--out", out)
    done = run(*command)
    assert done.code == 2 and "no training problem has one; add solutions" in done.err
    assert not (tmp_path / "new").exists()
    out.mkdir(parents=True)
    assert run(*command).code == 2 and not list(out.iterdir())


@pytest.mark.parametrize("where", ["out", "model", "data"])
def test_a_path_that_is_no_utf8_is_refused_at_once(
    run: Run, tmp_path: Path, reader: Path, where: str
) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    data, model, out = sums(tmp_path / "sums.jsonl"), reader, tmp_path / "runs"
    if where == "model":
        model = Path(shutil.copytree(reader, strange))
    elif where == "data":
        data = Path(shutil.copy(data, strange))
    else:
        out = strange
    done = run("train", "-a", "sft", "--model", model, "--data", data, *SMALL, "--out", out)
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1, done.err
    assert "/caf\\udce9" in done.err and "': isn't UTF-8; choose another path" in done.err
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x\nstages: []\nsteps: 3\n", "unknown key 'steps'; did you mean 'stages'?"),
        ("name: [\n", "is no YAML"),
        ("- 1\n", "got list, wanted a mapping"),
        ("{}", "name: is missing"),
    ],
)
def test_a_bad_configuration(run: Run, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    done = run("train", path)
    assert done.code == 2 and sentence in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no problems"),
        ('{"problem": "a?"}', "line 1: wanted a JSON record with 'problem' and 'answer'"),
        ('{"problem": "a?", "answer": ""}', "'answer' is empty"),
        ('{"problem": "a?", "answer": "1"}', "held_out: got 1, but there are only 1 problems"),
    ],
)
def test_bad_problems(run: Run, tmp_path: Path, reader: Path, text: str, sentence: str) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text(text, encoding="utf-8")
    done = run("train", "-a", "grpo", "--model", reader, "--data", data, "--out", tmp_path / "runs")
    assert done.code == 2 and sentence in done.err and done.err.count("\n") == 1


def test_problems_that_do_not_go_with_the_run(run: Run, tmp_path: Path, reader: Path) -> None:
    plain, out = sums(tmp_path / "plain.jsonl", solution=False), tmp_path / "runs"
    speechless = save_model(tmp_path / "digits", "0123456789")
    worked = sums(tmp_path / "worked.jsonl")
    for options, sentence in (
        (
            ("-a", "sft", "--model", reader, "--data", plain, *SMALL),
            "sft learns from demonstrations, but",
        ),
        (
            ("-a", "sft", "--model", speechless, "--data", worked),
            "tokenizer can't encode 'It is 0.",
        ),
        (("-a", "grpo", "--model", speechless, "--data", plain), "tokenizer can't encode 'What is"),
        (("-a", "sft", "--model", reader, "--data", worked, "--max-tokens", 9), "raise max_tokens"),
        (("-a", "sft", "--model", tmp_path, "--data", worked), "no model can be loaded from"),
    ):
        done = run("train", *options, "--out", out)
        assert done.code == 2 and done.out == ""
        assert done.err.startswith("upge: ") and sentence in done.err


def test_a_place_that_cannot_be_written_to(run: Run, tmp_path: Path, reader: Path) -> None:
    data, blocked = sums(tmp_path / "sums.jsonl"), tmp_path / "file"
    blocked.touch()
    done = run("train", "-a", "sft", "--model", reader, "--data", data, *SMALL, "--out", blocked)
    assert done.code == 2 and done.err.startswith("upge: ") and str(blocked) in done.err


# ------------------------------------------------------------------------------------------ in all


def test_the_command_line_starts_without_heavy_packages() -> None:
    heavy = {"transformers", "pyarrow", "pydantic", "yaml", "accelerate", "datasets", "sympy"}
    code = f"import sys, upge.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
