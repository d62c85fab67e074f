"""``python -m analysis.check_results``: do committed tables and figures follow from the records?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis import learning_curves, offline_ratio, table2, table4, training_curves
from analysis.curves import series_csv
from analysis.runs import Runs, load_runs
from upge.errors import UpgeError

#: The records, below the root of the repository.
RECORDS = Path("paper_tables/records/cpu")

#: Tables in ``paper_tables/``: the text of each of their files, by name.
TABLES: tuple[Callable[[Runs], Mapping[str, str]], ...] = (table2.texts, table4.texts)

#: Figures: the numbers of each, by the path of its CSV.
FIGURES: Mapping[str, Callable[[Runs], pd.DataFrame]] = {
    "figures/table2/learning_curves.csv": learning_curves.numbers,
    "figures/table2/offline_ratio.csv": offline_ratio.numbers,
    "figures/figure5.csv": training_curves.figure5_numbers,
    "figures/figure7.csv": training_curves.figure7_numbers,
}


def rebuilt(runs: Runs) -> dict[str, str | None]:
    """The text of every committed file that follows from records; None for one that has no numbers.

    Raises:
        UpgeError: damaged records.
    """
    texts: dict[str, str | None] = {}
    for table in TABLES:
        texts |= {f"paper_tables/{name}": text for name, text in table(runs).items()}
    for path, numbers in FIGURES.items():
        frame = numbers(runs)
        texts[path] = series_csv(frame) if len(frame) else None
    return texts


def contradictions(root: Path) -> list[str]:
    """What is committed below ``root`` and does not follow from its records, a sentence each.

    Raises:
        UpgeError: records that are missing or damaged.
    """
    texts = rebuilt(load_runs(root / RECORDS))
    return [found for path, text in texts.items() if (found := _contradiction(root, path, text))]


def _contradiction(root: Path, path: str, text: str | None) -> str | None:
    try:
        committed = (root / path).read_bytes()
    except FileNotFoundError:
        return None if text is None else f"{path}: is missing, though the records make it"
    if text is None:
        return f"{path}: is there, though the records make no such file"
    if committed == text.encode():
        return None
    return f"{path}: {_first_difference(committed.decode(errors='replace'), text)}"


def _first_difference(committed: str, rebuilt: str) -> str:
    pairs = zip_longest(committed.split("\n"), rebuilt.split("\n"))
    number, (a, b) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    shown = ("no such line" if line is None else repr(line) for line in (a, b))
    return "line {} does not follow\n  committed: {}\n  records:   {}".format(number, *shown)


def main(
    root: Annotated[Path, typer.Argument(help="Of the repository.")] = Path("."),
) -> None:
    """Make every committed table and figure of the committed records; none may differ in a bit."""
    try:
        found = contradictions(root)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    if found:
        sys.exit("\n".join([*found, "Make these results again, or restore the records."]))
    print(f"{root / RECORDS}: all tables and figures follow")


if __name__ == "__main__":
    typer.run(main)
