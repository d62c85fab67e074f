"""Problems from JSON Lines and from the hub's GSM8K."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from upge import UpgeError
from upge.common import hub as hub_access
from upge.tasks.hub import Source, fetch, gsm8k_problem, gsm8k_record
from upge.tasks.problem import DEFAULT_DATA, Problem, data_folder, load_problems


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "problems.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_records_are_read(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"problem": "1 + 1?", "answer": "2", "solution": "It is 2."},
        {"problem": "2 + 2?", "answer": 4, "source": "elsewhere"},
        {"problem": "3?", "answer": 0.5, "solution": None, "family": "halves", "level": 3},
        {"problem": "4?", "answer": "4", "subject": "Algebra"},
        {"problem": "5?", "answer": "5", "solution": " \n", "family": None, "level": None},
        {"problem": "6?", "answer": "6", "family": None, "subject": "Algebra"},
    ]
    text = "\n\n".join(map(json.dumps, records)) + "\r\n"
    assert load_problems(write(tmp_path, text)) == [
        Problem("1 + 1?", "2", "It is 2."),
        Problem("2 + 2?", "4", None),
        Problem("3?", "0.5", None, "halves", 3),
        Problem("4?", "4", None, "Algebra"),
        Problem("5?", "5", None, "", 0),
        Problem("6?", "6", None, "Algebra"),
    ]


@pytest.mark.parametrize(
    ("level", "wanted"),
    [(5, 5), ("5", 5), ("Level 5", 5), (3.0, 3), ("Level ?", 0), ("", 0), (None, 0)],
)
def test_levels(tmp_path: Path, level: Any, wanted: int) -> None:
    line = json.dumps({"problem": "1?", "answer": "1", "level": level})
    assert load_problems(write(tmp_path, line)) == [Problem("1?", "1", level=wanted)]


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    line = '{"problem": "\\ud83d\\ude00?", "answer": "1"}'
    assert load_problems(write(tmp_path, line)) == [Problem("\U0001f600?", "1")]


def test_a_number_in_json_is_its_text(tmp_path: Path) -> None:
    """18.0 is graded as 18 is."""
    (problem,) = load_problems(write(tmp_path, '{"problem": "1?", "answer": 18.0}'))
    assert problem.answer == "18.0"


def test_parquet_is_read_as_json_lines_are(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "problems.parquet"
    records = [
        {"problem": "1 + 1?", "answer": "2", "solution": None, "level": 3, "family": "sums"},
        {"problem": "2 + 2?", "answer": "4", "solution": "It is 4."},
    ]
    parquet.write_table(pa.Table.from_pylist(records), path)
    assert load_problems(path) == load_problems(
        write(tmp_path, "\n".join(map(json.dumps, records)))
    )
    parquet.write_table(pa.Table.from_pylist([{"question": "1 + 1?"}]), path)
    with pytest.raises(UpgeError, match=r"problems\.parquet, row 1: wanted a JSON record"):
        load_problems(path)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(UpgeError, match=r"problems\.parquet: can't be read as Parquet"):
        load_problems(path)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_line(tmp_path: Path, separator: str) -> None:
    record = {"problem": f"one{separator}two", "answer": "3"}
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for _ in range(2))
    assert len(text.splitlines()) == 4
    assert [p.prompt for p in load_problems(write(tmp_path, text))] == [f"one{separator}two"] * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[1]", "TypeError"),
        ("3", "TypeError"),
        ('{"problem": "1 + 1?"}', "KeyError('answer')"),
        ('{"answer": "2"}', "KeyError('problem')"),
        ('{"problem": "1 + 1?", "answer": null}', "TypeError(\"'answer' is null"),
        ('{"problem": "1 + 1?", "answer": true}', "TypeError(\"'answer' is true"),
        ('{"problem": "1 + 1?", "answer": [2]}', "TypeError(\"'answer' is [2]"),
        ('{"problem": "1 + 1?", "answer": " "}', "ValueError(\"'answer' is empty"),
        (
            '{"problem": "1 + 1?", "answer": NaN}',
            "ValueError(\"'answer' is nan, which is no number",
        ),
        ('{"problem": "1 + 1?", "answer": 1e999}', "ValueError(\"'answer' is inf, which is no"),
        ('{"problem": "", "answer": "2"}', "ValueError(\"'problem' is empty"),
        ('{"problem": 7, "answer": "2"}', "TypeError(\"'problem' is 7"),
        ('{"problem": "a", "answer": "2", "solution": 2}', "TypeError(\"'solution' is 2"),
        (
            '{"problem": "a", "answer": "2", "level": 5.5}',
            "ValueError(\"'level' is 5.5, which is no",
        ),
        (
            '{"problem": "a", "answer": "2", "level": NaN}',
            "ValueError(\"'level' is nan, which is no",
        ),
        ('{"problem": "a", "answer": "2", "level": [5]}', "TypeError(\"'level' is [5]"),
        ('{"problem": "a", "answer": "\\ud800"}', "ValueError(\"'answer' has half of a surrogate"),
        ('{"problem": "\\udfff", "answer": "1"}', "ValueError(\"'problem' has half of a surrogate"),
        (
            '{"problem": "a", "answer": "1", "solution": "\\ud800"}',
            "ValueError(\"'solution' has half of a surrogate",
        ),
        (
            '{"problem": "a", "answer": "1", "answer_kind": "sets"}',
            "ValueError(\"'answer_kind' is 'sets', wanted one of choice, number, tuple, set",
        ),
        ('{"problem": "a", "answer": "2", "family": 1}', "TypeError(\"'family' is 1"),
        (
            '{"problem": "a", "answer": "2", "level": 2147483648}',
            "ValueError(\"'level' is too large",
        ),
        ("[" * 100_000, "RecursionError("),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, '{"problem": "0", "answer": "0"}\n\n' + line + "\n")
    with pytest.raises(UpgeError) as error:
        load_problems(path)
    wanted = f"{path}, line 3: wanted a JSON record with 'problem' and 'answer' ({reason}"
    assert str(error.value).startswith(wanted) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(UpgeError, match=r"problems\.jsonl: has no problems, wanted one JSON"):
        load_problems(write(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(
            UpgeError, match=rf"^{path}: .*; name a file .* set UPGE_DATA to the folder"
        ):
            load_problems(path)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, '{"problem": "é", "answer": "1"}'.encode("latin-1"))
    with pytest.raises(UpgeError, match=rf"^{path}"):
        load_problems(path)


def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"problem": "a", "answer": "1"}\n')
    assert load_problems(path) == [Problem("a", "1")]


def test_the_folder_of_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("UPGE_DATA")
    assert data_folder() == DEFAULT_DATA == Path("../shared/data")


@pytest.mark.parametrize("kind", ["file", "absent"])
def test_a_folder_of_data_that_is_none(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = write(tmp_path, "{}") if kind == "file" else tmp_path / "nowhere"
    monkeypatch.setenv("UPGE_DATA", str(place))
    with pytest.raises(UpgeError, match=rf"^UPGE_DATA: got '{place}', which is no folder; set it"):
        data_folder()


def test_a_record_of_the_hub() -> None:
    worked = "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=1072>>1072."
    assert gsm8k_problem("How many?", f"{worked}\n#### 1,072") == Problem(
        "How many?", "1072", "She sold 48/2 = 24 clips in May.\nIn all 48+24 = 1072."
    )
    assert gsm8k_problem("How many?", "<<1=1>>\n#### 1").demonstration is None
    with pytest.raises(UpgeError, match="lacks its '####': 'no mark'"):
        gsm8k_problem("How many?", "no mark")


GSM8K = Source("openai/gsm8k", "train", gsm8k_record, "main", "number")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the hub is asked of a stand-in."""
    monkeypatch.setattr(hub_access, "reached", lambda extra: True)


@pytest.mark.usefixtures("online")
def test_the_hub(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("UPGE_DATA", str(tmp_path))

    def load_dataset(*names: str, split: str) -> list[dict[str, str]]:
        assert (names, split) == (("openai/gsm8k", "main"), "train")
        return [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert fetch(GSM8K) == [Problem("1 + 1?", "2", "It is 2.", kind="number")]
    said = f"upge: no file of openai/gsm8k in {tmp_path} (UPGE_DATA), asking the hub\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.usefixtures("online")
def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: str, split: str) -> None:
        raise ConnectionError("a long story\nof many lines")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UpgeError) as error:
        fetch(GSM8K)
    assert "openai/gsm8k can't be had from the hub (ConnectionError); see" in str(error.value)
    assert "set UPGE_DATA to a folder" in str(error.value)
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UpgeError, match=r"datasets can't be imported .*; install it with .*\[train\]"
    ):
        fetch(GSM8K)
