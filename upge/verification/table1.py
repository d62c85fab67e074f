"""Table 1 and the parity matrix, rendered from registry entries and findings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from upge.algorithms import REGISTRY, Algorithm, algorithm
from upge.common.files import atomic_write
from upge.estimator import Term
from upge.verification.notation import latex
from upge.verification.printed import PRINTED
from upge.verification.verify import Finding

CSV_COLUMNS = (
    "algorithm",
    "reference",
    "advantage",
    "stabilizer",
    "exact",
    "symbolic",
    "float64_err",
    "real_lm_err",
    "real_lm_cosine",
    "trl_err",
    "verl_err",
    "note",
)

_NOT_RUN = "not run"
_EXACT = {"pass": "yes", "fail": "no", "none": "not in the paper", _NOT_RUN: _NOT_RUN}
_SYMBOLIC = {"pass": "proved", "fail": "refuted", "none": "–", _NOT_RUN: _NOT_RUN}

#: CSV leaves empty what did not run.
_EMPTY = {_NOT_RUN: ""}


@dataclass(frozen=True)
class Row:
    """A registry entry with its findings, by check."""

    entry: Algorithm
    findings: Mapping[str, Finding]

    def error(self, check: str) -> str:
        """The error as a plain number, empty where the check does not apply."""
        finding = self.findings.get(check)
        return "" if finding is None or finding.error is None else f"{finding.error:.3g}"

    def cosine(self) -> str:
        """The cosine on the real model, with enough digits to show its distance from 1."""
        finding = self.findings.get("real")
        return "" if finding is None or finding.cosine is None else f"{finding.cosine:.10f}"

    def verdict(self, check: str, words: Mapping[str, str]) -> str:
        """The verdict of a check in the given words."""
        finding = self.findings.get(check)
        return words[_NOT_RUN if finding is None else finding.verdict]

    def cell(self, check: str) -> str:
        """The error in short; "–" where the check does not apply."""
        finding = self.findings.get(check)
        if finding is None or finding.verdict == _NOT_RUN:
            return _NOT_RUN
        if finding.error is None:
            return "–" if finding.verdict == "none" else "failed"
        return "0" if finding.error == 0 else f"{finding.error:.0e}"

    def _is_outside(self, check: str) -> bool:
        return check == "printed" and self.entry.name not in PRINTED

    def notes(self) -> str:
        """What qualifies the row: the entry's note, counterexample, and reasons of empty cells."""
        parts = [self.entry.note] if self.entry.note else []
        for check, finding in self.findings.items():
            if not finding.note or finding.verdict == "pass" or self._is_outside(check):
                continue
            refuted = check == "printed" and finding.verdict == "fail"
            label = "not exact as printed" if refuted else check
            parts.append(f"{label}: {finding.note}")
        return " | ".join(parts)


def rows_of(findings: Sequence[Finding]) -> list[Row]:
    """One row an algorithm, in the registry's order of the findings."""
    names = dict.fromkeys(f.algorithm for f in findings)
    return [
        Row(algorithm(name), {f.check: f for f in findings if f.algorithm == name})
        for name in names
    ]


def _cells(row: Row, render: Callable[[Term], str], joint: str) -> str:
    cells = [render(term) for term in row.entry.terms]
    return cells[0] if len(set(cells)) == 1 else joint.join(cells)


