"""Runs a comparison: chooses each method's learning rate, then trains every method on all seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from experiments.records import read_choices
from experiments.scheduler import Failure, Job, as_finished, last_lines, worker_pool
from upge.common.files import make_folder, write_json

#: Files of a comparison's folder: which runs and trials belong to it, and how learning rates were
#: chosen. The runs themselves lie beside the folder, shared by all comparisons.
COMPARISON, SELECTION = "comparison.json", "selection.json"

#: The folder of the trials that learning rates are chosen by.
TRIALS = "selection"


@dataclass
class Dashboard:
    """A live table in a terminal, lines elsewhere.

    Args:
        console: where it is shown.
        methods: rows of the table.
        total: steps of all runs.
        rates: chosen learning rates.
        jobs: the runs under way, done or waiting.
        done_before: steps of the trials, once they are over.
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
        """Show the dashboard while the context is open."""
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
        jobs = [job for job in self.jobs if job.config.name == method]
        finished = [result for job in jobs if (result := self._result(job)) is not None]
        active = [job for job in running if job.config.name == method]
        now = ", ".join(f"{_label(job)} {job.steps_done}/{job.config.steps}" for job in active)
        rate = self.rates.get(method)
        return [
            "" if rate is None else f"{rate:g}",
            f"{len(finished)}/{len(jobs)}" if jobs else "",
            now,
            _mean([value for job in active if (value := _validation(job)) is not None]),
            *(
                _mean([result[key] for result in finished if key in result])
                for key in ("in_distribution", "out_of_distribution")
            ),
        ]


#: Seconds between two drawings: reading the records takes time from training.
_REDRAW = 3.0


def _label(job: Job) -> str:
    """The seed of a run, or the rate of a trial."""
    trial = job.folder.path.parent.name == TRIALS
    return f"lr {job.config.stages[-1].lr:g}" if trial else f"seed {job.config.seed}"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f}" if values else ""


def _validation(job: Job) -> float | None:
    """The last validation accuracy among a run's latest records."""
    lines = last_lines(job.folder.metrics_path)
    return next((line["validation"] for line in reversed(lines) if "validation" in line), None)


def run_comparison(
    recipe: Recipe, folder: Path, seeds: int, methods: Sequence[str], console: Console
) -> list[Failure]:
    """Make all runs of a comparison that are missing.

    Args:
        recipe: what to compare.
        folder: of the comparison; run folders go beside it.
        seeds: runs a method.
        methods: which of the recipe's methods.
        console: where progress is shown.

    Returns:
        The runs that failed.
    """
    runs = folder.parent
    tuned = _tuned(recipe, methods)
    trials = len(tuned) * len(recipe.selection.rates) * (recipe.selection.steps or 0)
    total = trials + seeds * sum(map(recipe.steps_of, methods))
    dashboard = Dashboard(console, [BASE, *dict.fromkeys([*tuned, *methods])], total)
    with worker_pool(recipe.workers) as pool, dashboard.shown():

        def make(jobs: Sequence[Job]) -> Iterator[tuple[Job, Failure | None]]:
            return as_finished(jobs, pool, recipe.workers, dashboard.update)

        chosen, failures = choose_rates(recipe, folder, tuned, make, dashboard)
        dashboard.rates = _with_borrowed(recipe, chosen)
        jobs = [
            Job(recipe.config(method, seed, chosen), runs)
            for seed in range(seeds)
            for method in (BASE, *(m for m in methods if _rated(recipe, m, chosen)))
        ]
        dashboard.jobs = jobs
        _name_runs(recipe, folder, seeds)
        for job, failure in make(jobs):
            if failure is not None:
                failures.append(failure)
                dashboard.say(f"{job.folder.path.name} failed: {failure.reason}")
            elif not console.is_terminal:
                dashboard.say(_line(job))
    return failures


def _tuned(recipe: Recipe, methods: Sequence[str]) -> list[str]:
    """The methods that need trials: those that borrow no rate, and those they wait for."""
    needed = set(methods)
    for method in reversed(recipe.methods):  # a method waits for those above it alone
        needed |= recipe.waits_for(method) if method in needed else set()
    return [m for m in recipe.methods if m in needed and recipe.rate_of(m) == m]


def _rated(recipe: Recipe, method: str, chosen: Mapping[str, float]) -> bool:
    return {recipe.rate_of(method), *recipe.waits_for(method)} <= chosen.keys()


