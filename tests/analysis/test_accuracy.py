"""Tables 2, 3, 5 and 6 show what runs say, name what is missing, and keep the paper apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fake_runs
import numpy as np
import pandas as pd
import pytest
from fake_runs import (
    SUITES,
    cells,
    csv_rows,
    metrics,
    part,
    stages,
    write_run,
    write_selection,
)
from hypothesis import given
from hypothesis import strategies as st

from analysis.accuracy.document import document
from analysis.accuracy.layouts import LAYOUTS
from analysis.accuracy.numbers import CSV_COLUMNS
from analysis.accuracy.power import power
from analysis.accuracy.table import IN, OUT
from analysis.methods import GROUPS, METHODS, grouped, ordered, title
from analysis.methods import SUITES as NAMES
from analysis.reported import reported
from analysis.runs import load_runs
from analysis.statistics import AVERAGE, Estimate, comparisons
from analysis.style import LOOKS
from analysis.tables import Document, markdown
from analysis.wording import percent
from upge.common.config import read_yaml
from upge.common.errors import UpgeError

pytestmark = pytest.mark.slow  # whole comparisons are made up and laid out

RECIPES = {name: read_yaml(Path(f"experiments/recipes/{name}.yaml")) for name in LAYOUTS}


def made(*folders: Path, table: str = "table2") -> Document:
    return document(LAYOUTS[table], *map(load_runs, folders))


@pytest.fixture(scope="module")
def table(table2: Path) -> Document:
    return made(table2)


def section(found: Document, start: str) -> str:
    return part(found.markdown, start)


# ---------------------------------------------------------------------------------------- the CSV


def test_columns_are_the_promised_ones(table: Document) -> None:
    promised = "method,base,suite,split,mean,low,high,seeds,problems,reported"
    assert table.csv["table2.csv"].splitlines()[0] == promised == ",".join(CSV_COLUMNS)


def test_means_are_those_of_the_result_files(table2: Path, table: Document) -> None:
    rows = csv_rows(table.csv["table2.csv"])
    results = [json.loads(p.read_text())["suites"] for p in table2.glob("grpo-s*/result.json")]
    for suite in SUITES:
        (row,) = [r for r in rows if (r["method"], r["suite"]) == ("grpo", suite)]
        wanted = 100 * np.mean([result[suite] for result in results])
        assert float(row["mean"]) == pytest.approx(wanted, abs=1e-3)
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        assert (row["seeds"], row["problems"], row["reported"]) == ("3", "10", "")
        assert row["base"] == "tiny"


def test_averages_are_means_of_their_suites(table: Document) -> None:
    rows = [
        r for r in csv_rows(table.csv["table2.csv"]) if (r["method"], r["base"]) == ("sft", "tiny")
    ]
    for split, count in ((IN, 6), (OUT, 2)):
        means = {r["suite"]: float(r["mean"]) for r in rows if r["split"] == split}
        average, middle = means.pop("average"), means.pop("interquartile mean", None)
        assert (middle is not None) == (split == IN) and len(means) == count
        assert average == pytest.approx(sum(means.values()) / count, abs=1e-3)


def test_the_papers_rows_hold_reported_numbers_alone(table: Document) -> None:
    rows = [r for r in csv_rows(table.csv["table2.csv"]) if r["base"] == "Qwen2.5-Math-7B"]
    assert len(rows) == 12 * 10
    assert not any(r[name] for r in rows for name in ("mean", "low", "high", "seeds", "problems"))
    cell = {(r["method"], r["suite"], r["split"]): r["reported"] for r in rows}
    assert cell["hpt", "AIME24", IN] == "33.0" and cell["luffy", "average", OUT] == "60.1"


@pytest.mark.parametrize("name", ["table2", "table3-weak", "table3-small", "table5", "table6"])
def test_reported_averages_agree_with_their_suites(name: str) -> None:
    paper = reported(name)
    for method, values in paper.rows.items():
        means = [x for x in values if x is not None]
        assert len(means) == len(paper.columns), method
        assert sum(means[:6]) / 6 == pytest.approx(means[6], abs=0.0501), method
        if means[7:]:
            assert sum(means[7:9]) / 2 == pytest.approx(means[9], abs=0.0501), method


# ------------------------------------------------------------------------------------- the results


def test_every_method_has_a_line_with_its_seeds(table: Document) -> None:
    lines = cells(section(table, "Reproduced: base model `tiny`"))
    assert list(lines) == ["method", "Base model", "SFT", "GRPO", "HPT, as published"]
    assert lines["method"][2:8] == [NAMES[suite].title for suite in SUITES[:6]]
    assert {len(line) for line in lines.values()} == {13}
    assert lines["HPT, as published"][1] == "1"


def test_variants_and_suites_are_explained(table: Document, tmp_path: Path) -> None:
    ours = section(table, "Reproduced")
    assert ours.count("- HPT, ") == 1 and "- HPT, as published: the paper's formulas" in ours
    (suites,) = (line for line in ours.splitlines() if line.startswith("- Suites"))
    inside, outside = suites.split("Out of distribution")
    assert re.findall("`(.+?)`", inside) == list(SUITES[:6])
    assert re.findall("`(.+?)`", outside) == list(SUITES[6:])
    for variant in GROUPS["HPT"]:
        write_run(tmp_path, variant, 0)
    lines = section(made(tmp_path), "Reproduced").splitlines()
    explained = [line.split(": ")[0] for line in lines if line.startswith("- HPT")]
    assert explained == [f"- {title(variant)}" for variant in GROUPS["HPT"]]


def test_marks_tell_ties_from_a_mean_that_stands_alone(table: Document, tmp_path: Path) -> None:
    lines = {name: " ".join(line) for name, line in cells(section(table, "Reproduced")).items()}
    assert "°" in lines["SFT"] and "°" in lines["GRPO"] and "°" not in lines["Base model"]
    assert "**" not in lines["SFT"]
    for seed in range(3):
        write_run(tmp_path, "base", seed, accuracy=0.2)
        write_run(tmp_path, "sft", seed, accuracy=0.9)
    sft = " ".join(cells(section(made(tmp_path), "Reproduced"))["SFT"])
    assert sft.count("**") == 2 * 11 and "°" not in sft


def test_differences_are_bold_where_they_are_more_than_chance(table: Document) -> None:
    matrix = section(table, "More than chance? The average in distribution")
    _, against_base, itself, against_grpo, against_hpt = cells(matrix)["2 SFT"]
    assert re.fullmatch(r"\*\*\+\d+\.\d\*\*", against_base)
    assert not itself.strip() and "**" not in against_grpo
    assert "**" not in against_hpt and "Methods with one seed are not compared" in matrix
    assert "for all 3 pairs" in matrix
    best, hpt = (line for line in matrix.splitlines() if line.startswith("- "))
    assert best == (
        "- SFT: better than Base model; not distinguishable from GRPO; not compared with HPT as "
        "published."
    )
    assert hpt == "- HPT, as published: not compared with any other."


def test_the_power_note_says_what_could_have_been_shown(table: Document) -> None:
    note = section(table, "What these seeds could have shown")
    assert "3 seeds per method detect with a probability of 80%, at the 5% level" in note
    rows = csv_rows(table.csv["table2_comparisons.csv"])
    pairs = [r for r in rows if (r["suite"], r["split"]) == (AVERAGE, IN) and r["p"]]
    shown = cells(note)["in distribution: all pairs"]
    assert shown[1] == str(len(pairs)) == "3"
    least = sorted(float(r["detectable"]) for r in pairs)
    assert [float(x) for x in shown[2:5]] == pytest.approx(least, abs=0.05)
    assert 0 < float(shown[5]) < float(shown[3])  # a pair alone needs no correction
    assert shown[6] == str(sum(r["distinguishable"] == "yes" for r in pairs)) == "2"
    hidden = [abs(float(r["difference"])) for r in pairs if r["distinguishable"] == "no"]
    assert float(shown[7]) == pytest.approx(max(hidden), abs=0.05)


def test_pairs_that_are_not_compared_have_empty_cells(table: Document) -> None:
    pairs = csv_rows(table.csv["table2_comparisons.csv"])
    single = [r for r in pairs if "hpt" in (r["method"], r["other"])]  # HPT has one seed
    names = ("p", "p_holm", "distinguishable", "detectable")
    assert single and not any(r[name] for r in single for name in names)
    assert all(float(r["low"]) <= float(r["high"]) for r in single)
    assert all(r["distinguishable"] in ("yes", "no") for r in pairs if r not in single)


def test_no_number_is_minus_zero(tmp_path: Path) -> None:
    for seed in range(2):
        for method in ("base", "sft"):
            write_run(tmp_path, method, seed, accuracy=2)  # all correct
    equal = made(tmp_path)
    text = equal.csv["table2_comparisons.csv"]
    assert not re.search(r"-0\.0+(,|$)|nan", text, re.MULTILINE)
    shown = section(equal, "What these seeds could have shown")
    assert "| in distribution: all pairs | 1 | – | – | – | – | 0 | 0.0 |" in shown


def test_none_is_explained_where_it_stands() -> None:
    def power_of(spread: float) -> str:
        draws, nothing = spread * np.random.default_rng(0).normal(size=500), np.zeros(500)
        found = {
            (name, AVERAGE, IN): Estimate(0.5, draws * sign, nothing, spread**2, 4, 5, 10)
            for name, sign in (("sft", 1), ("grpo", -1))
        }
        return markdown("", power(found, comparisons(found), [], title))

    assert "| none |" in power_of(0.5) and "- none: no difference" in power_of(0.5)
    assert "none" not in power_of(0.01)


# --------------------------------------------------------------------------------------- the costs


def test_costs_are_sums_over_steps(table: Document, tmp_path: Path) -> None:
    took = cells(section(table, "What it took"))
    assert took["SFT"][1:] == ["0.001", "20", "80", "0.01", "0.02", "2e10", "10", "5"]
    assert "Base model" not in took and "wall seconds" in took["method"]
    steps = [{key: x for key, x in line.items() if key != "seconds"} for line in metrics()]
    write_run(tmp_path, "sft", 0, steps=steps)
    unrecorded = cells(section(made(tmp_path), "What it took"))["method"]
    assert "CPU seconds" in unrecorded and "wall seconds" not in unrecorded


def test_gradient_norms_are_medians_by_term_and_stage(tmp_path: Path, table: Document) -> None:
    # In the first stage one term and in the second two, at every other step; means over two seeds.
    for seed, scale in enumerate((1.0, 3.0)):
        steps = metrics(steps=12)
        for line in steps:
            line["stage"] = int(line["step"] > 6)
            if line["step"] % 2 == 0:
                norm = scale * line["step"]
                line["per_term_grad_norm"] = [norm] if line["stage"] == 0 else [norm, 0.0]
        write_run(tmp_path, "sft_grpo", seed, steps=steps)
    write_run(tmp_path, "sft", 0)  # none recorded
    shown = cells(section(made(tmp_path), "Gradient norm of each term"))
    assert shown["method"][1:] == ["Term 1", "Term 2"]
    assert shown["SFT→GRPO"][1:] == [
        "8 → 20",
        "– → 0",
    ]  # 2 · median (2, 4, 6), 2 · median (8, 10, 12)
    assert "SFT" not in shown and "Gradient norm" not in table.markdown


def test_the_choice_of_rates_is_shown_and_contradictions_named(
    table: Document, tmp_path: Path
) -> None:
    rates = section(table, "Learning rates")
    assert cells(rates)["method"][1:] == ["0.001", "0.003"]
    assert cells(rates)["SFT"][1:] == ["**60.0**", "–"]
    assert "a trial of 20 steps (seed 1000)" in rates
    assert "`grpo` was trained at 0.0003, though `selection.json` chose 0.001." in rates
    assert "`hpt`: how its learning rate was chosen is not recorded." in rates
    for method in ("sft", "mine"):
        write_run(tmp_path, method, 0, rate=1e-4)
    write_selection(tmp_path, ["sft"], rate=1e-4)
    path = tmp_path / "selection.json"
    borrowed = {"mine": {"lr": 1e-4, "grid": {}, "of": "sft"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | borrowed))
    rates = section(made(tmp_path), "Learning rates")
    assert "- `mine` takes the learning rate of `sft`." in rates
    assert list(cells(rates)) == ["method", "SFT"] and "| method | 0.0001 | 0.0003 |" in rates


def test_a_pipeline_shows_the_rates_of_all_its_stages(tmp_path: Path) -> None:
    pipeline = [stages("sft")["stages"][0], stages("grpo", rate=3e-4)["stages"][0]]
    write_run(tmp_path, "sft_grpo", 0, given={"stages": pipeline})
    assert cells(section(made(tmp_path), "What it took"))["SFT→GRPO"][1] == "0.001 → 0.0003"


# ---------------------------------------------------------------- the paper, the gaps, the sources


def test_the_papers_block_stands_apart(table: Document) -> None:
    theirs = cells(section(table, "Reported, arXiv 2509.04419, Table 2: Qwen2.5-Math-7B"))
    assert theirs["HPT, as published"][1:3] == ["33.0", "21.9"]
    assert "33.0" not in section(table, "Reproduced")


def test_beneath_stand_seeds_problems_samples_and_origin(table: Document) -> None:
    origin = section(table, "Where this comes from")
    for text in (
        *("Seeds: 0, 1, 2", "10 problems per suite, 4 samples per problem", "Intervals: 95%"),
        *("commit: 0123456789ab", "hardware: x86", "With one seed"),
    ):
        assert text in origin


def test_what_is_missing_is_named_with_its_command(table: Document, tmp_path: Path) -> None:
    assert "`hpt`: no finished run of seeds 1, 2" in table.missing
    assert "`luffy`: no finished run" in table.missing
    assert any(re.fullmatch(r"`hpt-s1-\w+` is unfinished and not used", n) for n in table.missing)
    assert not any("`sft`" in note for note in table.missing)
    assert table.command == "make reproduce-table2 PROFILE=cpu SEEDS=3"
    assert table.command in section(table, "Missing")
    for method in METHODS:
        write_run(tmp_path, method, 0)
    complete = made(tmp_path)
    assert not complete.missing and "## Missing" not in complete.markdown


def test_no_runs_leave_the_papers_numbers_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "table2"
    folder.mkdir(parents=True)
    empty = made(folder)
    assert "`make reproduce-table2 PROFILE=cpu`" in section(empty, "Missing")
    assert empty.markdown.count("no finished run") == len(METHODS)
    assert "| HPT, as published | 33.0 |" in empty.markdown
    assert len(csv_rows(empty.csv["table2.csv"])) == 120


def test_smoke_runs_claim_no_order(tmp_path: Path) -> None:
    folder = tmp_path / "smoke" / "table2"
    write_run(folder, "sft", 0, accuracy=1, per_level=1)
    write_run(folder, "base", 0, accuracy=0, per_level=1)
    smoke = made(folder)
    assert "its numbers support no ordering" in smoke.markdown
    assert "nothing is compared, and no order claimed" in smoke.markdown
    assert not re.search(r"^\|.*(°|\*\*)", section(smoke, "Reproduced"), re.MULTILINE)


def test_latex_has_the_results_alone_in_plain_ascii(table: Document) -> None:
    text = table.texts["table2.tex"]
    assert text.isascii() and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert r"HPT, as published & 1 &" in text and "33.0" not in text
    assert {line.count("&") for line in text.splitlines() if line.endswith(r"\\")} == {12}


def test_a_hostile_name_is_text_everywhere(tmp_path: Path) -> None:
    name = "=<b>|x|</b>$y$`z"
    for seed in range(2):
        path = write_run(tmp_path, "sft", seed)
        settings = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(settings | {"name": name}))
    hostile = made(tmp_path)
    assert {r["method"] for r in csv_rows(hostile.csv["table2.csv"]) if r["base"] == "tiny"} == {
        f"'{name}"
    }
    assert "<b>" not in re.sub(r"(`+).*?\1", "", hostile.markdown).replace(r"\<", "")
    lines = section(hostile, "Reproduced").splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line[:1] == "|"} == {14}
    assert r"=\textless{}b\textgreater{}\textbar{}x" in hostile.texts["table2.tex"]


# ------------------------------------------------------------------------------------ other tables


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
    benchmarks = made(folder)
    ours = cells(section(benchmarks, "Reproduced: base model `smollm2`"))
    header = [name.replace("\\", "") for name in ours["method"]]
    assert header[2:] == [*suites[:3], "average", "IQM", *suites[3:], "o.o.d. average"]
    assert "- Suites" not in benchmarks.markdown


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table 3: runs of the weak model with two seeds, and of the small one with three."""
    folder = tmp_path_factory.mktemp("runs") / "cpu"
    for name, seeds, lead in (("weak", 2, 0.0), ("small", 3, 0.1)):
        for seed in range(seeds):
            for method, accuracy in (("base", 0.2), ("sft", 0.5), ("hpt", 0.8)):
                model = {"model": f"tiny_{name}"}
                write_run(
                    folder / f"table3-{name}", method, seed, accuracy=accuracy + lead, given=model
                )
        write_selection(folder / f"table3-{name}", ["sft", "hpt"])
    return folder


