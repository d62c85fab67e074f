"""``python -m experiments.profiles.paper``: configurations, models, plans of the paper's runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from upge.planning.cluster import load_cluster

from experiments.profiles.paper.positions import copy_model
from experiments.profiles.paper.recipes import FOLDER, SETTINGS, methods, model_file, models
from experiments.profiles.paper.recipes import run_config as make_config
from experiments.profiles.paper.table import plan_table
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
    """Make the copy with more positions that the recipes of Qwen2.5-Math name."""
    own = model_file(model)
    if "copy" not in own:
        print(f"{model}: is trained as it is, from {own['run']['model']}")
        return
    changes = dict(own["copy"])
    origin = changes.pop("of")
    copy_model(source or origin, Path(own["run"]["model"]), changes)
    print(f"{model}: {own['run']['model']}, from {source or origin}, with {changes}")


@app.command()
def plan(
    cluster: Annotated[Path | None, typer.Option(help="Of another machine.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Another type of GPU.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Another number of them.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file, if not the standard output.")] = None,
) -> None:
    """What every run takes, as a Markdown table."""
    table = plan_table(load_cluster(cluster or FOLDER / "cluster.yaml", gpu, gpus))
    if out is None:
        print(table, end="")
    else:
        out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    try:
        app()
    except UpgeError as error:
        sys.exit(f"error: {error}")
