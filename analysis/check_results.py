"""``python -m analysis.check_results``: do committed tables and figures follow from the records?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import typer

from analysis import (
    audit,
    figure1,
    figure2,
    figure3,
    figure4,
    figure6,
    figure8,
    learning_curves,
    offline_ratio,
    supply,
    table2,
    table3,
    table4,
    table5,
    table6,
    training_curves,
)
from analysis.curves import series_csv
from analysis.runs import Runs, load_runs
from upge.common.errors import UpgeError

#: The records, a folder a comparison, below the root of the repository.
RECORDS = Path("paper_tables/records/cpu")

Texts = Mapping[str, str | None]


def _tables(texts: Callable[..., Mapping[str, str]]) -> Callable[..., Texts]:
    return lambda *runs: {f"paper_tables/{name}": text for name, text in texts(*runs).items()}


def _figure(path: str, numbers: Callable[..., pd.DataFrame]) -> Callable[..., Texts]:
    def texts(*runs: Runs) -> Texts:
        frame = numbers(*runs)
        return {path: series_csv(frame) if len(frame) else None}

    return texts


class Result(NamedTuple):
    """What follows from some comparisons.

    Args:
        comparisons: their names.
        texts: of their runs: the text of each committed file by its path; None for a figure without
            numbers, which there should not be.
        load: what the texts are made of, from the folder of a comparison's records.
    """

    comparisons: Sequence[str]
    texts: Callable[..., Texts]
    load: Callable[[Path], Any] = load_runs


_TABLE3 = ["table3-weak", "table3-small"]
_SUPPLY = [f"supply-{supply}" for supply in ("30", "100", "300", "900", "levels", "families")]

RESULTS: Sequence[Result] = (
    Result([], _figure("figures/figure1.csv", figure1.numbers)),
    Result(["pass_at_k"], _figure("figures/figure2.csv", figure2.numbers), load=Path),
    Result(["table2"], _tables(table2.texts)),
    Result(_TABLE3, _tables(table3.texts)),
    Result(["table2"], _tables(table4.texts)),
    Result(["table2"], _figure("figures/table2/learning_curves.csv", learning_curves.numbers)),
    Result(["table2"], _figure("figures/table2/offline_ratio.csv", offline_ratio.numbers)),
    Result(["table2"], _figure("figures/figure5.csv", training_curves.figure5_numbers)),
    Result(["table2", *_TABLE3], _figure("figures/figure6.csv", figure6.numbers)),
    Result(["table2"], _figure("figures/figure7.csv", training_curves.figure7_numbers)),
    Result(["table5"], _tables(table5.texts)),
    Result(["table6"], _tables(table6.texts)),
    Result(["table6"], _figure("figures/figure8.csv", figure8.numbers)),
    Result(["figure3"], _figure("figures/figure3.csv", figure3.numbers)),
    Result(["figure3"], _figure("figures/figure4.csv", figure4.numbers)),
    Result(["audit"], _tables(audit.texts)),
    Result(["audit"], _figure("figures/audit.csv", audit.numbers)),
    Result(_SUPPLY, _tables(lambda *runs: supply.texts(runs))),
    Result(_SUPPLY, _figure("figures/supply.csv", lambda *runs: supply.numbers(runs))),
)


def rebuilt(records: Path) -> dict[str, str | None]:
    """The text of every committed file that follows from the records in a folder.

    Raises:
        UpgeError: records that are missing or damaged.
    """
    load = cache(lambda loads, name: loads(records / name))
    texts: dict[str, str | None] = {}
    for result in RESULTS:
        texts |= result.texts(*(load(result.load, name) for name in result.comparisons))
    return texts


def contradictions(root: Path) -> list[str]:
    """What is committed below ``root`` and does not follow from its records, a sentence each.

    Raises:
        UpgeError: records that are missing or damaged.
    """
    texts = rebuilt(root / RECORDS)
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