@pytest.fixture(scope="module")
def table3(profile: Path) -> Document:
    return made(profile / "table3-weak", profile / "table3-small", table="table3")


def test_every_section_of_table_3_names_its_model(table3: Document) -> None:
    headings = [line for line in table3.markdown.splitlines() if line.startswith("## ")]
    assert len(set(headings)) == len(headings)
    first, second = headings[: len(headings) // 2], headings[len(headings) // 2 :]
    assert all("`tiny_weak`" in name or "LLaMA3.1-8B" in name for name in first)
    assert all("`tiny_small`" in name or "Qwen2.5-Math-1.5B" in name for name in second)


def test_table_3s_numbers_are_those_of_each_model(profile: Path, table3: Document) -> None:
    rows = csv_rows(table3.csv["table3.csv"])
    for name, seeds in (("weak", "2"), ("small", "3")):
        runs = load_runs(profile / f"table3-{name}")
        wanted = 100 * np.mean([run.suites["sum"] for run in runs.of("hpt")])
        key = ("hpt", f"tiny_{name}", "sum")
        (row,) = [r for r in rows if (r["method"], r["base"], r["suite"]) == key]
        assert float(row["mean"]) == pytest.approx(wanted, abs=1e-3) and row["seeds"] == seeds
    assert len(table3.texts) == 5 and table3.texts["table3.tex"].count(r"\multicolumn") == 2
    again = made(profile / "table3-small", profile / "table3-weak", table="table3")
    assert again.texts == table3.texts


def test_published_rows_keep_their_stars(table3: Document) -> None:
    llama = cells(section(table3, "Reported, arXiv 2509.04419, Table 3: LLaMA3.1-8B"))
    assert llama[r"LUFFY\*"][1:] == ["1.9", "0.1", "13.5", "39.0", "15.1", "9.6", "13.2"]
    assert llama["HPT, as published"][1] == "2.1"
    qwen = cells(section(table3, "Reported, arXiv 2509.04419, Table 3: Qwen2.5-Math-1.5B"))
    assert qwen["LUFFY"][1] == "14.1"
    starred = {r["method"] for r in csv_rows(table3.csv["table3.csv"]) if r["method"].endswith("*")}
    assert starred == {"sft*", "grpo*", "luffy*"}


def test_a_model_without_runs_is_missing_and_others_are_refused(
    profile: Path, table3: Document, tmp_path: Path
) -> None:
    alone = made(profile / "table3-weak", table="table3")
    name = "table3-weak_comparisons.csv"
    assert alone.csv[name] == table3.csv[name]
    missing = section(alone, "Missing: `table3-small`")
    assert "`make reproduce-table3 PROFILE=cpu`" in missing
    assert missing.count("no finished run") == len(LAYOUTS["table3"].rows)
    write_run(tmp_path / "cpu" / "table5", "base", 0)
    with pytest.raises(UpgeError, match=r"comparison for table3 'table5'"):
        made(profile / "table3-weak", tmp_path / "cpu" / "table5", table="table3")


def test_rows_are_those_of_the_recipes() -> None:
    for name, recipe in RECIPES.items():
        assert set(LAYOUTS[name].rows) == {"base", *recipe["compare"]}, name
    variants = [f"table3-{name}" for name in RECIPES["table3"]["variants"]]
    assert list(LAYOUTS["table3"].comparisons) == variants


def test_table_5_has_the_papers_names_and_order(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "table5"
    for seed in range(3):
        for method, accuracy in (("hpt_official", 0.9), ("base", 0.2), ("off_on", 0.4)):
            write_run(folder, method, seed, accuracy=accuracy)
    table5 = made(folder, table="table5")
    ours = section(table5, "Reproduced")
    assert list(cells(ours))[1:] == ["Base model", "OFF/ON", "SFT/ON"]
    assert "SFT/ON, which is Table 2's HPT as coded" in ours and "- HPT" not in ours
    theirs = cells(section(table5, "Reported, arXiv 2509.04419, Table 5: Qwen2.5-Math-1.5B"))
    assert list(theirs)[1:] == ["OFF/ON", "Mix/ON", "SFT/ON"]
    assert theirs["Mix/ON"][1:] == ["16.7", "17.2", "46.9", "79.4", "37.5", "43.9", "40.3"]
    matrix = section(table5, "More than chance? The average in distribution")
    assert "- SFT/ON: better than any other." in matrix
    assert table5.missing == ["`mix_on`: no finished run"]
    assert "`make reproduce-table5 PROFILE=cpu SEEDS=3`" in section(table5, "Missing")


def test_table_6_goes_from_rl_over_the_gates_to_sft(tmp_path: Path) -> None:
    layout, recipe = LAYOUTS["table6"], RECIPES["table6"]

    def gamma(method: str) -> float:
        (stage,) = recipe["methods"].get(method) or [{"algorithm": method}]
        return -1 if method == "rl_end" else stage.get("options", {}).get("gamma", 0)

    gates = [gamma(method) for method in layout.rows[1:]]
    assert gates == sorted(gates) and gates[1] == 0 and gates[-1] == 1
    for method in layout.rows[2:]:
        eighths = 8 * gamma(method)
        name = f"γ = {eighths:g}/8" if eighths else "γ = 0"
        assert layout.title(method).startswith(name)
        assert eighths == 0 or title(method) == f"HPT, {name}"
    for method in sorted(layout.rows, reverse=True):
        write_run(tmp_path, method, 0)
    table6 = made(tmp_path, table="table6")
    assert list(cells(section(table6, "Reproduced")))[1:] == list(map(layout.title, layout.rows))
    theirs = cells(section(table6, "Reported, arXiv 2509.04419, Table 6: Qwen2.5-Math-1.5B"))
    assert list(theirs)[1:] == ["γ = 0", "γ = 1/8", "γ = 2/8"] and theirs["γ = 1/8"][1] == "18.1"
    assert table6.texts["table6.tex"].isascii()


# -------------------------------------------------------------------------------- names and numbers


def test_every_method_has_a_name_and_a_look_of_its_own() -> None:
    assert len({title(method) for method in METHODS}) == len(METHODS)
    for methods in (METHODS, LAYOUTS["table6"].rows):
        assert len({LOOKS[method] for method in methods}) == len(methods)
    assert title("hpt_official") == "HPT, as coded" and title("mine") == "mine"


def test_order_and_groups() -> None:
    assert ordered(["mine", "hpt", "base", "sft", "hpt"]) == ["base", "sft", "hpt", "mine"]
    assert grouped(["mine", "dft", "base", "sft"]) == {
        "Demonstrations": ["sft", "dft"],
        "Others": ["mine"],
    }


def shown(mean: float, low: float, high: float) -> str:
    """An accuracy with that interval: its bounds are three in ten of its draws each."""
    draws = np.repeat([low - mean, 0.0, high - mean], [30, 40, 30])
    return percent(Estimate(mean, np.zeros(100), draws, 0.0, 0, 1, 1))


def test_an_interval_that_is_cut_off_shows_its_bounds() -> None:
    assert shown(0.245, -0.2, 0.715) == "24.5 (0.0–71.5)"
    assert shown(0.022, 0.001, 0.05) == "2.2 (0.1–5.0)"  # ± 2.4 would end below 0
    assert shown(0.98, 0.93, 1.04) == "98.0 (93.0–100.0)"
    assert shown(0.5, 0.4, 0.62) == "50.0 ± 11.0"
    assert shown(1, 1, 1) == "100.0 ± 0.0"
    assert percent(None) == "–"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_what_a_cell_shows_is_an_accuracy(mean: float, down: float, up: float) -> None:
    numbers = [float(x) for x in re.findall(r"[\d.]+", shown(mean, mean - down, mean + up))]
    center, *rest = numbers
    assert center == pytest.approx(100 * mean, abs=0.051)
    if len(rest) == 1:
        assert center - rest[0] >= -0.2 and center + rest[0] <= 100.2
        assert rest[0] == pytest.approx(50 * (down + up), abs=0.051)
    else:
        low, high = max(100 * (mean - down), 0), min(100 * (mean + up), 100)
        assert rest == pytest.approx([low, high], abs=0.051)
