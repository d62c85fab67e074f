"""Table 2 shows what runs say, names what is missing, and keeps the paper's numbers apart."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fake_runs
import numpy as np
import pandas as pd
import pytest
from fake_runs import SUITES, config, metrics, write_run, write_selection

from analysis.accuracy.document import heading, missing, sections
from analysis.accuracy.numbers import CSV_COLUMNS, comparisons_csv, to_csv
from analysis.accuracy.output import write_table
from analysis.accuracy.power import power
from analysis.accuracy.table import COLUMNS, IN, OUT, Table
from analysis.methods import GROUPS, METHODS, grouped, ordered, title
from analysis.reported import reported
from analysis.runs import load_runs
from analysis.statistics import AVERAGE, MIDDLE, Estimate, comparisons
from analysis.style import LOOKS
from analysis.table2 import main, make, texts
from analysis.tables import Section, latex, markdown, tex_text
from upge.common.config import read_yaml
from upge.common.errors import UpgeError

RECIPE = Path("experiments/recipes/table2.yaml")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, SFT and GRPO with three seeds; HPT with one, and one that is not finished."""
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "table2"
    for seed in range(3):
        write_run(folder, "base", seed, accuracy=0.2)
        write_run(folder, "sft", seed, accuracy=0.9)
        write_run(folder, "grpo", seed, accuracy=0.88, rate=3e-4)
    write_run(folder, "hpt", 0, accuracy=0.9)
    write_run(folder, "hpt", 1, finished=False)
    write_selection(folder, ["sft", "grpo"])
    return folder


@pytest.fixture(scope="module")
def table(runs: Path) -> Table:
    return make(load_runs(runs))


@pytest.fixture(scope="module")
def document(table: Table) -> str:
    return markdown(heading([table]), sections(table))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def part(document: str, start: str) -> str:
    return next(p for p in document.split("\n## ") if p.startswith(start))


# ---------------------------------------------------------------------------------------- the CSV


def test_columns_are_the_promised_ones(table: Table) -> None:
    promised = "method,base,suite,split,mean,low,high,seeds,problems,reported"
    assert to_csv([table]).splitlines()[0] == promised == ",".join(CSV_COLUMNS)


def test_means_are_those_of_the_result_files(runs: Path, table: Table) -> None:
    found = rows(to_csv([table]))
    for suite in SUITES:
        results = [
            pd.read_json(path, typ="series")["suites"][suite]
            for path in runs.glob("grpo-s*/result.json")
        ]
        (row,) = [r for r in found if (r["method"], r["suite"]) == ("grpo", suite)]
        assert float(row["mean"]) == pytest.approx(100 * sum(results) / 3, abs=1e-3)
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert (row["seeds"], row["problems"], row["reported"]) == ("3", "10", "")
        assert row["base"] == "tiny"


def test_averages_are_means_of_their_suites(table: Table) -> None:
    found = [r for r in rows(to_csv([table])) if r["method"] == "sft" and r["base"] == "tiny"]
    for split in ("in distribution", "out of distribution"):
        own = {r["suite"]: float(r["mean"]) for r in found if r["split"] == split}
        average, middle = own.pop("average"), own.pop("interquartile mean", None)
        assert (middle is not None) == (split == "in distribution")
        assert average == pytest.approx(sum(own.values()) / len(own), abs=1e-3)
        assert len(own) == {"in distribution": 6, "out of distribution": 2}[split]


def test_the_papers_rows_hold_reported_numbers_alone(table: Table) -> None:
    theirs = [r for r in rows(to_csv([table])) if r["base"] == "Qwen2.5-Math-7B"]
    assert len(theirs) == 12 * 10
    assert not any(r[name] for r in theirs for name in ("mean", "low", "high", "seeds", "problems"))
    cell = {(r["method"], r["suite"], r["split"]): r["reported"] for r in theirs}
    assert cell["hpt", "AIME24", "in distribution"] == "33.0"
    assert cell["luffy", "average", "out of distribution"] == "60.1"


