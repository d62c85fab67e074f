"""The one exception for mistakes of the user: its message is a sentence naming thing and remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

#: What PyTorch says, of a GPU's memory and of the machine's.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory", re.IGNORECASE)
_WANTED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


class UpgeError(ValueError):
    """A mistake in what the user gave; the command line prints the message without a traceback."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UpgeError:
    """The error for an unknown name, with the nearest known one if it looks like a typo."""
    names = sorted(known)
    nearest = get_close_matches(str(name).casefold(), names, n=1)
    listed = f"known: {', '.join(names)}" if names else "there is none to choose"
    remedy = f"did you mean {nearest[0]!r}?" if nearest else listed
    return UpgeError(f"unknown {kind} {name!r}; {remedy}")


@contextmanager
def oom_error() -> Iterator[None]:
    """Turn an allocation that fails into a sentence.

    Raises:
        UpgeError: there is too little memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(said):
            raise
        wanted = _WANTED.search(said)
        raise UpgeError(
            f"too little memory{f' for another {wanted[1]}' if wanted else ''}: lower "
            "tokens_per_microbatch or UPGE_SAMPLER_MEMORY (GiB for sampling), or take a smaller "
            "model or more processes; then rerun the command to resume; "
            "upge plan estimates memory"
        ) from error
