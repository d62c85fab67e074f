"""The page: everything that is committed, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from analysis.report.catalogue import Result, results
from analysis.report.documents import Document, Reader, excerpt
from analysis.report.inline import Download, Picture, download, picture
from analysis.report.maths import Formulas
from analysis.report.origins import COLUMNS, Origin, origins
from analysis.report.stated import stated
from upge.common.files import read_text

#: What the page quotes: heading, file beside the folder of tables, the marks around the text, and
#: a word on it.
_EXCERPTS = (
    (
        "At a glance",
        "README.md",
        "<!-- table2 -->",
        "<!-- /table2 -->",
        "Per cent right, with 95 % intervals over seeds and problems; beside them what the paper "
        "reports. All suites, seeds and commits: [Table 2](paper_tables/table2.md).",
    ),
    ("What came out", "README.md", "<!-- /table2 -->", "\n```bash\n", ""),
    ("Findings of the theory", "README.md", "\n## Findings\n", "\n## ", ""),
    ("Deviations from the paper", "LOG.md", "\n## Deviations from the paper\n", "\n## ", ""),
)


@dataclass(frozen=True)
class Places:
    """Where results lie.

    Args:
        tables: Markdown, with CSV and LaTeX beside.
        figures: PNG, with PDF and CSV beside.
        records: a folder a profile, and in it one a comparison.
    """

    tables: Path = Path("paper_tables")
    figures: Path = Path("figures")
    records: Path = Path("paper_tables/records")

    def name(self, path: Path) -> str:
        """A file as a reader of the repository knows it, as ``figures/figure5.png``."""
        for folder in (self.tables, self.figures):
            if path.is_relative_to(folder):
                return (folder.name / path.relative_to(folder)).as_posix()
        return path.as_posix()


@dataclass(frozen=True)
class Shown:
    """A result as the page shows it.

    Args:
        result: what it is.
        documents: by name.
        pictures: all of them.
        downloads: the same in other formats.
        origins: the runs behind it.
        stated: the provenance that its own files state, by name.
    """

    result: Result
    documents: Mapping[str, Document]
    pictures: Sequence[Picture]
    downloads: Sequence[Download]
    origins: Sequence[Origin]
    stated: Mapping[str, Mapping[str, str]]


def page(places: Places) -> str:
    """The page in HTML.

    Raises:
        UpgeError: a file that can't be read, or damaged records.
    """
    found = results(places.tables, places.figures)
    reader = Reader(formulas := Formulas(), _anchors(found, places).get)
    known = origins(places.records)
    groups = {
        title: [_shown(result, places, reader, known) for result in own]
        for title, own in found.items()
    }
    shown = [one for own in groups.values() for one in own]
    excerpts = dict(_excerpts(places, reader))
    return _template().render(
        excerpts=excerpts,
        groups=groups,
        origins=known,
        stated=[(one, name, given) for one in shown for name, given in one.stated.items()],
        missing=[one for one in shown if one.result.missing],
        formulas=formulas,
        columns=COLUMNS,
    )


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html")


def _anchors(found: Mapping[str, Sequence[Result]], places: Places) -> dict[str, str]:
    """Where the page shows a file, and the folder that a result alone fills."""
    anchors: dict[str, str] = {}
    for result in (result for group in found.values() for result in group):
        for path in [*result.pages, *result.beside]:
            anchors[places.name(path)] = f"#{result.entry.id}"
            anchors.setdefault(places.name(path.parent), f"#{result.entry.id}")
    return anchors


def _excerpts(places: Places, reader: Reader) -> Iterator[tuple[str, Markup]]:
    for heading, name, start, end, note in _EXCERPTS:
        path = places.tables.parent / name
        if path.exists() and (text := excerpt(f"{_text(path)}\n## ", start, end)):
            text = text.replace("![", "[")  # the pictures themselves stand further down
            yield heading, reader.html(f"{text}\n\n{note}")


def _shown(result: Result, places: Places, reader: Reader, known: Sequence[Origin]) -> Shown:
    documents = {
        places.name(path): reader.document(_text(path), result.entry.filter)
        for path in result.tables
    }
    sources = [path for path in result.beside if path.suffix == ".json"]
    sources += [
        path
        for name in result.entry.records
        for path in sorted(places.records.glob(f"*/{name}/provenance.json"))
    ]
    footers = {name: document.provenance for name, document in documents.items()}
    given: Mapping[str, Mapping[str, str]]
    given = {places.name(path): stated(path) for path in sources} or footers
    return Shown(
        result,
        documents,
        [picture(path, places.name(path), text) for path, text in result.figures.items()],
        [download(path, places.name(path)) for path in result.beside],
        [origin for origin in known if origin.comparison in result.entry.records],
        {name: found for name, found in given.items() if found},
    )


def _text(path: Path) -> str:
    return read_text(str(path))
