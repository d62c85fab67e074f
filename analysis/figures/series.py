"""Series over steps: means over seeds with their intervals, and moving means."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.methods import ordered
from analysis.run import Runs
from analysis.statistics import TAILS, seed_errors, student

#: Bootstrap draws a point; a band needs fewer than a test.
_DRAWS = 4_000

#: Between which values a quantity lies, and so the band of its mean.
_BOUNDS = {
    **dict.fromkeys(("validation", "reward", "offline_ratio"), (0.0, 1.0)),
    **dict.fromkeys(("entropy", "response_length"), (0.0, np.inf)),
}

#: Steps of a moving mean.
WINDOW = 20


def over_seeds(frame: pd.DataFrame, value: str, *beside: str) -> pd.DataFrame:
    """Means over seeds at each step, with 95% intervals over seeds.

    Args:
        frame: ``method, seed, step`` and the named columns.
        value: the column to average.
        beside: columns of which only the means are wanted.

    Returns:
        ``method, step``, ``beside``, ``mean, low, high, seeds``, the interval within the bounds of
        the quantity. Steps that some of a method's seeds lack are left out; for one seed ``low``
        and ``high`` are NaN.
    """
    parts = []
    for method, rows in frame.groupby("method", sort=False) if len(frame) else ():
        table = rows.pivot(index="seed", columns="step", values=value).dropna(axis=1)
        means = rows[rows["step"].isin(table.columns)].groupby("step")[[value, *beside]].mean()
        errors = student(seed_errors(table.to_numpy(), str(method), _DRAWS), len(table) - 1)
        band = np.quantile(errors, TAILS, axis=0) + means[value].to_numpy()
        low, high = np.clip(band, *_BOUNDS.get(value, (-np.inf, np.inf)))
        alone = len(table) == 1
        part = means.rename(columns={value: "mean"}).assign(
            low=np.nan if alone else low, high=np.nan if alone else high, seeds=len(table)
        )
        parts.append(part.reset_index().assign(method=method))
    names = ["method", "step", *beside, "mean", "low", "high", "seeds"]
    return pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)


def smoothed(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """With a column replaced by its moving means over :data:`WINDOW` steps of a method and seed."""
    frame = frame.sort_values(["seed", "step"])
    means = frame.groupby(["method", "seed"])[value].transform(
        lambda x: x.rolling(WINDOW, center=True, min_periods=min(WINDOW // 2, len(x))).mean()
    )
    return frame.assign(**{value: means})


def moving_means(runs: Runs, quantity: str, methods: Iterable[str], every: int = 1) -> pd.DataFrame:
    """``method, step, mean, low, high, seeds`` of moving means, at every so many steps."""
    metrics = runs.metrics()
    if quantity not in metrics:
        return over_seeds(pd.DataFrame(), quantity)
    rows = pd.concat([metrics[metrics["method"] == method] for method in methods])
    means = smoothed(rows, quantity).dropna(subset=quantity) if len(rows) else rows
    return over_seeds(means[means["step"] % every == 0], quantity)


def validation_curves(runs: Runs) -> pd.DataFrame:
    """``method, step, flops, mean, low, high, seeds`` at each validation.

    ``flops`` are those of sampling and training up to the step, mean over seeds.
    """
    metrics = runs.metrics()
    if "validation" not in metrics:
        return over_seeds(pd.DataFrame(), "validation", "flops")
    metrics = metrics.sort_values(["method", "seed", "step"])
    metrics["flops"] = metrics.groupby(["method", "seed"])["flops"].cumsum()
    validated = metrics.dropna(subset="validation")
    parts = [validated[validated["method"] == m] for m in ordered(validated["method"])]
    return over_seeds(pd.concat(parts), "validation", "flops")


def seed_count(frame: pd.DataFrame) -> str:
    """How many seeds the means are over."""
    counts = sorted(frame["seeds"].unique())
    return f"{' or '.join(map(str, counts))} seed{'' if counts == [1] else 's'}"
