"""What a comparison could have shown: the least differences that its seeds would tell from none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import pandas as pd

from analysis.statistics import AVERAGE, POWER, SIGNIFICANCE, Estimate
from analysis.tables import NONE, Section
from analysis.wording import points

#: What no two accuracies can show.
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
_NOTE = "`detectable` in the CSV of comparisons gives it for each pair and suite."


def power(
    found: Mapping[tuple[str, ...], Estimate],
    pairs: pd.DataFrame,
    focus: Sequence[str],
    title: Callable[[str], str],
) -> Section | None:
    """The detectable differences of averages; None where nothing was compared.

    Args:
        found: estimates by method, suite and split.
        pairs: their comparisons, as :func:`analysis.statistics.comparisons` gives them.
        focus: methods whose own pairs get a line.
        title: names of methods.
    """
    tested = pairs[(pairs["suite"] == AVERAGE) & pairs["p"].notna()]
    if not len(tested):
        return None
    alone = _alone(found)
    lines = []
    for split, own in tested.groupby("split", sort=False):
        lines.append([f"{split}: all pairs", *_line(own, alone)])
        for method in focus:
            part = own[(own["method"] == method) | (own["other"] == method)]
            if 0 < len(part) < len(own):
                name = title(method).replace(",", "")
                lines.append([f"{split}: {name} and others", *_line(part, alone)])
    notes = [_NONE_NOTE] if any(NOWHERE in line for line in lines) else []
    heading, before = "What these seeds could have shown", _before(found)
    return Section(heading, _HEADER, lines, before, [*notes, _NOTE])


def _before(found: Mapping[tuple[str, ...], Estimate]) -> str:
    counts = sorted({e.seeds for key, e in found.items() if key[1] == AVERAGE and e.seeds > 1})
    seeds = " or ".join(map(str, counts))
    return (
        f"Points by which the true means of two methods must differ for {seeds} seeds a method to "
        f"show it with a probability of {100 * POWER:g} %, at the "
        f"{100 * SIGNIFICANCE:g} % level, paired on the same problems: least, median and greatest "
        "over pairs, after Holm's correction for all pairs (its first threshold, the strictest), "
        "and of one pair that had been chosen beforehand. Smaller differences may well exist, and "
        "were not to be expected to show. All of it follows from the measured spread, and is as "
        "rough as that."
    )


def _alone(found: Mapping[tuple[str, ...], Estimate]) -> dict[tuple[str, str, str], float]:
    """What was detectable of each pair of averages, had no other been tested."""
    averages = [key for key in found if key[1] == AVERAGE]
    return {
        (a[0], b[0], a[2]): (found[a] - found[b]).detectable()
        for a, b in combinations(averages, 2)
        if a[2] == b[2]
    }


def _line(own: pd.DataFrame, alone: Mapping[tuple[str, str, str], float]) -> list[str]:
    detectable = own["detectable"]
    single = pd.Series([alone[r.method, r.other, r.split] for r in own.itertuples()])
    hidden = own.loc[~own["distinguishable"], "difference"].abs()
    return [
        str(len(own)),
        *map(detected, (detectable.min(), detectable.median(), detectable.max(), single.median())),
        str(own["distinguishable"].sum()),
        points(hidden.max(), sign="") if len(hidden) else NONE,
    ]


def detected(value: float) -> str:
    """A detectable difference: none of more than 100 points, nor where no scores differ at all."""
    if value == 0:
        return NONE
    return points(value, sign="") if value < 1 else NOWHERE
