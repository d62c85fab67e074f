"""``python -m experiments.conformance``: what shipped losses are, and planted faults found.

Losses of each library are read in a process of its own; those that the environment lacks are
installed, without their dependencies, to a folder beside it.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import track

from analysis.tables import Section, markdown
from experiments.conformance.planted import CORRECT, FAULTY, Planted
from experiments.conformance.shipped import LIBRARIES, SHIPPED, Library, Shipped
from upge.common.errors import UpgeError
from upge.common.files import atomic_write, make_folder
from upge.common.provenance import provenance
from upge.testing.check import check
from upge.testing.report import FAULTS, Report

#: Seconds for one library.
_LIMIT = 900


@dataclass(frozen=True)
class Finding:
    """A line of the table of shipped losses."""

    library: str
    loss: str
    what: str
    differs: str = ""
    breaks: str = ""
    factor: float | None = None
    error: float | None = None


def main(
    out: Annotated[Path, typer.Option(help="Folder of the tables.")] = Path("paper_tables"),
    folder: Annotated[
        Path, typer.Option(help="Where libraries are installed that the environment lacks.")
    ] = Path(".venv-conformance"),
    library: Annotated[str, typer.Option(help="Print this library's findings as JSON.")] = "",
) -> None:
    """Write conformance.md/.csv and planted_faults.md/.csv."""
    if library:
        chosen = next(item for item in LIBRARIES if item.name == library)
        print(json.dumps([asdict(f) for f in _findings(chosen, folder)]))
        return
    make_folder(out)
    rows: list[Finding] = []
    console = Console(stderr=True)
    for item in track(LIBRARIES, "shipped losses", console=console):
        rows += _of_library(item, folder)
    _write_shipped(rows, out)
    faults = [_planted(p) for p in track((*CORRECT, *FAULTY), "planted faults", console=console)]
    _write_planted(faults, out)
    console.print(f"Written to {out}/: conformance.md, .csv, planted_faults.md, .csv")
    wrong = [row for row in faults if row["found"] == "no"]
    raise typer.Exit(1 if wrong else 0)


# ------------------------------------------------------------------------------ shipped losses


def _of_library(item: Library, folder: Path) -> list[Finding]:
    """Findings of a process of its own, and one line where there is none."""
    try:
        _install(item, folder)
        command = [sys.executable, "-m", "experiments.conformance", "--library", item.name]
        done = subprocess.run(
            [*command, "--folder", str(folder)],
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
    except (UpgeError, subprocess.TimeoutExpired) as error:
        return [Finding(item.name, "all", f"could not be called: {error}")]
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return [Finding(item.name, "all", f"could not be called: {last[0]}")]
    return [Finding(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def _install(item: Library, folder: Path) -> None:
    if "==" not in item.requirement or (folder / item.name).is_dir():
        return
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        target = Path(partial) / item.name
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
        done = subprocess.run(
            [*command, "--target", str(target), item.requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
            raise UpgeError(f"{item.requirement} can't be installed ({last[0]})")
        target.rename(folder / item.name)


def _findings(item: Library, folder: Path) -> list[Finding]:
    if (folder / item.name).is_dir():
        item.prepare(folder / item.name)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_finding(loss) for loss in SHIPPED if loss.library == item.name]


def _finding(loss: Shipped) -> Finding:
    try:
        report = check(loss.make(), arguments=loss.arguments)
    except (UpgeError, ImportError, AttributeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:240]
        return Finding(loss.library, loss.place, f"could not be called: {said}")
    return _read(loss, report)


def _read(loss: Shipped, report: Report) -> Finding:
    broken = "; ".join(law.words for law in report.laws if law.verdict == "broken")
    faults = [FAULTS[f] for r in report.readings for f in r.faults]
    differs = "; ".join(dict.fromkeys(faults))
    found = report.match
    if found is not None:
        note = f", {found.note}" if found.note else ""
        names = [text.split(" (")[0] for text in found.others]
        more = f" and {len(names) - 2} more" if len(names) > 3 else ""
        shown = ", ".join(names if not more else names[:2])
        others = f"; only Â tells it from {shown}{more}" if names else ""
        what = f"{found.text}{note}{others}"
        return Finding(loss.library, loss.place, what, differs, broken, found.factor, found.error)
    readings = "; ".join(f"{r.component}: {r.text or r.undecided}" for r in report.readings)
    if report.outside:
        what = f"outside: {report.outside}"
    elif report.undecided:
        what = f"undecided: {readings or report.undecided}"
    else:
        what = f"no row: {readings}"
    return Finding(loss.library, loss.place, what, differs, broken)


def _write_shipped(rows: Sequence[Finding], out: Path) -> None:
    frame = pd.DataFrame([asdict(row) for row in rows])
    atomic_write(out / "conformance.csv", frame.to_csv(index=False))
    called = [row for row in rows if not row.what.startswith("could not")]
    before = (
        f"{len(called)} losses and advantage functions of {len({r.library for r in called})} "
        "libraries, called as they are shipped and read off their gradients by `upge check`: the "
        "registered algorithm that each equals, up to a positive factor, and the laws that it "
        "breaks. Equal in float64 to 1e-9, or to 2e-5 where the loss computes in float32."
    )
    sections = [
        Section(
            f"{item.name} {_version(item)}",
            ("loss", "what it is", "factor", "error", "off", "laws broken"),
            [_line(row) for row in rows if row.library == item.name],
        )
        for item in LIBRARIES
    ]
    origin = [f"{name}: {value}" for name, value in provenance().items()]
    text = markdown(
        "What shipped losses are",
        [
            Section("How to read this", before=before),
            *sections,
            Section("Where this comes from", notes=origin),
        ],
    )
    atomic_write(out / "conformance.md", text)


def _line(row: Finding) -> list[str]:
    numbers = ["–" if x is None else f"{x:.4g}" for x in (row.factor, row.error)]
    return [row.loss, row.what, *numbers, row.differs or "–", row.breaks or "none"]


def _version(item: Library) -> str:
    if "==" in item.requirement:
        return item.requirement.split("==")[1]
    try:
        return version(item.requirement)
    except PackageNotFoundError:
        return ""


# ------------------------------------------------------------------------------ planted faults


def _planted(case: Planted) -> dict[str, Any]:
    report = check(case.make(), claim=case.claim, options=dict(case.options))
    named = report.faults
    assert report.claim is not None
    right = case.fault in named if case.fault else report.claim.holds and set(named) <= {"split"}
    return {
        "planted": case.name,
        "fault": case.fault or "none",
        "named": ", ".join(named) or "none",
        "claim": f"{case.claim}: {'holds' if report.claim.holds else 'fails'}",
        "found": "yes" if right else "no",
    }


def _write_planted(rows: Sequence[dict[str, Any]], out: Path) -> None:
    frame = pd.DataFrame(rows)
    atomic_write(out / "planted_faults.csv", frame.to_csv(index=False))
    right = sum(row["found"] == "yes" for row in rows)
    before = (
        f"{right} of {len(rows)}: {len(CORRECT)} correct losses, which have to be recognized "
        f"without a false alarm, and {len(FAULTY)} with one fault each, which has to be named. "
        "Dividing by the micro-batch's tokens, which a token mean does by its nature, is said of "
        "correct ones too."
    )
    lines = [[str(value) for value in row.values()] for row in rows]
    text = markdown(
        "Planted faults and the diagnoses of upge check",
        [
            Section("Faults", ("loss", "fault", "named", "claim", "found"), lines, before),
            Section("Where this comes from", notes=_origin(provenance().items())),
        ],
    )
    atomic_write(out / "planted_faults.md", text)


def _origin(items: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}: {value}" for name, value in items]


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        print(f"upge: {error}", file=sys.stderr)
        sys.exit(2)