def test_reported_averages_agree_with_their_suites() -> None:
    paper = reported("table2")
    for method, values in paper.rows.items():
        assert len(values) == len(paper.columns), method
        assert sum(values[:6]) / 6 == pytest.approx(values[6], abs=0.0501), method
        assert sum(values[7:9]) / 2 == pytest.approx(values[9], abs=0.0501), method


# ----------------------------------------------------------------------------------- the document


def test_every_method_has_a_line_with_its_seeds(document: str) -> None:
    ours = part(document, "Reproduced: base model `tiny`")
    lines = [line for line in ours.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| Base model",
        "| SFT",
        "| GRPO",
        "| HPT, as published",
    ]
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 3}
    assert lines[-1].split(" | ")[1] == "1"


def test_a_line_says_what_each_form_and_suite_is(document: str, tmp_path: Path) -> None:
    ours = part(document, "Reproduced")
    assert [line for line in ours.splitlines() if line.startswith("- HPT, ")] == [
        next(line for line in ours.splitlines() if line.startswith("- HPT, as published: the"))
    ]
    (suites,) = (line for line in ours.splitlines() if line.startswith("- Suites"))
    inside, outside = suites.split("Out of distribution")
    assert re.findall("`(.+?)`", inside) == list(SUITES[:6])
    assert re.findall("`(.+?)`", outside) == list(SUITES[6:])
    forms = GROUPS["HPT"]
    for form in forms:
        write_run(tmp_path, form, 0)
    every = part(markdown("", sections(make(load_runs(tmp_path)))), "Reproduced").splitlines()
    told = [line.split(": ")[0] for line in every if line.startswith("- HPT")]
    assert told == [f"- {title(form)}" for form in forms]


def test_marks_tell_ties_from_chance_alone(table: Table, document: str) -> None:
    ours = part(document, "Reproduced")
    sft, grpo, base = (
        next(line for line in ours.splitlines() if line.startswith(f"| {name} |"))
        for name in ("SFT", "GRPO", "Base model")
    )
    assert "°" in sft
    assert "°" in grpo
    assert "°" not in base
    assert "**" not in sft


def test_a_highest_that_stands_alone_is_bold(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, "base", seed, accuracy=0.2)
        write_run(tmp_path, "sft", seed, accuracy=0.9)
    ours = part(markdown("", sections(make(load_runs(tmp_path)))), "Reproduced")
    sft = next(line for line in ours.splitlines() if line.startswith("| SFT |"))
    assert sft.count("**") == 2 * len(COLUMNS)
    assert "°" not in sft


def test_differences_are_bold_where_they_are_more_than_chance(document: str) -> None:
    matrix = part(document, "More than chance? The average in distribution")
    sft = next(line for line in matrix.splitlines() if line.startswith("| 2 SFT"))
    against_base, itself, against_grpo, against_hpt = sft.strip("| ").split(" | ")[1:]
    assert re.fullmatch(r"\*\*\+\d+\.\d\*\*", against_base)
    assert itself.strip() == ""
    assert "**" not in against_grpo
    assert "**" not in against_hpt  # HPT has one seed
    assert "for all 3 pairs" in matrix
    assert "A method with one seed is not compared" in matrix


def test_the_highest_and_hpt_are_put_into_words(document: str) -> None:
    matrix = part(document, "More than chance? The average in distribution")
    highest, hpt = (line for line in matrix.splitlines() if line.startswith("- "))
    assert highest == (
        "- SFT: better than Base model; not distinguishable from GRPO; not compared with HPT as "
        "published."
    )
    assert hpt == "- HPT, as published: not compared with any other."


def test_the_power_note_tells_what_could_have_been_shown(table: Table, document: str) -> None:
    note = part(document, "What these seeds could have shown")
    assert "for 3 seeds a method to show it with a probability of 80 %, at the 5 % level" in note
    (line,) = (line for line in note.splitlines() if line.startswith("| in distribution: all"))
    pairs = [r for r in rows(comparisons_csv(table)) if r["suite"] == "average" and r["p"]]
    own = [r for r in pairs if r["split"] == "in distribution"]
    least = sorted(float(r["detectable"]) for r in own)
    shown = line.strip("| ").split(" | ")
    assert shown[1] == str(len(own)) == "3"
    assert [float(x) for x in shown[2:5]] == pytest.approx(least, abs=0.05)
    assert 0 < float(shown[5]) < float(shown[3])  # a pair alone needs no correction
    assert shown[6] == str(sum(r["distinguishable"] == "yes" for r in own)) == "2"
    hidden = (abs(float(r["difference"])) for r in own if r["distinguishable"] == "no")
    assert float(shown[7]) == pytest.approx(max(hidden), abs=0.05)


