"""A page read back, without the code that wrote it."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]


@dataclass
class Page(HTMLParser):
    """The elements of a page, its rows of cells and its text."""

    source: str
    elements: list[Element] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)
    text: str = ""
    _cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.unclosed.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag, f"</{tag}> closes nothing"
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self.unclosed or self.unclosed[-1] != "style":
            self.text += data
        if self._cell:
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of a kind."""
        return [element.attributes for element in self.elements if element.tag == tag]

    @property
    def pictures(self) -> set[bytes]:
        """The content of all images, which must be in the page."""
        sources = [image["src"].partition(",") for image in self.of("img")]
        assert all(head == "data:image/png;base64" for head, _, _ in sources)
        return {b64decode(content) for *_, content in sources}
