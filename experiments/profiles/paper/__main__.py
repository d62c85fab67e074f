"""``python -m experiments.profiles.paper``: configurations and models of the paper's runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from experiments.profiles.paper.positions import copy_model
from experiments.profiles.paper.recipes import SETTINGS, methods, model_file, models
from experiments.profiles.paper.recipes import run_config as make_config
from upge.common.errors import UpgeError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[str, typer.Argument(help=f"One of {', '.join(models())}.")]


@app.command()
def config(
    model: Model,
    method: Annotated[
        str,
        typer.Argument(help=". ".join(f"As {s}: {', '.join(methods(s))}" for s in SETTINGS)),
    ],
    settings: Annotated[str, typer.Option(help=f"{' or '.join(SETTINGS)}.")] = "published",
    seed: Annotated[int | None, typer.Option(help="If not the recipe's.")] = None,
) -> None:
    """Print a run's configuration, for upge train and upge plan."""
    made = make_config(model, settings, method, seed).model_dump(mode="json")
    print(yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=100), end="")


@app.command()
def prepare(
    model: Model,
    source: Annotated[str | None, typer.Option(help="A folder, if not the hub.")] = None,
) -> None:
    """Copy a model with more positions, as the recipes of Qwen2.5-Math need it."""
    settings = model_file(model)
    target = settings["run"]["model"]
    if "copy" not in settings:
        print(f"{model}: needs no copy; it is trained from {target}")
        return
    changes = dict(settings["copy"])
    origin = changes.pop("of")
    copy_model(source or origin, Path(target), changes)
    print(f"{model}: {target}, from {source or origin}, with {changes}")


if __name__ == "__main__":
    try:
        app()
    except UpgeError as error:
        sys.exit(f"error: {error}")
