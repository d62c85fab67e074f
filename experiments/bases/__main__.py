"""``python -m experiments.bases``: pre-train the base models that are missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.bases.build import Recipe, copy, is_made, load_recipe, make, recipe_names
from experiments.bases.measure import table
from experiments.records import read_record
from upge.common.errors import UpgeError
from upge.models.bases import CHECKPOINTS, RECORD

#: Steps between two lines of a log.
_LINE = 100


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Bases; all if none is named.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where folders NAME go; the package's own if not given.")
    ] = CHECKPOINTS,
    cache: Annotated[Path, typer.Option(help="Where what was trained is kept.")] = Path(
        "runs/bases"
    ),
    force: Annotated[bool, typer.Option("--force", help="Train again what is there.")] = False,
) -> None:
    """Pre-train the base models whose recipe has changed or that are missing, and measure them.

    Those of the synthetic suites take up to 10 minutes each on one core; that of word problems
    takes hours, and resumes where it was interrupted. Finished bases stay, and no folder is left
    half-written.
    """
    names = names or recipe_names()
    recipes = {name: load_recipe(name) for name in names}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    trained = []
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {
            name: bars.add_task(name, total=recipe.steps, start=False, loss="")
            for name, recipe in recipes.items()
        }
        for name, recipe in recipes.items():
            kept = cache / f"{name}-{recipe.key}"
            if force or not (is_made(out / name, recipe) or is_made(kept, recipe)):
                _train(name, recipe, kept, bars, tasks[name])
                trained.append(name)
            bars.update(tasks[name], completed=recipe.steps)
    # Only now, so that no base's provenance tells of files that the command itself has written.
    for name, recipe in recipes.items():
        if name in trained or not is_made(out / name, recipe):
            copy(cache / f"{name}-{recipe.key}", out / name)
        Console().print(table(name, read_record(out / name / RECORD)["accuracy"]))
    there = len(names) - len(trained)
    print(f"{out}: {', '.join(names)} ({len(trained)} trained, {there} already there)")


def _train(name: str, recipe: Recipe, folder: Path, bars: Progress, task: TaskID) -> None:
    bars.start_task(task)

    def show(step: int, loss: float) -> None:
        bars.update(task, completed=step, loss=f"loss {loss:.3f}")
        if not bars.console.is_terminal and step % _LINE == 0:
            bars.console.print(f"{name}: step {step} of {recipe.steps}, loss {loss:.3f}")

    make(name, recipe, folder, show)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
