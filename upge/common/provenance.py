"""Where a number comes from: commit, versions, hardware and time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

#: Packages whose versions can change a number.
_PACKAGES = (
    "torch",
    "numpy",
    "sympy",
    "hypothesis",
    "transformers",
    "accelerate",
    "trl",
    "verl",
)

#: Folders of the checkout, beside the package, whose code numbers are made with.
_BESIDE = ("experiments", "analysis")


def provenance() -> dict[str, str]:
    """Commit (marked if there are uncommitted changes), versions, hardware, and time in UTC."""
    return {
        "upge": version("upge") if _installed("upge") else "not installed",
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES if _installed(name)},
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {_accelerator()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _commit() -> str:
    """The commit of the repository that tracks this package; a surrounding one doesn't count."""
    folder = Path(__file__).parents[1]
    code = [str(folder), *(str(folder.parent / name) for name in _BESIDE)]
    try:
        _git(folder, "ls-files", "--error-unmatch", "--", "__init__.py")
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"
    return f"{commit} with uncommitted changes" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
