"""Where a number comes from."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from upge.common import provenance as module
from upge.common.provenance import provenance


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in whose folder upge the package claims to be."""
    package = tmp_path / "upge"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(package / "common" / "provenance.py"))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_all_of_it_is_filled_in() -> None:
    record = provenance()
    assert {"upge", "commit", "python", "torch", "hardware", "date"} <= set(record)
    assert all(value.strip() and "unknown" not in value for value in record.values())
    assert record["torch"] == version("torch")
    assert re.fullmatch(r"3\.11\.\d+", record["python"])
    assert re.search(r"\d+ cores", record["hardware"])
    assert ("no GPU" in record["hardware"]) != torch.cuda.is_available()


def test_the_date_is_now_in_utc() -> None:
    date = datetime.strptime(provenance()["date"], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
    assert timedelta() <= datetime.now(UTC) - date < timedelta(minutes=2)


def test_the_commit(checkout: Path) -> None:
    commit = provenance()["commit"]
    assert re.fullmatch(r"[0-9a-f]{12}", commit)
    (checkout / "elsewhere.txt").write_text("no code", encoding="utf-8")
    assert provenance()["commit"] == commit
    (checkout / "upge" / "__init__.py").write_text("changed", encoding="utf-8")
    assert provenance()["commit"] == f"{commit} with uncommitted changes"


def test_a_new_file_of_the_package_is_a_change(checkout: Path) -> None:
    (checkout / "upge" / "new.py").write_text("", encoding="utf-8")
    assert provenance()["commit"].endswith("with uncommitted changes")


@pytest.mark.parametrize("beside", ["experiments", "analysis"])
def test_what_lies_beside_the_package_and_makes_numbers_counts(checkout: Path, beside: str) -> None:
    (checkout / beside).mkdir()
    (checkout / beside / "recipe.yaml").write_text("", encoding="utf-8")
    assert provenance()["commit"].endswith("with uncommitted changes")


def test_a_repository_around_an_installed_package_is_not_its_own(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment in an ignored folder of somebody's project."""
    (checkout / ".gitignore").write_text(".venv\n", encoding="utf-8")
    installed = checkout / ".venv" / "upge"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(installed / "common" / "provenance.py"))
    assert provenance()["commit"] == "not in a git checkout"


def test_without_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "upge" / "common" / "provenance.py"))
    assert provenance()["commit"] == "not in a git checkout"


def test_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert provenance()["commit"] == "not in a git checkout"


def test_packages_that_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("torch", "no-such-package"))
    record = provenance()
    assert "torch" in record and "no-such-package" not in record
