"""What files that come of no training say of their origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upge.common.errors import UpgeError
from upge.common.files import read_text


def stated(path: Path) -> dict[str, str]:
    """The provenance in a JSON file, with the settings beside it; empty if it states none.

    Work that was interrupted has a start each time it went on: several values are all named.

    Raises:
        UpgeError: a file that can't be read.
    """
    found = _read(path)
    starts = found.get("starts") or [found.get("provenance") or {}]
    settings = found.get("settings") or {}
    return {name: str(value) for name, value in settings.items()} | _joined(starts)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(read_text(str(path)))
    except ValueError as error:
        if isinstance(error, UpgeError):
            raise
        raise UpgeError(f"{path}: is damaged ({error}); make it again") from error
    return found if isinstance(found, dict) else {}


def _joined(starts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for start in starts for name in start)
    return {
        name: ", ".join(dict.fromkeys(start[name] for start in starts if name in start))
        for name in names
    }