def table1_csv(rows: Sequence[Row]) -> str:
    """Table 1 as CSV: one line a registered algorithm, :data:`CSV_COLUMNS`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        writer.writerow(
            (
                row.entry.name,
                _cells(row, lambda t: t.reference.text, " + "),
                _cells(row, lambda t: t.advantage.text, " + "),
                _cells(row, lambda t: t.stabilization.text, " + "),
                row.verdict("printed", _EXACT | _EMPTY),
                row.verdict("symbolic", _SYMBOLIC | _EMPTY),
                row.error("float64"),
                row.error("real"),
                row.cosine(),
                row.error("trl"),
                row.error("verl"),
                row.notes(),
            )
        )
    return out.getvalue()


# ------------------------------------------------------------------------------- LaTeX and Markdown


def gradient_latex(term: Term) -> str:
    """∇π_θ times mask, advantage and shaping over the reference policy, as Table 1 prints it."""
    factors = "" if term.coefficient == 1 else f"{term.coefficient:.3g}"
    if term.gate is not None:
        factors += r"\alpha" if term.gate.side == "rl" else r"\beta"
    if term.entropy_weight is not None:
        factors += latex(term.entropy_weight)
    numerator = latex(term.advantage) if latex(term.advantage) == "1" else r"\hat A"
    if (mask := latex(term.stabilization)) != "1":
        numerator = mask if numerator == "1" else rf"{numerator}\,{mask}"
    shaping = rf"\,{latex(term.shaping)}" if latex(term.shaping) else ""
    return rf"{factors}\nabla\pi_\theta\frac{{{numerator}}}{{{latex(term.reference)}}}{shaping}"


_COLUMNS: tuple[tuple[str, Callable[[Term], str]], ...] = (
    (r"\pi_{ref}", lambda t: latex(t.reference)),
    (r"\hat A", lambda t: latex(t.advantage)),
    (r"\mathbf{1}_{stable}", lambda t: latex(t.stabilization)),
    (r"\nabla_{uni}", gradient_latex),
    (r"1/Z", lambda t: latex(t.normalizer)),
)


def _checks(row: Row) -> list[str]:
    real = row.cell("real")
    return [
        row.verdict("symbolic", _SYMBOLIC),
        row.cell("float64"),
        f"{real} ({row.cosine()})" if row.cosine() else real,
        row.cell("trl"),
        row.cell("verl"),
    ]


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    body = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in body) + "\n"


def _math(latex: str) -> str:
    # A bare | would end the cell of a Markdown table.
    # Between $` and `$ GitHub leaves formulas as they are.
    return f"$`{latex.replace('|', chr(92) + 'vert ')}`$"


def _markdown_line(row: Row) -> list[str]:
    math = [_cells(row, render, "`$<br>$`") for _, render in _COLUMNS]
    return [f"{row.entry.title}<br>`{row.entry.name}`", *map(_math, math), *_checks(row)]


_CHECK_HEADER = ("symbolic", "float64", "real LM (cosine)", "TRL", "verl")


def _footer(provenance: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in provenance.items())


def table1_markdown(rows: Sequence[Row], provenance: Mapping[str, str]) -> str:
    """Table 1 with the paper's rows as printed beside what is exact, then all other algorithms."""
    math_header = [_math(name) for name, _ in _COLUMNS]
    printed = [row for row in rows if row.entry.name in PRINTED]
    others = [row for row in rows if row.entry.name not in PRINTED]
    notes = [f"- **{row.entry.title}** (`{row.entry.name}`; {row.entry.source})" for row in rows]
    for i, row in enumerate(rows):
        notes[i] += "".join(f"\n  - {part}" for part in row.notes().split(" | ") if part)
    reported = [_reported_line(row) for row in printed]
    return "\n".join(
        [
            "# Table 1: the unified view, derived and verified\n",
            "Errors are relative, over all parameters: the estimator's gradient against autograd "
            "of the published loss on random transformers in float64 (largest of all batches), on "
            "a language model (named below) in float32, and against the losses that TRL and verl "
            "ship; “–” where a check does not apply, “not run” where something was missing. "
            "“proved”: sympy derives the gradient of the published loss and finds the row, in "
            "every cell between the kinks that a grid meets, on small batches (up to four rollouts "
            "a question) with all log-probabilities symbolic.\n",
            "The paper's table leaves out how tokens are averaged (1/Z); a row is exact if it "
            "holds with the algorithm's own 1/Z.\n",
            "## The paper's rows: as printed there (reported), and whether that is exact\n",
            _markdown_table(
                (
                    "algorithm",
                    _math(r"\pi_{ref}"),
                    _math(r"\hat A"),
                    "gradient",
                    "exact as printed",
                ),
                reported,
            ),
            "## The same rows as this package computes them\n",
            _markdown_table(
                ("algorithm", *math_header, *_CHECK_HEADER), list(map(_markdown_line, printed))
            ),
            "## Further algorithms, not in the paper's table\n",
            _markdown_table(
                ("algorithm", *math_header, *_CHECK_HEADER), list(map(_markdown_line, others))
            ),
            "## Sources and notes\n",
            "\n".join(notes) + "\n",
            f"---\n\n{_footer(provenance)}\n",
        ]
    )


