"""``upge moments``: bias and variance of every algorithm on an instance of one's own."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upge.algorithms import REGISTRY, algorithm
from upge.console import steps_bar
from upge.errors import UpgeError
from upge.files import read_text
from upge.normalization import NORMALIZERS
from upge.theory.instance import TARGETS, Critic, Instance, parse_instance
from upge.theory.moments import SAMPLES, Moments, prepared
from upge.theory.moments import moments as moments_of

#: The targets as they are printed.
_SYMBOL = {"reward": r"E\[r]", "mu": "J_μ"}


class Format(StrEnum):
    """How results are printed; ``auto`` is a table in a terminal and JSON in a pipe."""

    AUTO = "auto"
    JSON = "json"
    CSV = "csv"
    TABLE = "table"


@dataclass(frozen=True)
class Report:
    """The moments of the algorithms on an instance, and why some have none."""

    instance: Instance
    moments: Mapping[str, Moments]
    skipped: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Everything as JSON has it; a number that does not exist is null."""
        return {
            "objective": {target: self._objective(target) for target in TARGETS},
            "gradient": {target: self._gradient(target) for target in TARGETS},
            "algorithms": {name: _row(m) for name, m in self.moments.items()},
            "skipped": dict(self.skipped),
        }

    def lines(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """Everything in long format: algorithm, quantity, prefix, token, value."""
        record = self.record()
        for target in TARGETS:
            yield "", f"objective_{target}", "", "", record["objective"][target]
            for prefix, row in (record["gradient"][target] or {}).items():
                for token, value in enumerate(row):
                    yield "", f"gradient_{target}", prefix, token, value
        for name, row in record["algorithms"].items():
            for quantity, value in row.items():
                yield name, quantity, "", "", value
        for name, reason in self.skipped.items():
            yield name, "skipped", "", "", reason

    def _objective(self, target: str) -> float | None:
        setting = self.instance.setting
        if target not in setting.truth:
            return None
        return setting.objectives[target](setting.policy, question=setting.question).item()

    def _gradient(self, target: str) -> dict[str, list[float]] | None:
        setting = self.instance.setting
        if target not in setting.truth:
            return None
        tree = setting.policy.tree
        rows = setting.truth[target].view(tree.prefixes, tree.vocab).tolist()
        return dict(zip(tree.prefix_names, rows, strict=True))


def moments(
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE.json", help="The instance; - for stdin.")
    ],
    names: Annotated[
        list[str] | None, typer.Option("--algorithm", "-a", help="Only this algorithm; repeatable.")
    ] = None,
    normalizer: Annotated[
        str, typer.Option(help=f"Of every term: own, or {', '.join(NORMALIZERS)}.")
    ] = "trajectory_mean",
    demonstrations: Annotated[
        int, typer.Option(min=0, help="Demonstrations a group, for algorithms that read some.")
    ] = 1,
    critic: Annotated[
        Critic, typer.Option(help=r"V for GAE: the rollout policy's exact E\[r | prefix], or zero.")
    ] = "exact",
    samples: Annotated[
        int, typer.Option(min=2, help="Groups drawn where the moments can't be exact.")
    ] = SAMPLES,
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
    read = parse_instance(read_text(instance), demonstrations=demonstrations, critic=critic)
    report = _report(read, names, normalizer, samples)
    console = Console()
    if form is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("algorithm", "quantity", "prefix", "token", "value"))
        writer.writerows(report.lines())
    elif form is Format.JSON or (form is Format.AUTO and not console.is_terminal):
        print(json.dumps(report.record(), allow_nan=False))
    else:
        _print(report, console)


def _report(instance: Instance, names: list[str] | None, normalizer: str, samples: int) -> Report:
    """The moments of the algorithms named; of all that have some, if none is."""
    chosen = [algorithm(name).name for name in names or REGISTRY]
    overrides = {} if instance.clip is None else {"clip": instance.clip}
    results: dict[str, Moments] = {}
    skipped: dict[str, str] = {}
    with steps_bar() as bar:
        for name in bar.track(chosen, description="algorithms"):
            try:
                estimator = prepared(name, normalizer, **overrides)
                results[name] = moments_of(estimator, instance.setting, samples=samples)
            except UpgeError as error:
                if names:
                    raise
                skipped[name] = str(error)
    if not results:
        raise UpgeError(next(iter(skipped.values())))
    return Report(instance, results, skipped)


def _row(result: Moments) -> dict[str, float | str | None]:
    """The moments by name; null for 0/0 and for what the instance has no truth for."""
    return {name: _finite(value) for name, value in result.row().items()}


def _finite(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(report: Report, console: Console) -> None:
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
