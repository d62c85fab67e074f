"""The one exception for mistakes of the user: its message is a sentence naming thing and remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UpgeError(ValueError):
    """A mistake in what the user gave; the command line prints the message without a traceback."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UpgeError:
    """The error for an unknown name, with the nearest known one if it looks like a typo."""
    names = sorted(known)
    nearest = get_close_matches(str(name).casefold(), names, n=1)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names)}"
    return UpgeError(f"unknown {kind} {name!r}; {remedy}")
