"""What a comparison could have shown: the smallest differences that its seeds would detect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import pandas as pd

from analysis.statistics import AVERAGE, POWER, SIGNIFICANCE, Estimate
from analysis.tables import NONE, Section, escape
from analysis.wording import points

#: Stands for a detectable difference larger than any two accuracies can have.
NOWHERE = "none"

_HEADER = (
    "average",
    "pairs",
    "least",
    "median",
    "greatest",
    "median, of one pair alone",
    "distinguishable",
    "greatest difference that is not",
)

_NONE_NOTE = f"{NOWHERE}: no difference that two accuracies can have."
_NOTE = "`detectable` in the CSV file of comparisons has the value of each pair and suite."


def power(
    found: Mapping[tuple[str, ...], Estimate],
    pairs: pd.DataFrame,
    focus: Sequence[str],
    title: Callable[[str], str],
) -> list[Section]:
    """The detectable differences of averages; no section where nothing was compared.

    Args:
        found: estimates by method, suite and split.
        pairs: their comparisons, from :func:`analysis.statistics.comparisons`.
        focus: methods whose pairs get a line of their own.
        title: names of methods.
    """
    tested = pairs[(pairs["suite"] == AVERAGE) & pairs["p"].notna()]
    if not len(tested):
        return []
    averages = [key for key in found if key[1] == AVERAGE]
    alone = {
        (a[0], b[0], a[2]): (found[a] - found[b]).detectable()
        for a, b in combinations(averages, 2)
        if a[2] == b[2]
    }
    lines = []
    for split, rows in tested.groupby("split", sort=False):
        lines.append([f"{split}: all pairs", *_line(rows, alone)])
        for method in focus:
            part = rows[(rows["method"] == method) | (rows["other"] == method)]
            if 0 < len(part) < len(rows):
                name = escape(title(method).replace(",", ""))
                lines.append([f"{split}: {name} and others", *_line(part, alone)])
    notes = [_NONE_NOTE] if any(NOWHERE in line for line in lines) else []
    seeds = " or ".join(map(str, sorted({found[a].seeds for a in averages if found[a].seeds > 1})))
    before = (
        f"The true difference between two methods, in points, that {seeds} seeds per method detect "
        f"with a probability of {100 * POWER:g}%, at the {100 * SIGNIFICANCE:g}% level and paired "
        "on the same problems: least, median and greatest over pairs, after Holm's correction for "
        "all of them (its first and strictest threshold), and the median for one pair chosen "
        "beforehand. Smaller differences may well exist; they were not likely to show. The values "
        "follow from the measured spread and are as rough as that is."
    )
    return [Section("What these seeds could have shown", _HEADER, lines, before, [*notes, _NOTE])]


def _line(rows: pd.DataFrame, alone: Mapping[tuple[str, str, str], float]) -> list[str]:
    detectable = rows["detectable"]
    single = pd.Series([alone[r.method, r.other, r.split] for r in rows.itertuples()])
    hidden = rows.loc[~rows["distinguishable"], "difference"].abs()
    return [
        str(len(rows)),
        *map(detected, (detectable.min(), detectable.median(), detectable.max(), single.median())),
        str(rows["distinguishable"].sum()),
        points(hidden.max(), sign="") if len(hidden) else NONE,
    ]


def detected(value: float) -> str:
    """A detectable difference; a dash where no scores differ at all."""
    if value == 0:
        return NONE
    return points(value, sign="") if value < 1 else NOWHERE
