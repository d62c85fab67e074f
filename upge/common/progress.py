"""What commands show while they compute."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def steps_bar() -> Progress:
    """A bar of the steps done, on standard error if that is a terminal; it vanishes at the end."""
    stderr = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)
