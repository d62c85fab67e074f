"""What the page shows: the results named in ``catalogue.yaml``, and the files there are of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upge.common.config import Config, build, read_yaml

_FILE = Path(__file__).with_name("catalogue.yaml")


class Entry(Config):
    """A result that the page has a place for.

    Args:
        id: its name in links.
        title: its heading.
        command: makes it.
        about: a sentence on what it is.
        tables: patterns of Markdown files below the folder of tables.
        figures: patterns of PNG files below the folder of figures, each with its caption.
        records: the comparisons that it is made of.
        filter: the column of its tables whose values rows may be filtered by.
    """

    id: str
    title: str
    command: str
    about: str = ""
    tables: tuple[str, ...] = ()
    figures: Mapping[str, str] = {}
    records: tuple[str, ...] = ()
    filter: str = ""


class Group(Config):
    """Results under one heading."""

    title: str
    results: tuple[Entry, ...]


class _Catalogue(Config):
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Result:
    """A result and its files.

    Args:
        entry: what it is.
        tables: its Markdown files.
        figures: its PNG files, each with its caption.
        missing: patterns that no file matches.
    """

    entry: Entry
    tables: Sequence[Path]
    figures: Mapping[Path, str]
    missing: Sequence[str] = ()

    @property
    def pages(self) -> list[Path]:
        """The files that the page shows."""
        return [*self.tables, *self.figures]

    @property
    def beside(self) -> list[Path]:
        """The same in other formats, and the numbers behind them."""
        found = {
            path: None
            for page in self.pages
            for path in sorted(page.parent.glob(f"{page.stem}*"))
            if path.suffix != page.suffix and _belongs(path.stem, page.stem)
        }
        return list(found)


def _belongs(stem: str, page: str) -> bool:
    """``table2_comparisons`` belongs to ``table2``, ``table20`` does not."""
    return stem == page or stem.startswith((f"{page}_", f"{page}-"))


def catalogue() -> Sequence[Group]:
    """The groups of ``catalogue.yaml``."""
    return build(read_yaml(_FILE), _Catalogue).groups


def results(tables: Path, figures: Path) -> dict[str, list[Result]]:
    """All results by the title of their group; what no entry names comes last.

    Args:
        tables: the folder of Markdown files, with ``records/`` in it.
        figures: the folder of PNG files.
    """
    found = {
        group.title: [_result(entry, tables, figures) for entry in group.results]
        for group in catalogue()
    }
    shown = {path for group in found.values() for result in group for path in result.pages}
    rest = Result(
        Entry(id="further", title="Further results", command=""),
        [path for path in documents(tables) if path not in shown],
        {path: path.stem for path in pictures(figures) if path not in shown},
    )
    return found | ({rest.entry.title: [rest]} if rest.pages else {})


def documents(tables: Path) -> list[Path]:
    """The Markdown files of a folder of tables."""
    return sorted(path for path in tables.rglob("*.md") if "records" not in path.parts)


def pictures(figures: Path) -> list[Path]:
    """The PNG files of a folder of figures."""
    return sorted(figures.rglob("*.png"))


def _result(entry: Entry, tables: Path, figures: Path) -> Result:
    documents = {pattern: sorted(tables.glob(pattern)) for pattern in entry.tables}
    pictures = {pattern: sorted(figures.glob(pattern)) for pattern in entry.figures}
    captions = {path: entry.figures[pattern] for pattern, path in _pairs(pictures)}
    lacking = [pattern for pattern, paths in {**documents, **pictures}.items() if not paths]
    return Result(entry, [path for _, path in _pairs(documents)], captions, lacking)


def _pairs(found: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, Path]]:
    return ((pattern, path) for pattern, paths in found.items() for path in paths)
