"""``upge moments``: bias and variance of every algorithm on an instance of one's own."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from upge.algorithms import REGISTRY, algorithm
from upge.errors import UpgeError
from upge.normalization import NORMALIZERS
from upge.theory.instance import Critic, Instance, parse_instance
from upge.theory.moments import SAMPLES, Moments, moments_of, prepared

#: What is printed of each target, whether or not the instance has it.
_TARGETS = ("reward", "mu")


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
            "objective": {target: self._objective(target) for target in _TARGETS},
            "gradient": {target: self._gradient(target) for target in _TARGETS},
            "algorithms": {name: _row(m) for name, m in self.moments.items()},
            "skipped": dict(self.skipped),
        }

    def lines(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """Everything in long format: algorithm, quantity, prefix, token, value."""
        record = self.record()
        for target in _TARGETS:
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
        return setting.functions[target](setting.policy).item()

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
        int, typer.Option(help="Demonstrations a group, for algorithms that read some.")
    ] = 1,
    critic: Annotated[
        Critic, typer.Option(help="V for GAE: the rollout policy's exact E[r | prefix], or zero.")
    ] = "exact",
    samples: Annotated[
        int, typer.Option(help="Groups drawn where the moments can't be exact.")
    ] = SAMPLES,
    form: Annotated[Format, typer.Option("--format", help="auto, json, csv or table.")] = (
        Format.AUTO
    ),
) -> None:
    """Exact bias and variance of algorithms, for one group on a policy that can be enumerated.

    The instance has vocab, eos, horizon, group_size, mu; logits and optionally old_logits and
    demo_logits (a list of vocab logits for every prefix: token ids joined by spaces, "" the start);
    reward (a number for every trajectory, with its eos); and optionally clip. Moments are of the
    estimator of ∇J; the truth is ∇E[r] (reward) and ∇J_μ (mu) with respect to the logits.
    """
    read = parse_instance(_read(instance), demonstrations=demonstrations, critic=critic)
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


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UpgeError(f"{path}: can't be read ({error})") from error


def _report(
    instance: Instance, names: list[str] | None, normalizer: str, samples: int
) -> Report:
    """The moments of the algorithms named; of all that have some, if none is."""
    chosen = [algorithm(name).name for name in names or REGISTRY]
    overrides = {} if instance.clip is None else {"clip": instance.clip}
    results: dict[str, Moments] = {}
    skipped: dict[str, str] = {}
    for name in chosen:
        estimator = prepared(name, normalizer, **overrides)
        try:
            results[name] = moments_of(estimator, instance.setting, samples=samples)
        except UpgeError as error:
            if names:
                raise
            skipped[name] = str(error)
    if not results:
        raise UpgeError(next(iter(skipped.values())))
    return Report(instance, results, skipped)


def _row(result: Moments) -> dict[str, float | str | None]:
    """The moments by name; null for what the instance has no truth for, or 0/0."""
    row = result.row()
    names = [
        name.removesuffix("reward") + target if name.endswith("_reward") else name
        for name in row
        for target in (_TARGETS if name.endswith("_reward") else ("",))
        if not name.endswith("_mu")
    ]
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return {name: finite.get(name) for name in names}
