"""``python -m experiments.table2``: make the runs of Table 2 that are missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.comparison import load_recipe
from experiments.run_comparison import run_comparison
from upge.errors import UpgeError, unknown


def main(
    profile: Annotated[str, typer.Option(help="smoke (2 minutes) or cpu (an hour or so).")] = "cpu",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs a method; the profile's own if not given.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Only this method; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
) -> None:
    """Choose each method's learning rate, then train and evaluate all methods on all seeds."""
    recipe = load_recipe(Path(__file__).parent, profile)
    for name in methods or ():
        if name not in recipe.methods:
            raise unknown("method", name, recipe.methods)
    runs = out / profile
    chosen = methods or list(recipe.methods)
    failures = run_comparison(recipe, runs, seeds or recipe.seeds, chosen, Console(stderr=True))
    total = (1 + len(chosen)) * (seeds or recipe.seeds)
    print(f"{runs}: {total} runs with those of the base model, {len(failures)} of them failed")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
