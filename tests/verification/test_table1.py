"""Table 1 and the parity matrix, as files that other programs read."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.mathtext import MathTextParser

from upge import REGISTRY
from upge.estimator import Term
from upge.verification.notation import latex
from upge.verification.printed import PRINTED
from upge.verification.table1 import (
    gradient_latex,
    parity_csv,
    rows_of,
    summary_columns,
    table1_csv,
    table1_latex,
    write_tables,
)
from upge.verification.verify import CHECKS, Finding

COLUMNS = [
    *("algorithm", "reference", "advantage", "stabilizer", "exact", "symbolic"),
    *("float64_err", "real_lm_err", "real_lm_cosine", "trl_err", "verl_err", "note"),
]
PROVENANCE = {"upge": "0.1.0", "commit": "0123abcd", "hardware": "x86_64, 2 cores, no GPU"}
FILES = {"table1.md", "table1.tex", "table1.csv", "parity.md", "parity.csv", "table1.json"}


def invented() -> list[Finding]:
    """What all checks could have found, with every kind of cell."""
    findings = []
    for name, entry in REGISTRY.items():
        refuted = name == "cispo"
        printed = "none" if entry.name not in PRINTED else "fail" if refuted else "pass"
        note = {"none": "not in the paper", "fail": "two rollouts, of | which", "pass": ""}[printed]
        findings += [
            Finding("real", name, "pass", 1.234e-6, 0.99999999987),
            Finding("symbolic", name, "pass", note="12 cells of 3 instances"),
            Finding("printed", name, printed, note=note),
            Finding("float64", name, "pass", 0.0 if name == "sft" else 4.4e-16),
            Finding("trl", name, "none", note=f"TRL ships no {entry.title}"),
            Finding("verl", name, "pass", 2e-15, note="core_algos.f; with its own, clip"),
        ]
    return findings


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("paper_tables")
    paths = write_tables(invented(), PROVENANCE, folder)
    assert {path.name for path in paths} == FILES == {path.name for path in folder.iterdir()}
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ------------------------------------------------------------------------------------------- CSV


def test_csv_has_the_columns_and_lines_of_the_issue(written: dict[str, str]) -> None:
    table = lines(written["table1.csv"])
    assert written["table1.csv"].splitlines()[0] == ",".join(COLUMNS)
    assert [line["algorithm"] for line in table] == list(REGISTRY)
    assert all(None not in line and None not in line.values() for line in table)


def test_csv_cells(written: dict[str, str]) -> None:
    table = {line["algorithm"]: line for line in lines(written["table1.csv"])}
    for name, line in table.items():
        entry = REGISTRY[name]
        exact = (
            "not in the paper" if entry.name not in PRINTED else "no" if name == "cispo" else "yes"
        )
        assert (line["exact"], line["symbolic"]) == (exact, "proved")
        assert float(line["float64_err"]) == (0 if name == "sft" else 4.4e-16)
        assert float(line["real_lm_err"]) == pytest.approx(1.23e-6)
        assert float(line["real_lm_cosine"]) == pytest.approx(0.99999999987, abs=1e-9)
        assert line["trl_err"] == "" and f"TRL ships no {entry.title}" in line["note"]
        assert float(line["verl_err"]) == 2e-15
        assert entry.note in line["note"]
        for term in entry.terms:
            assert term.reference.text in line["reference"]
            assert term.advantage.text in line["advantage"]
            assert term.stabilization.text in line["stabilizer"]
    assert "two rollouts, of | which" in table["cispo"]["note"]
    assert "not in the paper" not in table["dapo"]["note"]
    assert table["sft"]["reference"] == "π_θ" and table["sft"]["advantage"] == "1"
    assert table["hpt"]["reference"] == "π_θold + π_θ"


def test_csv_leaves_empty_what_was_not_asked() -> None:
    (line,) = lines(table1_csv(rows_of([Finding("float64", "grpo", "pass", 1e-15)])))
    filled = {"algorithm", "reference", "advantage", "stabilizer", "float64_err"}
    assert {column for column in COLUMNS if line[column]} == filled
    missing = Finding("printed", "grpo", "not run", note="needs pip install 'upge[theory]'")
    (line,) = lines(table1_csv(rows_of([missing])))
    assert line["exact"] == "" and "upge[theory]" in line["note"]
    refuted = Finding("symbolic", "grpo", "fail", note="r = 2")
    (line,) = lines(table1_csv(rows_of([refuted])))
    assert line["symbolic"] == "refuted" and "r = 2" in line["note"]


# ------------------------------------------------------------------------------------ the matrix


def test_the_matrix_is_complete(written: dict[str, str]) -> None:
    matrix = lines(written["parity.csv"])
    assert list(matrix[0]) == ["algorithm", "symbolic", "float64", "real LM", "TRL", "verl"]
    assert [line["algorithm"] for line in matrix] == list(REGISTRY)
    assert all(cell.strip() for line in matrix for cell in line.values())
    for line in matrix:
        assert line["symbolic"] == "proved" and float(line["verl"]) == 2e-15
        assert line["TRL"] == f"TRL ships no {REGISTRY[line['algorithm']].title}"


@pytest.mark.parametrize("check", [check for check in CHECKS if check != "printed"])
def test_the_matrix_without_a_check_says_so(check: str) -> None:
    findings = [f for f in invented() if f.check != check]
    column = {"symbolic": 1, "float64": 2, "real": 3, "trl": 4, "verl": 5}[check]
    for line in csv.reader(parity_csv(rows_of(findings)).splitlines()[1:]):
        assert [i for i, cell in enumerate(line) if cell == "not run"] == [column]
    reason = [Finding(check, "sft", "none", note="needs a, b")]
    (line,) = lines(parity_csv(rows_of(reason)))
    assert list(line.values())[column] == "needs a, b"


# ----------------------------------------------------------------------- the record, and Markdown


def test_the_record_reloads_to_the_same_tables(written: dict[str, str], tmp_path: Path) -> None:
    record = json.loads(written["table1.json"])
    findings = [Finding(**given) for given in record["findings"]]
    assert findings == invented() and record["provenance"] == PROVENANCE
    for path in write_tables(findings, record["provenance"], tmp_path):
        assert path.read_text(encoding="utf-8") == written[path.name]


def markdown_tables(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def test_markdown_has_all_rows(written: dict[str, str]) -> None:
    reported, own, others = markdown_tables(written["table1.md"])
    (matrix,) = markdown_tables(written["parity.md"])
    for table in (reported, own, others, matrix):
        assert len({len(line) for line in table}) == 1, "a cell holds a bare |"
    names = [re.search("`(.+)`", line[0]) for line in (own + others)]
    assert [name[1] for name in names if name] == list(REGISTRY)
    assert len(reported) - 2 == len(own) - 2 == 8 and len(others) - 2 == len(REGISTRY) - 8
    assert [line[-1].strip() for line in reported[2:]].count("no") == 1
    assert [line[0].strip(" `") for line in matrix[2:]] == list(REGISTRY)
    assert all(cell.strip() for line in own[2:] + others[2:] + matrix[2:] for cell in line)
    for text in ("0123abcd", "x86_64, 2 cores, no GPU"):
        assert text in written["table1.md"] and text in written["parity.md"]
    for entry in REGISTRY.values():
        assert entry.source in written["table1.md"] and entry.note in written["table1.md"]


def test_the_table_in_a_terminal() -> None:
    (row,) = rows_of([f for f in invented() if f.algorithm == "hpt"])
    narrow, wide = ({h: render(row) for h, render in summary_columns(wide)} for wide in (0, 1))
    assert narrow["algorithm"] == "hpt" and narrow["symbolic"] == "proved"
    assert (narrow["as printed"], narrow["TRL"], narrow["verl"]) == ("–", "–", "2e-15")
    assert wide["π_ref"] == "π_θold\nπ_θ" and narrow.items() < wide.items()


# -------------------------------------------------------------------------------------------- LaTeX


def formulas() -> list[tuple[str, str]]:
    """Every formula of the tables, with the entry it belongs to."""
    found = []

    def add(name: str, *latex: str) -> None:
        found.extend((name, formula) for formula in latex)

    def of_term(term: Term) -> tuple[str, ...]:
        parts = (term.reference, term.advantage, term.stabilization, term.shaping, term.normalizer)
        return (*filter(None, map(latex, parts)), gradient_latex(term))

    for name, entry in REGISTRY.items():
        for term in entry.terms:
            add(name, *of_term(term))
            if term.gate:
                add(name, latex(term.gate.feedback))
        if name in PRINTED:
            row = PRINTED[name]
            add(name, row.reference, row.advantage, row.gradient)
    return found


def parse(latex: str) -> None:
    """Raises ValueError for what matplotlib, which knows part of LaTeX, can't read."""
    plain = latex.replace(r"\tfrac", r"\frac").replace(r"\text{", r"\mathrm{")
    plain = re.sub(r"(\\frac|\\mathbf|\\mathbb|\\mathcal) ?(\w)", r"\1{\2}", plain)
    plain = re.sub(r"(\\frac\{\w\})(\w)", r"\1{\2}", plain)
    MathTextParser("path").parse(f"${plain}$")


