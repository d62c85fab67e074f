"""``upge plan``: a run on paper, for machines that are not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upge.cli.run_config import resolve
from upge.common.errors import UpgeError

if TYPE_CHECKING:
    from upge.training.config import RunConfig


def plan(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="The run, as upge train takes it.")
    ],
    cluster: Annotated[
        Path | None,
        typer.Option(help="A YAML file of the machine's properties. Default: 8 × A800, FSDP2."),
    ] = None,
    launch: Annotated[
        Path | None,
        typer.Option(
            help="Accelerate's configuration, as accelerate launch takes it: it says how many GPUs "
            "there are, what is sharded over them, and what is computed anew."
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Another type of GPU: a100, a800, h100, h200, rtx4090.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Another number of them.")] = None,
    assume: Annotated[
        Path | None,
        typer.Option(help="A YAML file of mean lengths and the like, which no configuration says."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any value of the run; repeatable."),
    ] = None,
) -> None:
    """Say what a run needs before it starts: files, memory, tokens, FLOPs, hours.

    Nothing is loaded, sampled or trained. Published models are known by their shape, so that
    neither network nor weights are needed. The exit code is 1 where the run can't work: it does
    not fit, or something here is wrong (what is only absent here doesn't count).
    """
    run = resolve(config, {}, settings)
    sound = print_plan(run, cluster, gpu=gpu, gpus=gpus, assume=assume, launch=launch)
    raise typer.Exit(0 if sound else 1)


def print_plan(
    run: RunConfig,
    cluster: Path | None,
    *,
    gpu: str | None,
    gpus: int | None = None,
    assume: Path | None = None,
    launch: Path | None = None,
    prefix: str = "",
) -> bool:
    """Print the plan; whether the run can work."""
    from upge.common.config import load
    from upge.planning.cluster import load_cluster
    from upge.planning.plan import Assumptions, make_plan
    from upge.planning.report import plan_lines

    if not run.stages:
        raise UpgeError("stages: there are none, so there is nothing to plan; add one")
    assumptions = Assumptions() if assume is None else load(assume, Assumptions)
    made = make_plan(run, load_cluster(cluster, gpu, gpus, launch), assumptions)
    for line in plan_lines(made):
        print(prefix + line)
    return made.memory.fits and all(check.state != "wrong" for check in made.checks)
