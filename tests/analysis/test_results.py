"""What is committed follows from the committed records."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.accuracy.document import readme_table as readme_table_2
from analysis.accuracy.layouts import LAYOUTS
from analysis.accuracy.table import make
from analysis.check_results import RECORDS, contradictions
from analysis.runs import load_runs
from upge.algorithms import REGISTRY
from upge.verification.table1 import load_findings, readme_table, rows_of, write_tables

TABLES = Path("paper_tables")


def made_anew() -> bool:
    """Whether this checkout's tables are others than the committed ones: a user's own results."""
    if shutil.which("git") is None:
        return False
    command = ["git", "status", "--porcelain", "--", str(TABLES)]
    return bool(subprocess.run(command, capture_output=True, check=False).stdout)


#: What the repository shows is checked; what a user's machine made of it is the user's.
committed = pytest.mark.skipif(made_anew(), reason="paper_tables/ was made anew, not committed")


def test_tables_follow_from_their_record(tmp_path: Path) -> None:
    findings, provenance = load_findings(TABLES / "table1.json")
    for path in write_tables(findings, provenance, tmp_path):
        assert path.read_text() == (TABLES / path.name).read_text(), path.name


def test_every_registered_algorithm_is_in_the_record() -> None:
    findings, _ = load_findings(TABLES / "table1.json")
    assert [row.entry.name for row in rows_of(findings)] == list(REGISTRY)


@committed
@pytest.mark.parametrize("check", ["symbolic", "float64", "real"])
def test_nothing_in_the_record_failed(check: str) -> None:
    findings, _ = load_findings(TABLES / "table1.json")
    assert {f.verdict for f in findings if f.check == check} == {"pass"}


@committed
def test_readme_shows_the_record() -> None:
    findings, _ = load_findings(TABLES / "table1.json")
    shown = Path("README.md").read_text().split("<!-- table1 -->")[1].split("<!-- /table1 -->")[0]
    assert shown.strip() == readme_table(rows_of(findings)).strip()


@committed
def test_readme_shows_the_records_of_table_2() -> None:
    table = make(LAYOUTS["table2"], "table2", load_runs(RECORDS / "table2"))
    shown = Path("README.md").read_text().split("<!-- table2 -->")[1].split("<!-- /table2 -->")[0]
    assert shown.strip() == readme_table_2(table).strip()


@pytest.mark.slow
def test_committed_results_follow_from_their_records() -> None:
    assert contradictions(Path(".")) == []
