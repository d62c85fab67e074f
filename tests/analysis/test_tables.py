"""Documents render as Markdown, LaTeX and CSV, whatever runs are called."""

from __future__ import annotations

import csv
import io
import re

import pytest
from fake_runs import csv_rows
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analysis.tables import Document, Section, code, csv_text, escape, latex, markdown, tex_text

#: What names of runs could hold that is markup somewhere.
HOSTILE = "<>&\"'`$|*_[]()!\\/~#{}=+-@ abc"


def shown(text: str) -> tuple[str, set[str]]:
    """The text that a reader of Markdown sees, and the kinds of its elements."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parseInline(text)
    children = tokens[0].children or []
    return "".join(child.content for child in children), {child.type for child in children}


@given(st.text(st.sampled_from(HOSTILE), max_size=30))
def test_names_are_text_in_markdown_and_latex(name: str) -> None:
    text, kinds = shown(f"run {escape(name)}.")
    assert text == f"run {' '.join(name.split())}." and kinds <= {"text", "text_special"}
    tex = tex_text(f"run {escape(name)}.")
    commands = re.sub(r"\\[a-z]+\{\}|\\[&%$#_{}]|\$\\[a-z]+\$", "", tex)
    assert not re.search(r"[\\&%$#_{}~^<>|]", commands), tex


@given(st.text(st.sampled_from(HOSTILE), min_size=1, max_size=30).filter(str.strip))
def test_names_are_code_that_nothing_in_them_ends(name: str) -> None:
    text, kinds = shown(f"run {code(name)} there")
    assert text == f"run {' '.join(name.split())} there" and "code_inline" in kinds
    tex = tex_text(f"run {code(name)} there")
    assert tex.startswith(r"run \texttt{") and tex.endswith("} there")


@given(st.lists(st.text(st.sampled_from(HOSTILE), max_size=10), min_size=2, max_size=2))
def test_a_bar_in_a_name_ends_no_cell(names: list[str]) -> None:
    section = Section("s", ["a", "b"], [[escape(name) for name in names]])
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown("t", [section]))
    assert [token.type for token in tokens].count("td_open") == 2


def test_html_and_links_in_a_name_are_shown() -> None:
    name = "<script>alert(1)</script>[x](javascript:y)"
    assert shown(escape(name))[0] == name
    assert "<script>" not in markdown("t", [Section("s", ["h"], [[escape(name)]])])


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-cmd", "@sum", "\t=1", "-", "=-1", "=a\nb"])
def test_text_that_a_spreadsheet_would_calculate_is_inert(cell: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_text(["h"], [[cell]]).partition("\n")[2], newline=""))
    assert row == [f"'{cell}"]


@pytest.mark.parametrize("cell", ["-1.5", "+3", "-1e-3", "a=b", "", "−2", "0-1", "a\nb"])
def test_numbers_and_other_text_stay_as_they_are(cell: str) -> None:
    assert csv_rows(csv_text(["h"], [[cell], ["x"]]))[0] == {"h": cell}


def test_no_name_starts_a_row_of_its_own() -> None:
    assert csv_rows(csv_text(["h"], [["a\r=1"]])) == [{"h": "a =1"}]


def test_texts_become_latex() -> None:
    assert tex_text("50% of `a_b` ± **1**") == r"50\% of \texttt{a\_b} $\pm$ \textbf{1}"


def test_latex_is_a_fragment_whose_like_tables_are_one() -> None:
    sections = [
        Section("Reproduced: one", ["a", "b"], [["1", "2"]], in_latex=True),
        Section("two", ["a", "b"], [["3", "4"]], in_latex=True),
        Section("apart", ["c"], [["5"]], in_latex=True),
        Section("left out", ["d"], [["6"]]),
    ]
    first, second = latex(sections).split("\n\n")
    assert first.splitlines() == [
        *(r"\begin{tabular}{lr}", r"\toprule", r"a & b \\"),
        *(r"\midrule", r"\multicolumn{2}{l}{\textit{one}} \\", r"1 & 2 \\"),
        *(r"\midrule", r"\multicolumn{2}{l}{\textit{two}} \\", r"3 & 4 \\"),
        *(r"\bottomrule", r"\end{tabular}"),
    ]
    assert r"\textit" not in second and "5" in second and "6" not in second
    text = Document("name", "Title", sections, {"name.csv": "a\n"}).texts["name.tex"]
    assert text.startswith("% Title") and r"\documentclass" not in text
