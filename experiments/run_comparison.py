"""Runs a comparison: chooses each method's learning rate, then trains all methods on all seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments.comparison import BASE, Recipe
from experiments.scheduler import Failure, Job, Scheduler, last_lines
from upge.training.records import write_json

#: The file that names the run folders of the comparison last asked for, not those of older ones.
COMPARISON = "comparison.json"

#: The folder of the trials that learning rates are chosen by.
TRIALS = "selection"


@dataclass
class Board:
    """What a comparison shows while it runs: a live table in a terminal, lines elsewhere.

    Args:
        console: where to.
        methods: rows of the table.
        total: steps of all runs.
        rates: chosen learning rates.
    """

    console: Console
    methods: Sequence[str]
    total: int
    rates: Mapping[str, float] = field(default_factory=dict)
    jobs: Sequence[Job] = ()
    done_before: int = 0
    _results: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    _drawn: float = -math.inf

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._task = self._bar.add_task("all runs", total=self.total)
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield

    def update(self, running: Sequence[Job]) -> None:
        """Read the records and draw, every few seconds."""
        if not self.console.is_terminal or time.monotonic() - self._drawn < _REDRAW:
            return
        self._drawn = time.monotonic()
        done = sum(self._steps(job) for job in self.jobs)
        self._bar.update(self._task, completed=self.done_before + done)
        table = Table("method", "lr", "seeds", "running", "validation", "in distr.", "out")
        for method in self.methods:
            table.add_row(method, *self._cells(method, running))
        self._live.update(Group(table, self._bar), refresh=True)

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _result(self, job: Job) -> Mapping[str, Any] | None:
        path = job.folder.path
        if path not in self._results and (result := job.folder.result) is not None:
            self._results[path] = result
        return self._results.get(path)

    def _steps(self, job: Job) -> int:
        return job.config.steps if self._result(job) is not None else job.steps_done

    def _cells(self, method: str, running: Sequence[Job]) -> list[str]:
        own = [job for job in self.jobs if job.config.name == method]
        finished = [result for job in own if (result := self._result(job)) is not None]
        live = [job for job in running if job.config.name == method]
        now = ", ".join(f"{_label(job)} {job.steps_done}/{job.config.steps}" for job in live)
        rate = self.rates.get(method)
        return [
            "" if rate is None else f"{rate:g}",
            f"{len(finished)}/{len(own)}" if own else "",
            now,
            _mean([value for job in live if (value := _validation(job)) is not None]),
            *(
                _mean([result[key] for result in finished if key in result])
                for key in ("in_distribution", "out_of_distribution")
            ),
        ]


#: Seconds between two drawings of the board: reading the records costs time that training needs.
_REDRAW = 3.0


def _label(job: Job) -> str:
    """The run's seed, or for a trial the rate that it tries."""
    trial = job.folder.path.parent.name == TRIALS
    return f"lr {job.config.stages[-1].lr:g}" if trial else f"seed {job.config.seed}"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f}" if values else ""


def _validation(job: Job) -> float | None:
    """The last validation accuracy among a run's latest records."""
    lines = last_lines(job.folder.metrics_path)
    return next((line["validation"] for line in reversed(lines) if "validation" in line), None)


def run_comparison(
    recipe: Recipe, runs: Path, seeds: int, methods: Sequence[str], console: Console
) -> list[Failure]:
    """Make all runs of a comparison that are missing.

    Args:
        recipe: what to compare.
        runs: where the run folders go; ``selection.json`` stands beside them.
        seeds: runs a method.
        methods: which of the recipe's.
        console: where progress is shown.

    Returns:
        The runs that failed.
    """
    needed = list(dict.fromkeys([*(m for n in methods for m in recipe.waits_for(n)), *methods]))
    trials = recipe.selection.steps or 0
    total = len(needed) * len(recipe.selection.rates) * trials + len(methods) * seeds * recipe.steps
    board = Board(console, [BASE, *needed], total)
    failures: list[Failure] = []
    with Scheduler(tick=board.update) as scheduler, board.shown():
        rates = choose_rates(recipe, runs, needed, scheduler, board)
        board.rates = rates
        jobs = [
            Job(recipe.config(method, seed, rates), runs)
            for seed in range(seeds)
            for method in (BASE, *methods)
        ]
        board.jobs = jobs
        write_json(runs / COMPARISON, {"runs": [job.folder.path.name for job in jobs]})
        for job, failure in scheduler.as_finished(jobs):
            if failure is not None:
                failures.append(failure)
                board.say(f"{job.folder.path.name} failed: {failure.reason}")
            elif not console.is_terminal:
                board.say(_line(job))
    return failures


def _line(job: Job) -> str:
    result = job.folder.result or {}
    names = {"in_distribution": "in distribution", "out_of_distribution": "out"}
    parts = [f"{text} {result[key]:.3f}" for key, text in names.items() if key in result]
    return f"{job.folder.path.name}: {', '.join(parts)}"


def choose_rates(
    recipe: Recipe, runs: Path, methods: Sequence[str], scheduler: Scheduler, board: Board
) -> dict[str, float]:
    """Each method's learning rate: the one with the best validation accuracy after its trial."""
    rates, chosen = recipe.selection.rates, dict[str, float]()
    if recipe.selection.steps is None:
        chosen = dict.fromkeys(methods, rates[0])
        record = {m: {"lr": lr, "grid": {f"{lr:g}": None}} for m, lr in chosen.items()}
        runs.mkdir(parents=True, exist_ok=True)
        write_json(runs / "selection.json", record)
        return chosen
    grids: dict[str, dict[str, float | None]] = {}
    waiting = list(methods)
    while waiting:
        ready = [m for m in waiting if recipe.waits_for(m) <= chosen.keys()]
        jobs = {
            (method, rate): Job(recipe.trial(method, rate, chosen), runs / TRIALS)
            for method in ready
            for rate in rates
        }
        board.jobs = [*board.jobs, *jobs.values()]
        for job, failure in scheduler.as_finished(list(jobs.values())):
            if failure is not None:
                board.say(f"trial {job.folder.path.name} failed: {failure.reason}")
        for method in ready:
            grid = {rate: _trial_accuracy(jobs[method, rate]) for rate in rates}
            chosen[method] = max(rates, key=lambda rate: (grid[rate], -rate))
            grids[method] = {
                f"{rate:g}": None if math.isinf(value) else value for rate, value in grid.items()
            }
        waiting = [m for m in waiting if m not in chosen]
    board.done_before = sum(job.steps_done for job in board.jobs)
    board.jobs = []
    record = {m: {"lr": chosen[m], "grid": grids[m]} for m in methods}
    write_json(runs / "selection.json", record)
    return chosen


def _trial_accuracy(job: Job) -> float:
    """Validation accuracy after the last step; −∞ for a trial that failed."""
    if job.folder.result is None:
        return -math.inf
    return float(last_lines(job.folder.metrics_path)[-1]["validation"])