def _with_borrowed(recipe: Recipe, chosen: Mapping[str, float]) -> dict[str, float]:
    """The rate of every method that has one, borrowed or not."""
    rated = [m for m in recipe.methods if recipe.rate_of(m) in chosen]
    return {m: chosen[recipe.rate_of(m)] for m in rated}


def _name_runs(recipe: Recipe, folder: Path, seeds: int) -> None:
    """List the runs of the whole comparison, including methods that this call leaves out."""
    selection = read_choices(folder / SELECTION)
    rates = {m: entry["lr"] for m, entry in selection.items() if entry["lr"] is not None}
    known = [m for m in recipe.compared if _rated(recipe, m, rates)]
    names = [
        Job(recipe.config(method, seed, rates), folder.parent).folder.path.name
        for seed in range(seeds)
        for method in (BASE, *known)
    ]
    trials = [
        Job(recipe.trial(method, float(rate), rates), folder.parent).folder.path.name
        for method in _tuned(recipe, known)
        for rate in selection[method]["grid"]
        if recipe.selection.steps is not None
    ]
    write_json(folder / COMPARISON, {"runs": names, "trials": trials})


def _line(job: Job) -> str:
    result = job.folder.result or {}
    names = {"in_distribution": "in distribution", "out_of_distribution": "out"}
    parts = [f"{text} {result[key]:.3f}" for key, text in names.items() if key in result]
    return f"{job.folder.path.name}: {', '.join(parts)}"


def choose_rates(
    recipe: Recipe,
    folder: Path,
    methods: Sequence[str],
    make: Callable[[Sequence[Job]], Iterator[tuple[Job, Failure | None]]],
    dashboard: Dashboard,
) -> tuple[dict[str, float], list[Failure]]:
    """Each method's learning rate, by validation accuracy after its trial; the lower of equal ones.

    Args:
        recipe: what to compare.
        folder: of the comparison, where the choices are written.
        methods: those that need trials.
        make: makes runs, and yields each when it ends.
        dashboard: where progress is shown.

    Returns:
        Rates by method, without those whose trials all failed; and these trials.
    """
    rates, chosen = recipe.selection.rates, dict[str, float]()
    grids: dict[str, dict[float, float | None]] = {}
    failures: list[Failure] = []
    for method in methods if recipe.selection.steps is None else ():
        chosen[method], grids[method] = rates[0], {rates[0]: None}
    while waiting := [m for m in methods if m not in grids]:
        ready = [m for m in waiting if recipe.waits_for(m) <= grids.keys()]
        jobs = {
            (method, rate): Job(recipe.trial(method, rate, chosen), folder.parent / TRIALS)
            for method in ready
            if recipe.waits_for(method) <= chosen.keys()
            for rate in rates
        }
        dashboard.jobs = [*dashboard.jobs, *jobs.values()]
        failed = [failure for _, failure in make(list(jobs.values())) if failure is not None]
        for failure in failed:
            dashboard.say(f"trial {failure.job.folder.path.name} failed: {failure.reason}")
        for method in ready:
            trials = {rate: jobs[method, rate] for rate in rates if (method, rate) in jobs}
            grids[method] = {rate: _trial_accuracy(job) for rate, job in trials.items()}
            accuracy = {rate: x for rate, x in grids[method].items() if x is not None}
            if accuracy:
                chosen[method] = max(accuracy, key=lambda rate: (accuracy[rate], -rate))
            else:
                dashboard.say(
                    f"{method}: all trials failed, so it has no learning rate and no runs"
                )
                failures += [f for f in failed if f.job.config.name == method]
    dashboard.done_before = sum(job.steps_done for job in dashboard.jobs)
    dashboard.jobs = []
    record = {
        m: {"lr": chosen.get(m), "grid": {f"{rate:g}": x for rate, x in grids[m].items()}}
        for m in methods
    }
    borrowed = {
        m: {"lr": rate, "grid": {}, "of": recipe.rate_of(m)}
        for m, rate in _with_borrowed(recipe, chosen).items()
        if m in recipe.compared and m not in record
    }
    make_folder(folder)
    write_json(folder / SELECTION, read_choices(folder / SELECTION) | record | borrowed)
    return chosen, failures


def _trial_accuracy(job: Job) -> float | None:
    """Validation accuracy after the last step; None for a trial that failed."""
    if job.folder.result is None:
        return None
    return float(last_lines(job.folder.metrics_path)[-1]["validation"])
