"""The phase diagram shows the best method for a supply and a budget, and how sure that is."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import metrics, write_run

from analysis import supply
from analysis.accuracy.table import IN, OUT
from analysis.budgets import Reading
from analysis.runs import Runs, load_runs
from analysis.statistics import DRAWS, Scores
from analysis.supply.__main__ import main
from analysis.supply.columns import columns
from analysis.supply.document import missing, texts
from analysis.supply.figure import blocks
from analysis.supply.phases import VALIDATION, Choice, choose, phases
from analysis.supply.study import PASS, Study, make
from upge.common.errors import UpgeError

FAMILIES = ["sum", "aff", "perm", "cond", "inv", "post"]

#: Steps and FLOPs a step of each method, and its accuracy with few demonstrations and with all.
METHODS: dict[str, tuple[int, float, float, float]] = {
    "sft": (20, 1e9, 0.1, 0.5),
    "sft_long": (100, 1e9, 0.1, 0.95),
    "sft_grpo": (20, 3e9, 0.3, 0.6),
    "luffy": (20, 6e9, 0.5, 0.7),
    "hpt_global_token": (20, 5e9, 0.9, 0.6),
}


def given(method: str, **limits: Any) -> dict[str, Any]:
    every = {
        "problems": 900,
        "demonstrations": None,
        "families": FAMILIES,
        "levels": [1, 2, 3, 4, 5],
    }
    names = {"base": [], "sft_grpo": ["sft", "grpo"]}.get(method, [method])
    stages = [{"algorithm": name, "options": {}, "steps": 10, "lr": 1e-3} for name in names]
    evaluation = {"every": 5, "validation_samples": 4, "test_samples": 4}
    data = {"kind": "synthetic", "supply": every | limits, "test": 2}
    return {"stages": stages, "data": data, "evaluation": evaluation}


def write(folder: Path, method: str, seed: int, accuracy: float, **limits: Any) -> None:
    steps, flops, *_ = METHODS.get(method, (20, 2e9, 0.0, 0.0))
    lines = metrics(steps=steps, accuracy=accuracy, flops=flops)
    config = given(method, **limits)
    write_run(folder, method, seed, accuracy=accuracy, steps=lines, per_level=4, given=config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds: few demonstrations, all, and those of three levels with SFT alone."""
    runs = tmp_path_factory.mktemp("runs") / "cpu"
    for seed in range(2):
        for name, which, limits in (
            ("supply-30", 2, {"demonstrations": 30}),
            ("supply-900", 3, {}),
        ):
            write(runs / name, "base", seed, 0.2, **limits)
            for method, terms in METHODS.items():
                write(runs / name, method, seed, terms[which], **limits)
        write(runs / "supply-900", "grpo", seed, 0.6)
        write(runs / "supply-levels", "sft", seed, 0.4, levels=[1, 2, 3])
    return runs


def load(folder: Path) -> list[Runs]:
    return [load_runs(folder / f"supply-{name}") for name in ("levels", "900", "30")]


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return make(load(folder))


@pytest.fixture(scope="module")
def frame(study: Study) -> pd.DataFrame:
    return phases(study)


@pytest.fixture(scope="module")
def document(study: Study, frame: pd.DataFrame) -> dict[str, str]:
    return texts(study, frame)


def best(frame: pd.DataFrame, panel: str, supply: str, budget: float) -> Mapping[str, Any]:
    own = frame[(frame["panel"] == panel) & (frame["supply"] == supply)]
    return own[own["budget"] <= budget].iloc[-1].to_dict()


# ---------------------------------------- the choice


def readings(means: Mapping[str, float], spread: float, seeds: int = 3) -> dict[str, Reading]:
    around = spread * np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    nothing = np.zeros(DRAWS)
    return {
        m: Reading(m, 1.0, Scores(mean + around, nothing, 1).estimate(m))
        for m, mean in means.items()
    }


def test_the_highest_mean_is_best_and_sure_where_no_other_is_close() -> None:
    found = choose(readings({"a": 0.2, "b": 0.9, "c": 0.5}, 1e-3))
    assert isinstance(found, Choice)
    assert (found.best, found.runner_up, found.ties) == ("b", "c", ())
    assert found.distinguishable
    assert found.lead is not None
    assert found.lead.mean == pytest.approx(0.4)
    assert found.p < 0.05


