"""Responses to benchmarks are kept part by part, whatever ends a run on its way, and read off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_benchmarks import (
    BOTH,
    Fake,
    benchmark,
    contents,
    evaluator,
    judge,
    open_folder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation import folder as folder_module
from upge.evaluation.benchmarks import (
    Benchmark,
)
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.metrics import interval
from upge.evaluation.responses import Responses
from upge.evaluation.results import result_rows
from upge.evaluation.run import Evaluator, parts
from upge.tasks.grading import Verdict

pytest.importorskip("pyarrow")

# -------------------------------------------------------------------------------- a made-up sampler


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> EvaluationFolder:
    """An evaluation that nothing interrupted."""
    folder = open_folder(tmp_path_factory.mktemp("whole"), *BOTH)
    seen: list[tuple[str, int]] = []
    evaluator().run(BOTH, folder, lambda *came: seen.append(came))
    assert seen == [*[("made", 6)] * 3, ("made", 3), ("other", 6), ("other", 2)]
    return folder


def test_a_finished_benchmark_is_one_file_that_other_readers_know(whole: EvaluationFolder) -> None:
    assert set(contents(whole.path)) == {"made.parquet", "other.parquet"}
    assert not list(whole.path.glob("*.parts"))
    read = Responses.load(whole.path / "made.parquet")
    assert [p.prompt for p in read.problems] == [p.prompt for p in BOTH[0].problems]
    table = whole.table("made").to_pydict()
    assert [text for texts in read.texts for text in texts] == table["response"]
    graded = judge(table["response"], [p for p in BOTH[0].problems for _ in range(3)])
    assert table["verdict"] == graded
    assert read.rewards.flatten().tolist() == [float(v == "right") for v in graded]
    assert table["tokens"] == [len(text) for text in table["response"]]
    assert len(set(table["verdict"])) > 2 and len(set(table["finished"])) == 2


class Killed(BaseException):
    """Not an error: nothing on the way may catch it."""


def killing(call: Callable[..., Any], at: int, after: bool) -> Callable[..., Any]:
    count = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == at and not after:
            raise Killed
        result = call(*args, **options)
        if count == at:
            raise Killed
        return result

    return counted


#: Where an evaluation may die, and how often it gets there.
PLACES = {
    "sampling": (Evaluator, "_sample", 6),
    "grading": (Evaluator, "_keep", 6),
    "a part": (EvaluationFolder, "add", 6),
    "a file": (EvaluationFolder, "_write", 8),
    "its replacement": (Path, "replace", 8),
    "the parts' end": (folder_module.shutil, "rmtree", 2),
    "a benchmark's end": (EvaluationFolder, "finish", 2),
}


@pytest.mark.parametrize("place", PLACES)
@settings(suppress_health_check=list(HealthCheck), max_examples=5)
@given(data=st.data())
def test_killed_anywhere_it_ends_as_if_nothing_had_been(
    whole: EvaluationFolder, tmp_path_factory: pytest.TempPathFactory, place: str, data: Any
) -> None:
    owner, name, calls = PLACES[place]
    at, after = data.draw(st.integers(1, calls)), data.draw(st.booleans())
    folder = open_folder(tmp_path_factory.mktemp("killed"), *BOTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), at, after))
        with pytest.raises(Killed):
            evaluator().run(BOTH, folder)
    evaluator().run(BOTH, open_folder(folder.path, *BOTH))
    assert contents(folder.path) == contents(whole.path)


def test_what_is_done_is_not_done_again(whole: EvaluationFolder) -> None:
    before, fake = contents(whole.path), Fake()
    evaluator(fake).run(BOTH, whole)
    assert fake.asked == [] and contents(whole.path) == before


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other columns"])
def test_a_damaged_part_is_sampled_again(
    whole: EvaluationFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = open_folder(tmp_path, *BOTH)
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationFolder, "finish", lambda self, name, count: None)
        evaluator().run(BOTH, folder)
    part = tmp_path / "made.parts" / "00000002.parquet"
    content = part.read_bytes()
    if damage == "other columns":
        part.write_bytes((tmp_path / "made.parts" / "00000004.parquet").read_bytes())
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"problem": [2, 3]}), part)
    else:
        part.write_bytes({"cut": content[:-50], "empty": b"", "noise": b"PAR1" * 9}[damage])
    fake = Fake()
    evaluator(fake).run(BOTH, folder)
    assert fake.asked == [2] and contents(tmp_path) == contents(whole.path)


def test_a_full_disk_loses_nothing(
    whole: EvaluationFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(tmp_path, *BOTH)
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "00000004" in path.name:
            write(path, content[:100])
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UpgeError, match=r"No space left .* the same command goes on with"):
            evaluator().run(BOTH, folder)
    assert folder.done("made") == {0, 1, 2, 3}
    fake = Fake()
    evaluator(fake).run(BOTH, folder)
    assert fake.asked == [2, 1, 3, 1] and contents(tmp_path) == contents(whole.path)


@settings(suppress_health_check=list(HealthCheck), max_examples=8)
@given(rows=st.integers(1, 40), first=st.integers(1, 7))
def test_neither_parts_nor_a_first_trial_change_a_response(
    whole: EvaluationFolder, tmp_path_factory: pytest.TempPathFactory, rows: int, first: int
) -> None:
    folder = open_folder(tmp_path_factory.mktemp("parts"), BOTH[0])
    trial = Benchmark("made", BOTH[0].problems[:first], 3, BOTH[0].digest, 7)
    evaluator(rows=rows).run([trial], folder)
    assert folder.done("made") == set(range(first))
    evaluator(rows=rows).run([BOTH[0]], folder)
    assert folder.table("made").equals(whole.table("made"))


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 40), st.sets(st.integers(0, 49)))
def test_every_problem_that_is_left_is_in_one_part(
    count: int, samples: int, rows: int, done: set[int]
) -> None:
    own = benchmark(count, samples)
    found = list(parts(own, done, rows))
    assert [place for places in found for place in places] == sorted(set(range(count)) - done)
    assert all(len(places) * samples <= max(rows, samples) for places in found)
    places = {place: i for i, part in enumerate(parts(own, set(), rows)) for place in part}
    assert all(len({places[place] for place in part}) == 1 for part in found)


def test_another_setting_or_model_in_the_same_folder_is_refused(whole: EvaluationFolder) -> None:
    changed = Benchmark("made", BOTH[0].problems, 3, "another file's", 7)
    for changes, own, sentence in (
        ({"template": "qwen"}, BOTH, "was sampled with template 'zero', not 'qwen'"),
        ({"seed": 6}, BOTH, "was sampled with seed 5, not 6"),
        ({"weights": "v"}, BOTH, "another model or has other weights now; choose another --out"),
        ({}, [changed], "its made is not the one of now"),
    ):
        with pytest.raises(UpgeError, match=sentence):
            open_folder(whole.path, *own, **changes)
    starts = whole.about["starts"]
    open_folder(whole.path, benchmark(name="third"))
    about = whole.about
    assert set(about["benchmarks"]) == {"made", "other", "third"}
    assert len(about["starts"]) == len(starts) + 1 and "torch" in about["starts"][-1]


def test_a_second_process_is_refused(whole: EvaluationFolder, tmp_path: Path) -> None:
    with whole.locked(), pytest.raises(UpgeError, match="another process"), whole.locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UpgeError, match=r"--out .*file"):
        EvaluationFolder(tmp_path / "file").locked()
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UpgeError, match=r"evaluation\.json: can't be read"):
        EvaluationFolder(tmp_path).open("m", {}, {})


# ----------------------------------------------------------------------------------------- results


def keep(folder: EvaluationFolder, verdicts: Sequence[str], levels: Sequence[int]) -> None:
    """Verdicts by letter: right, wrong, unboxed, refused, time, killed; capitals are truncated."""
    words = {str(verdict)[0]: str(verdict) for verdict in Verdict} | {"f": "refused"}
    words |= {"r": "right"}
    k = len(verdicts[0])
    signs = [sign for each in verdicts for sign in each]
    count = len(signs)
    folder.add(
        "made",
        {
            "problem": [p for p in range(len(verdicts)) for _ in range(k)],
            "suite": ["made"] * count,
            "family": [""] * count,
            "level": [level for level in levels for _ in range(k)],
            "prompt": [""] * count,
            "answer": ["1"] * count,
            "sample": list(range(k)) * len(verdicts),
            "response": [""] * count,
            "reward": [float(sign.lower() == "r") for sign in signs],
            "tokens": list(range(count)),
            "finished": [sign.islower() for sign in signs],
            "verdict": [words[sign.lower()] for sign in signs],
        },
    )


def test_results_by_hand(tmp_path: Path) -> None:
    own = open_folder(tmp_path / "own", benchmark())
    keep(own, ["rrrw", "wUuF", "tkrR"], [2, 1, 2])
    other = open_folder(tmp_path / "other", benchmark(), weights="others")
    keep(other, ["wwww", "rrrr", "rrrr"], [2, 1, 2])
    (row,) = result_rows(own, {"made": None}, against=other)
    low, high = interval(torch.tensor([0.75, 0, 0.5]), 4)
    wilson = (2 / 3 + 1.96**2 / 6) / (1 + 1.96**2 / 3)
    half = 1.96 * sqrt(2 / 27 + 1.96**2 / 36) / (1 + 1.96**2 / 3)
    half_paired = 1.96 * sqrt(((0.75**2 + 1 + 0.5**2 + 2 / 4) / 5 - 0.15**2) / 5)
    assert row == {
        "suite": "made",
        "problems": 3,
        "samples": 4,
        "avg@k": pytest.approx(1.25 / 3),
        "avg@k low": low,
        "avg@k high": high,
        "pass@k": pytest.approx(2 / 3),
        "pass@k low": pytest.approx(wilson - half, rel=1e-4),
        "pass@k high": pytest.approx(wilson + half, rel=1e-4),
        "tokens": 5.5,
        "truncated": 3,
        "right": 5,
        "unboxed": 2,
        "refused": 1,
        "over_limit": 2,
        "minus_other": pytest.approx((0.75 - 1 - 0.5) / 3),
        "minus_other low": pytest.approx(-0.15 - half_paired, rel=1e-4),
        "minus_other high": pytest.approx(-0.15 + half_paired, rel=1e-4),
        "alone": 1,
        "other_alone": 2,
        "other": str(tmp_path / "other"),
        "pass@1": pytest.approx(1.25 / 3),
        "pass@2": pytest.approx((1 + 0 + 5 / 6) / 3),
        "pass@4": pytest.approx(2 / 3),
    }
    levels = result_rows(own, {"made": None}, by="level", against=other)
    assert [(r["level"], r["problems"], r["alone"], r["other_alone"]) for r in levels] == [
        (1, 1, 0, 1),
        (2, 2, 1, 1),
    ]
    (first,) = result_rows(own, {"made": 1})
    assert (first["problems"], first["avg@k"]) == (1, 0.75)


def test_evaluations_that_cannot_be_compared(tmp_path: Path) -> None:
    own = open_folder(tmp_path / "own", benchmark())
    keep(own, ["rr", "ww"], [1, 1])
    other = open_folder(tmp_path / "other", benchmark(name="else"))
    with pytest.raises(UpgeError, match="has no made; evaluate it there too"):
        result_rows(own, {"made": None}, against=other)
    with pytest.raises(UpgeError, match="no problem has its responses yet"):
        result_rows(other, {"else": None})
    open_folder(tmp_path / "other", benchmark())
    keep(other, ["rr"], [1])
    with pytest.raises(UpgeError, match=r"has 1 of the problems .* or compare with --limit 1"):
        result_rows(own, {"made": None}, against=other)
    assert result_rows(own, {"made": 1}, against=other)[0]["alone"] == 0
    third = open_folder(tmp_path / "third", Benchmark("made", [], 1, "another", 0))
    with pytest.raises(UpgeError, match="its made has other problems"):
        result_rows(own, {"made": None}, against=third)
