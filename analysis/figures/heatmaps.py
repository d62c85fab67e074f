"""Figures 3 and 4: heatmaps of questions over epochs, with the mean over questions above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.run import Run, Runs
from analysis.statistics import Array, Estimate, Scores, problem_errors
from analysis.style import PAGE, Look, look, panels, style
from upge.common.config import build
from upge.common.errors import UpgeError
from upge.rollouts import derive_seed
from upge.training.config import RunConfig
from upge.training.data import load_dataset
from upge.training.experience import question_order

#: The pipeline that the paper shows, in its second stage; HPT as this package runs it.
PIPELINE, HPT = "sft_grpo", "hpt_global_token"

#: The levels that the paper shows.
LEVELS = (3, 5)

#: Stands for a question in rows with the mean over the level's questions.
MEAN = "mean"

COLUMNS = ("level", "row", "question", "epoch", "mean", "low", "high", "seeds")


# --------------------------------------------------------------------------- accuracy of questions


def question_accuracy(run: Run) -> pd.DataFrame:
    """``level, family, prompt, epoch, accuracy`` in the last stage that samples rollouts.

    Epochs count from 1 at the stage's start; unfinished ones are left out. Records know a step's
    questions by their places in it; the seed determines which questions these are.
    """
    config = build({key: value for key, value in run.config.items() if key != "key"}, RunConfig)
    problems = load_dataset(config).train
    rows = [
        (problems[i].level, problems[i].family, problems[i].prompt, epoch, share)
        for i, epoch, share in _asked(run, config, len(problems))
    ]
    frame = pd.DataFrame(rows, columns=["level", "family", "prompt", "epoch", "accuracy"])
    whole = frame.groupby("epoch")["accuracy"].transform("size") == len(problems)
    return frame[whole].reset_index(drop=True)


def _asked(run: Run, config: RunConfig, count: int) -> Iterator[tuple[int, int, float]]:
    """Index, epoch and share of correct rollouts of each question of each step."""
    sampling = [i for i, stage in enumerate(config.stages) if stage.samples_rollouts]
    if not sampling or "solved" not in run.steps:
        return
    number = sampling[-1]
    stage, before = config.stages[number], sum(s.steps for s in config.stages[:number])
    seed = derive_seed(config.seed, number, "order")
    for line in run.steps[run.steps["stage"] == number].itertuples():
        step = line.step - before - 1
        order = question_order(count, stage.prompts_per_step, step, seed)
        for slot, (question, share) in enumerate(zip(order, line.solved, strict=True)):
            yield question, (step * stage.prompts_per_step + slot) // count + 1, float(share)


def _tables(runs: Runs, method: str) -> dict[int, list[pd.DataFrame]]:
    """Accuracy by question (family, prompt) and epoch, a table a seed, of each level."""
    frames = [question_accuracy(run) for run in runs.of(method)]
    levels = {}
    for level in LEVELS:
        tables = [
            frame[frame["level"] == level].pivot(
                index=["family", "prompt"], columns="epoch", values="accuracy"
            )
            for frame in frames
        ]
        if any(not table.index.equals(tables[0].index) for table in tables):
            raise UpgeError(
                f"{runs.folder}: the seeds of {method} were trained on different questions; delete "
                f"its runs and make them again with `{runs.command}`"
            )
        if epochs := min((table.shape[1] for table in tables), default=0):
            levels[level] = [table.iloc[:, :epochs] for table in tables]
    return levels


def _means(method: str, level: int, tables: Sequence[pd.DataFrame]) -> list[Estimate]:
    """Over questions, at each epoch."""
    accuracy = np.stack([table.to_numpy() for table in tables])  # (S, P, E)
    families = list(tables[0].index.get_level_values("family"))
    errors = problem_errors(accuracy.mean(0).T, families, f"level {level}")
    return [
        Scores(accuracy[:, :, e].mean(1), errors[:, e], len(families)).estimate(method)
        for e in range(accuracy.shape[2])
    ]


def accuracy(runs: Runs) -> pd.DataFrame:
    """Figure 3's :data:`COLUMNS`: the pipeline's accuracy, the most often solved question first.

    Rows whose question is ``mean`` have the mean over a level's questions, with its interval.
    """
    parts = []
    for level, tables in _tables(runs, PIPELINE).items():
        values = _over_seeds(tables)
        parts.append(_rows(level, tables, values, _means(PIPELINE, level, tables), _order(values)))
    frame = _stacked(parts)
    frame[["low", "high"]] = frame[["low", "high"]].clip(0, 1)
    return frame


def lead(runs: Runs) -> pd.DataFrame:
    """Figure 4's :data:`COLUMNS`: HPT's accuracy minus the pipeline's, in Figure 3's order.

    Raises:
        UpgeError: methods that were trained on different questions.
    """
    parts, others = [], _tables(runs, PIPELINE)
    for level, tables in _tables(runs, HPT).items():
        if level not in others:
            continue
        if not tables[0].index.equals(others[level][0].index):
            raise UpgeError(
                f"{runs.folder}: {HPT} and {PIPELINE} were trained on different questions; delete "
                f"the runs of one and make them again with `{runs.command}`"
            )
        ours, theirs = _over_seeds(tables), _over_seeds(others[level])
        epochs = min(ours.shape[1], theirs.shape[1])
        pairs = zip(
            _means(HPT, level, tables), _means(PIPELINE, level, others[level]), strict=False
        )
        means = [a - b for a, b in pairs]
        values = ours[:, :epochs] - theirs[:, :epochs]
        parts.append(_rows(level, tables, values, means, _order(theirs)))
    return _stacked(parts)


def _over_seeds(tables: Sequence[pd.DataFrame]) -> Array:
    """Means over seeds, (P, E)."""
    return np.asarray(np.stack([table.to_numpy() for table in tables]).mean(0))


def _order(values: Array) -> list[int]:
    """Questions from the most to the least often solved, over all epochs."""
    return list(np.argsort(-values.mean(1), kind="stable"))


def _rows(
    level: int,
    tables: Sequence[pd.DataFrame],
    values: Array,
    means: Sequence[Estimate],
    order: Sequence[int],
) -> pd.DataFrame:
    """A level's rows: values (P, E) of its questions in an order, and their means."""
    prompts = tables[0].index.get_level_values("prompt")
    nothing = float("nan")
    rows: list[tuple[object, ...]] = [
        (level, row, prompts[i], epoch, value, nothing, nothing)
        for row, i in enumerate(order, 1)
        for epoch, value in enumerate(values[i], 1)
    ]
    rows += [(level, 0, MEAN, epoch, e.mean, *e.interval) for epoch, e in enumerate(means, 1)]
    return pd.DataFrame(rows, columns=list(COLUMNS[:-1])).assign(seeds=means[0].seeds)


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