def test_a_tie_with_any_other_makes_the_best_unsure() -> None:
    sharp = readings({"a": 0.9, "b": 0.8}, 1e-3)
    blurred = readings({"c": 0.7}, 0.6)
    found = choose(sharp | blurred)
    assert (found.best, found.runner_up, found.ties) == ("a", "b", ("c",))
    assert not found.distinguishable
    assert found.p >= 0.05


def test_a_single_seed_or_method_is_never_sure() -> None:
    alone = choose(readings({"a": 0.9}, 1e-3))
    assert (alone.best, alone.runner_up, alone.lead, alone.distinguishable) == (
        "a",
        None,
        None,
        False,
    )
    one_seed = choose(readings({"a": 0.9, "b": 0.1}, 0.0, seeds=1))
    assert not one_seed.distinguishable
    assert one_seed.ties == ("b",)
    assert np.isnan(one_seed.p)


# ---------------------------------------- the supplies


def test_supplies_are_in_order_with_those_of_a_part_last(folder: Path) -> None:
    found = columns(load(folder))
    assert [column.label for column in found] == ["0", "30", "900", "levels 1–3"]
    assert [column.demonstrations for column in found] == [0, 30, 900, 540]
    assert [column.whole for column in found] == [True, True, True, False]
    assert found[0].runs.methods == ["base", "grpo"]
    assert found[3].runs.methods == ["base", "sft", "grpo"]
    assert all(column.runs.seeds("grpo") == [0, 1] for column in found)


def test_families_are_named_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "x", "sft", 0, 0.5, families=["sum", "perm"], levels=[2, 3])
    (column,) = columns([load_runs(tmp_path / "cpu" / "x")])
    assert (column.label, column.demonstrations) == ("levels 2–3; sum, perm", 120)


def test_the_same_supply_twice_is_refused(folder: Path) -> None:
    runs = load_runs(folder / "supply-30")
    with pytest.raises(UpgeError, match="both supply 30 demonstrations; name one"):
        columns([runs, runs])


# ---------------------------------------- the phases


def test_what_is_best_hangs_on_supply_and_compute(frame: pd.DataFrame) -> None:
    full = {supply: best(frame, VALIDATION, supply, 1e12) for supply in ("0", "30", "900")}
    assert [row["best"] for row in full.values()] == ["grpo", "hpt_global_token", "sft"]
    assert full["900"]["run"] == "sft_long"
    assert best(frame, VALIDATION, "900", 12e9)["run"] == "sft"
    assert best(frame, VALIDATION, "900", 12e9)["runner_up"] in ("base", "grpo")


def test_a_pipeline_and_tests_count_from_their_full_compute_on(study: Study) -> None:
    own = next(s for s in study.supplied if s.label == "900")
    starts = {curve.method: curve.start for curve in own.validated}
    assert starts["sft_grpo"] == 60e9
    assert starts["luffy"] == 30e9
    assert {c.method: (c.start, c.end) for c in own.tested(OUT)}["luffy"] == (120e9, 120e9)


def test_tests_are_means_of_the_responses(folder: Path, study: Study) -> None:
    runs = [path for path in (folder / "supply-30").glob("luffy-s*")]
    own = next(s for s in study.supplied if s.label == "30")
    for what, suites, of in (
        (IN, FAMILIES, "mean"),
        (OUT, ["mix", "alt"], "mean"),
        (PASS, FAMILIES, "max"),  # of 4 samples, any right: pass@4
    ):
        found = []
        for run in runs:
            frames = [pd.read_parquet(run / "evaluation" / f"{suite}.parquet") for suite in suites]
            by_problem = [f.groupby(["level", "prompt"])["reward"].agg(of).mean() for f in frames]
            found.append(np.mean(by_problem))
        assert own.tests[what]["luffy"].mean == pytest.approx(np.mean(found))


def test_runs_without_demonstrations_are_the_same_at_every_supply(study: Study) -> None:
    means = {own.tests[IN]["grpo"].mean for own in study.supplied}
    assert len(means) == 1