def _reported_line(row: Row) -> list[str]:
    printed = PRINTED[row.entry.name]
    gradient = rf"\nabla\pi_\theta\cdot{printed.gradient}"
    cells = (printed.reference, printed.advantage, gradient)
    exact = row.verdict("printed", _EXACT)
    return [row.entry.title, *map(_math, cells), exact]


_TEX_ESCAPES = {"_": r"\_", "φ": r"$\varphi$", "→": r"$\to$"}


def _tex_text(text: str) -> str:
    return "".join(_TEX_ESCAPES.get(c, c) for c in text)


def table1_latex(rows: Sequence[Row], provenance: Mapping[str, str]) -> str:
    """Table 1 as a LaTeX document: a long table with one line a term."""
    header = [f"${name}$" for name, _ in _COLUMNS]
    columns = ["algorithm", *header, "exact", "symbolic", "float64", "real LM", "TRL", "verl"]
    lines = [" & ".join(columns) + r" \\ \midrule \endhead"]
    for row in rows:
        checks = [row.verdict("printed", _EXACT), *_checks(row)]
        checks = ["--" if c == "–" else c.split(" (")[0] for c in checks]
        for i, term in enumerate(row.entry.terms):
            math = [f"${render(term)}$" for _, render in _COLUMNS]
            title = _tex_text(row.entry.title) if i == 0 else ""
            tail = checks if i == 0 else [""] * len(checks)
            lines.append(" & ".join([title, *math, *tail]) + r" \\")
        lines.append(r"\addlinespace")
    return _LATEX % {
        "spec": "l" * len(columns),
        "body": "\n".join(lines),
        "footer": _tex_text(_footer(provenance)),
    }


_LATEX = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[landscape,a2paper,margin=15mm]{geometry}
\usepackage{amsmath,booktabs,longtable}
\begin{document}
\begin{longtable}{%(spec)s}
\caption{The unified view of post-training algorithms, derived and verified. Errors are relative,
over all parameters.}\\ \toprule
%(body)s
\bottomrule
\end{longtable}
\noindent %(footer)s
\end{document}
"""


def summary_columns(wide: bool) -> tuple[tuple[str, Callable[[Row], str]], ...]:
    """Headers and cells of the short table for a terminal, with components if it is wide."""
    components: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("π_ref", lambda r: _cells(r, lambda t: t.reference.text, "\n")),
        ("Â", lambda r: _cells(r, lambda t: t.advantage.text, "\n")),
        ("1_stable", lambda r: _cells(r, lambda t: t.stabilization.text, "\n")),
    )
    return (
        ("algorithm", lambda r: r.entry.name),
        *(components if wide else ()),
        ("as printed", lambda r: r.verdict("printed", _EXACT).replace("not in the paper", "–")),
        ("symbolic", lambda r: r.verdict("symbolic", _SYMBOLIC)),
        *((title, _error_column(check)) for check, title in list(_MATRIX.items())[1:]),
    )


def _error_column(check: str) -> Callable[[Row], str]:
    return lambda row: row.cell(check)


# -------------------------------------------------------------------------------------- the matrix

_MATRIX = {
    "symbolic": "symbolic",
    "float64": "float64",
    "real": "real LM",
    "trl": "TRL",
    "verl": "verl",
}


def _matrix_cell(row: Row, check: str) -> str:
    finding = row.findings.get(check)
    if finding is None:
        return _NOT_RUN
    if check == "symbolic" and finding.verdict in ("pass", "fail"):
        return _SYMBOLIC[finding.verdict]
    error = row.error(check)
    return error if error else finding.note


def parity_csv(rows: Sequence[Row]) -> str:
    """The matrix algorithm × check: each cell the error, or the reason why there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("algorithm", *_MATRIX.values()))
    for row in rows:
        writer.writerow((row.entry.name, *(_matrix_cell(row, check) for check in _MATRIX)))
    return out.getvalue()


