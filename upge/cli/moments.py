"""``upge moments``: bias and variance of every algorithm on an instance of one's own."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.cli.printing import Format
from upge.common.files import read_text
from upge.common.progress import steps_bar

if TYPE_CHECKING:
    from upge.exact.report import Report

#: The targets as they are printed.
_SYMBOL = {"reward": r"E\[r]", "mu": "J_μ"}


def moments(
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE.json", help="The instance; - for stdin.")
    ],
    names: Annotated[
        list[str] | None, typer.Option("--algorithm", "-a", help="Only this algorithm; repeatable.")
    ] = None,
    normalizer: Annotated[
        str, typer.Option(help="Of every term: own, or the name of one, as token_mean.")
    ] = "trajectory_mean",
    demonstrations: Annotated[
        int, typer.Option(min=0, help="Demonstrations a group, for algorithms that read some.")
    ] = 1,
    critic: Annotated[
        Literal["exact", "zero"],
        typer.Option(help=r"V for GAE: the rollout policy's exact E\[r | prefix], or zero."),
    ] = "exact",
    samples: Annotated[
        int, typer.Option(min=2, help="Groups drawn where the moments can't be exact.")
    ] = 10_000,
    form: Annotated[Format, typer.Option("--format", help="auto, json, csv or table.")] = (
        Format.AUTO
    ),
) -> None:
    r"""Exact bias and variance of algorithms, for one group on a policy that can be enumerated.

    The instance has vocab, eos, horizon, group_size, mu; logits and optionally old_logits and
    demo_logits (a list of vocab logits for every prefix: token ids joined by spaces, "" the start);
    reward (a number for every trajectory, with its eos); and optionally clip. Moments are of the
    estimator of ∇J; the truth is ∇E\[r] (reward) and ∇J_μ (mu) with respect to the logits. In JSON
    a number that does not exist is null: a quotient by 0, and all of J_μ if demo_logits lack.
    """
    from upge.exact.instance import parse_instance
    from upge.exact.report import report as make_report

    read = parse_instance(read_text(instance), demonstrations=demonstrations, critic=critic)
    with steps_bar() as bar:
        report = make_report(
            read,
            names,
            normalizer,
            samples,
            lambda chosen: bar.track(chosen, description="algorithms"),
        )
    console = Console()
    if form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("algorithm", "quantity", "prefix", "token", "value"))
        writer.writerows(report.lines())
    elif form is Format.JSON or (form is Format.AUTO and not console.is_terminal):
        print(json.dumps(report.record(), allow_nan=False))
    else:
        _print(report, console)


def _print(report: Report, console: Console) -> None:
    from upge.exact.instance import TARGETS

    record = report.record()
    for target in TARGETS:
        if gradient := record["gradient"][target]:
            console.print(_gradient_table(target, record["objective"][target], gradient))
    for target in TARGETS:
        if record["gradient"][target]:
            console.print(_moments_table(target, record["algorithms"]))
    if not record["gradient"]["mu"]:
        console.print("∇J_μ is left out: μ > 0, and the instance has no demo_logits")
    for name, m in report.moments.items():
        if m.method != "exact":
            console.print(
                f"* [bold]{name}[/]: from {m.groups:,} sampled groups; standard error of the mean "
                f"{m.standard_error:.2g}, of tr Cov {m.standard_error_trace_cov:.2g}",
                highlight=False,
            )
    for name, reason in report.skipped.items():
        console.print(f"[bold]{name}[/] is left out: {escape(reason)}", highlight=False)


def _gradient_table(target: str, value: float, gradient: Mapping[str, list[float]]) -> Table:
    title = f"∇{_SYMBOL[target]} over the logits; {_SYMBOL[target]} = {value:.6g}"
    table = Table(title=title, title_justify="left")
    table.add_column("prefix")
    for token in range(len(next(iter(gradient.values())))):
        table.add_column(str(token), justify="right")
    for prefix, row in gradient.items():
        table.add_row(prefix or "(start)", *(f"{x:+.4g}" for x in row))
    return table


def _moments_table(target: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    symbol = f"∇{_SYMBOL[target]}"
    table = Table(title=f"One group's estimate against {symbol}", title_justify="left")
    columns = {
        "‖mean‖²": "norm_mean_sq",
        "bias²": f"bias_sq_{target}",
        "tr Cov": "trace_cov",
        "MSE": f"mse_{target}",
        "cosine": f"cosine_{target}",
    }
    table.add_column("algorithm", no_wrap=True)
    for header in columns:
        table.add_column(header, justify="right")
    for name, row in rows.items():
        numbers = (row[column] for column in columns.values())
        table.add_row(
            name if row["method"] == "exact" else f"{name}*",
            *("–" if x is None else f"{x:.3g}" for x in numbers),
        )
    return table
