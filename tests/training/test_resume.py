"""Interrupted anywhere and started again, a run ends with the numbers of an uninterrupted one."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import tiny_runs
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tiny_runs import numbers, run, weights

from upge.common import files
from upge.common.config import build
from upge.common.errors import UpgeError
from upge.evaluation.responses import Responses
from upge.models.policy import Policy
from upge.training import checkpoint as checkpoints
from upge.training import loop, records
from upge.training.config import RunConfig
from upge.training.evaluate import Evaluator
from upge.training.loop import Trainer
from upge.training.records import RunFolder, run_folder
from upge.training.update import Updater


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


def two_stages(tiny):
    """Eight steps: two updates a step, checkpoints within and between stages, validations."""

    def stage(name, **changes):
        return tiny.config(name, **changes).model_dump(mode="json")["stages"][0]

    return tiny.config(
        "sft",
        stages=[stage("sft", steps=3), stage("hpt", steps=5, minibatches=2, warmup=4, lr=3e-3)],
        evaluation={"every": 3, "validation_samples": 2, "test_samples": 2},
    )


def test_where_steps_take_long_checkpoints_go_by_the_clock(tiny, tmp_path, monkeypatch):
    saved = []
    config = tiny.config("sft", steps=4).model_copy(update={"checkpoint_every": 100})
    monkeypatch.setattr(
        loop.Checkpoints, "save", lambda self, checkpoint: saved.append(checkpoint.progress.step)
    )
    run(config, tmp_path / "quick")
    assert saved == [4]
    monkeypatch.setattr(loop, "_LATE", 0.0)
    run(config, tmp_path / "slow")
    assert saved == [4, 1, 2, 3, 4]


@pytest.fixture(scope="session")
def whole(tiny, tmp_path_factory):
    """The uninterrupted run."""
    return run(two_stages(tiny), tmp_path_factory.mktemp("whole"))


def assert_same(one: RunFolder, other: RunFolder):
    assert numbers(one) == numbers(other)
    assert one.result == other.result is not None
    assert weights(one) == weights(other)
    files = sorted(path.name for path in other.evaluation.iterdir())
    assert files == sorted(path.name for path in one.evaluation.iterdir()) != []
    for name in files:
        own, theirs = (parquet.read_table(f.evaluation / name) for f in (one, other))
        assert own.equals(theirs)


def killing(call, at, after=False):
    """``call``, but its ``at``-th one (from 1) dies, before or after it has acted."""
    count = 0

    def counted(*args, **options):
        nonlocal count
        count += 1
        if count == at and not after:
            raise Killed
        result = call(*args, **options)
        if count == at:
            raise Killed
        return result

    return counted


#: Where a run may die: the patched name, and how often it is called.
PLACES = {
    "a step": (Trainer, "step", 8),
    "an update": (Updater, "_apply", 13),
    "validation": (Evaluator, "_respond", 4),
    "the line of metrics": (RunFolder, "append", 8),
    "a checkpoint": (checkpoints.Checkpoints, "save", 5),
    "a checkpoint's tensors": (checkpoints, "save_file", 10),
    "a checkpoint's metrics and state": (Path, "write_text", 10),
    "a checkpoint's rename": (Path, "rename", 5),
    "a checkpoint's end": (checkpoints, "sync", 30),
    "deleting old checkpoints": (checkpoints.shutil, "rmtree", 3),
    "an evaluation's file": (Responses, "save", 1),
    "the result": (RunFolder, "finish", 1),
    "the last files on the disk": (records, "sync", 9),
    "a replacement of a file": (Path, "replace", 6),
}


@pytest.mark.spread(4)
@pytest.mark.parametrize("place", PLACES)
@settings(suppress_health_check=list(HealthCheck), max_examples=3)
@given(data=st.data())
def test_killed_anywhere_it_ends_as_if_nothing_had_been(tiny, whole, tmp_path_factory, place, data):
    owner, name, calls = PLACES[place]
    at, after = data.draw(st.integers(1, calls)), data.draw(st.booleans())
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), at, after))
        with pytest.raises(Killed):
            run(two_stages(tiny), folder)
    assert_same(run(two_stages(tiny), folder), whole)


@settings(suppress_health_check=list(HealthCheck), max_examples=4)
@given(steps=st.lists(st.integers(1, 4), min_size=2, max_size=5))
@pytest.mark.slow
def test_killed_again_and_again(tiny, whole, tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("run")
    for at in steps:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "step", killing(Trainer.step, at))
            try:
                run(two_stages(tiny), folder)
            except Killed:
                continue
            break
    assert_same(run(two_stages(tiny), folder), whole)


@pytest.mark.parametrize("file", ["state.json", "policy.safetensors", "optimizer.safetensors"])
def test_from_a_damaged_checkpoint_the_one_before_is_taken(tiny, whole, tmp_path, caplog, file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", killing(Trainer.step, 7))
        with pytest.raises(Killed):
            run(two_stages(tiny), tmp_path)
    path = tmp_path / "checkpoints" / "step-00000006" / file
    path.write_bytes(path.read_bytes()[:-10])
    seen = []
    with caplog.at_level(logging.WARNING):
        Trainer(two_stages(tiny), RunFolder(tmp_path), seen.append).run()
    assert "step-00000006: is damaged" in caplog.text
    assert [line["step"] for line in seen] == [5, 6, 7, 8]
    assert_same(RunFolder(tmp_path), whole)


@pytest.fixture(scope="session")
def left(tiny, tmp_path_factory):
    """A run that was killed in its eighth step: its last checkpoint is of the sixth."""
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", killing(Trainer.step, 8))
        with pytest.raises(Killed):
            run(two_stages(tiny), folder)
    return folder


def lose_line(content, number):
    lines = content.split(b"\n")
    lines[number] = b"\0" * len(lines[number])
    return b"\n".join(lines)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-40],
        lambda content: lose_line(content, 1),
        lambda content: lose_line(content, 6),
        lambda content: content[-300:],
        lambda content: b"",
        None,
    ],
    ids=["cut", "an early line", "the last line", "the end alone", "empty", "gone"],
)
def test_damaged_metrics_spoil_no_checkpoint(tiny, whole, left, tmp_path, damage):
    folder = RunFolder(shutil.copytree(left, tmp_path / "run"))
    if damage is None:
        folder.metrics_path.unlink()
    else:
        folder.metrics_path.write_bytes(damage(folder.metrics_path.read_bytes()))
    steps = []
    Trainer(two_stages(tiny), folder, lambda line: steps.append(line["step"])).run()
    assert steps == [7, 8]
    assert_same(folder, whole)


def test_a_start_that_cant_read_the_checkpoints_loses_nothing(tiny, whole, left, tmp_path):
    """As where a disk is not mounted, or by another user."""
    folder = RunFolder(shutil.copytree(left, tmp_path / "run"))
    before = folder.metrics_path.read_bytes()
    listdir = os.listdir

    def refuse(path="."):
        if str(path) == str(folder.checkpoints):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listdir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        with pytest.raises(
            UpgeError, match=r"checkpoints: can't be used \(Permission denied\); mend"
        ):
            run(two_stages(tiny), folder.path)
    assert folder.metrics_path.read_bytes() == before
    steps = []
    Trainer(two_stages(tiny), folder, lambda line: steps.append(line["step"])).run()
    assert steps == [7, 8]
    assert_same(folder, whole)


#: Files of a run that was left, and what may happen to them.
PLACES_OF_FILES = [
    "config.json", "code.json", "provenance.json", "metrics.jsonl", "lock", "result.json",
    "checkpoints", "evaluation", "policy", "checkpoints/step-00000006",
    *(f"checkpoints/step-00000006/{name}" for name in
      ("state.json", "policy.safetensors", "optimizer.safetensors", "metrics.jsonl")),
]  # fmt: skip


@pytest.mark.spread(3)
@pytest.mark.parametrize("how", ["empty", "zeros", "null", "folder", "link to itself", "file"])
@settings(suppress_health_check=list(HealthCheck), max_examples=5)
@given(name=st.sampled_from(PLACES_OF_FILES))
def test_odd_files_are_a_sentence_or_change_nothing(tiny, whole, left, tmp_path_factory, name, how):
    folder = RunFolder(shutil.copytree(left, tmp_path_factory.mktemp("odd") / "run"))
    path = folder.path / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if how == "folder":
        path.mkdir()
    elif how == "link to itself":
        path.symlink_to(path)
    else:
        path.write_bytes({"empty": b"", "zeros": bytes(500), "null": b"null", "file": b"x"}[how])
    try:
        run(two_stages(tiny), folder.path)
    except UpgeError as error:
        assert "\n" not in str(error)
    else:
        assert_same(folder, whole)


def test_all_is_on_the_disk_before_the_run_is_finished(tiny, tmp_path):
    """What a power failure can leave of a run with a result: all of it, and whole."""
    synced, replace, finished = {}, Path.replace, []

    def sync(path):
        size = path.stat().st_size if path.is_file() else len(os.listdir(path))
        synced[path.resolve()] = size
        fsync(path)

    def spy(self, target):
        if Path(target).name == "result.json":
            finished.append({path: size for path, size in synced.items()})
        return replace(self, target)

    fsync = records.sync
    with pytest.MonkeyPatch.context() as patch:
        for module in (records, checkpoints, files):
            patch.setattr(module, "sync", sync)
        patch.setattr(Path, "replace", spy)
        folder = run(two_stages(tiny), tmp_path)
    (before,) = finished
    for path in [tmp_path, folder.policy, folder.evaluation]:
        assert path.resolve() in before
    written = [
        path
        for name in ("policy", "evaluation", "checkpoints/step-00000008")
        for path in (tmp_path / name).rglob("*")
    ]
    assert len(written) >= 10
    for path in [*written, folder.metrics_path]:
        held = {p.name: size for p, size in before.items()}
        assert held[path.name] == path.stat().st_size > 0, path


# --------------------------------------------------------------------------- more or fewer steps


def of_length(tiny, steps, **changes):
    """As :func:`two_stages`, with so many steps of the second one."""
    given = two_stages(tiny).model_dump(mode="json")
    given["stages"][1]["steps"] = steps
    return build(given | changes, RunConfig)


def train(config, runs):
    """The run's folder, the steps that were done, and what was noted."""
    folder, steps, notes = run_folder(runs, config), [], []
    Trainer(config, folder, lambda line: steps.append(line["step"]), notes.append).run()
    return folder, steps, notes


