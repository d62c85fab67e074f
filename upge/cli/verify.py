"""``upge verify``: derive and check every algorithm's gradient; Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.cli.printing import Names
from upge.common.files import make_folder
from upge.common.progress import steps_bar

if TYPE_CHECKING:
    from upge.verification.verify import Finding

#: As in :mod:`upge.models.pretrained`, which imports torch.
SMOLLM2 = "smollm2"

#: Columns of a terminal that hold Table 1's components beside its checks.
_WIDE = 150


def verify(
    names: Names = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="Only this check (symbolic, printed, float64, real, trl, verl)."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Pretrained model: smollm2, a hub id, a folder, a .gguf file.")
    ] = SMOLLM2,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the real model's rollouts.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write Table 1 and the parity matrix to this folder.")
    ] = None,
) -> None:
    """Derive and check every algorithm's gradient; with --out, write Table 1."""
    from upge.algorithms import REGISTRY, algorithm
    from upge.common.errors import unknown
    from upge.common.provenance import provenance
    from upge.verification.real import data_name
    from upge.verification.table1 import lost, write_tables
    from upge.verification.verify import CHECKS, Request, failures
    from upge.verification.verify import verify as run

    checks = check or list(CHECKS)
    for name in checks:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    request = Request(tuple(algorithm(n).name for n in names or REGISTRY), model, seed)
    if out is not None:
        make_folder(out)
    with steps_bar() as bar:
        task = bar.add_task("starting", total=len(checks) * len(request.names))

        def advance(finding: Finding) -> None:
            bar.update(task, advance=1, description=f"{finding.check}: {finding.algorithm}")

        findings = run(request, checks, advance)
    Console().print(_summary(findings))
    for finding in findings:
        if finding.check == "printed" and finding.verdict == "fail":
            Console().print(
                f"Not exact as printed: {finding.algorithm}. {finding.note}.", markup=False
            )
    if out is not None:
        origin = provenance() | {"real LM": f"{model} on {data_name()}, seed {seed}"}
        if missing := lost(findings, out):
            Console().print(
                f"{out}/table1.json holds results of {', '.join(missing)} that this run lacks, so "
                f"it is left as it is; delete it to have it replaced",
                highlight=False,
                markup=False,
            )
            out = out / "partial"
        paths = write_tables(findings, origin, out)
        Console().print(f"Written to {out}/: {', '.join(path.name for path in paths)}")
    idle = _idle_checks(findings)
    for name, why in idle.items():
        Console().print(f"{name} did not run: {why}", highlight=False, markup=False)
    failed = failures(findings)
    for finding in failed:
        Console().print(
            f"[red]failed[/]: {finding.check} of {finding.algorithm}: {escape(finding.note)}"
        )
    unmet = idle.keys() & set(check or ()) or ("real" in idle and model != SMOLLM2)
    raise typer.Exit(1 if failed or unmet else 0)


def _idle_checks(findings: Sequence[Finding]) -> dict[str, str]:
    """Checks that could be made of no algorithm, and why; the paper's rows aside."""
    notes: dict[str, str] = {}
    for check in dict.fromkeys(f.check for f in findings if f.check != "printed"):
        own = [f for f in findings if f.check == check]
        if all(f.verdict in ("none", "not run") for f in own):
            notes[check] = next((f.note for f in own if f.verdict == "not run"), own[0].note)
    return notes


def _summary(findings: Sequence[Finding]) -> Table:
    from upge.verification.table1 import rows_of, summary_columns

    table = Table(title="Table 1: the unified view, verified", title_justify="left")
    columns = summary_columns(wide=Console().width >= _WIDE)
    for header, _ in columns:
        table.add_column(header, overflow="fold")
    for row in rows_of(findings):
        table.add_row(*(render(row) for _, render in columns))
    return table
