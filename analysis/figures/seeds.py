"""How seeds differ: every training's average accuracy, method by method."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.accuracy.table import tested_suites
from analysis.methods import title
from analysis.run import Runs
from analysis.style import PAGE, look_of, panels, plain, style


def numbers(runs: Runs) -> pd.DataFrame:
    """``split, method, seed, accuracy``: of each training, mean over the suites of a split."""
    problems = runs.problems()
    if not len(problems):
        return pd.DataFrame(columns=["split", "method", "seed", "accuracy"])
    suites = problems.groupby(["method", "seed", "suite"], sort=False)["accuracy"].mean()
    frame = suites.reset_index()
    frame["split"] = frame["suite"].map(tested_suites(runs, problems))
    means = frame.groupby(["split", "method", "seed"], sort=False)["accuracy"].mean()
    return means.reset_index()


def figure(frame: pd.DataFrame) -> Figure:
    """A panel a split: a mark a training, a bar at each method's mean."""
    splits, methods = frame["split"].unique(), list(frame["method"].unique())
    colors = [look_of(method, i).color for i, method in enumerate(methods)]
    with style():
        drawn, grid = panels(1, len(splits), (PAGE, 0.5 + 0.17 * len(methods)), sharey=True)
        for axes, split in zip(grid[0], splits, strict=True):
            rows = frame[frame["split"] == split]
            data = {"data": rows, "x": "accuracy", "y": "method", "ax": axes, "order": methods}
            shared = {"hue": "method", "hue_order": methods, "palette": colors, "legend": False}
            sns.stripplot(**data, **shared, size=3.5, alpha=0.7, jitter=False)
            means = {"estimator": "mean", "errorbar": None, "marker": "|", "markersize": 9}
            sns.pointplot(**data, **shared, **means, linestyle="none")
            axes.set(title=plain(split), xlabel="accuracy", ylabel="")
            axes.set_yticks(range(len(methods)), [plain(title(m)) for m in methods])
            axes.tick_params(axis="y", length=0)
    return drawn
