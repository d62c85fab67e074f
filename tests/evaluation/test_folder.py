"""Responses are kept part by part, whatever ends an evaluation on its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_benchmarks import (
    BOTH,
    Fake,
    Letters,
    contents,
    evaluate,
    open_folder,
    parts_of,
    suite,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upge import UpgeError
from upge.evaluation import folder as folder_module
from upge.evaluation.folder import EvaluationFolder, UnkeptError
from upge.evaluation.responses import Responses
from upge.evaluation.run import Evaluator
from upge.evaluation.suites import Suite

pytest.importorskip("pyarrow")

# -------------------------------------------------------------------------------- a made-up sampler


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> EvaluationFolder:
    """An evaluation that nothing interrupted."""
    folder = open_folder(tmp_path_factory.mktemp("whole"), *BOTH)
    seen: list[tuple[str, int]] = []
    evaluate(folder, *BOTH, progress=lambda *came: seen.append(came))
    assert seen == [*[("made", 6)] * 3, ("made", 3), ("other", 6), ("other", 2)]
    return folder


def test_a_finished_suite_is_one_file_that_other_readers_know(whole: EvaluationFolder) -> None:
    assert set(contents(whole.path)) == {"made.parquet", "other.parquet"}
    assert not list(whole.path.glob("*.parts"))
    read = Responses.load(whole.path / "made.parquet")
    assert [p.prompt for p in read.problems] == [p.prompt for p in BOTH[0].problems]
    table = whole.table("made").to_pydict()
    assert [text for texts in read.texts for text in texts] == table["response"]
    graded = Letters().judge(table["response"], [p for p in BOTH[0].problems for _ in range(3)])
    assert table["verdict"] == graded
    assert read.rewards.flatten().tolist() == [float(v == "right") for v in graded]
    ends = [int(finished) for finished in table["finished"]]  # a token, and no text
    lengths = [len(text) + end for text, end in zip(table["response"], ends, strict=True)]
    assert table["tokens"] == lengths
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
    "a suite's end": (EvaluationFolder, "finish", 2),
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
            evaluate(folder, *BOTH)
    evaluate(open_folder(folder.path, *BOTH), *BOTH)
    assert contents(folder.path) == contents(whole.path)


def test_what_is_done_is_not_done_again(whole: EvaluationFolder) -> None:
    before, fake = contents(whole.path), Fake()
    evaluate(whole, *BOTH, sampler=fake)
    assert fake.asked == [] and contents(whole.path) == before


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other columns"])
def test_a_damaged_part_is_sampled_again(
    whole: EvaluationFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = open_folder(tmp_path, *BOTH)
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationFolder, "finish", lambda *_: None)
        evaluate(folder, *BOTH)
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
    evaluate(folder, *BOTH, sampler=fake)
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
        with pytest.raises(UnkeptError, match=r"No space left .* and rerun the command to resume"):
            evaluate(folder, *BOTH)
    assert folder.done("made", 3) >= {0, 1, 2, 3, 4, 5}  # in memory at least, to be printed
    rerun, fake = EvaluationFolder(tmp_path), Fake()
    assert rerun.done("made", 3).isdisjoint({4, 5})
    evaluate(rerun, *BOTH, sampler=fake)
    assert fake.asked[0] == 2 and contents(tmp_path) == contents(whole.path)


@settings(suppress_health_check=list(HealthCheck), max_examples=8)
@given(rows=st.integers(1, 40), first=st.integers(1, 7))
def test_neither_parts_nor_a_first_trial_change_a_response(
    whole: EvaluationFolder, tmp_path_factory: pytest.TempPathFactory, rows: int, first: int
) -> None:
    folder = open_folder(tmp_path_factory.mktemp("parts"), BOTH[0])
    trial = Suite("made", BOTH[0].problems[:first], 3, BOTH[0].digest, 7)
    evaluate(folder, trial, rows=rows)
    assert folder.done("made", 3) == set(range(first))
    evaluate(folder, BOTH[0], rows=rows)
    assert folder.table("made").equals(whole.table("made"))


@given(st.integers(1, 50), st.integers(1, 5), st.integers(1, 40), st.sets(st.integers(0, 49)))
def test_every_problem_that_is_left_is_in_one_part(
    count: int, samples: int, rows: int, done: set[int]
) -> None:
    own = suite(count, samples)
    found = [part.places for part in parts_of(own, rows, done)]
    assert [place for places in found for place in places] == sorted(set(range(count)) - done)
    assert all(len(places) * samples <= max(rows, samples) for places in found)
    places = {place: i for i, part in enumerate(parts_of(own, rows)) for place in part.places}
    assert all(len({places[place] for place in part}) == 1 for part in found)
    assert len(parts_of(own, rows, fewest=8)) >= min(count, 8) // 2


def test_another_setting_or_model_in_the_same_folder_is_refused(whole: EvaluationFolder) -> None:
    changed = Suite("made", BOTH[0].problems, 3, "another file's", 7)
    for changes, own, sentence in (
        ({"template": "qwen"}, BOTH, "was sampled with template 'zero', not 'qwen'"),
        ({"seed": 6}, BOTH, "was sampled with seed 5, not 6"),
        ({"weights": "v"}, BOTH, "another model or has other weights now; choose another --out"),
        ({}, [changed], "its made is not the one of now"),
    ):
        with pytest.raises(UpgeError, match=sentence):
            open_folder(whole.path, *own, **changes)
    starts = whole.record.starts
    open_folder(whole.path, suite(name="third"))
    about = whole.record
    assert about is not None
    assert set(about.suites) == {"made", "other", "third"}
    assert len(about.starts) == len(starts) + 1 and "torch" in about.starts[-1]


def test_other_code_is_named_and_only_taken_if_asked(tmp_path: Path) -> None:
    folder, code = open_folder(tmp_path, *BOTH), {"upge.evaluation": "2", "upge.tasks": "1"}
    settings = {"weights": "w", "template": "zero", "seed": 5}
    with pytest.raises(UpgeError, match=r"other code \(upge\.evaluation, upge\.tasks\); .*--keep"):
        folder.open("a model", settings, BOTH, code)
    folder.open("a model", settings, BOTH, code, keep=True)
    for either in (code, {"upge.evaluation": "1"}):  # it may hold responses by both now
        with pytest.raises(UpgeError, match="other code"):
            folder.open("a model", settings, BOTH, either)
    folder.open("a model", settings, BOTH, code, keep=True)


RECORD = {"model": "m", "settings": {"seed": 5}, "suites": {"made": {"digest": "d"}}, "starts": []}


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        '{"model": "m"',
        "\ud800",
        "[" * 100_000,
        json.dumps(RECORD | {"suites": ["made"]}),
        json.dumps(RECORD | {"suites": {"made": "d"}}),
        json.dumps(RECORD | {"settings": None}),
        json.dumps(RECORD | {"starts": {}}),
        json.dumps(RECORD | {"model": 1}),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluation.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UpgeError, match=r"evaluation\.json: is damaged.* choose another --out"):
        open_folder(tmp_path, *BOTH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(suppress_health_check=list(HealthCheck), max_examples=200)
@given(st.sampled_from([*RECORD, "benchmarks"]), JSON, st.binary(max_size=3), st.integers(0, 90))
def test_no_record_ends_in_a_traceback(
    tmp_path: Path, key: str, value: Any, noise: bytes, at: int
) -> None:
    """A sentence, or a record that can be opened."""
    content = json.dumps(RECORD | {key: value}).encode()
    (tmp_path / "evaluation.json").write_bytes(content[:at] + noise + content[at + len(noise) :])
    try:
        record = EvaluationFolder(tmp_path).record
        assert record is not None and isinstance(record.model, str)
        open_folder(tmp_path, suite())
    except UpgeError as error:
        assert str(tmp_path) in str(error)


def test_a_second_process_is_refused(whole: EvaluationFolder, tmp_path: Path) -> None:
    with whole.locked(), pytest.raises(UpgeError, match="another process"), whole.locked():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UpgeError, match=r"--out .*file"):
        EvaluationFolder(tmp_path / "file").locked()
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UpgeError, match=r"evaluation\.json: is damaged"):
        EvaluationFolder(tmp_path).open("m", {}, (), {})
