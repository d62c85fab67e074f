"""What commands show while they compute."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


def steps_bar(*more: ProgressColumn, console: Console | None = None) -> Progress:
    """A bar of the steps done, shown where its console is a terminal; it vanishes at the end.

    Args:
        more: columns behind the usual ones.
        console: where it is shown; standard error if not given.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    hidden = console.quiet or not console.is_terminal
    return Progress(*columns, *more, console=console, transient=True, disable=hidden)
