"""``python -m experiments.profiles.gpu``: what a comparison under the profile takes, planned."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from upge.planning.cluster import Cluster, load_cluster

from experiments.comparison import BASE, Recipe, load_comparisons, profiles
from upge.common.config import load
from upge.common.errors import UpgeError
from upge.planning.plan import Assumptions, plan_costs, run_memory

FOLDER = Path(__file__).parent
EXPERIMENTS = FOLDER.parents[1]

#: What is planned for: one of a data centre, and the largest of a desktop.
GPUS = ("h100", "rtx4090")

_HEAD = ["profile", "GPU", "method", "GB", "fits", "hours a run", "hours with trials and seeds"]


def plan_table(gpus: Sequence[str] = GPUS) -> str:
    """All models and methods of Table 2 on one GPU of each type, as Markdown."""
    cluster = load_cluster(FOLDER / "cluster.yaml")
    assumed = load(FOLDER / "assumptions.yaml", Assumptions)
    names = [name for name in profiles(EXPERIMENTS) if name.split("-")[0] == "gpu"]
    rows = [
        row
        for name in names
        for gpu in gpus
        for row in _rows(name, load_cluster(FOLDER / "cluster.yaml", gpu), assumed)
    ]
    table = [_line(_HEAD), _line(["---"] * len(_HEAD)), *map(_line, rows)]
    return "\n".join([*_preface(cluster, assumed), *table, ""])


def _preface(cluster: Cluster, assumed: Assumptions) -> Iterator[str]:
    yield "# The profile gpu, planned"
    yield ""
    yield (
        "Table 2 on one GPU, from formulas (`upge/planning`): **planned, never run**, on no GPU at "
        "all. Made by `python -m experiments.profiles.gpu`."
    )
    yield ""
    yield (
        f"Assumed: every batch waits for a response of full length ({assumed.response} tokens), "
        f"{assumed.gated:.0%} of HPT's questions are gated, {cluster.use_of_flops:.0%} of the peak "
        f"FLOP/s and {cluster.use_of_bandwidth:.0%} of the memory's bandwidth are reached, and "
        f"launching kernels takes {cluster.layer_seconds * 1e3:g} ms a block and token while "
        "sampling, which decides the hours of such small models. Left out: start-up and grading."
    )
    yield ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows(name: str, cluster: Cluster, assumed: Assumptions) -> Iterator[list[str]]:
    """A row a method, and one for all of them."""
    (recipe,) = load_comparisons(EXPERIMENTS, "table2", name).values()
    rates = dict.fromkeys(recipe.methods, min(recipe.selection.rates))
    in_all, most = 0.0, 0
    for method in (BASE, *recipe.compared):
        config = recipe.config(method, 0, rates)
        memory = run_memory(config, cluster, assumed)
        run = plan_costs(config, cluster, assumed).seconds / 3600
        hours = recipe.seeds * run + _trial_hours(recipe, method, cluster, assumed)
        in_all, most = in_all + hours, max(most, memory.needed)
        fits = "yes" if memory.fits else "no"
        yield [
            name,
            cluster.gpu,
            method,
            f"{memory.needed / 1e9:.0f}",
            fits,
            f"{run:.2f}",
            f"{hours:.1f}",
        ]
    fits = "yes" if most <= cluster.type.memory * 1e9 else "no"
    yield [name, cluster.gpu, "**all**", f"{most / 1e9:.0f}", fits, "", f"{in_all:.1f}"]


def _trial_hours(recipe: Recipe, method: str, cluster: Cluster, assumed: Assumptions) -> float:
    """Of the trials that a method's learning rate is chosen by."""
    if method == BASE or recipe.rate_of(method) != method:
        return 0.0
    rates = dict.fromkeys(recipe.methods, min(recipe.selection.rates))
    trial = recipe.trial(method, rates[method], rates)
    seconds = plan_costs(trial, cluster, assumed).seconds
    return len(recipe.selection.rates) * seconds / 3600


def main(
    gpus: Annotated[
        list[str] | None, typer.Option("--gpu", help="Another type of GPU; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file, if not the standard output.")] = None,
) -> None:
    """What the comparison takes for every model, as a Markdown table."""
    table = plan_table(gpus or GPUS)
    if out is None:
        print(table, end="")
    else:
        out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