def test_pairs_that_are_not_compared_have_empty_cells(table: Table) -> None:
    pairs = rows(comparisons_csv(table))
    single = [r for r in pairs if "hpt" in (r["method"], r["other"])]  # HPT has one seed
    names = ("p", "p_holm", "distinguishable", "detectable")
    assert single and not any(r[name] for r in single for name in names)
    assert all(float(r["low"]) <= float(r["high"]) for r in single)
    assert all(r["distinguishable"] in ("yes", "no") for r in pairs if r not in single)


def test_no_number_is_minus_nought(tmp_path: Path) -> None:
    for seed in range(2):
        for method in ("base", "sft"):  # all right
            write_run(tmp_path, method, seed, accuracy=2)
    equal = make(load_runs(tmp_path))
    assert not re.search(r"-0\.0+(,|$)|nan", comparisons_csv(equal), re.MULTILINE)
    power = part(markdown("", sections(equal)), "What these seeds could have shown")
    assert "| in distribution: all pairs | 1 | – | – | – | – | 0 | 0.0 |" in power


def test_none_is_explained_where_it_stands() -> None:
    def power_of(spread: float) -> str:
        draws = spread * np.random.default_rng(0).normal(size=500)
        nothing = np.zeros(500)
        found = {
            (name, AVERAGE, IN): Estimate(0.5, draws * sign, nothing, spread**2, 4, 5, 10)
            for name, sign in (("sft", 1), ("grpo", -1))
        }
        section = power(found, comparisons(found), [], title)
        assert section is not None
        return markdown("", [section])

    assert "| none |" in power_of(0.5) and "- none: no difference" in power_of(0.5)
    assert "none" not in power_of(0.01)


def test_costs_are_sums_over_steps(document: str) -> None:
    took = part(document, "What it took")
    assert "| SFT | 0.001 | 20 | 80 | 0.01 | 0.02 | 2e10 | 10 | 5 |" in took
    assert "Base model" not in took


def test_costs_that_nobody_recorded_have_no_column(tmp_path: Path) -> None:
    steps = [{key: x for key, x in line.items() if key != "seconds"} for line in metrics()]
    write_run(tmp_path, "sft", 0, steps=steps)
    took = part(markdown("", sections(make(load_runs(tmp_path)))), "What it took")
    assert "CPU seconds |" in took
    assert "wall seconds" not in took


def test_gradient_norms_are_medians_by_term_and_stage(tmp_path: Path) -> None:
    # Of the first stage one term and of the second two, at every other step; means over two seeds.
    for seed, scale in enumerate((1.0, 3.0)):
        steps = metrics(steps=12)
        for line in steps:
            line["stage"] = int(line["step"] > 6)
            if line["step"] % 2 == 0:
                norm = scale * line["step"]
                line["per_term_grad_norm"] = [norm] if line["stage"] == 0 else [norm, 0.0]
        write_run(tmp_path, "sft_grpo", seed, steps=steps)
    write_run(tmp_path, "sft", 0)  # none recorded
    shown = part(markdown("", sections(make(load_runs(tmp_path)))), "Gradient norm of each term")
    assert "| method | Term 1 | Term 2 |" in shown
    assert "| SFT→GRPO | 8 → 20 | – → 0 |" in shown  # 2 · median (2, 4, 6) → 2 · median (8, 10, 12)
    assert "| SFT |" not in shown


def test_without_gradient_norms_there_is_no_section(document: str) -> None:
    assert "Gradient norm" not in document


