"""``upge plan``: whether a run fits, how many tokens it takes, how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upge.cli.run_config import resolve


def plan(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="The run, as upge train takes it.")
    ],
    launch: Annotated[
        Path | None,
        typer.Option(
            help="The configuration that accelerate launch will have: number of GPUs, sharding, "
            "precision, activation checkpointing. Default: FSDP2 on 8 GPUs."
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="Type of GPU: a100, a800, h100, h200, rtx4090. Default: a800."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Number of GPUs, if not the launch's.")] = None,
    assume: Annotated[
        Path | None,
        typer.Option(help="A YAML file of mean lengths and whatever else the run leaves open."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any value of the run; repeatable."),
    ] = None,
    cluster: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Does a run fit, how many tokens does it take, how long?

    Formulas alone: nothing is loaded or downloaded, and published models are known by their shape.
    The exit code is 1 where the run does not fit.
    """
    run = resolve(config, {}, settings)
    from upge.planning.plan import make_plan, print_plan
    from upge.planning.setting import load_assumptions

    files = [path for path in (cluster, assume) if path is not None]
    made = make_plan(run, load_assumptions(*files, launch=launch, gpu=gpu, gpus=gpus))
    print_plan(made)
    raise typer.Exit(0 if made.memory.fits else 1)
