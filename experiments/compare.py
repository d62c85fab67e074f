"""``python -m experiments.compare NAME``: make the missing runs of a table or figure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.comparison import Recipe, comparison_files, load_comparisons, profiles
from experiments.preflight import check
from experiments.run_comparison import run_comparison
from upge.common.errors import UpgeError, unknown

_FOLDER = Path(__file__).parent


def main(
    names: Annotated[
        list[str], typer.Argument(help=f"Which: {', '.join(comparison_files(_FOLDER))}.")
    ],
    profile: Annotated[
        str, typer.Option(help=f"{', '.join(profiles(_FOLDER))}; smoke only shows that all works.")
    ] = "cpu",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs a method. Default: the recipe's.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Only this method; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    on_cpu: Annotated[
        bool, typer.Option("--on-cpu", help="Run a profile for a GPU without one.")
    ] = False,
) -> None:
    """Choose each method's learning rate, then train and evaluate all methods on all seeds.

    Runs are shared: what another comparison has made is not made again.
    """
    recipes: dict[str, Recipe] = {}
    for name in names:
        recipes |= load_comparisons(_FOLDER, name, profile)
    known = {method for recipe in recipes.values() for method in recipe.compared}
    for method in methods or ():
        if method not in known:
            raise unknown("method", method, sorted(known))
    selected = {
        name: [m for m in recipe.compared if methods is None or m in methods]
        for name, recipe in recipes.items()
    }
    for name, recipe in recipes.items():
        for line in check(recipe, selected[name], on_cpu=on_cpu):
            print(f"{name}: {line}", file=sys.stderr)
    failed = 0
    for name, recipe in recipes.items():
        if chosen := selected[name]:
            failed += _run(recipe, out / profile / name, seeds or recipe.seeds, chosen)
    if failed:
        sys.exit(1)


def _run(recipe: Recipe, folder: Path, seeds: int, methods: list[str]) -> int:
    failures = run_comparison(recipe, folder, seeds, methods, Console(stderr=True))
    total = (1 + len(methods)) * seeds
    print(f"{folder}: {total} runs including the base model's, of which {len(failures)} failed")
    return len(failures)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; rerun the command to resume")
