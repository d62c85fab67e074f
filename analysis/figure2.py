"""Figure 2: ``python -m analysis.figure2 COUNTS`` draws pass@k, from the record of counts.

pass@k of a problem is estimated without bias from all of its samples
(:func:`upge.evaluation.metrics.pass_at_k_of_counts`), of a suite it is the mean over problems. Its
interval is Table 2's: problems are resampled within levels, seeds where there are several.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.curves import caption, draw, look_of, seed_count, short_commits, write_numbers
from analysis.methods import ordered, title
from analysis.statistics import Scores, problem_errors, within
from analysis.style import PAGE, style
from experiments.pass_at_k.record import PROVENANCE, read_counts
from experiments.records import read_record
from upge.common.errors import UpgeError
from upge.evaluation.metrics import pass_at_k_of_counts, powers_of_two


def numbers(folder: Path) -> pd.DataFrame:
    """``suite, method, k, mean, low, high, seeds, problems, samples``, for k = 1, 2, 4 … n/2.

    At k = n a single draw is left, which is no estimate but what came out.

    Raises:
        UpgeError: no record, or one of methods that answered different problems.
    """
    counts = read_counts(folder)
    return pd.concat([_suite(str(name), own) for name, own in counts.groupby("suite")])


def _suite(suite: str, counts: pd.DataFrame) -> pd.DataFrame:
    methods, samples = ordered(counts["method"]), int(counts["samples"].iloc[0])
    tables = [_table(counts[counts["method"] == method], suite) for method in methods]
    if any(not table.columns.equals(tables[0].columns) for table in tables):
        raise UpgeError(
            f"{suite}: its methods were asked different problems; delete the record of counts and "
            "run `make pass-at-k`"
        )
    ks = powers_of_two(samples)[:-1] or [1]
    chances = [_chances(table, samples, ks) for table in tables]
    levels = list(tables[0].columns.get_level_values("level"))
    by_problem = np.concatenate([own.mean(0).T for own in chances])  # (M·K, P)
    errors = iter(problem_errors(by_problem, levels, suite).T)
    rows = []
    for method, own in zip(methods, chances, strict=True):
        for i, k in enumerate(ks):
            scores = Scores(own[:, :, i].mean(1), next(errors), len(levels))
            found = scores.estimate(method)
            rows.append((method, k, found.mean, *within(found.interval), found.seeds))
    frame = pd.DataFrame(rows, columns=["method", "k", "mean", "low", "high", "seeds"])
    frame.insert(0, "suite", suite)
    return frame.assign(problems=len(levels), samples=samples)


def _table(counts: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Right answers, seeds by problems (level, prompt)."""
    table = counts.pivot(index="seed", columns=["level", "prompt"], values="right").sort_index(
        axis=1
    )
    if table.isna().any(axis=None):
        raise UpgeError(
            f"{suite}: the seeds of {counts['method'].iloc[0]} were asked different problems; "
            "delete the record of counts and run `make pass-at-k`"
        )
    return table.astype(int)


def _chances(table: pd.DataFrame, samples: int, ks: list[int]) -> np.ndarray:
    """pass@k, (S, P, K)."""
    right = torch.tensor(table.to_numpy())
    return pass_at_k_of_counts(right.flatten(), samples, ks).view(*right.shape, len(ks)).numpy()


def figure(frame: pd.DataFrame) -> Figure:
    """A panel a suite, side by side."""
    suites = frame["suite"].unique()
    with style():
        drawn, panels = plt.subplots(
            1, len(suites), figsize=(PAGE, 2.7), sharey=True, squeeze=False
        )
        for axes, suite in zip(panels[0], suites, strict=True):
            _panel(axes, frame[frame["suite"] == suite])
            axes.set_title(suite, loc="left")
        panels[0, 0].set_ylabel("pass@k")
        panels[0, 0].set_ylim(0, 1.01)
        handles, names = panels[0, 0].get_legend_handles_labels()
        drawn.legend(handles, names, ncols=len(names), loc="outside upper center")
        caption(drawn, _text(frame))
    return drawn


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    for i, (method, own) in enumerate(frame.groupby("method", sort=False)):
        draw(axes, own, "k", look_of(str(method), i))
        axes.lines[-1].set_label(title(str(method)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("k")
    axes.margins(x=0)


def _text(frame: pd.DataFrame) -> str:
    problems, samples = frame["problems"].max(), frame["samples"].iloc[0]
    return (
        f"Estimated without bias from {samples:,} samples to each of {problems} problems a suite; "
        f"{seed_count(frame)}. Bands: 95 % intervals over problems\n(and seeds, where there are "
        "several); methods answer the same problems, so that differences are surer than bands look."
    )


def footer(folder: Path, frame: pd.DataFrame) -> str:
    """Commits of the sampling, profile and seeds."""
    starts = read_record(folder / PROVENANCE).get("starts", [])
    commits = [start.get("commit", "not recorded") for start in starts] or ["not recorded"]
    profile = folder.resolve().parent.name
    return (
        f"{short_commits(list(dict.fromkeys(commits)))} · {profile} profile · {seed_count(frame)}"
    )


def write_figure(folder: Path, out: Path) -> list[Path]:
    """Write ``figure2`` (.pdf, .png, .csv) of the counts in ``folder``."""
    frame = numbers(folder)
    return write_numbers(figure(frame), frame, footer(folder, frame), out / "figure2")


def main(
    counts: Annotated[Path, typer.Argument(help="The record that experiments.pass_at_k wrote.")],
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Draw pass@k of what was sampled."""
    try:
        for path in write_figure(counts, out):
            print(path)
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
