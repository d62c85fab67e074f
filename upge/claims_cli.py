"""``upge claims``: every claim of the paper, decided anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.console import steps_bar
from upge.errors import UpgeError
from upge.extras import require
from upge.files import make_folder

if TYPE_CHECKING:
    from upge.theory.claims import Claim

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
    from upge.provenance import provenance
    from upge.theory.claims.ledger import chosen, decide, write_ledger

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
