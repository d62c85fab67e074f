"""``python -m experiments.compare NAME``: make the runs of a table or figure that are missing."""

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
        str, typer.Option(help=f"{', '.join(profiles(_FOLDER))}; smoke shows mechanics alone.")
    ] = "cpu",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs a method; the recipe's own if not given.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", "-m", help="Only this method; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    on_cpu: Annotated[
        bool, typer.Option("--on-cpu", help="Go on where the profile asks for a GPU and none is.")
    ] = False,
) -> None:
    """Choose each method's learning rate, then train and evaluate all methods on all seeds.

    Runs are shared: what another comparison has made already is not made again.
    """
    recipes: dict[str, Recipe] = {}
    for name in names:
        recipes |= load_comparisons(_FOLDER, name, profile)
    for method in methods or ():
        known = {known for recipe in recipes.values() for known in recipe.compared}
        if method not in known:
            raise unknown("method", method, sorted(known))
    asked = {
        name: [m for m in recipe.compared if methods is None or m in methods]
        for name, recipe in recipes.items()
    }
    for name, recipe in recipes.items():
        for line in check(recipe, asked[name], on_cpu=on_cpu):
            print(f"{name}: {line}", file=sys.stderr)
    failed = 0
    for name, recipe in recipes.items():
        if chosen := asked[name]:
            failed += _run(recipe, out / profile / name, seeds or recipe.seeds, chosen)
    if failed:
        sys.exit(1)


def _run(recipe: Recipe, folder: Path, seeds: int, methods: list[str]) -> int:
    failures = run_comparison(recipe, folder, seeds, methods, Console(stderr=True))
    total = (1 + len(methods)) * seeds
    print(f"{folder}: {total} runs with those of the base model, {len(failures)} of them failed")
    return len(failures)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where this one stood")
