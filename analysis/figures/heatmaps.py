"""Figures 3 and 4: heatmaps of questions over epochs, with the mean over questions above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.question_accuracy import QUESTION, question_accuracy
from analysis.run import Runs
from analysis.statistics import Estimate, Scores, problem_errors
from analysis.style import PAGE, Look, look, panels, style
from upge.common.errors import UpgeError

#: The pipeline that the paper shows, in its second stage; HPT as this package runs it.
PIPELINE, HPT = "sft_grpo", "hpt_global_token"

#: The levels that the paper shows.
LEVELS = (3, 5)

#: Stands for a question in rows with the mean over the level's questions.
MEAN = "mean"

COLUMNS = ("level", "row", "question", "epoch", "mean", "low", "high", "seeds")


@dataclass(frozen=True)
class Level:
    """Accuracy on the training questions of a level.

    Args:
        method: the method trained.
        number: the level.
        questions: (P,) rows of family and prompt, in the order of the data set.
        accuracy: (S, P, E), by seed, question and epoch.
    """

    method: str
    number: int
    questions: pd.MultiIndex
    accuracy: NDArray[np.float64]

    @property
    def means(self) -> list[Estimate]:
        """Over questions, at each epoch."""
        families = list(self.questions.get_level_values("family"))
        by_question = self.accuracy.mean(0).T
        errors = problem_errors(by_question, families, f"level {self.number}")
        return [
            Scores(self.accuracy[:, :, e].mean(1), errors[:, e], len(families)).estimate(
                self.method
            )
            for e in range(len(by_question))
        ]

    @property
    def order(self) -> NDArray[np.int64]:
        """Questions from the most to the least often solved, over all epochs."""
        return np.argsort(-self.accuracy.mean((0, 2)), kind="stable")


def accuracy(runs: Runs) -> pd.DataFrame:
    """Figure 3's :data:`COLUMNS`: the pipeline's accuracy, the most often solved question first.

    Rows whose question is ``mean`` have the mean over a level's questions, with its interval.
    """
    parts = [
        _cells(level, level.accuracy.mean(0), level.means, level.order)
        for level in _levels(runs, PIPELINE)
    ]
    frame = _stacked(parts)
    frame[["low", "high"]] = frame[["low", "high"]].clip(0, 1)
    return frame


def lead(runs: Runs) -> pd.DataFrame:
    """Figure 4's :data:`COLUMNS`: HPT's accuracy minus the pipeline's, in Figure 3's order.

    Raises:
        UpgeError: methods that were trained on different questions.
    """
    others = {level.number: level for level in _levels(runs, PIPELINE)}
    levels = [level for level in _levels(runs, HPT) if level.number in others]
    return _stacked([_lead(level, others[level.number], runs) for level in levels])


def _lead(level: Level, other: Level, runs: Runs) -> pd.DataFrame:
    if not level.questions.equals(other.questions):
        raise UpgeError(
            f"{runs.folder}: {level.method} and {other.method} were trained on different "
            f"questions; delete the runs of one and make them again with `{runs.command}`"
        )
    epochs = min(level.accuracy.shape[2], other.accuracy.shape[2])
    difference = level.accuracy.mean(0)[:, :epochs] - other.accuracy.mean(0)[:, :epochs]
    means = [a - b for a, b in zip(level.means, other.means, strict=False)]
    return _cells(level, difference, means, other.order)


def _levels(runs: Runs, method: str) -> list[Level]:
    """Accuracy of a method's runs at each of :data:`LEVELS` that has a whole epoch."""
    frames = [question_accuracy(run) for run in runs.of(method)]
    levels = []
    for number in LEVELS:
        tables = [
            frame[frame["level"] == number].pivot(
                index=list(QUESTION[1:]), columns="epoch", values="accuracy"
            )
            for frame in frames
        ]
        if any(not table.index.equals(tables[0].index) for table in tables):
            raise UpgeError(
                f"{runs.folder}: the seeds of {method} were trained on different questions; delete "
                f"its runs and make them again with `{runs.command}`"
            )
        if epochs := min((table.shape[1] for table in tables), default=0):
            by_seed = np.stack([table.to_numpy()[:, :epochs] for table in tables])
            levels.append(Level(method, number, tables[0].index, by_seed))
    return levels


def _cells(
    level: Level,
    values: NDArray[np.float64],
    means: Sequence[Estimate],
    order: NDArray[np.int64],
) -> pd.DataFrame:
    """A level's rows: its questions in ``order``, with values (P, E), and their means."""
    prompts = level.questions.get_level_values("prompt")
    nothing = float("nan")
    rows: list[tuple[object, ...]] = [
        (row, prompts[i], epoch, value, nothing, nothing)
        for row, i in enumerate(order, 1)
        for epoch, value in enumerate(values[i], 1)
    ]
    rows += [(0, MEAN, epoch, e.mean, *e.interval) for epoch, e in enumerate(means, 1)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS[1:-1]))
    return frame.assign(level=level.number, seeds=means[0].seeds)[list(COLUMNS)]


def _stacked(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


# ---------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class Heatmaps:
    """A heatmap for each level; above each the mean over its questions.

    Args:
        method: whose look the line of the mean has.
        low, high: the values at the ends of the scale.
        colors: a colormap's name.
        label: of the scale.
    """

    method: str
    low: float
    high: float
    colors: str
    label: str

    def __call__(self, frame: pd.DataFrame) -> Figure:
        """Draw the numbers."""
        levels = frame["level"].unique()
        with style():
            figure, grid = panels(2, len(levels), (PAGE, 3.5), height_ratios=(1, 3))
            for (above, below), level in zip(grid.T, levels, strict=True):
                rows = frame[frame["level"] == level]
                means = rows["question"] == MEAN
                self._mean(above, rows[means], look(self.method))
                table = rows[~means].pivot(index="row", columns="epoch", values="mean")
                scale = {"cmap": self.colors, "vmin": self.low, "vmax": self.high}
                sns.heatmap(table, ax=below, cbar=False, **scale)
                _number(below, *table.shape)
                above.set_title(f"level {level}", loc="left")
            for axes in grid[0, 1:]:
                axes.sharey(grid[0, 0])
            grid[0, 0].set_ylabel("mean")
            grid[1, 0].set_ylabel("question")
            cells = grid[1, -1].collections[0]
            figure.colorbar(cells, ax=grid[1, :], label=self.label, fraction=0.04, pad=0.01)
        return figure

    def _mean(self, axes: Axes, means: pd.DataFrame, look: Look) -> None:
        axes.plot(means["epoch"] - 0.5, means["mean"], color=look.color)
        band = (means["epoch"] - 0.5, means["low"], means["high"])
        axes.fill_between(*band, color=look.color, alpha=0.2, linewidth=0)
        axes.set(xlim=(0, len(means)), xticks=[])
        if self.low < 0:
            axes.axhline(0, color="black", linewidth=0.6)
        else:
            axes.set_ylim(self.low, self.high)


def _number(axes: Axes, questions: int, epochs: int) -> None:
    """The first and every tenth question and epoch, at the middle of their cells."""
    for count, set_ticks in ((questions, axes.set_yticks), (epochs, axes.set_xticks)):
        ticks = [1, *range(10, count + 1, 10)]
        set_ticks([tick - 0.5 for tick in ticks], map(str, ticks), rotation=0)
    axes.tick_params(length=0)
    axes.set(xlabel="epoch", ylabel="")
