"""The exception for mistakes of the user: its message names the thing and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

#: PyTorch's messages about exhausted memory, a GPU's or the machine's.
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory", re.IGNORECASE)
_WANTED = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


class UpgeError(ValueError):
    """A mistake of the user; the command line prints the message without a traceback."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UpgeError:
    """The error for an unknown name, with the nearest known one if it looks like a typo.

    Args:
        kind: of thing that is named.
        name: the unknown name.
        known: the names that there are.
    """
    names = sorted(known)
    nearest = get_close_matches(str(name).casefold(), names, n=1)
    listed = f"known: {', '.join(names)}" if names else "there is none to choose"
    remedy = f"did you mean {nearest[0]!r}?" if nearest else listed
    return UpgeError(f"unknown {kind} {name!r}; {remedy}")


@contextmanager
def oom_error() -> Iterator[None]:
    """Convert out-of-memory errors to UpgeError.

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
