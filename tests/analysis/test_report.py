"""The report shows all that is committed, escapes it, and says where it comes from."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fake_runs import START, write_run, write_selection
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from report_page import Page

from analysis.records import write_records
from analysis.report.catalogue import catalogue
from analysis.report.documents import Reader, excerpt
from analysis.report.maths import Formulas
from analysis.report.origins import origins
from analysis.report.page import Places, page
from analysis.runs import load_runs
from upge.common.errors import UpgeError

TABLES, FIGURES = Path("paper_tables"), Path("figures")


@pytest.fixture(scope="module")
def committed() -> Page:
    return Page(page(Places()))


def reader() -> Reader:
    return Reader(Formulas(), {"paper_tables/table2.md": "#table2"}.get)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def drawn(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.imsave(path, [[0.0, 1.0]])
    return path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Three folders with nothing in them."""
    found = Places(*(tmp_path / name for name in ("paper_tables", "figures", "records")))
    for folder in (found.tables, found.figures, found.records):
        folder.mkdir()
    return found


def recorded(places: Places, name: str = "table2") -> Path:
    """Records of two methods, one of them in two stages, and of their trials."""
    runs = places.records.parent / "runs" / "cpu" / name
    stages = [
        {"algorithm": "sft", "steps": 5, "lr": 1e-3},
        {"algorithm": "grpo", "steps": 15, "lr": 3e-4},
    ]
    resumed = [START, {**START, "commit": "feedfeedfeed"}]
    for seed in range(2):
        write_run(runs, "sft", seed)
        write_run(runs, "sft_grpo", seed, given={"stages": stages}, starts=resumed)
    write_run(runs, "sft", 2, finished=False)
    for rate in (1e-3, 3e-3):
        write_run(runs / "selection", "sft", 1000, rate=rate, finished=False)
    write_selection(runs, ["sft"])
    folder = places.records / "cpu" / name
    write_records(load_runs(runs), folder)
    return folder


# ------------------------------------------------------------------------------ what is committed