def parity_markdown(rows: Sequence[Row], provenance: Mapping[str, str]) -> str:
    """The same matrix in Markdown, with how each third-party comparison was set up."""
    lines = [[f"`{r.entry.name}`", *(_matrix_cell(r, c) for c in _MATRIX)] for r in rows]
    setups = [
        f"- `{row.entry.name}`, {_MATRIX[check]}: {row.findings[check].note}"
        for row in rows
        for check in ("trl", "verl")
        if check in row.findings and row.findings[check].error is not None
    ]
    return "\n".join(
        [
            "# Parity: every algorithm against every check\n",
            "A number is the largest relative error of the gradient; otherwise the cell says why "
            "there is none.\n",
            _markdown_table(
                ("algorithm", *_MATRIX.values()),
                [[cell.replace("|", "/") for cell in line] for line in lines],
            ),
            "## How the shipped functions were called\n",
            "\n".join(setups) + "\n",
            f"---\n\n{_footer(provenance)}\n",
        ]
    )


_README_EXACT = {"pass": "exact", "fail": "**not exact**", _NOT_RUN: _NOT_RUN}


def readme_table(rows: Sequence[Row]) -> str:
    """The paper's rows with their checks, for the first screen of the README."""
    header = ("algorithm", "π_ref", "Â", "1_stable", "as printed", *_MATRIX.values())
    lines = [
        [
            row.entry.title,
            _cells(row, lambda t: t.reference.text, " + "),
            _cells(row, lambda t: t.advantage.text, " + "),
            _cells(row, lambda t: t.stabilization.text, " + "),
            row.verdict("printed", _README_EXACT),
            row.verdict("symbolic", _SYMBOLIC),
            *(row.cell(check) for check in list(_MATRIX)[1:]),
        ]
        for row in rows
        if row.entry.name in PRINTED
    ]
    return _markdown_table(header, [[c.replace("|", "\\|") for c in line] for line in lines])


def load_findings(path: Path) -> tuple[list[Finding], dict[str, str]]:
    """The findings and provenance of a record that :func:`write_tables` wrote."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return [Finding(**finding) for finding in record["findings"]], record["provenance"]


def lost(findings: Sequence[Finding], folder: Path) -> list[str]:
    """Checks of which a folder's record holds results for algorithms that the findings lack."""
    path = folder / "table1.json"
    if not path.exists():
        return []
    made = {(f.check, f.algorithm) for f in findings if f.verdict != _NOT_RUN}
    held, _ = load_findings(path)
    known = {f.algorithm for f in findings} | REGISTRY.keys()
    return sorted(
        {
            f.check
            for f in held
            if f.verdict in ("pass", "fail")
            and f.algorithm in known
            and (f.check, f.algorithm) not in made
        }
    )


def write_tables(
    findings: Sequence[Finding], provenance: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write Table 1 (.md, .tex, .csv), the matrix (.md, .csv) and their record (.json)."""
    rows = rows_of(findings)
    record = {"provenance": dict(provenance), "findings": [asdict(f) for f in findings]}
    contents = {
        "table1.md": table1_markdown(rows, provenance),
        "table1.tex": table1_latex(rows, provenance),
        "table1.csv": table1_csv(rows),
        "parity.md": parity_markdown(rows, provenance),
        "parity.csv": parity_csv(rows),
        "table1.json": json.dumps(record, indent=1, ensure_ascii=False) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [atomic_write(folder / name, text) for name, text in contents.items()]
