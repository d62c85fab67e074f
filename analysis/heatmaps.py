"""Heatmaps of questions over epochs, with the mean over questions above: Figures 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from analysis.curves import caption, draw
from analysis.question_accuracy import QUESTION, question_accuracy
from analysis.runs import Runs
from analysis.statistics import Estimate, Scores, problem_errors
from analysis.style import PAGE, Look, style
from upge.common.errors import UpgeError

#: The levels that the paper shows.
LEVELS = (3, 5)

#: Stands for a question in rows with the mean over the level's questions.
MEAN = "mean"

_COLUMNS = ("level", "row", "question", "epoch", "mean", "low", "high", "seeds")


@dataclass(frozen=True)
class Level:
    """Accuracy on the questions of a level.

    Args:
        method: whose.
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


def levels(runs: Runs, method: str) -> list[Level]:
    """Accuracy of a method's runs at each of :data:`LEVELS` that has a whole epoch.

    Raises:
        UpgeError: seeds that were trained on different questions.
    """
    frames = [question_accuracy(run) for run in runs.of(method)]
    found = []
    for number in LEVELS:
        own = [frame[frame["level"] == number] for frame in frames]
        tables = [
            frame.pivot(index=list(QUESTION[1:]), columns="epoch", values="accuracy")
            for frame in own
        ]
        if any(not table.index.equals(tables[0].index) for table in tables):
            raise UpgeError(
                f"{runs.folder}: the seeds of {method} were trained on different questions; delete "
                f"its runs and make them again with `{runs.command}`"
            )
        epochs = min((table.shape[1] for table in tables), default=0)
        if epochs:
            stacked = np.stack([table.to_numpy()[:, :epochs] for table in tables])
            found.append(Level(method, number, tables[0].index, stacked))
    return found


def cells(
    level: Level, values: NDArray[np.float64], means: list[Estimate], order: NDArray[np.int64]
) -> pd.DataFrame:
    """A level's part of a figure's numbers: its questions in ``order``, and their mean.

    Args:
        level: names the questions.
        values: (P, E).
        means: E estimates over the questions.
        order: of the rows, from 1.
    """
    prompts = level.questions.get_level_values("prompt")
    nothing = float("nan")
    rows: list[tuple[object, ...]] = [
        (row, prompts[i], epoch, value, nothing, nothing)
        for row, i in enumerate(order, 1)
        for epoch, value in enumerate(values[i], 1)
    ]
    rows += [(0, MEAN, epoch, e.mean, *e.interval) for epoch, e in enumerate(means, 1)]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS[1:-1]))
    return frame.assign(level=level.number, seeds=means[0].seeds)[list(_COLUMNS)]


def stacked(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """The numbers of all levels; empty without any."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_COLUMNS))


@dataclass(frozen=True)
class Scale:
    """What colours and the line's axis mean.

    Args:
        low, high: the values at the ends.
        colours: a map of matplotlib's.
        label: the quantity.
    """

    low: float
    high: float
    colours: str
    label: str


def heatmaps(frame: pd.DataFrame, scale: Scale, line: Look, text: str) -> Figure:
    """A heatmap a level side by side; above each the mean over its questions."""
    numbers = frame["level"].unique()
    with style():
        drawn, panels = plt.subplots(
            2,
            len(numbers),
            figsize=(PAGE, 3.6),
            sharex="col",
            squeeze=False,
            height_ratios=(1, 3),
        )
        for axes in panels[0, 1:]:
            axes.sharey(panels[0, 0])
        for (above, below), level in zip(panels.T, numbers, strict=True):
            own = frame[frame["level"] == level]
            means = own[own["question"] == MEAN]
            _mean(above, means, scale, line)
            image = _map(below, own[own["question"] != MEAN], scale)
            above.set_title(f"level {level}", loc="left")
        panels[0, 0].set_ylabel("mean")
        panels[1, 0].set_ylabel("question")
        drawn.colorbar(image, ax=panels[1, :], label=scale.label, fraction=0.04, pad=0.01)
        caption(drawn, text)
    return drawn


def _mean(axes: Axes, means: pd.DataFrame, scale: Scale, look: Look) -> None:
    draw(axes, means, "epoch", look, every=max(len(means) // 8, 1))
    if scale.low < 0:
        axes.axhline(0, color="black", linewidth=0.6)
    else:
        axes.set_ylim(scale.low, scale.high)


def _map(axes: Axes, own: pd.DataFrame, scale: Scale) -> AxesImage:
    table = own.pivot(index="row", columns="epoch", values="mean")
    image = axes.imshow(
        table.to_numpy(),
        cmap=scale.colours,
        vmin=scale.low,
        vmax=scale.high,
        aspect="auto",
        interpolation="none",
        extent=(0.5, table.shape[1] + 0.5, len(table) + 0.5, 0.5),
    )
    axes.grid(False)
    axes.set_xlabel("epoch")
    return image
