"""``python -m experiments.bias_variance``: run the studies that are missing, draw their figures."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

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

from experiments.bias_variance import advantage, demonstrations, mask, mixing, reference
from experiments.bias_variance.common import Row, Rows, Study
from experiments.network import study as network
from experiments.records import key_of, read_record, write_record
from upge.common.code import code_version
from upge.common.config import load
from upge.common.errors import UpgeError, unknown
from upge.common.files import atomic_write, make_folder

RECIPES = Path(__file__).parent

#: The exact studies, and the one that samples from a trained network.
STUDIES: dict[str, Study[Any]] = {
    name: Study(module.Recipe, module.study, module.headlines)
    for name, module in {
        "reference": reference,
        "mask": mask,
        "advantage": advantage,
        "demonstrations": demonstrations,
        "mixing": mixing,
        "network": network,
    }.items()
}


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Studies; all if none is named.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where records, tables and figures go.")] = Path(
        "figures/bias_variance"
    ),
    force: Annotated[bool, typer.Option("--force", help="Run again what is there.")] = False,
    stamp: Annotated[
        bool, typer.Option("--stamp", help="Draw caption and commit into figures.")
    ] = False,
) -> None:
    """Run the studies of bias and variance whose results are missing; draw all their figures."""
    names = names or [name for name in STUDIES if (RECIPES / f"{name}.yaml").exists()]
    for name in names:
        if name not in STUDIES:
            raise unknown("study", name, STUDIES)
    make_folder(out)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    ran = []
    with Progress(*columns, console=console) as bars:
        tasks = {name: bars.add_task(name, total=None, start=False) for name in names}
        for name in names:
            if _run(name, out, force, bars, tasks[name]):
                ran.append(name)
            draw(name, out, stamp=stamp)
    kept = len(names) - len(ran)
    print(
        f"{out}: tables, figures and records of {', '.join(names)}"
        f" ({len(ran)} run, {kept} already there)"
    )


def _run(name: str, out: Path, force: bool, bars: Progress, task: TaskID) -> bool:
    """Bring one study's files up to date; whether that took running it."""
    bars.start_task(task)
    kind, study, headlines = STUDIES[name]
    recipe = load(RECIPES / f"{name}.yaml", kind)
    key = key_of(recipe, code_version(study.__module__))
    record, table = out / f"{name}.json", out / f"{name}.csv"
    missing = force or not table.exists() or read_record(record).get("key") != key
    if missing:
        started = time.monotonic()
        rows = study(
            recipe,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
        write_table(table, rows)
        write_record(record, name, key, recipe, headlines(rows), time.monotonic() - started)
    bars.update(task, total=1, completed=1)
    return missing


def draw(name: str, out: Path, *, stamp: bool = False) -> None:
    """Draw a study's figure from its table; its caption goes into the record, or below it too."""
    from analysis.style import save

    record, rows = dict(read_record(out / f"{name}.json")), read_table(out / f"{name}.csv")
    drawing = import_module(f"analysis.bias_variance.{name}")
    record["caption"] = drawing.caption(rows)
    atomic_write(out / f"{name}.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    stamped = f"{record['caption']}\nCommit {record['provenance']['commit']}." if stamp else ""
    save(drawing.figure(rows), out / name, stamped)


def write_table(path: Path, rows: list[Row]) -> None:
    """Rows as CSV, numbers to 9 digits; ``nan`` where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(value) for name, value in row.items()})
    atomic_write(path, text.getvalue())


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


def read_table(path: Path) -> Rows:
    """Rows as they were written: what looks like a number is one."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
