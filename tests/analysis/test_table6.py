"""Table 6 goes from RL alone over the gates to SFT alone, whatever the order of runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run
from hypothesis import given
from hypothesis import strategies as st

from analysis.methods import title
from analysis.runs import load_runs
from analysis.statistics import Estimate
from analysis.style import LOOKS
from analysis.table6 import LAYOUT, texts
from analysis.wording import percent
from upge.common.config import read_yaml

RECIPE = read_yaml(Path("experiments/recipes/table6.yaml"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "table6"
    for method in sorted(LAYOUT.rows, reverse=True):
        write_run(folder, method, 0)
    return texts(load_runs(folder))


def part(document: str, start: str) -> str:
    return next(p for p in document.split("\n## ") if p.startswith(start))


def first_cells(table: str) -> list[str]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ")[0] for line in lines[2:]]


def gamma(method: str) -> float:
    """The gate of a method's one stage; RL alone is below all, which are 0 where not given."""
    (stage,) = RECIPE["methods"].get(method) or [{"algorithm": method}]
    return -1 if method == "rl_end" else stage.get("options", {}).get("gamma", 0)


def test_the_rows_are_those_of_the_recipe_by_their_gate() -> None:
    assert set(LAYOUT.rows) == {"base", *RECIPE["compare"]}
    gates = [gamma(method) for method in LAYOUT.rows[1:]]
    assert gates == sorted(gates)
    assert gates[1] == 0
    assert gates[-1] == 1


def test_names_are_those_of_the_gates() -> None:
    for method in LAYOUT.rows[2:]:
        eighths = 8 * gamma(method)
        name = f"γ = {eighths:g}/8" if eighths else "γ = 0"
        assert LAYOUT.title(method).startswith(name)
        assert eighths == 0 or title(method) == f"HPT, {name}"


def test_the_table_has_that_order(files: dict[str, str]) -> None:
    names = [LAYOUT.title(method) for method in LAYOUT.rows]
    assert first_cells(part(files["table6.md"], "Reproduced")) == names
    ours = [line.split(",")[0] for line in files["table6.csv"].splitlines()[1:]]
    assert list(dict.fromkeys(ours)) == list(LAYOUT.rows)


def test_published_gates_stand_apart(files: dict[str, str]) -> None:
    theirs = part(files["table6.md"], "Reported, arXiv 2509.04419, Table 6: Qwen2.5-Math-1.5B")
    assert "| γ = 1/8 | 18.1 | 14.2 | 46.0 | 75.4 | 35.7 | 42.5 | 38.7 |" in theirs
    assert first_cells(theirs) == ["γ = 0", "γ = 1/8", "γ = 2/8"]


def test_nothing_is_missing(files: dict[str, str]) -> None:
    assert "## Missing" not in files["table6.md"]
    assert files["table6.tex"].isascii()


def test_every_row_has_a_look_of_its_own() -> None:
    assert len({LOOKS[method] for method in LAYOUT.rows}) == len(LAYOUT.rows)


# --------------------------------------------------------------------------- accuracies in cells


def estimate(mean: float, low: float, high: float) -> Estimate:
    """With that interval: its bounds are three in ten of its draws each."""
    draws = np.repeat([low - mean, 0.0, high - mean], [30, 40, 30])
    return Estimate(mean, np.zeros(100), draws, 0.0, 0, 1, 1)


def shown(mean: float, low: float, high: float) -> str:
    return percent(estimate(mean, low, high))


def test_an_interval_that_is_cut_off_shows_its_bounds() -> None:
    assert shown(0.245, -0.2, 0.715) == "24.5 (0.0–71.5)"
    assert shown(0.022, 0.001, 0.05) == "2.2 (0.1–5.0)"  # ± 2.4 would end below 0
    assert shown(0.98, 0.93, 1.04) == "98.0 (93.0–100.0)"
    assert shown(0.5, 0.4, 0.62) == "50.0 ± 11.0"
    assert shown(1, 1, 1) == "100.0 ± 0.0"
    assert percent(None) == "–"


accuracies = st.floats(0, 1)


@given(accuracies, accuracies, accuracies)
def test_what_a_cell_shows_is_an_accuracy(mean: float, down: float, up: float) -> None:
    numbers = [float(x) for x in re.findall(r"[\d.]+", shown(mean, mean - down, mean + up))]
    if len(numbers) == 2:
        center, half = numbers
        assert center - half >= -0.2
        assert center + half <= 100.2
        assert half == pytest.approx(50 * (down + up), abs=0.051)
    else:
        center, low, high = numbers
        assert low == pytest.approx(max(100 * (mean - down), 0), abs=0.051)
        assert high == pytest.approx(min(100 * (mean + up), 100), abs=0.051)
    assert center == pytest.approx(100 * mean, abs=0.051)


def test_the_note_tells_both_forms(files: dict[str, str]) -> None:
    assert "where 0 or 100 cuts that off, its bounds in brackets" in files["table6.md"]
