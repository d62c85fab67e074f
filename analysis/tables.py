"""Tables written once and rendered as Markdown and LaTeX; files written whole or not at all."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from upge.common.files import atomic_write, make_folder

#: A cell without a number.
NONE = "–"


@dataclass(frozen=True)
class Section:
    """A heading with a table, a list or both; texts may hold ``**bold**`` and ```code```.

    Args:
        heading: above it.
        header: the table's; empty for no table.
        lines: the table's.
        before: a paragraph above the table.
        notes: a list below it.
    """

    heading: str
    header: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()
    before: str = ""
    notes: Sequence[str] = ()


def markdown(heading: str, sections: Iterable[Section]) -> str:
    """A document in Markdown."""
    parts = [f"# {heading}"]
    for section in sections:
        parts.append(f"## {section.heading}")
        parts += [section.before] if section.before else []
        if section.header:
            body = [section.header, ["---"] * len(section.header), *section.lines]
            parts.append("\n".join(f"| {' | '.join(map(_in_cell, line))} |" for line in body))
        if section.notes:
            parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts) + "\n"


def _in_cell(text: str) -> str:
    return text.replace("|", r"\|")


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "√": r"$\surd$",
    "φ": r"$\varphi$",
    "χ": r"$\chi$",
    "γ": r"$\gamma$",
    "°": r"\textdegree{}",
    "–": "--",
    "×": r"$\times$",
    "−": "$-$",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def tex_text(text: str) -> str:
    """Text with what LaTeX would read as commands escaped, and bold and code as its commands."""
    text = "".join(_TEX.get(c, c) for c in text)
    text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
    return re.sub(r"`(.+?)`", r"\\texttt{\1}", text)


_DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage[landscape,a3paper,margin=15mm]{geometry}
\usepackage{booktabs,textcomp}
\setlength{\parindent}{0pt}
\begin{document}
\section*{%s}
%s
\end{document}
"""


def latex(heading: str, sections: Iterable[Section]) -> str:
    """A document in LaTeX."""
    parts = []
    for section in sections:
        parts.append(rf"\subsection*{{{tex_text(section.heading)}}}")
        parts += [tex_text(section.before) + "\n"] if section.before else []
        if section.header:
            parts.append(_tabular(section))
        if section.notes:
            items = "\n".join(rf"\item {tex_text(note)}" for note in section.notes)
            parts.append(f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}")
    return _DOCUMENT % (tex_text(heading), "\n".join(parts))


def _tabular(section: Section) -> str:
    header, *body = (
        " & ".join(map(tex_text, line)) + r" \\" for line in [section.header, *section.lines]
    )
    spec = "l" + "r" * (len(section.header) - 1)
    rows = "\n".join([r"\toprule", header, r"\midrule", *body, r"\bottomrule"])
    return f"\\begin{{tabular}}{{{spec}}}\n{rows}\n\\end{{tabular}}\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file with Unix line ends."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def write(path: Path, text: str) -> Path:
    """Write a file, and its folder, whole or not at all.

    Raises:
        UpgeError: it can't be written.
    """
    make_folder(path.parent)
    return atomic_write(path, text)
