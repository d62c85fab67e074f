"""Runs a comparison: chooses each method's learning rate, then trains all methods on all seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
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
from experiments.scheduler import Failure, Job, Scheduler, last_line
from upge.training.records import write_json


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
    jobs: list[Job] = field(default_factory=list)
    done_before: int = 0

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
            console=self.console,
        )
        self._task = self._bar.add_task("all runs", total=self.total)
        with Live(console=self.console, refresh_per_second=2, transient=True) as self._live:
            yield

    def update(self, running: Sequence[Job]) -> None:
        """Read the records and draw."""
        done = sum(job.steps_done for job in self.jobs)
        self._bar.update(self._task, completed=self.done_before + done)
        table = Table("method", "lr", "seeds done", "running", "validation", "in distr.", "out")
        for method in self.methods:
            table.add_row(method, *self._cells(method, running))
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(self._bar)
        self._live.update(grid)

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, highlight=False, markup=False)

    def _cells(self, method: str, running: Sequence[Job]) -> list[str]:
        own = [job for job in self.jobs if job.config.name == method]
        finished = [result for job in own if (result := job.folder.result) is not None]
        live = [job for job in running if job.config.name == method]
        now = ", ".join(f"s{job.config.seed} {job.steps_done}/{job.config.steps}" for job in live)
        latest = [_latest_validation(job) for job in live or own]
        seen = [value for value in latest if not math.isnan(value)]
        rate = self.rates.get(method)
        return [
            "" if rate is None else f"{rate:g}",
            f"{len(finished)}/{len(own)}" if own else "",
            now,
            f"{sum(seen) / len(seen):.3f}" if seen else "",
            *(_mean_of(finished, key) for key in ("in_distribution", "out_of_distribution")),
        ]


def _mean_of(results: Sequence[Mapping[str, float]], key: str) -> str:
    values = [result[key] for result in results if key in result]
    return f"{sum(values) / len(values):.3f}" if values else ""


def _latest_validation(job: Job) -> float:
    lines = job.folder.metrics() if job.folder.result is None else job.folder.metrics()
    values = [line["validation"] for line in lines if "validation" in line]
    return float(values[-1]) if values else math.nan


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
    rates = recipe.selection.rates
    if recipe.selection.steps is None:
        chosen = dict.fromkeys(methods, rates[0])
        record = {m: {"lr": lr, "grid": {f"{lr:g}": None}} for m, lr in chosen.items()}
        runs.mkdir(parents=True, exist_ok=True)
        write_json(runs / "selection.json", record)
        return chosen
    chosen: dict[str, float] = {}
    grids: dict[str, dict[str, float | None]] = {}
    waiting = list(methods)
    while waiting:
        ready = [m for m in waiting if recipe.waits_for(m) <= chosen.keys()]
        jobs = {
            (method, rate): Job(recipe.trial(method, rate, chosen), runs / "selection")
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
    return float(last_line(job.folder.metrics_path)["validation"])