def test_a_borrowed_rate_is_named(tmp_path: Path) -> None:
    for method in ("sft", "mine"):
        write_run(tmp_path, method, 0)
    selection = {
        "sft": {"lr": 1e-3, "grid": {"0.001": 0.5}},
        "mine": {"lr": 1e-3, "grid": {}, "of": "sft"},
    }
    (tmp_path / "selection.json").write_text(json.dumps(selection))
    rates = part(markdown("", sections(make(load_runs(tmp_path)))), "Learning rates")
    assert "- `mine` takes the rate of `sft`." in rates
    assert "| mine |" not in rates


def test_the_selection_is_shown_and_contradictions_named(document: str) -> None:
    rates = part(document, "Learning rates")
    assert "| method | 0.001 | 0.003 |" in rates
    assert "| SFT | **60.0** | – |" in rates
    assert "`grpo` was trained at 0.0003, though `selection.json` chose 0.001." in rates
    assert "`hpt`: how its rate was chosen is not recorded." in rates


def test_rates_in_small_numbers_are_in_order(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0, rate=1e-4)
    write_selection(tmp_path, ["sft"], rate=1e-4)
    assert "| method | 0.0001 | 0.0003 |" in markdown("", sections(make(load_runs(tmp_path))))


def test_a_pipeline_shows_the_rates_of_all_its_stages(tmp_path: Path) -> None:
    stages = [config(m, 0, rate=r)["stages"][0] for m, r in (("sft", 1e-3), ("grpo", 3e-4))]
    write_run(tmp_path, "sft_grpo", 0, given={"stages": stages})
    took = part(markdown("", sections(make(load_runs(tmp_path)))), "What it took")
    assert "| SFT→GRPO | 0.001 → 0.0003 |" in took


def test_the_papers_block_is_labelled(document: str) -> None:
    theirs = part(document, "Reported, arXiv 2509.04419, Table 2: Qwen2.5-Math-7B")
    assert "| HPT, as published | 33.0 | 21.9 |" in theirs
    assert "33.0" not in part(document, "Reproduced")


def test_beneath_stand_seeds_problems_samples_and_origin(document: str) -> None:
    origin = part(document, "Where this comes from")
    for text in (
        "Seeds: 0, 1, 2",
        "10 problems a suite, 4 samples each",
        "commit: 0123456789ab",
        "hardware: x86_64, 2 cores, no GPU",
        "Intervals: 95 %",
        "one seed",
    ):
        assert text in origin


def test_what_is_missing_is_named_with_its_command(table: Table, document: str) -> None:
    named = missing(table)
    assert "`hpt`: seeds 1, 2" in named
    assert "`luffy`: no finished run" in named
    assert any(re.fullmatch(r"`hpt-s1-\w+` is not finished, and not used", n) for n in named)
    assert not any("`sft`" in n for n in named)
    assert table.runs.command == "make reproduce-table2 PROFILE=cpu SEEDS=3"
    assert table.runs.command in part(document, "Missing")


def test_nothing_missing_says_nothing(tmp_path: Path) -> None:
    for method in METHODS:
        write_run(tmp_path, method, 0)
    found = make(load_runs(tmp_path))
    assert missing(found) == []
    assert "## Missing" not in markdown("", sections(found))


def test_no_runs_leave_the_papers_numbers_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "table2"
    folder.mkdir(parents=True)
    found = make(load_runs(folder))
    text = markdown("", sections(found))
    assert f"`{found.runs.command}`" in text
    assert found.runs.command == "make reproduce-table2 PROFILE=cpu"
    assert text.count("no finished run") == len(METHODS)
    assert "| HPT, as published | 33.0 |" in text
    assert len(rows(to_csv([found]))) == 120


def test_smoke_runs_claim_no_order(tmp_path: Path) -> None:
    folder = tmp_path / "smoke" / "table2"
    write_run(folder, "sft", 0, accuracy=1, per_level=1)
    write_run(folder, "base", 0, accuracy=0, per_level=1)
    text = markdown("", sections(make(load_runs(folder))))
    assert "its numbers order nothing" in text
    assert "nothing is compared, and no order claimed" in text
    ours = [line for line in part(text, "Reproduced").splitlines() if line.startswith("|")]
    assert not any("°" in line or "**" in line for line in ours)