def test_formulas_are_latex() -> None:
    for name, formula in dict.fromkeys(formulas()):
        try:
            parse(formula)
        except ValueError as error:
            pytest.fail(f"{name}: {formula}: {error}")
    for broken in (r"\frac{1}{", r"\nosuchcommand x", r"x_1_2", r"a\right)"):
        with pytest.raises(ValueError):
            parse(broken)


def test_every_formula_of_the_files_is_latex(written: dict[str, str]) -> None:
    body = written["table1.tex"].split(r"\begin{longtable}")[1]
    for text in (written["table1.md"], body):
        spans = re.findall(r"(?<!\\)\$([^$]+)\$", text)
        assert len(spans) > 5 * len(REGISTRY)
        for span in dict.fromkeys(spans):
            parse(span.strip("`").replace(r"\vert ", "|"))
        assert text.count("$") == 2 * len(spans)


def test_latex_has_a_line_a_term(written: dict[str, str]) -> None:
    body = written["table1.tex"].split(r"\endhead")[1].split(r"\bottomrule")[0]
    table = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(table) == sum(len(entry.terms) for entry in REGISTRY.values())
    assert {len(re.findall(r"(?<!\\)&", line)) for line in table} == {11}
    assert written["table1.tex"].count(r"\addlinespace") == len(REGISTRY)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not on PATH")
def test_latex_compiles(tmp_path: Path) -> None:
    source = tmp_path / "table1.tex"
    source.write_text(table1_latex(rows_of(invented()), PROVENANCE), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    assert source.with_suffix(".pdf").stat().st_size > 10_000
    assert "Missing character" not in log and "Undefined" not in log
