"""``python -m analysis.check_results``: do committed tables and figures follow from the records?"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.figures.catalog import FIGURES
from analysis.records import is_recorded, read_records
from analysis.results import RESULTS, figure_texts
from analysis.run import Run
from upge.common.code import code_of, differing, listed
from upge.common.errors import UpgeError

#: The records, a folder a comparison, below the root of the repository.
RECORDS = Path("paper_tables/records/cpu")

_FIGURE_FILES = (".csv", ".json")


def rebuilt(records: Path, names: Iterable[str] = RESULTS) -> dict[str, str | None]:
    """The text of every committed file of results, by its path.

    None for files of a figure without numbers, which should not exist.

    Args:
        records: a folder a comparison.
        names: of the results.

    Raises:
        UpgeError: records that are missing or damaged.
    """
    load: Any = cache(lambda loads, name: loads(records / name))
    texts: dict[str, str | None] = {}
    for result in map(RESULTS.__getitem__, names):
        sources = [load(result.load, name) for name in result.comparisons]
        if result.document:
            document = result.document(*sources)
            texts |= {f"paper_tables/{name}": text for name, text in document.texts.items()}
        for name in result.figures:
            files = figure_texts(FIGURES[name], sources)
            texts |= {f"figures/{name}{suffix}": files.get(suffix) for suffix in _FIGURE_FILES}
    return texts


def contradictions(root: Path, names: Iterable[str] = RESULTS) -> list[str]:
    """What is committed below ``root`` and doesn't follow from its records, a sentence each.

    Raises:
        UpgeError: records that are missing or damaged.
    """
    texts = rebuilt(root / RECORDS, names)
    sentences = (_contradiction(root, path, text) for path, text in texts.items())
    return [sentence for sentence in sentences if sentence]


def other_code(records: Path) -> list[str]:
    """Comparisons whose runs other code than today's made, a sentence each.

    Runs that kept no digests are told by their commits.

    Raises:
        UpgeError: records that are missing or damaged.
    """
    sentences = []
    for folder in sorted(path for path in records.iterdir() if is_recorded(path)):
        finished = read_records(folder).finished
        makers: dict[str, int] = {}
        for run in finished:
            if changed := _changed(run):
                makers[changed] = makers.get(changed, 0) + 1
        sentences += [
            f"{folder.name}: {count} of {len(finished)} runs: {changed}"
            for changed, count in sorted(makers.items())
        ]
    return sentences


def _changed(run: Run) -> str:
    """What has changed since a run; empty if nothing has."""
    if not run.code:
        commit = run.starts[0]["commit"] if run.starts else "unknown"
        return f"from commit {commit}, before records named their code"
    modules = [name for name in run.code if "." in name]
    made = {name: run.code[name] for name in modules}
    changed = differing(made, _today(tuple(modules)))
    return listed(changed, 20) if changed else ""


@cache
def _today(modules: tuple[str, ...]) -> dict[str, str]:
    return {name: digest for name, digest in code_of(*modules).items() if name in modules}


def _contradiction(root: Path, path: str, text: str | None) -> str | None:
    try:
        committed = (root / path).read_bytes()
    except FileNotFoundError:
        return None if text is None else f"{path}: is missing, though the records make it"
    if text is None:
        return f"{path}: exists, though the records make no such file"
    if committed == text.encode():
        return None
    return f"{path}: {_first_difference(committed.decode(errors='replace'), text)}"


def _first_difference(committed: str, rebuilt: str) -> str:
    pairs = zip_longest(committed.split("\n"), rebuilt.split("\n"))
    number, (a, b) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    shown = ("no such line" if line is None else repr(line) for line in (a, b))
    return "line {} does not follow\n  committed: {}\n  records:   {}".format(number, *shown)


def main(root: Annotated[Path, typer.Argument(help="Of the repository.")] = Path(".")) -> None:
    """Rebuild every committed table and figure's numbers from the records, bit for bit."""
    try:
        found = contradictions(root)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    if found:
        sys.exit("\n".join([*found, "Make these results again, or restore the records."]))
    print(f"{root / RECORDS}: all tables and figures follow")
    if old := other_code(root / RECORDS):
        print("\n".join(["Made by other code than today's:", *old]))


if __name__ == "__main__":
    typer.run(main)