def markdown_rows(path: Path) -> list[list[str]]:
    """The rows of the tables of a Markdown file, letters and digits only."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if "| --- |" not in line]
    return [[letters(re.sub(r"\$`.*?`\$|<br>", "", cell)) for cell in row] for row in cells]


def letters(text: str) -> str:
    return re.sub(r"[^\w]|_", "", text)


@pytest.mark.spread(5)
@pytest.mark.parametrize("path", sorted(TABLES.rglob("*.md")), ids=str)
def test_every_committed_table_is_there(committed: Page, path: Path) -> None:
    """Row by row, formulas aside."""
    shown = Counter(tuple(map(letters, row)) for row in committed.rows)
    wanted = Counter(map(tuple, markdown_rows(path)))
    assert wanted and not wanted - shown


def test_every_committed_figure_is_there(committed: Page) -> None:
    files = sorted(FIGURES.rglob("*.png"))
    assert files and {path.read_bytes() for path in files} == committed.pictures


def test_every_formula_is_set(committed: Page) -> None:
    latex = set(re.findall(r"\$`(.*?)`\$", (TABLES / "table1.md").read_text()))
    set_ones = {one["aria-label"] for one in committed.of("svg") if "aria-label" in one}
    assert latex == set_ones


def test_formulas_lead_to_outlines(committed: Page) -> None:
    symbols = {one["id"] for one in committed.of("symbol")}
    assert symbols and {one["href"].removeprefix("#") for one in committed.of("use")} == symbols
    assert all(one["d"].startswith("M") for one in committed.of("path"))


def test_nothing_is_loaded(committed: Page) -> None:
    assert not committed.of("script")
    loaded = [element for element in committed.elements if "src" in element.attributes]
    assert all(one.attributes["src"].startswith("data:") for one in loaded)
    assert [one["href"] for one in committed.of("link")] == ["data:,"]
    assert "url(" not in committed.source and "@import" not in committed.source
    scripted = [name for e in committed.elements for name in e.attributes if name.startswith("on")]
    assert not scripted


def test_links_lead_somewhere(committed: Page) -> None:
    names = Counter(e.attributes["id"] for e in committed.elements if "id" in e.attributes)
    assert not [name for name, count in names.items() if count > 1]
    inside = {a["href"][1:] for a in committed.of("a") if a.get("href", "").startswith("#")}
    assert inside and inside <= set(names)
    others = [a["href"] for a in committed.of("a") if not a.get("href", "#").startswith("#")]
    assert all(href.startswith(("https://", "data:")) for href in others)


def test_all_is_closed(committed: Page) -> None:
    assert not committed.unclosed


def test_claims_are_filtered_by_their_verdicts(committed: Page) -> None:
    with (TABLES / "claims.csv").open(encoding="utf-8", newline="") as file:
        verdicts = Counter(row["verdict"] for row in csv.DictReader(file))
    rows = Counter(row["data-value"] for row in committed.of("tr") if "data-value" in row)
    assert rows == verdicts
    for verdict, count in verdicts.items():
        assert f"{verdict} ({count})" in committed.text
        assert f'tr[data-value]:not([data-value="{verdict}"])' in committed.source


def test_runs_of_every_record_are_listed(committed: Page) -> None:
    folders = [path.parent for path in (TABLES / "records").rglob("runs.jsonl")]
    assert folders
    shown = {row[0] for row in committed.rows if row}
    for folder in folders:
        loaded = load_runs(folder)
        assert {run.path.name for run in loaded.finished} <= shown
        assert loaded.commits in committed.text


# ------------------------------------------------------------------------------- what is not there


def test_nothing_at_all_is_a_page_of_commands(places: Places) -> None:
    found = Page(page(places))
    for entry in (entry for group in catalogue() for entry in group.results):
        assert f"Not made yet. {entry.command} makes it." in found.text
    assert not found.of("img")


def test_what_is_missing_beside_what_is_there(places: Places) -> None:
    written(places.tables, "table2.md", "# Table 2\n\n| a |\n| --- |\n| 1 |\n")
    shown = Page(page(places))
    names = ("learning_curves", "offline_ratio", "seeds")
    expected = f"Not made yet: {', '.join(f'table2/{name}.png' for name in names)}."
    assert expected in shown.text


def test_what_no_entry_names_comes_last(places: Places) -> None:
    written(places.tables, "novelty.md", "# A novelty\n\n| x |\n| --- |\n| unheard of |\n")
    picture = drawn(places.figures / "deep" / "novelty.png")
    found = Page(page(places))
    assert ["unheard of"] in found.rows and picture.read_bytes() in found.pictures
    assert found.text.index("Further results") < found.text.index("unheard of")


def test_unfinished_runs_are_named_with_their_command(places: Places) -> None:
    folder = recorded(places)
    found = Page(page(places))
    (unfinished,) = load_runs(folder).unfinished
    assert f"Not finished: {unfinished}. make reproduce-table2" in found.text


# ------------------------------------------------------------------------------ where it comes from


def test_a_result_leads_to_its_runs(places: Places) -> None:
    recorded(places)
    recorded(places, "table5")
    written(places.tables, "table2.md", "# Table 2\n\ntext\n")
    source = page(places)
    table2 = source[source.index('<section id="table2">') : source.index('<section id="table3">')]
    assert 'href="#runs-cpu-table2"' in table2 and "runs-cpu-table5" not in table2
    assert 'id="runs-cpu-table2"' in source and 'id="runs-cpu-table5"' in source


def test_comparisons_by_their_numbers(places: Places) -> None:
    for name in ("supply-100", "supply-30"):
        recorded(places, name)
    assert [origin.comparison for origin in origins(places.records)] == ["supply-30", "supply-100"]


def test_runs_with_all_of_their_starts(places: Places) -> None:
    recorded(places)
    (origin,) = origins(places.records)
    listed = {row[0]: dict(zip(origin.header, row, strict=True)) for row in origin.listed()}
    assert len(listed) == 4
    resumed = [row for name, row in listed.items() if name.startswith("sft_grpo")]
    assert {row["commit"] for row in resumed} == {"0123456789ab, feedfeedfeed"}
    assert {row["date"] for row in resumed} == {START["date"]}
    methods = {row[0]: row[1:] for row in origin.methods()}
    assert methods["SFT"] == ["0.001", "20", "0, 1"]
    assert methods["SFT→GRPO"] == ["0.001 → 0.0003", "5 + 15", "0, 1"]


def test_the_chosen_rate_is_marked(places: Places) -> None:
    recorded(places)
    (origin,) = origins(places.records)
    assert {cells[1]: chosen for cells, chosen in origin.trials()} == {
        "0.001": True,
        "0.003": False,
    }


def test_configurations_lose_nothing(places: Places) -> None:
    """What all share and what a method has of its own are its configuration."""
    recorded(places)
    (origin,) = origins(places.records)
    shared, *own = (yaml.safe_load(text) or {} for _, text in origin.configurations())
    assert shared["model"] == "tiny" and "stages" not in shared
    for method, part in zip(origin.runs.methods, own, strict=True):
        config = origin.runs.of(method)[0].config
        given_ones = {name: config[name] for name in ("seed", "key", "name")}
        assert {**shared, **part, **given_ones} == config


def test_provenance_of_what_is_not_trained(places: Places) -> None:
    drawn(places.figures / "bias_variance" / "mask.png")
    text = '{"provenance": {"commit": "cafecafecafe", "date": "today"}}'
    written(places.figures, "bias_variance/mask.json", text)
    starts = '{"settings": {"samples": 2048}, "starts": [{"commit": "aaa"}, {"commit": "bbb"}]}'
    written(places.records, "cpu/pass_at_k/provenance.json", starts)
    footer = "# Claims\n\ntext\n\n---\n\nupge 0.1.0; commit beefbeefbeef; hardware x, 2 cores\n"
    written(places.tables, "claims.md", footer)
    rows = {row[0]: row for row in Page(page(places)).rows}
    assert rows["figures/bias_variance/mask.json"][1:] == ["cafecafecafe", "not recorded", "today"]
    assert rows["paper_tables/claims.md"][1:3] == ["beefbeefbeef", "x, 2 cores"]
    assert any("aaa, bbb" in row for row in rows.values())


def test_small_files_are_in_the_page_and_large_ones_named(places: Places) -> None:
    written(places.tables, "table2.md", "# Table 2\n\ntext\n")
    written(places.tables, "table2.csv", "a,b\n")
    written(places.tables, "table2_comparisons.csv", "1" * 200_000)
    written(places.tables, "table20.csv", "another's")
    found = Page(page(places))
    assert [a["download"] for a in found.of("a") if "download" in a] == ["paper_tables-table2.csv"]
    assert "table2_comparisons.csv" in found.text and "table20.csv" not in found.text


# ---------------------------------------------------------------------------------------- Markdown


_ALLOWED = {
    *("p", "a", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "br", "svg"),
    *("use", "div", "table", "thead", "tbody", "tr", "th", "td"),
    *(f"h{level}" for level in range(1, 7)),
}


@given(st.text(st.sampled_from("<>&\"'`$|*_[]()!\\/=: \nabsctrip-#"), max_size=60))
def test_text_makes_no_elements_of_its_own(text: str) -> None:
    found = Page(str(reader().html(f"{text}<script>alert(1)</script><img src=x onerror=y>")))
    assert {element.tag for element in found.elements} <= _ALLOWED
    assert all(re.match("https?:", a.get("href", "http:")) for a in found.of("a"))


def test_text_of_records_is_escaped(places: Places) -> None:
    bad = "<script>alert('x')</script>"
    runs = places.records.parent / "runs" / "cpu" / "table2"
    write_run(runs, "sft", 0, starts=[{**START, "hardware": bad}], given={"model": bad})
    write_records(load_runs(runs), places.records / "cpu" / "table2")
    written(places.tables, "table2.md", f"# {bad}\n\n| {bad} |\n| --- |\n| {bad} |\n")
    found = Page(page(places))
    assert not found.of("script")
    assert found.text.count(bad) >= 4


def test_reported_sections_are_told_from_ours() -> None:
    text = "# T\n\n## Reproduced: x\n\na\n\n## Learning rates\n\nb\n\n## Reported, arXiv\n\nc\n"
    sections = reader().document(text).sections
    assert [section.kind for section in sections] == ["reproduced", "reported", ""]
    assert [section.folded for section in sections] == [False, False, True]


def test_links_to_files_lead_to_where_they_are_shown() -> None:
    links = "[a](paper_tables/table2.md) [b](LOG.md) [c](https://arxiv.org/abs/1)"
    found = Page(str(reader().html(links)))
    assert [a.get("href") for a in found.of("a")] == ["#table2", None, "https://arxiv.org/abs/1"]


def test_rows_take_the_value_of_their_own_tables_column() -> None:
    text = "| v | x |\n| --- | --- |\n| a | 1 |\n| b | 2 |\n\nand\n\n| x |\n| --- |\n| 3 |\n"
    document = reader().document(text, "v")
    assert document.choices == {"a": 1, "b": 1}
    assert document.sections[0].body.count("data-value") == 2


def test_excerpt() -> None:
    assert excerpt("a <b> c <d> e", "<b>", "<d>") == "c"
    assert excerpt("a <b> c", "<b>", "<d>") == excerpt("a", "<b>", "<d>") == ""


@pytest.mark.parametrize("latex", [r"\frac1N", r"\tfrac{a}{b}", r"\tfrac1{n_q}", r"\pi_\theta"])
def test_maths(latex: str) -> None:
    formulas = Formulas()
    assert str(formulas.use(latex)).startswith("<svg") and formulas.use(latex) == formulas.use(
        latex
    )
    assert formulas.symbols().count("<symbol") == 1


def test_a_taller_formula_is_taller_on_the_page() -> None:
    formulas = Formulas()
    heights = [
        float(re.findall(r"height:([\d.]+)em", formulas.use(latex))[0])
        for latex in ("x", r"\frac{1}{x}")
    ]
    assert 0.3 < heights[0] < 0.7 < 1.5 < heights[1] < 3


def test_maths_that_cannot_be_set_stays_latex() -> None:
    assert str(Formulas().use(r"\nonsense{<x>}")) == r"<code>\nonsense{&lt;x&gt;}</code>"


# -------------------------------------------------------------------------------- the command line


def run(places: Places, out: Path) -> subprocess.CompletedProcess[str]:
    folders = (f"--{name}={folder}" for name, folder in vars(places).items())
    command = [sys.executable, "-m", "analysis.report", f"--out={out}", *folders]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_writes_the_page(places: Places) -> None:
    out = places.tables.parent / "deep" / "report.html"
    done = run(places, out)
    assert done.returncode == 0, done.stderr
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert done.stdout.startswith(str(out))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("figures/figure5.png", "no picture", "is no PNG; draw it again"),
        ("paper_tables/table1.json", "{", "is damaged"),
        ("records/cpu/table2/runs.jsonl", "{", "restore it"),
    ],
)
def test_damage_is_one_sentence(places: Places, name: str, content: str, message: str) -> None:
    written(places.tables, "table1.md", "# Table 1\n")
    path = written(places.tables.parent, name, content)
    with pytest.raises(UpgeError, match=message) as raised:
        page(places)
    assert str(raised.value).startswith(str(path.parent))


def test_the_command_prints_that_sentence(places: Places) -> None:
    written(places.figures, "figure5.png", "no picture")
    done = run(places, places.figures / "report.html")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
