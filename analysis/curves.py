"""Series over steps: means over seeds with their intervals, drawn method by method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.methods import title
from analysis.runs import Runs
from analysis.statistics import TAILS, seed_errors, student
from analysis.style import LOOKS, Look, save, series
from analysis.tables import csv_text, write

#: Bootstrap draws a point; a band needs fewer than a test.
_DRAWS = 4_000

#: Between which values a quantity lies, and so the band of its mean.
BOUNDS = {
    **dict.fromkeys(("validation", "reward", "offline_ratio"), (0.0, 1.0)),
    **dict.fromkeys(("entropy", "response_length"), (0.0, np.inf)),
}

#: Steps over which lines of what is measured at each step are moving means.
WINDOW = 20


def look_of(method: str, index: int) -> Look:
    """A method's look; one without gets the ``index``-th of those for other series."""
    return LOOKS.get(method, series(index))


def over_seeds(frame: pd.DataFrame, value: str, *beside: str) -> pd.DataFrame:
    """Means over seeds at each step, with 95 % intervals over seeds.

    Args:
        frame: ``method, seed, step`` and the columns named.
        value: the column to average.
        beside: columns of which just the means are wanted.

    Returns:
        ``method, step``, ``beside``, ``mean, low, high, seeds``, the interval cut at the value's
        :data:`BOUNDS`. Steps that some of a method's seeds lack are left out; for one seed ``low``
        and ``high`` are NaN.
    """
    parts = []
    for method, own in frame.groupby("method", sort=False):
        table = own.pivot(index="seed", columns="step", values=value).dropna(axis=1)
        means = own[own["step"].isin(table.columns)].groupby("step")[[value, *beside]].mean()
        errors = student(seed_errors(table.to_numpy(), str(method), _DRAWS), len(table) - 1)
        band = np.quantile(errors, TAILS, axis=0) + means[value].to_numpy()
        low, high = np.clip(band, *BOUNDS.get(value, (-np.inf, np.inf)))
        alone = len(table) == 1
        part = means.rename(columns={value: "mean"}).assign(
            low=np.nan if alone else low, high=np.nan if alone else high, seeds=len(table)
        )
        parts.append(part.reset_index().assign(method=method))
    names = ["method", "step", *beside, "mean", "low", "high", "seeds"]
    return pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)


def smoothed(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """With moving means over :data:`WINDOW` steps of each method and seed instead of a column."""
    frame = frame.sort_values(["seed", "step"])
    means = frame.groupby(["method", "seed"])[value].transform(
        lambda own: own.rolling(WINDOW, center=True, min_periods=min(WINDOW // 2, len(own))).mean()
    )
    return frame.assign(**{value: means})


def draw(axes: Axes, own: pd.DataFrame, x: str, look: Look, every: int = 1) -> None:
    """A method's line, with its band and a marker at every so many points."""
    line = {**look.line, "markevery": every, "markeredgewidth": 0}
    axes.plot(own[x], own["mean"], **line)
    axes.fill_between(own[x], own["low"], own["high"], color=look.color, alpha=0.15, linewidth=0)


def label_ends(
    axes: Axes, ends: Sequence[tuple[str, float, Look]], *, gap: float, reach: float = 0.1
) -> None:
    """Names at the right of the panel at the height where lines end, kept ``gap`` apart.

    Args:
        axes: the panel, its limits set.
        ends: name, last value and look of each line.
        gap: least distance, as a share of the panel's height.
        reach: distance of the names from the panel, as a share of its width.
    """
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    places = spread([(value - low) / (high - low) for _, value, _ in ordered], gap)
    for (name, value, look), place in zip(ordered, places, strict=True):
        axes.annotate(
            name,
            xy=(1.0, (value - low) / (high - low)),
            xytext=(1 + reach, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=look.color,
            fontsize=6,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": look.color,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 1,
            },
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as it takes to be ``gap`` apart, around their own middle."""
    clusters: list[list[float]] = []
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _top(clusters[-2], gap) + gap > _bottom(clusters[-1], gap):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_bottom(own, gap) + i * gap for own in clusters for i in range(len(own))]


def _bottom(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def _top(cluster: Sequence[float], gap: float) -> float:
    return _bottom(cluster, gap) + gap * (len(cluster) - 1)


def label(method: str) -> str:
    """A method's name beside its line: those of HPT without what they share."""
    return title(method).removeprefix("HPT, ")


def seed_count(frame: pd.DataFrame) -> str:
    """How many seeds the means are over."""
    counts = sorted(frame["seeds"].unique())
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"


def caption(figure: Figure, text: str) -> None:
    """What a reader has to know, below the panels."""
    figure.supxlabel(text, fontsize=5.5, color="#444444")


def write_series(
    figure: Figure | None, numbers: pd.DataFrame, runs: Runs, path: Path, *others: Runs
) -> list[Path]:
    """See :func:`write_numbers`; commits and seeds of all these runs go into the footer."""
    return write_numbers(figure, numbers, footer(runs, *others), path)


def write_numbers(
    figure: Figure | None, numbers: pd.DataFrame, foot: str, path: Path
) -> list[Path]:
    """Write a figure (.pdf, .png) with ``foot`` in its footer, and its numbers (.csv).

    Nothing is written where there is nothing to show.
    """
    if figure is None:
        return []
    table = write(path.with_suffix(".csv"), series_csv(numbers))
    return [*save(figure, path, foot), table]


def tell(written: Sequence[Path], needed: Sequence[tuple[Runs, Sequence[str]]]) -> None:
    """Print what was written, and what a figure lacks with the command that makes it.

    Args:
        written: files.
        needed: the methods that the figure shows of each comparison.
    """
    lacking = [
        f"missing: {runs.comparison} has no finished run of {method}; `{runs.command}` makes it"
        for runs, methods in needed
        for method in methods
        if method not in runs.methods
    ]
    print(*written, *lacking, sep="\n")
    if not written:
        print("nothing was drawn: the runs hold none of this figure's measurements")


def series_csv(numbers: pd.DataFrame) -> str:
    """The numbers of a figure as CSV, six digits each."""
    rows = (
        ["" if pd.isna(x) else _short(x) for x in row] for row in numbers.itertuples(index=False)
    )
    return csv_text(list(numbers.columns), rows)


def footer(*runs: Runs) -> str:
    """Commits, profile and seeds, short enough for the side of a figure."""
    commits = dict.fromkeys(commit for own in runs for commit in own.commits.split(", "))
    profiles = dict.fromkeys(f"{own.profile} profile" for own in runs)
    return " · ".join([short_commits(list(commits)), *profiles, _seeds(runs)])


def short_commits(commits: Sequence[str]) -> str:
    """The first of several commits, and how many more there are."""
    first, *others = commits
    return f"{first} and {len(others)} more" if others else first


def _seeds(runs: Sequence[Runs]) -> str:
    """The seeds of all; of comparisons that have different ones how many, in their order."""
    seeds = [own.all_seeds for own in runs]
    if all(own == seeds[0] for own in seeds):
        return f"seeds {', '.join(map(str, seeds[0]))}"
    return f"{', '.join(str(len(own)) for own in seeds)} seeds"


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
