"""The committed Markdown as parts of a page: sections, tables in boxes that scroll, formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markupsafe import Markup

from analysis.report.maths import Formulas

#: What a section's heading says of its numbers: whose they are, or that they are lacking.
KINDS = {"Reproduced": "reproduced", "Reported": "reported", "Missing": "missing", "": ""}

#: Sections that a reader looks up rather than reads: they come last, and closed.
_FOLDED = (
    "More than chance?",
    "Gradient norm of each term",
    "What it took",
    "Learning rates",
    "What these seeds could have shown",
    "Where this comes from",
    "Sources and notes",
    "How the shipped functions were called",
)

#: Cells of more characters than this wrap, in columns of so many ems a character, within bounds.
_PROSE, _EMS, _BOUNDS = 28, 0.12, (11, 34)


@dataclass(frozen=True)
class Section:
    """What stands under a heading of the second level; nothing above the first one.

    Args:
        heading: in HTML.
        body: in HTML.
        kind: a value of :data:`KINDS`.
        folded: whether it is closed at first.
    """

    heading: Markup
    body: Markup
    kind: str
    folded: bool


@dataclass(frozen=True)
class Document:
    """A Markdown file.

    Args:
        title: its heading of the first level.
        sections: all of it.
        choices: the values that rows of its tables may be filtered by, with their numbers.
        provenance: what the line at its end says of where it comes from.
    """

    title: str
    sections: Sequence[Section]
    choices: Mapping[str, int]
    provenance: Mapping[str, str]


class Reader:
    """Makes parts of a page of Markdown; HTML in it is shown, not obeyed.

    Args:
        formulas: those of the page.
        link: where a link of a file leads on the page; None if nowhere.
    """

    def __init__(self, formulas: Formulas, link: Callable[[str], str | None]) -> None:
        self._link = link
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
        self._markdown.inline.ruler.before("backticks", "formula", _formula)
        self._markdown.inline.ruler.before("html_inline", "line_break", _line_break)
        rules: dict[str, Callable[..., str]] = {
            "formula": lambda tokens, i, *_: str(formulas.use(tokens[i].content)),
            "table_open": lambda *_: '<div class="scroll" tabindex="0"><table>\n',
            "table_close": lambda *_: "</table></div>\n",
        }
        for name, rule in rules.items():
            self._markdown.add_render_rule(name, lambda _, *given, rule=rule: rule(*given))

    def html(self, text: str) -> Markup:
        """Markdown as HTML."""
        return self._render(self._tokens(text))

    def document(self, text: str, filtered: str = "") -> Document:
        """A file.

        Args:
            text: of the file.
            filtered: the column whose values rows may be filtered by.
        """
        title, parts = "", [_Part()]
        tokens = self._tokens(text)
        choices = _mark_rows(tokens, filtered) if filtered else {}
        for heading, block in _blocks(tokens):
            if heading == "h1":
                title = block[1].content
            elif heading == "h2":
                parts.append(_Part(block[1].content, block[1]))
            else:
                parts[-1].tokens.extend(block)
        sections = [self._section(part) for part in parts if part.name or part.tokens]
        sections.sort(key=lambda section: section.folded)
        return Document(title, sections, choices, footer(text))

    def _tokens(self, text: str) -> list[Token]:
        tokens = self._markdown.parse(text)
        for token in tokens:
            for child in token.children or ():
                if child.type == "link_open":
                    self._redirect(child)
        _mark_prose(tokens)
        return tokens

    def _redirect(self, token: Token) -> None:
        """Links to files lead to where they are shown; to what isn't shown they lead nowhere."""
        given = str(token.attrGet("href"))
        if not given.startswith(("https:", "http:")):
            token.attrs.pop("href")
            if target := self._link(given):
                token.attrSet("href", target)

    def _render(self, tokens: Sequence[Token]) -> Markup:
        return Markup(self._markdown.renderer.render(tokens, self._markdown.options, {}))

    def _section(self, part: _Part) -> Section:
        heading = self._render([part.heading]) if part.heading else Markup("")
        kind = next(kind for start, kind in KINDS.items() if part.name.startswith(start))
        return Section(heading, self._render(part.tokens), kind, part.name.startswith(_FOLDED))


class _Part:
    """A section's tokens."""

    def __init__(self, name: str = "", heading: Token | None = None) -> None:
        self.name, self.heading = name, heading
        self.tokens: list[Token] = []


def excerpt(text: str, start: str, end: str) -> str:
    """What stands between two marks of a file; nothing without them."""
    _, _, rest = text.partition(start)
    inside, found, _ = rest.partition(end)
    return inside.strip() if found else ""


def footer(text: str) -> dict[str, str]:
    """Provenance as the last line of a file has it: ``upge 0.1.0; commit 0123; …``."""
    _, rule, last = text.rstrip().rpartition("\n---\n\n")
    if not rule or "\n" in last:
        return {}
    pairs = (part.partition(" ") for part in last.split("; "))
    return {name: value for name, _, value in pairs}


# ----------------------------------------------------------------------------------------- tokens


def _blocks(tokens: Sequence[Token]) -> list[tuple[str, list[Token]]]:
    """Top-level headings with their tag, and all other tokens."""
    blocks, i = [], 0
    while i < len(tokens):
        heading = tokens[i].tag if tokens[i].type == "heading_open" else ""
        step = 3 if heading else 1
        blocks.append((heading, list(tokens[i : i + step])))
        i += step
    return blocks


def _mark_prose(tokens: Sequence[Token]) -> None:
    for cell, inside in pairwise(tokens):
        length = _length(inside) if cell.type in ("td_open", "th_open") else 0
        if length > _PROSE:
            low, high = _BOUNDS
            width = min(max(length * _EMS, low), high)
            cell.attrSet("class", "prose")
            cell.attrSet("style", f"min-width:{width:.1f}em")


def _length(cell: Token) -> int:
    """Characters of the text; formulas can't be broken anyway."""
    return sum(len(child.content) for child in cell.children or () if child.type != "formula")


def _mark_rows(tokens: Sequence[Token], column: str) -> dict[str, int]:
    """Give rows the value of a column as ``data-value``; how many rows have each."""
    counts: Counter[str] = Counter()
    for row, cells in _rows(tokens):
        if column in cells:
            row.attrSet("data-value", cells[column])
            counts[cells[column]] += 1
    return counts


def _rows(tokens: Sequence[Token]) -> Iterator[tuple[Token, dict[str, str]]]:
    """The rows of tables and their cells, by the header above them."""
    header: list[str] = []
    for start, row in enumerate(tokens):
        if row.type == "tr_open":
            end = next(i for i in range(start, len(tokens)) if tokens[i].type == "tr_close")
            cells = [token.content for token in tokens[start:end] if token.type == "inline"]
            if tokens[start + 1].type == "th_open":
                header = cells
            else:
                yield row, dict(zip(header, cells, strict=True))


def _formula(state: StateInline, silent: bool) -> bool:
    """GitHub's maths: LaTeX between ``$``` and ```$``."""
    end = state.src.find("`$", state.pos + 2)
    if not state.src.startswith("$`", state.pos) or end < 0:
        return False
    if not silent:
        state.push("formula", "", 0).content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _line_break(state: StateInline, silent: bool) -> bool:
    """``<br>``, the one tag that the committed tables hold."""
    if not state.src.startswith("<br>", state.pos):
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos += 4
    return True
