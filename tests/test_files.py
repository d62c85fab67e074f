"""Reading and writing: one sentence for what can't be done, and no half-written file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from upge.errors import UpgeError
from upge.files import make_folder, read_text, write_whole


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
    assert write_whole(path, "π").read_bytes() == "π".encode()
    write_whole(path, b"before")

    def full(partial: Path, content: bytes) -> int:
        with partial.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UpgeError, match=r"text: can't be written \(No space left on device\)"):
        write_whole(path, "after")
    assert [p.name for p in tmp_path.iterdir()] == ["text"]
    assert path.read_bytes() == b"before"
