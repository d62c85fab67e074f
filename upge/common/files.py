"""Files as a user names them: what can't be read or written is one sentence, never half there."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from upge.common.errors import UpgeError


def read_text(path: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; of standard input for "-".

    Raises:
        UpgeError: it can't be read, or is no UTF-8.
    """
    try:
        if path != "-":
            return Path(path).read_text(encoding="utf-8-sig")
        if sys.stdin is None:
            raise UpgeError("-: standard input is closed")
        return sys.stdin.read().removeprefix("\ufeff")
    except OSError as error:
        raise UpgeError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UpgeError(f"{path}: can't be read ({error}); save it as UTF-8") from error


def make_folder(folder: Path) -> None:
    """Make the folder, if it isn't there, and see whether a file can be written to it.

    Raises:
        UpgeError: it can't; so that the user hears of it before anything is computed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UpgeError(f"--out {folder}: can't be written to ({error.strerror})") from error


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write whole or not at all: a full disk or a kill leaves the file that was there.

    Raises:
        UpgeError: it can't be written.
    """
    return write_together({path: content})[0]


def write_together(contents: Mapping[Path, str | bytes]) -> list[Path]:
    """Write files that belong together: all are on the disk before one replaces what was there.

    Raises:
        UpgeError: one can't be written; none is replaced then.
    """
    # By process: two that write the same file at once don't take each other's.
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    try:
        for path, partial in partials.items():
            content = contents[path]
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        raise UpgeError(f"{path}: can't be written ({error.strerror})") from error
    finally:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink()
    return list(contents)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's length and first 64 MiB; empty if it can't be read.

    Two trainings of a model differ there already, and more of it would take long.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):  # a name may hold what no file's name can
        return ""


_DIGESTED = 64 * 2**20


@lru_cache(maxsize=256)
def _digest(path: Path, changed: int, size: int) -> str:
    """Kept as long as time of change and size are the same."""
    with path.open("rb") as file:
        return hashlib.sha256(str(size).encode() + file.read(_DIGESTED)).hexdigest()
