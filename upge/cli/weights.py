"""``upge weights``: what every algorithm does to a batch."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.cli.printing import Format, Names
from upge.common.errors import UpgeError
from upge.common.files import read_text

if TYPE_CHECKING:
    from upge.algorithms import Value
    from upge.batch import TrajectoryBatch
    from upge.estimator import Estimate


def weights(
    batch: Annotated[str, typer.Argument(metavar="BATCH.json", help="The batch; - for stdin.")],
    names: Names = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option, as grpo.clip=0.1; repeatable."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="auto, json or table.")] = Format.AUTO,
) -> None:
    """Per-token weights w of algorithms on a batch, so that ∇J = Σ w ∇log π, and the loss.

    The batch has logp, old_logp, mask (N × T, response tokens), reward, group, offline (N) and
    optionally values, entropy (N × T) and max_length. The loss is −Σ w log π.
    """
    from upge.algorithms import REGISTRY, algorithm
    from upge.cli.batch_json import parse_batch

    record = parse_batch(read_text(batch))
    options = _options(settings or [])
    chosen = [algorithm(name).name for name in names or REGISTRY]
    for name in options:
        if algorithm(name).name not in chosen:
            raise UpgeError(f"--set {name}.…: {name} is not among the chosen algorithms")
    results: dict[str, Estimate | str] = {}
    for name in chosen:
        try:
            results[name] = _estimate(name, record, options.get(name, {}))
        except UpgeError as error:
            if names or name in options:
                raise
            results[name] = str(error)
    as_json = form is Format.JSON or (form is Format.AUTO and not sys.stdout.isatty())
    if as_json:
        print(
            json.dumps(
                {name: _as_json(result) for name, result in results.items()}, allow_nan=False
            )
        )
    else:
        for name, result in results.items():
            _print_weights(name, result, record)


def _options(settings: list[str]) -> dict[str, dict[str, Value]]:
    """``algorithm.option=value`` strings by algorithm."""
    options: dict[str, dict[str, Value]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot and option):
            raise UpgeError(f"--set {setting}: wanted ALGORITHM.OPTION=VALUE, as grpo.clip=0.1")
        if option in options.setdefault(name, {}):
            raise UpgeError(f"--set {key}: is given twice, wanted once")
        options[name][option] = _value(value)
    return options


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def _estimate(name: str, batch: TrajectoryBatch, options: dict[str, Value]) -> Estimate:
    from upge.algorithms import algorithm

    estimate = algorithm(name)(**options)(batch, batch.require("logp", name), batch.entropy)
    if not estimate.weights.isfinite().all():
        raise UpgeError(f"{name}: its weights overflow on this batch; look at rewards and options")
    return estimate


def _as_json(result: Estimate | str) -> dict[str, object]:
    if isinstance(result, str):
        return {"error": result}
    return {
        "weights": result.weights.tolist(),
        "loss": result.loss.item(),
        "metrics": result.metrics,
    }


def _print_weights(name: str, result: Estimate | str, batch: TrajectoryBatch) -> None:
    if isinstance(result, str):
        Console().print(f"[bold]{name}[/]: {escape(result)}\n")
        return
    table = Table(title=f"{name}: loss {result.loss.item():.6g}", title_justify="left")
    for header in ("q", "R", "from", *map(str, range(batch.mask.shape[1]))):
        table.add_column(header, justify="right")
    for i, row in enumerate(result.weights.tolist()):
        kind = _source(batch, i)
        cells = [_colored(w) if batch.mask[i, t] else "" for t, w in enumerate(row)]
        table.add_row(str(batch.group[i].item()), f"{batch.reward[i].item():g}", kind, *cells)
    Console().print(table)


def _source(batch: TrajectoryBatch, i: int) -> str:
    online, offline = (bool(batch.rows_of(kind)[i]) for kind in ("online", "offline"))
    return {(1, 0): "rollout", (0, 1): "demo", (1, 1): "mixed", (0, 0): "padding"}[online, offline]


def _colored(weight: float) -> str:
    color = "dim" if weight == 0 else "green" if weight > 0 else "red"
    return f"[{color}]{weight:+.4g}[/]"