@pytest.mark.parametrize("lengths", [(2, 5), (1, 2, 5), (3, 5), (7, 5)])
def test_a_longer_or_shorter_run_continues_the_one_that_is_there(tiny, whole, tmp_path, lengths):
    """With the numbers of one that was made at once; the others stay as they are."""
    step, before = 0, {}
    for length in lengths:
        folder, steps, notes = train(of_length(tiny, length), tmp_path)
        start = step if step <= 3 + length else 8  # checkpoints are kept of steps 8 and 10
        assert steps == list(range(start + 1, 4 + length))
        assert len(notes) == (start > 0) and all(f"from step {start}" in note for note in notes)
        for path, content in before.items():
            assert path.read_bytes() == content
        before |= {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
        step = 3 + length
    assert_same(folder, whole)


def test_a_run_of_other_checkpoints_is_the_same_run(tiny, whole, tmp_path):
    config = of_length(tiny, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", killing(Trainer.step, 6))
        with pytest.raises(Killed):
            train(config, tmp_path)
    folder, steps, _ = train(of_length(tiny, 5, checkpoint_every=1), tmp_path)
    assert steps == [5, 6, 7, 8]
    assert_same(folder, whole)
    assert train(of_length(tiny, 5, checkpoint_every=50), tmp_path)[1] == []


def test_what_differs_otherwise_continues_nothing(tiny, tmp_path):
    train(of_length(tiny, 2), tmp_path)
    for change in ({"seed": 1}, {"max_tokens": 9}):
        assert train(of_length(tiny, 3, **change), tmp_path)[1] == [1, 2, 3, 4, 5, 6]


# --------------------------------------------------------------------------- SIGTERM and SIGINT


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0)  # where Python looks for signals


def interrupting(call, at, after, number=signal.SIGTERM):
    """``call``, but its ``at``-th one (from 1) gets a signal, before or after it has acted."""
    count = 0

    def counted(*args, **options):
        nonlocal count
        count += 1
        if count == at and not after:
            send(number)
        result = call(*args, **options)
        if count == at and after:
            send(number)
        return result

    return counted


#: Where a signal arrives in a run of eight steps, and the step that the run resumes from.
MOMENTS = [
    (Trainer, "_open_policy", 1, False, 0),
    (Trainer, "_collect", 1, False, 0),
    (Trainer, "_collect", 2, True, 1),
    (Trainer, "_collect", 6, False, 5),
    (Updater, "plan", 5, False, 4),  # the second update of step 4: its first is not lost
    (Updater, "plan", 6, False, 4),
    (Updater, "_apply", 3, False, 3),
    (Updater, "_apply", 4, True, 4),
    (Updater, "_apply", 5, False, 4),
    (Evaluator, "validate", 1, False, 3),
    (Evaluator, "validate", 2, True, 6),
    (RunFolder, "append", 2, False, 2),
    (RunFolder, "append", 5, True, 5),
    (checkpoints.Checkpoints, "save", 1, False, 2),
    (checkpoints.Checkpoints, "save", 3, True, 4),
    (Evaluator, "test", 1, False, 8),
    (RunFolder, "finish", 1, False, 8),
]


@pytest.mark.spread(6)
@pytest.mark.parametrize(("owner", "name", "at", "after", "step"), MOMENTS)
def test_what_is_done_is_kept(tiny, whole, tmp_path, owner, name, at, after, step):
    number = signal.SIGINT if after else signal.SIGTERM
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    trainer = Trainer(two_stages(tiny), RunFolder(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, interrupting(getattr(owner, name), at, after, number))
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert trainer.resumes.startswith(f"resumes from step {step}" if step else "starts anew")
    assert RunFolder(tmp_path).result is None
    seen = []
    Trainer(two_stages(tiny), RunFolder(tmp_path), seen.append).run()
    assert [line["step"] for line in seen] == list(range(step + 1, 9))
    assert_same(RunFolder(tmp_path), whole)


# ------------------------------------------------------------------------------------ a full disk


def full(call, at):
    """``call``, but its ``at``-th one finds no space."""
    count = 0

    def counted(*args, **options):
        nonlocal count
        count += 1
        if count == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")
        return call(*args, **options)

    return counted


@pytest.mark.spread(3)
@pytest.mark.parametrize(
    ("owner", "name", "at", "step"),
    [
        (RunFolder, "append", 1, 0),
        (RunFolder, "append", 4, 3),
        (Path, "write_bytes", 1, 0),  # the first file that is tried
        (checkpoints, "save_file", 1, 0),  # the first checkpoint's weights
        (checkpoints, "save_file", 4, 2),  # the second one's optimizer
        (checkpoints, "sync", 8, 2),
        (Responses, "save", 1, 8),
        (RunFolder, "finish", 1, 8),
        (records, "provenance", 1, 0),
    ],
)
def test_a_full_disk_ends_the_run_in_a_sentence_and_it_resumes(
    tiny, whole, tmp_path, owner, name, at, step
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, full(getattr(owner, name), at))
        with pytest.raises(UpgeError) as error:
            run(two_stages(tiny), tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: the disk is full; free space and rerun the command: it "
        + (f"resumes from step {step}" if step else "starts anew, without a checkpoint")
    )
    seen = []
    Trainer(two_stages(tiny), RunFolder(tmp_path), seen.append).run()
    assert [line["step"] for line in seen] == list(range(step + 1, 9))
    assert_same(RunFolder(tmp_path), whole)


def test_a_folder_that_cant_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UpgeError, match=r"file.*: can't be used \("):
        run(tiny.config("sft"), tmp_path / "file" / "run")


# ------------------------------------------------------------------------------ too little memory


def no_host_memory():
    torch.empty(1 << 50)


def no_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has …")


def no_memory():
    raise MemoryError


@pytest.mark.parametrize(
    ("allocate", "wanted"),
    [
        (no_host_memory, " for another 4503599627370496 bytes"),
        (no_gpu_memory, " for another 2.50 GiB"),
        (no_memory, ""),
    ],
)
def test_too_little_memory_is_a_sentence_and_it_resumes(tiny, whole, tmp_path, allocate, wanted):
    given = Policy.forward
    calls = []

    def forward(*args):
        calls.append(None)
        if len(calls) == 9:
            allocate()
        return given(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "forward", forward)
        with pytest.raises(
            UpgeError, match=f"^too little memory{wanted}: lower tokens_per_microbatch or"
        ):
            run(two_stages(tiny), tmp_path)
    run(two_stages(tiny), tmp_path)
    assert_same(RunFolder(tmp_path), whole)


# ---------------------------------------------------------------------------- what is not finite


@pytest.fixture
def overflow(monkeypatch):
    """Makes log-probabilities NaN in some forward passes (from 1), with gradient."""

    def at(*calls):
        count, forward = 0, Policy.forward

        def broken(self, tokens, mask):
            nonlocal count
            logp, entropy = forward(self, tokens, mask)
            count += torch.is_grad_enabled()
            return (logp * float("nan"), entropy) if count in calls else (logp, entropy)

        monkeypatch.setattr(Policy, "forward", broken)

    return at


def quiet(tiny, **changes):
    return tiny.config("sft", norms_every=None, tokens_per_microbatch=1000, **changes)


def test_a_step_that_is_not_finite_stops_the_run(tiny, tmp_path, overflow):
    overflow(2)
    with pytest.raises(UpgeError, match=r"step 2: .* not finite; the batch is in .*Lower lr") as e:
        run(quiet(tiny), tmp_path)
    (path,) = (tmp_path / "bad_steps").iterdir()
    assert str(path) in str(e.value)
    kept = torch.load(path, weights_only=True)
    assert len(kept["tokens"]) == 4
    assert kept["offline"].any(1).all()
    assert [line["step"] for line in RunFolder(tmp_path).metrics()] == [1]


def test_or_is_skipped_and_never_averaged_in(tiny, tmp_path, overflow):
    overflow(2)
    trainer = Trainer(quiet(tiny, on_bad_step="skip"), RunFolder(tmp_path))
    states = []
    step = Trainer.step

    def spy(self, *args):
        found = step(self, *args)
        states.append({k: v.clone() for k, v in self.strategy.whole.state_dict().items()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", spy)
        trainer.run()
    assert [line["skipped"] for line in RunFolder(tmp_path).metrics()] == [0, 1, 0]
    assert trainer.progress.updates == 2
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairwise(states)]
    assert same == [True, False]
    assert all(value.isfinite().all() for value in states[-1].values())
    assert len(list((tmp_path / "bad_steps").iterdir())) == 1


def test_too_many_skips_in_a_row_end_the_run(tiny, tmp_path, overflow):
    overflow(*range(3, 30))
    with pytest.raises(UpgeError, match=r"step 12: 10 updates in a row .* lower lr"):
        run(quiet(tiny, steps=20, on_bad_step="skip"), tmp_path)


def test_a_gradient_above_skip_norm_is_skipped_and_kept(tiny, tmp_path):
    lines = run(quiet(tiny, steps=5), tmp_path / "all").metrics()
    norms = sorted(line["grad_norm"] for line in lines)
    config = quiet(tiny, steps=5, skip_norm=(norms[-1] + norms[-2]) / 2)
    folder = run(config, tmp_path / "skip")
    skips = [line["skipped"] for line in folder.metrics()]
    assert 1 in skips
    for line in folder.metrics():
        assert line["skipped"] == (line["grad_norm"] > config.stages[0].skip_norm)
    assert len(list((tmp_path / "skip" / "bad_steps").iterdir())) == sum(skips)


@pytest.mark.parametrize("name", ["sft", "grpo", "hpt"])
def test_weights_that_give_nan_stop_the_run_at_once(tiny, tmp_path, name):
    """They are finite themselves: others are refused when the model is loaded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny.model)
    with torch.no_grad():
        model.model.norm.weight[:] = 3e38
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(tiny.model).save_pretrained(tmp_path / "nan")
    config = tiny.config(name, model=str(tmp_path / "nan"))
    with pytest.raises(UpgeError, match="step 1: the loss or its gradient is not finite"):
        run(config, tmp_path / "run")
    assert list((tmp_path / "run" / "bad_steps").iterdir())


@pytest.mark.parametrize("every", [1, 50])
def test_weights_that_overflow_are_no_result(tiny, tmp_path, every):
    """One step at an absurd rate, and nothing that would notice: no validation, no test."""
    config = tiny.config("sft", steps=1, lr=1e308, warmup=0).model_copy(
        update={
            "checkpoint_every": every,
            "data": tiny.config().data.model_copy(update={"test": None}),
        }
    )
    with pytest.raises(UpgeError, match=r"step 1: the policy has broken, its weight .* not finite"):
        run(config, tmp_path)
    assert RunFolder(tmp_path).result is None
    assert (
        not list(RunFolder(tmp_path).checkpoints.glob("*"))
        and not RunFolder(tmp_path).policy.exists()
    )


def test_a_loss_that_overflows_is_not_applied(tiny, tmp_path):
    """Weights of 1e38 times log π of rare tokens: beyond float32."""
    config = tiny.config("sft_rl", options={"sft_coefficient": 1e39})
    with pytest.raises(UpgeError, match="step 1: the loss or its gradient is not finite"):
        run(config, tmp_path)


SMALL_DISK = """
import json, subprocess, sys
from pathlib import Path
from upge.common import files
from upge.common.config import build
from upge.common import files
from upge.common.config import build
from upge.common.errors import UpgeError
from upge.training.config import RunConfig
from upge.training.loop import Trainer
from upge.training.records import RunFolder

disk, config = Path(sys.argv[1]), build(json.loads(Path(sys.argv[2]).read_text()), RunConfig)
for kilobytes in range(4, 2000, 24):
    options = f"remount,size={kilobytes}k"
    subprocess.run(["mount", "-o", options, "tmpfs", disk], check=True)
    try:
        Trainer(config, RunFolder(disk / "run")).run()
    except UpgeError as error:
        print(error)
    else:
        break
subprocess.run(["cp", "-r", disk / "run", sys.argv[3]], check=True)
"""


def may_mount():
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="no file system may be mounted here")
def test_a_small_disk_that_grows(tiny, whole, tmp_path):
    """A real file system: the run dies of it dozens of times, wherever it was just writing."""
    (tmp_path / "disk").mkdir()
    config = two_stages(tiny)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "script.py").write_text(SMALL_DISK)
    shell = 'mount -t tmpfs -o size=4k tmpfs "$1" && exec "$2" "$3" "$1" "$4" "$5"'
    places = (tmp_path / name for name in ("disk", "script.py", "config.json", "copy"))
    disk, script, given, copy = map(str, places)
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell, "-", disk, sys.executable, script, given, copy],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) > 10
    assert all("the disk is full; free space and rerun the command: it" in line for line in lines)
    steps = [
        0 if line.endswith("starts anew, without a checkpoint") else int(line.rsplit(" ", 1)[1])
        for line in lines
    ]
    assert steps == sorted(steps)
    assert len(set(steps)) > 2
    assert_same(RunFolder(tmp_path / "copy"), whole)
