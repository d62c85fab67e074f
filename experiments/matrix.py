"""``python -m experiments.matrix``: test the built package under the oldest and newest packages.

Each setting gets a fresh environment with the wheel (one of them with the sdist) and a copy of the
tests without the package beside it, so that what is tested is what pip installs. A setting's
environment is deleted before the next one is made: a CUDA build of torch takes 5 to 8 GB.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer
from packaging.requirements import Requirement

from upge.common.errors import UpgeError, unknown
from upge.common.files import make_folder
from upge.common.provenance import provenance

ROOT = Path(__file__).parents[1]

#: What the tests need beside UPGE and its extras.
_TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis", "packaging")
#: What is built and tested: all that git tracks below these.
_PACKAGE = (
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
    "upge",
)
_TESTS = ("pyproject.toml", "tests", "experiments", "analysis")
#: Packages whose versions the table shows.
_SHOWN = ("torch", "transformers", "accelerate", "trl", "verl", "tensordict")
#: Seconds that one group of tests may take.
_LIMIT = 3 * 3600


@dataclass(frozen=True)
class Setting:
    """One environment.

    Args:
        python: the version of its interpreter, as "3.11".
        about: what is installed, for the reader.
        requirements: pip's arguments beside UPGE.
        extras: of UPGE.
        verl: whether verl is installed, which is done without its dependencies.
    """

    python: str
    about: str
    requirements: Sequence[str]
    extras: Sequence[str] = ("train", "theory", "trl", "verl")
    verl: bool = True


@dataclass(frozen=True)
class Group:
    """Some tests, as arguments of pytest, and the packages without which they can't run."""

    arguments: Sequence[str]
    needs: Sequence[str] = ()


def settings(root: Path = ROOT) -> dict[str, Setting]:
    """The environments by name, from the lowest versions to the newest."""
    alone = [f"torch=={pins(root / 'requirements.lock')['torch']}"]
    without_verl = ("train", "theory", "trl")
    return {
        "alone": Setting("3.11", "the sdist, without extras", alone, (), verl=False),
        "lowest": Setting("3.11", "the lower bounds of pyproject.toml", lowest(root)),
        "locked": Setting("3.11", "requirements.lock", ["-r", str(root / "requirements.lock")]),
        "verl": Setting("3.12", "the torch that verl 0.9.1 pins", ["torch==2.11.0"]),
        "newest-3.12": Setting("3.12", "the newest within verl's bounds", []),
        "newest-3.13": Setting("3.13", "the newest of all", [], without_verl, verl=False),
        "newest-3.14": Setting("3.14", "the newest of all", [], without_verl, verl=False),
    }


def groups(root: Path = ROOT) -> dict[str, Group]:
    """The tests by the table's columns."""
    apart = {"test_algorithms.py", "test_environment.py", "test_readme.py"}
    core = [f"tests/{path.name}" for path in sorted((root / "tests").glob("test_*.py"))]
    loop = ["tests/training/test_loop.py", "tests/training/test_gradient.py"]
    parity = "tests/verification/test_parity.py"
    return {
        "core": Group([path for path in core if Path(path).name not in apart]),
        "contract": Group(["tests/test_algorithms.py"]),
        "training": Group(loop, ["transformers"]),
        "TRL": Group(["tests/integrations/test_trl.py", parity, "-k", "trl"], ["trl"]),
        "verl": Group(["tests/integrations/test_verl.py", parity, "-k", "verl"], ["verl"]),
    }


def lowest(root: Path = ROOT) -> list[str]:
    """Pins at the lower bounds that pyproject.toml states for the core and the tested extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tested = ("cli", "train", "theory", "trl", "verl")
    lines = [*project["dependencies"], *(line for name in tested for line in extras[name])]
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in map(Requirement, dict.fromkeys(lines))
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def pins(lock: Path) -> dict[str, str]:
    """Versions by package."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([^#=]+)==([^; ]+)", line) for line in lines)
    return {pin[1]: pin[2] for pin in found if pin}


# ----------------------------------------------------------------------------------------- one row