def test_latex_is_plain_ascii_with_balanced_tables(table: Table) -> None:
    text = latex(heading([table]), sections(table))
    assert text.isascii()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 7
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)[%#]", line), line
        assert not re.search(r"(?<!\\)_", line), line
    assert r"HPT, as published & 33.0 & 21.9" in text


def test_the_same_files_every_time(runs: Path, table: Table, tmp_path: Path) -> None:
    for path in write_table([make(load_runs(runs))], tmp_path / "again"):
        first = next(p for p in write_table([table], tmp_path / "once") if p.name == path.name)
        assert path.read_bytes() == first.read_bytes()


# -------------------------------------------------------------------------------- methods, helpers


def test_the_rows_are_those_of_the_recipe() -> None:
    assert set(METHODS) == {"base", *read_yaml(RECIPE)["compare"]}


def test_every_method_has_a_name_and_a_look_of_its_own() -> None:
    assert len({title(method) for method in METHODS}) == len(METHODS)
    looks = [LOOKS[method] for method in METHODS]
    assert len(set(looks)) == len(looks)
    assert title("hpt_official") == "HPT, as coded"
    assert title("mine") == "mine"


def test_order_and_groups() -> None:
    assert ordered(["mine", "hpt", "base", "sft", "hpt"]) == ["base", "sft", "hpt", "mine"]
    assert grouped(["mine", "dft", "base", "sft"]) == {
        "Demonstrations": ["sft", "dft"],
        "Others": ["mine"],
    }


def test_texts_become_latex() -> None:
    assert tex_text("50 % of `a_b` ± **1**") == r"50 \% of \texttt{a\_b} $\pm$ \textbf{1}"


def test_a_bar_does_not_end_a_cell() -> None:
    assert r"| a\|b |" in markdown("", [Section("", ["h"], [["a|b"]])])


# -------------------------------------------------------------------------------- the command line


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "analysis.table2", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_the_command_writes_tables_and_figures(runs: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "tables", tmp_path / "figures"
    done = run_module(str(runs), "--out", str(out), "--figures", str(figures))
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == {
        "table2.md",
        "table2.tex",
        "table2.csv",
        "table2_comparisons.csv",
    }
    stems = ("learning_curves", "offline_ratio")
    assert {p.name for p in figures.iterdir()} == {
        f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "png", "csv")
    }
    assert "make reproduce-table2 PROFILE=cpu SEEDS=3" in done.stdout


def test_a_mistake_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"^error: .*nowhere: is no folder of a comparison; make it"
    ):
        main(tmp_path / "nowhere", tmp_path, tmp_path)


def test_no_runs_make_no_table(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "sft", 0, finished=False)
    with pytest.raises(SystemExit, match=r"^error: .*runs: holds no finished run; make some"):
        main(tmp_path / "runs", tmp_path / "out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cant_be_written_is_a_sentence(table: Table, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UpgeError, match="can't be written"):
        write_table([table], tmp_path / "file")


def test_a_table_of_benchmarks_has_their_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their problems call themselves, as subjects or nothing at all."""
    suites = ("gsm8k_test", "svamp", "math500_levels_1_2", "arc_challenge", "arc_easy")
    monkeypatch.setattr(fake_runs, "SUITES", suites)
    folder = tmp_path / "gpu" / "table2"
    given = {"model": "smollm2", "data": {"kind": "benchmarks", "test_sets": list(suites)}}
    for seed in (0, 1):
        path = write_run(folder, "sft", seed, given=given)
        for file in (path / "evaluation").iterdir():
            pd.read_parquet(file).assign(suite="Algebra").to_parquet(file)
    table = make(load_runs(folder))
    assert [suite for suite, split in table.columns if split == IN][:3] == list(suites[:3])
    assert [suite for suite, split in table.columns if split == OUT][:2] == list(suites[3:])
    assert {key[1] for key in table.estimates} == {*suites, AVERAGE, MIDDLE}
    document = texts(load_runs(folder))["table2.md"]
    assert "| method | seeds | gsm8k_test | svamp |" in document
    assert "base model `smollm2`" in document
    assert "- Suites" not in document