def test_blocks_join_neighbouring_budgets_with_the_same_outcome() -> None:
    rows = [(1, "a", True, ""), (2, "a", True, ""), (4, "a", True, ""), (8, "a", False, "c b")]
    frame = pd.DataFrame(rows, columns=["budget", "best", "distinguishable", "ties"])
    found = list(blocks(frame))
    assert [(b.best, b.rival, b.distinguishable) for b in found] == [
        ("a", "", True),
        ("a", "c", False),
    ]
    assert found[0].low < 1 < 4 < found[0].high < 8
    assert found[1].low < 8 < found[1].high


# ---------------------------------------- the document


def part(text: str, start: str) -> str:
    return next(p for p in text.split("\n## ") if p.startswith(start))


def test_each_supply_has_its_sentences(document: dict[str, str], frame: pd.DataFrame) -> None:
    answers = part(document["supply.md"], "Which method?")
    bullets = [line for line in answers.splitlines() if line.startswith("- ")]
    assert [line.partition("**:")[0] for line in bullets] == [
        "- **No demonstrations",
        "- **Demonstrations of 30 of 900 problems",
        "- **Demonstrations of 900 of 900 problems",
        "- **Demonstrations of 540 of 900 problems (levels 1–3)",
    ]
    end = best(frame, VALIDATION, "30", 1e12)
    wanted = f"HPT ({100 * end['mean']:.1f} ± "
    assert wanted in bullets[1]
    assert f"{100 * end['lead']:.1f} points ahead of" in bullets[1]
    assert ("not distinguishable from" in bullets[1]) or "(p = " in bullets[1]


def test_tables_show_the_best_and_what_each_reached(document: dict[str, str], study: Study) -> None:
    table = part(document["supply.md"], "The best in distribution (validations, avg@4)")
    assert "| FLOPs at most | 0 | 30 | 900 | levels 1–3 |" in table
    last = [line for line in table.splitlines() if line.startswith("| ")][-1]
    assert "SFT" in last.split("|")[4]
    tests = part(document["supply.md"], "Tests: demonstrations of 30 of 900")
    mean = next(s for s in study.supplied if s.label == "30").tests[PASS]["luffy"].mean
    line = next(line for line in tests.splitlines() if line.startswith("| LUFFY"))
    assert f"{100 * mean:.1f} ± " in line.split("|")[-2]
    assert "pass@4" in tests


def test_what_is_missing_is_named_with_its_command(document: dict[str, str], study: Study) -> None:
    found = missing(study)
    assert "`supply-100`: no comparison" in found
    assert "`supply-levels`, `luffy`: no finished run" in found
    assert not any("grpo`" in text and "sft" not in text for text in found)
    section = part(document["supply.md"], "Missing")
    assert "`make reproduce-supply PROFILE=cpu SEEDS=2`" in section


def test_beneath_stand_seeds_intervals_and_origin(document: dict[str, str]) -> None:
    origin = part(document["supply.md"], "Where this comes from")
    for text in ("Seeds: 0, 1.", "95 %", "commit: 0123456789ab", "the paper has no such study"):
        assert text in origin
    assert document["supply.tex"].isascii()


def test_the_csv_has_a_line_a_supply_method_and_measure(document: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(document["supply.csv"])))
    count = {row["supply"]: 0 for row in rows}
    for row in rows:
        count[row["supply"]] += 1
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    assert count == {"0": 6, "30": 21, "900": 21, "levels 1–3": 9}


def test_the_command_writes_what_is_there_and_names_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [folder / f"supply-{name}" for name in ("30", "100", "900")]
    main(given, tmp_path / "tables", tmp_path / "figures")
    assert "`supply-100`: no comparison" in capsys.readouterr().out
    tables, figures = ({p.suffix for p in (tmp_path / n).iterdir()} for n in ("tables", "figures"))
    assert tables == {".md", ".tex", ".csv"}
    assert figures == {".pdf", ".png", ".csv"}


def test_no_runs_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*`make reproduce-supply`"):
        main([tmp_path / "cpu" / "supply-30"], tmp_path, tmp_path)


def test_the_texts_can_be_made_again_from_runs_in_any_order(
    folder: Path, document: dict[str, str]
) -> None:
    assert supply.texts(load(folder)[::-1]) == document
