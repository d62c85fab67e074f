"""One set of fake runs a session, their records, and what follows from these."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_runs import noisy, write_run, write_selection

from analysis.check_results import RECORDS, rebuilt
from analysis.records import write_records
from analysis.results import RESULTS
from analysis.runs import load_runs

_ROLLOUTS = ("entropy", "response_length", "reward")


@pytest.fixture(scope="session")
def table2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, SFT and GRPO with three seeds, HPT with one and an unfinished one, and two trials."""
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "table2"
    for seed in range(3):
        write_run(folder, "base", seed, accuracy=0.2)
        write_run(folder, "sft", seed, accuracy=0.9)
        lines = noisy(seed, *_ROLLOUTS, "loss", accuracy=0.88)
        write_run(folder, "grpo", seed, accuracy=0.88, rate=3e-4, steps=lines)
    write_run(folder, "hpt", 0, accuracy=0.9, steps=noisy(3, *_ROLLOUTS, accuracy=0.9))
    write_run(folder, "hpt", 1, finished=False)
    (folder / "srft-s0-lost").mkdir()
    (folder / "srft-s0-lost" / "metrics.jsonl").write_text("")
    for rate in (1e-3, 3e-3):
        write_run(folder / "selection", "sft", 1000, rate=rate, finished=False)
    write_selection(folder, ["sft", "grpo"])
    return folder


@pytest.fixture(scope="session")
def of_table2() -> list[str]:
    """The results that follow from Table 2's runs alone."""
    return [name for name, result in RESULTS.items() if result.comparisons == ("table2",)]


@pytest.fixture(scope="session")
def repository(
    table2: Path, of_table2: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the records of these runs and all that follows from them."""
    root = tmp_path_factory.mktemp("repository")
    write_records(load_runs(table2), root / RECORDS / "table2")
    for path, text in rebuilt(root / RECORDS, of_table2).items():
        assert text is not None, path
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode())
    return root
