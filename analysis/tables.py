"""Documents of tables, written once and rendered as Markdown, LaTeX fragments and CSV.

The text of a section may hold ``**bold**``, ```code``` and backslash escapes, as in Markdown. Text
that comes from runs goes through :func:`escape` or :func:`code`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from upge.common.files import atomic_write, make_folder

#: A cell without a number.
NONE = "–"


@dataclass(frozen=True)
class Section:
    """A heading with a table, a list or both.

    Args:
        heading: above it.
        header: the table's; empty for no table.
        lines: the table's.
        before: a paragraph above the table.
        notes: a list below it.
        in_latex: whether the LaTeX fragment holds the table.
    """

    heading: str
    header: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()
    before: str = ""
    notes: Sequence[str] = ()
    in_latex: bool = False


@dataclass(frozen=True)
class Document:
    """A result in words and tables.

    Args:
        name: of its files.
        heading: its title.
        sections: empty ones are left out.
        csv: the text of each CSV file, by name.
        missing: runs that are still needed, a note each.
        command: makes them.
    """

    name: str
    heading: str
    sections: Sequence[Section]
    csv: Mapping[str, str]
    missing: Sequence[str] = ()
    command: str = ""

    @property
    def markdown(self) -> str:
        """All of it as Markdown."""
        return markdown(self.heading, self.sections)

    @property
    def texts(self) -> dict[str, str]:
        """The text of each file, by name."""
        title = f"% {tex_text(self.heading)}. Needs booktabs.\n"
        return {
            f"{self.name}.md": self.markdown,
            f"{self.name}.tex": title + latex(self.sections),
            **self.csv,
        }


# ---------------------------------------------------------------------------------------- Markdown


def escape(text: object) -> str:
    """Text on one line, with what Markdown, HTML or LaTeX would take for markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|$~#&])", r"\\\1", _one_line(text))


def code(text: object) -> str:
    """Text on one line as code, in more backticks than it holds in a row."""
    text = _one_line(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, gap = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def markdown(heading: str, sections: Iterable[Section]) -> str:
    """A document in Markdown."""
    parts = [f"# {heading}"]
    for section in sections:
        parts.append(f"## {section.heading}")
        parts += [section.before] if section.before else []
        if section.header:
            rows = [section.header, ["---"] * len(section.header), *section.lines]
            parts.append("\n".join(f"| {' | '.join(map(_in_cell, row))} |" for row in rows))
        if section.notes:
            parts.append("\n".join(f"- {note}" for note in section.notes))
    return "\n\n".join(parts) + "\n"


def _in_cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


# ------------------------------------------------------------------------------------------- LaTeX

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "φ": r"$\varphi$",
    "γ": r"$\gamma$",
    "°": r"$^\circ$",
    "–": "--",
    "×": r"$\times$",
    "−": "$-$",
    **{c: "\\" + c for c in "&%$#_{}"},
}

_TOKEN = re.compile(
    r"\\(?P<literal>.)|(?P<fence>`+) ?(?P<code>.+?) ?(?P=fence)|\*\*(?P<bold>.+?)\*\*|(?P<text>.)"
)


def tex_text(text: str) -> str:
    """The text of a section in LaTeX."""
    return _TOKEN.sub(_tex_token, text)


def _tex_token(token: re.Match[str]) -> str:
    if token["bold"]:
        return rf"\textbf{{{tex_text(token['bold'])}}}"
    plain = token["literal"] or token["code"] or token["text"]
    text = "".join(_TEX.get(character, character) for character in plain)
    return rf"\texttt{{{text}}}" if token["code"] else text


def latex(sections: Iterable[Section]) -> str:
    r"""Their tables, to be read by ``\input`` where the package booktabs is loaded.

    Neighboring sections with the same header share a table, each below its heading.
    """
    tables = (section for section in sections if section.in_latex)
    return "\n".join(_tabular(list(group)) for _, group in groupby(tables, lambda s: s.header))


def _tabular(sections: Sequence[Section]) -> str:
    header = sections[0].header
    rows = [r"\toprule", _tex_row(header)]
    for section in sections:
        rows.append(r"\midrule")
        if len(sections) > 1:
            name = section.heading.removeprefix("Reproduced: ")
            heading = rf"\textit{{{tex_text(name)}}}"
            rows.append(rf"\multicolumn{{{len(header)}}}{{l}}{{{heading}}} \\")
        rows += map(_tex_row, section.lines)
    spec = "l" + "r" * (len(header) - 1)
    lines = [rf"\begin{{tabular}}{{{spec}}}", *rows, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(tex_text, cells)) + r" \\"


# --------------------------------------------------------------------------------------------- CSV


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file with Unix line ends, none of whose cells a spreadsheet takes for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([[_inert(cell) for cell in row] for row in (header, *rows)])
    return out.getvalue()


def _inert(cell: object) -> object:
    """With an apostrophe before text that a spreadsheet would calculate, and on one row."""
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", " ")
    if not cell.startswith(("=", "+", "-", "@", "\t")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write(path: Path, text: str) -> Path:
    """Write a file, and its folder, atomically.

    Raises:
        UpgeError: it can't be written.
    """
    make_folder(path.parent)
    return atomic_write(path, text)
