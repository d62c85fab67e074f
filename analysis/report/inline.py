"""Files inside the page, so that it needs nothing beside it."""

from __future__ import annotations

import struct
from base64 import b64encode
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path

from markupsafe import Markup

from upge.common.errors import UpgeError

#: Files of more bytes than this are named beside a result, and not kept in the page.
_KEPT = 100_000

#: Pixels of a figure to one of the page: figures are drawn fine enough for paper.
_FINENESS = 1.25


@dataclass(frozen=True)
class Picture:
    """A figure in the page.

    Args:
        name: of its file.
        caption: below it.
        source: the file itself.
        width: at which it is shown, where there is room.
        height: likewise.
    """

    name: str
    caption: str
    source: Markup
    width: int
    height: int


@dataclass(frozen=True)
class Download:
    """A file beside a result.

    Args:
        name: of the file.
        source: the file itself; None for one that is only named.
    """

    name: str
    source: Markup | None


def picture(path: Path, name: str, caption: str) -> Picture:
    """A PNG file in the page.

    Raises:
        UpgeError: it can't be read, or is none.
    """
    content = _bytes(path)
    if not content.startswith(b"\x89PNG") or len(content) < 24:
        raise UpgeError(f"{path}: is no PNG; draw it again")
    width, height = struct.unpack(">II", content[16:24])
    source = _inline(path, content)
    return Picture(name, caption, source, *(round(n / _FINENESS) for n in (width, height)))


def download(path: Path, name: str) -> Download:
    """A file to be had from the page, if it is small.

    Raises:
        UpgeError: it can't be read.
    """
    content = _bytes(path)
    return Download(name, _inline(path, content) if len(content) <= _KEPT else None)


def _inline(path: Path, content: bytes) -> Markup:
    kind = guess_type(path.name)[0] or "text/plain"
    return Markup(f"data:{kind};base64,{b64encode(content).decode()}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UpgeError(f"{path}: can't be read ({error.strerror})") from error