@dataclass(frozen=True)
class Job:
    """What every row is made with: a scratch folder, the built files, interpreters by version."""

    scratch: Path
    wheel: Path
    sdist: Path
    interpreters: Mapping[str, str]
    say: Callable[[str], None]

    def row(self, name: str, setting: Setting) -> dict[str, str]:
        """The environment made, tested and deleted; what could not be done is the row's note."""
        row = {"setting": name, "python": setting.python, "installed": setting.about}
        interpreter = self.interpreters.get(setting.python)
        if interpreter is None:
            return row | {"note": f"no Python {setting.python} on this machine"}
        folder = self.scratch / "environment"
        try:
            self.say(f"{name}: installing")
            python = self._install(folder, interpreter, setting)
            versions = _versions(python)
            row |= {shown: versions[shown] for shown in _SHOWN if shown in versions}
            for column, group in groups(self.scratch / "tests").items():
                if all(package in versions for package in group.needs):
                    self.say(f"{name}: {column}")
                    row[column] = self._tested(name, column, python, group)
        except subprocess.CalledProcessError as error:
            row["note"] = _error(error.stdout)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return row

    def _install(self, folder: Path, interpreter: str, setting: Setting) -> Path:
        _call(interpreter, "-m", "venv", str(folder))
        python = folder / "bin" / "python"
        source = self.wheel if setting.extras else self.sdist
        extras = f"[{','.join(setting.extras)}]" if setting.extras else ""
        pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _call(*pip, *_TEST_TOOLS, *setting.requirements, f"upge{extras} @ {source.as_uri()}")
        if setting.verl:
            verl = pins(ROOT / "requirements-nodeps.lock")["verl"]
            _call(*pip, "--no-deps", f"verl=={verl}")
        return python

    def _tested(self, name: str, column: str, python: Path, group: Group) -> str:
        """How many tests passed, failed and were skipped; the log of failures is kept."""
        report = self.scratch / "report.xml"
        report.unlink(missing_ok=True)
        command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}", *group.arguments]
        done = subprocess.run(
            command,
            cwd=self.scratch / "tests",
            env=os.environ | {"PYTHONPATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        if done.returncode:
            log = Path(tempfile.gettempdir()) / f"upge-matrix-{name}-{column}.log"
            log.write_text(done.stdout, encoding="utf-8")
            self.say(f"{name}: {column}: see {log}")
        if not report.exists():
            return f"pytest ended with exit code {done.returncode}"
        return summary(report.read_text(encoding="utf-8"))


def summary(junit: str) -> str:
    """The counts of pytest's report, as "12 passed, 1 failed, 2 skipped"."""
    suite = ElementTree.fromstring(junit).find("testsuite")
    assert suite is not None
    count = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    parts = {"passed": count["tests"] - failed - count["skipped"], "failed": failed}
    parts["skipped"] = count["skipped"]
    return ", ".join(f"{n} {name}" for name, n in parts.items() if n) or "no tests"


def _versions(python: Path) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    versions: dict[str, str] = json.loads(_call(str(python), "-c", code))
    return versions


def _call(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def _error(output: str) -> str:
    """The first line in which pip or venv names an error, or else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR")), (lines or ["no output"])[-1])


# -------------------------------------------------------------------------------------- the table


def write(rows: Sequence[Mapping[str, str]], out: Path) -> None:
    """matrix.csv and matrix.md."""
    columns = ["setting", "python", *_SHOWN, *groups(), "installed", "note", "commit", "date"]
    with (out / "matrix.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (out / "matrix.md").write_text(markdown(rows), encoding="utf-8")


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The table for readers; a dash stands where something is not installed or was not run."""
    columns = ["setting", "python", *_SHOWN, *groups()]
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {' | '.join(row.get(name) or '–' for name in columns)} |" for row in rows]
    about = [f"* **{row['setting']}**: {_about(row)}" for row in rows]
    return "\n".join(
        [
            "# The tests under other versions",
            "",
            "Made by `make test-matrix`. Each row is a fresh environment with the built package. "
            "Its tests, on a CPU, are of the estimator (core), of every registered algorithm "
            "(contract), of the training loop, and of the TRL and verl adapters and parities.",
            "",
            *lines,
            "",
            *about,
            "",
        ]
    )


def _about(row: Mapping[str, str]) -> str:
    done = f"{row['installed']}; commit {row['commit']}, {row['date']}"
    return f"{done}. {row['note']}" if row.get("note") else done


def read(out: Path) -> list[dict[str, str]]:
    """The rows made before."""
    path = out / "matrix.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------- the command


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Settings; all if none is named.")
    ] = None,
    python: Annotated[
        list[str] | None, typer.Option(help="An interpreter beside those on PATH; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where matrix.csv and matrix.md go.")] = Path(
        "paper_tables"
    ),
) -> None:
    """Make each setting's row and write the table; rows of other settings stay as they are."""
    known = settings()
    for name in names or ():
        if name not in known:
            raise unknown("setting", name, known)
    make_folder(out)
    made = {"commit": provenance()["commit"], "date": provenance()["date"]}
    rows = {row["setting"]: row for row in read(out)}
    with tempfile.TemporaryDirectory(prefix="upge-matrix-") as scratch:
        job = _prepare(
            Path(scratch), [*(f"python{s.python}" for s in known.values()), *(python or ())]
        )
        for name in names or known:
            rows[name] = job.row(name, known[name]) | made
            write([rows[name] for name in known if name in rows], out)
    print(f"{out / 'matrix.md'}: {len(names or known)} of {len(known)} settings made")
    if any("failed" in row.get(column, "") for row in rows.values() for column in groups()):
        sys.exit(1)


def _prepare(scratch: Path, interpreters: Sequence[str]) -> Job:
    _copy(_TESTS, scratch / "tests")
    sdist, wheel = build(scratch)
    versions = {_version(path): path for path in reversed(interpreters)}
    found = {version: path for version, path in versions.items() if version}
    return Job(scratch, wheel, sdist, found, lambda text: print(text, file=sys.stderr, flush=True))


def build(scratch: Path) -> tuple[Path, Path]:
    """The sdist of the files that git tracks, and the wheel made of it."""
    _copy(_PACKAGE, scratch / "package")
    built = scratch / "built"
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built))
    _call(*command, str(scratch / "package"))
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    return sdist, wheel


def _copy(names: Sequence[str], target: Path) -> None:
    """What git tracks below these names, as it stands in the working tree."""
    listed = _call("git", "-C", str(ROOT), "ls-files", "-z", "--", *names)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # a file deleted but not yet committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _version(interpreter: str) -> str:
    """As "3.11"; empty where the name is no interpreter, or a shim with none behind."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return _call(interpreter, "-c", code).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
