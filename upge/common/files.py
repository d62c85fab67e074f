"""Reading and writing files: atomic writes, and one sentence for what can't be read or written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from upge.common.errors import UpgeError


def read_text(path: str) -> str:
    """The text of a UTF-8 file, without its byte order mark; of standard input for "-".

    Raises:
        UpgeError: it can't be read, or isn't UTF-8.
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


def check_name(path: Path) -> None:
    """Refuse a path that isn't UTF-8, where tokenizers and Parquet files can't be written.

    Raises:
        UpgeError: it isn't UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UpgeError(f"{str(path)!a}: isn't UTF-8; choose another path") from error


def make_folder(folder: Path) -> None:
    """Make the folder if necessary, and check before any work that files can be written to it.

    Raises:
        UpgeError: they can't.
    """
    check_name(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UpgeError(f"--out {folder}: can't be written to ({error.strerror})") from error


class FileError(UpgeError, OSError):
    """A file that can't be written; also an OSError, with its ``errno``."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: can't be written ({error.strerror})")
        self.errno, self.strerror, self.filename = error.errno, error.strerror, str(path)

    def __str__(self) -> str:
        return str(self.args[0])  # OSError's own would be made of errno, strerror and filename


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Make the folder and lock it, so that no second process works in it.

    Folders that are made here are removed at the end if nothing was written.

    Args:
        folder: the folder.
        what: what it holds, in a message.

    Raises:
        UpgeError: another process has locked it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UpgeError(
                f"{folder}: another process is working on this {what}; wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            with suppress(OSError):
                if made and os.listdir(folder) == [lock.name]:
                    lock.unlink()
                    for path in made:
                        path.rmdir()


def atomic_write(path: Path, content: str | bytes) -> Path:
    """Replace a file's content; a full disk, a kill or a power failure leaves the old one.

    Raises:
        FileError: it can't be written.
    """
    return atomic_write_all({path: content})[0]


def atomic_write_all(contents: Mapping[Path, str | bytes]) -> list[Path]:
    """Write files that belong together: all are on the disk before the first replaces the old one.

    Raises:
        FileError: one can't be written; none is replaced then.
    """
    # Named after the process: two that write the same file don't interfere.
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    try:
        for path, partial in partials.items():
            content = contents[path]
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            sync(partial)
        for path, partial in partials.items():
            partial.replace(path)
        for folder in {path.parent for path in contents}:
            sync(folder)
    except OSError as error:
        raise FileError(path, error) from error
    finally:
        for partial in partials.values():
            with suppress(OSError):
                partial.unlink()
    return list(contents)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically.

    Raises:
        FileError: it can't be written.
    """
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file or object."""
    try:
        return parse_object(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text; None if it holds something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_strictly(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text that a user wrote.

    Raises:
        UpgeError: it is none, or has a key twice, of which JSON would drop one in silence.
    """

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
            raise UpgeError(f"the {what} has {twice!r:.60} twice in one map, wanted once")
        return record

    try:
        record = json.loads(text, object_pairs_hook=once)
    except UpgeError:
        raise
    except (ValueError, RecursionError) as error:
        raise UpgeError(f"the {what} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise UpgeError(f"the {what} is a JSON {type(record).__name__}, wanted an object")
    return record


def file_digest(path: Path, whole: bool = False) -> str:
    """SHA-256 of a file's length and content; empty if it can't be read.

    Args:
        path: the file.
        whole: whether all of its content counts, or the first 64 MiB: two trainings of a model
            differ there already, and more of it would take long.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_mtime_ns, status.st_size, -1 if whole else _DIGESTED)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return ""


_DIGESTED = 64 * 2**20


@lru_cache(maxsize=256)
def _digest(path: Path, changed: int, size: int, count: int) -> str:
    """Cached as long as the file's time of change and size are the same."""
    with path.open("rb") as file:
        return hashlib.sha256(str(size).encode() + file.read(count)).hexdigest()
