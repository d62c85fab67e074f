"""``python -m experiments.claims``: every claim of the paper, decided anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.common.errors import UpgeError
from upge.common.files import make_folder
from upge.common.optional import require
from upge.common.progress import steps_bar

if TYPE_CHECKING:
    from experiments.claims import Claim

_COLOR = {"proved": "green", "exact": "green", "conditional": "yellow", "fails": "red"}


def claims(
    names: Annotated[
        list[str] | None,
        typer.Option("--claim", "-c", help="Only this claim, with its evidence; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the ledger of all claims, claims.md and claims.csv, here."),
    ] = None,
) -> None:
    """Decide every claim of the paper: proved, exact, conditional or fails; with evidence."""
    for module in ("sympy", "hypothesis"):
        require(module, "theory")
    from experiments.claims.ledger import chosen, decide, write_ledger
    from upge.common.provenance import provenance

    ids = chosen(names or ())
    if names and out is not None:
        raise UpgeError("--out: writes the ledger of all claims; leave out --claim")
    if out is not None:
        make_folder(out)
    with steps_bar() as bar:
        task = bar.add_task("starting", total=len(ids))
        decided = decide(ids, lambda claim: bar.update(task, advance=1, description=claim.id))
    console = Console()
    if names:
        for claim in decided:
            _print(claim, console)
    else:
        console.print(_summary(decided))
    if out is not None:
        paths = write_ledger(decided, provenance(), out)
        console.print(f"Written to {out}/: {', '.join(path.name for path in paths)}", markup=False)


def _verdict(claim: Claim) -> str:
    return f"[{_COLOR[claim.verdict]}]{claim.verdict}[/]"


def _print(claim: Claim, console: Console) -> None:
    """One claim with all that is known of it."""
    heading = f"[bold]{claim.id}[/] ({escape(claim.source)}): {_verdict(claim)}"
    console.print(heading, highlight=False)
    for text in (claim.claim, claim.value, claim.evidence):
        console.print(f"  {escape(text)}", highlight=False)


def _summary(decided: list[Claim]) -> Table:
    table = Table("claim", "source", "verdict", "value", title="The claims of the paper, decided")
    for claim in decided:
        table.add_row(claim.id, escape(claim.source), _verdict(claim), escape(claim.value))
    return table


if __name__ == "__main__":
    try:
        typer.run(claims)
    except UpgeError as error:
        sys.exit(f"error: {error}")
