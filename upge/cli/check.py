"""``upge check``: which row of the unified view a loss is, and which laws it breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from upge.cli.printing import plain
from upge.common.errors import UpgeError
from upge.common.files import atomic_write


def check(
    loss: Annotated[
        str, typer.Argument(help="FILE.py:NAME or MODULE:NAME: a function, a class, a module.")
    ],
    advantage: Annotated[
        str, typer.Option(help="FILE.py:NAME of a function whose Â is handed to the loss.")
    ] = "",
    claim: Annotated[
        str, typer.Option("--as", help="The algorithm that it should be; exits 1 if it is not.")
    ] = "",
    options: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: an option of that algorithm.")
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--arg", help="PARAMETER=QUANTITY, as old=old_logp, or PARAMETER=VALUE."),
    ] = None,
    law: Annotated[
        list[str] | None, typer.Option(help="Test only this law; repeatable. none tests none.")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Sets of 5 random batches to compare on, and one at bounds; 20 is thorough.",
        ),
    ] = 1,
    limit: Annotated[float, typer.Option(min=0.1, help="Seconds that one call may take.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the weights, beside --as, to this PNG and its PDF."),
    ] = None,
) -> None:
    """Say which algorithm a loss is, by which component it differs, and which laws it breaks.

    Your code runs in this process. Parameters are understood by the names that trainers give
    them: logprobs, old_log_prob, ref_logp, advantages, rewards, group, response_mask, logits,
    labels, model, num_items_in_batch and the like. Exits 1 if the claim of --as fails or, without
    one, if a law is broken.
    """
    from upge.testing import call
    from upge.testing.check import check as run
    from upge.testing.panels import draw
    from upge.testing.target import load, parse_arguments

    if options and not claim:
        raise UpgeError("--set is an option of the algorithm that --as names; give both")
    if plot is not None and not plot.parent.is_dir():
        raise UpgeError(f"--plot {plot}: there is no folder {plot.parent}")
    call.in_child = True  # the process is there for the check alone, so a hanging call may end it
    found, source = load(loss)
    rule, rule_source = load(advantage) if advantage else (None, ())
    report = run(
        found,
        advantage=rule,
        claim=claim,
        options=parse_arguments(options or (), "--set"),
        arguments=parse_arguments(arguments or ()),
        laws=None if not law else [name for name in law if name != "none"],
        seeds=seeds,
        with_panels=plot is not None,
        limit=limit,
        sources=(source, rule_source),
    )
    text = json.dumps(report.as_json(), ensure_ascii=False) if as_json else report.text()
    Console(soft_wrap=True, highlight=False, markup=False).print(plain(text))
    if plot is not None:
        for path, content in draw(report, plot).items():
            atomic_write(path, content)
            Console(stderr=True).print(f"Drawn to {path}", highlight=False, markup=False)
    raise typer.Exit(0 if report.passes else 1)
