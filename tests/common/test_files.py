"""Reading and writing: one sentence for what can't be done, and no half-written file."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from upge.common.errors import UpgeError
from upge.common.files import atomic_write, atomic_write_all, make_folder, read_text


def test_text_is_read_with_or_without_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("π", encoding=encoding)
        assert read_text(str(path)) == "π"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffπ"))
    assert read_text("-") == "π"


def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = tmp_path / "latin"
    latin.write_bytes("é".encode("latin-1"))
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a dir"), (latin, "UTF")):
        with pytest.raises(UpgeError, match=rf"{path}: can't be read \(.*{why}"):
            read_text(str(path))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UpgeError, match="standard input is closed"):
        read_text("-")


def test_a_folder_is_made_or_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UpgeError, match=r"--out .*file: can't be written to \(File exists\)"):
        make_folder(tmp_path / "file")


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text"
    assert atomic_write(path, "π").read_bytes() == "π".encode()
    atomic_write(path, b"before")

    def full(partial: Path, content: bytes) -> int:
        with partial.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UpgeError, match=r"text: can't be written \(No space left on device\)"):
        atomic_write(path, "after")
    assert [p.name for p in tmp_path.iterdir()] == ["text"]
    assert path.read_bytes() == b"before"


def test_files_that_belong_together_are_replaced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / name for name in ("first", "second")]
    atomic_write_all(dict.fromkeys(paths, "before"))
    whole = Path.write_bytes

    def full(partial: Path, content: bytes) -> int:
        if "second" in partial.name:
            raise OSError(28, "No space left on device")
        return whole(partial, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UpgeError, match=r"second: can't be written"):
        atomic_write_all(dict.fromkeys(paths, "after"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "first": "before",
        "second": "before",
    }


def test_two_processes_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    """Each over and over: neither takes away what the other is about to put in place."""
    path = tmp_path / "file"
    write = (
        "import sys; from pathlib import Path; from upge.common.files import atomic_write\n"
        "for _ in range(500): atomic_write(Path(sys.argv[1]), sys.argv[2] * 1000)"
    )
    command = [sys.executable, "-c", write, str(path)]
    writers = [
        subprocess.Popen([*command, text], stderr=subprocess.PIPE, text=True) for text in "ab"
    ]
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]
