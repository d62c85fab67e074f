"""The runs of a comparison as frames: what finished, what is missing, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.methods import ordered
from analysis.records import is_recorded, read_records
from analysis.run import PROBLEM, Run, Trial, Unfinished
from analysis.run_folders import read_folders
from upge.common.errors import UpgeError

#: What all runs of a comparison share, whatever the method.
_SHARED = ("model", "data", "evaluation", "max_tokens")


@dataclass(frozen=True)
class Runs:
    """The runs of a comparison.

    Args:
        finished: runs with a result.
        unfinished: folders of runs without one; method and seed of each, where known.
        selection: how each method's learning rate was chosen; empty if not recorded.
        trials: the runs that it was chosen by.
        folder: of the comparison or its records: its name, within its profile's.
    """

    finished: Sequence[Run]
    unfinished: Unfinished
    selection: Mapping[str, Mapping[str, Any]]
    trials: Sequence[Trial]
    folder: Path

    @property
    def comparison(self) -> str:
        """What was compared, as ``table2``."""
        return self.folder.resolve().name

    @property
    def profile(self) -> str:
        """The profile the runs were made with."""
        return self.folder.resolve().parent.name

    @property
    def trial(self) -> dict[str, int]:
        """Steps and seed of the trials that rates were chosen by; empty if there are none."""
        for config in (trial.config for trial in self.trials):
            if "stages" in config and "seed" in config:
                steps = sum(stage["steps"] for stage in config["stages"])
                return {"steps": steps, "seed": config["seed"]}
        return {}

    @property
    def methods(self) -> list[str]:
        """The methods with a finished run, in the order of tables."""
        return ordered(run.method for run in self.finished)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the finished runs."""
        return sorted({run.seed for run in self.finished})

    @property
    def expected_seeds(self) -> list[int]:
        """Seeds that any run has, finished or not."""
        started = [known[1] for known in self.unfinished.values() if known]
        return sorted({*self.all_seeds, *started})

    @property
    def command(self) -> str:
        """The command that makes what is missing."""
        seeds = f" SEEDS={max(self.expected_seeds) + 1}" if self.expected_seeds else ""
        return f"{make_command(self.comparison)} PROFILE={self.profile}{seeds}"

    def of(self, method: str) -> list[Run]:
        """A method's finished runs, by seed."""
        return sorted((r for r in self.finished if r.method == method), key=lambda r: r.seed)

    def seeds(self, method: str) -> list[int]:
        """The seeds of a method's finished runs."""
        return [run.seed for run in self.of(method)]

    def rates(self, method: str) -> str:
        """A method's learning rate in each stage; empty without stages."""
        return " → ".join(f"{stage['lr']:g}" for stage in self.of(method)[0].config["stages"])

    def metrics(self) -> pd.DataFrame:
        """Every step of every run: ``method``, ``seed``, and what was measured."""
        return self._stacked("steps")

    def _stacked(self, name: str) -> pd.DataFrame:
        parts = [
            getattr(run, name).assign(method=run.method, seed=run.seed)
            for method in self.methods
            for run in self.of(method)
            if len(getattr(run, name))
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def problems(self) -> pd.DataFrame:
        """``method, seed, suite, level, prompt, accuracy, samples``: a row a test problem.

        Accuracy is the share of correct answers among a run's samples.
        """
        answers = self.answers()
        if not len(answers):
            return answers
        answers["accuracy"] = answers["right"] / answers["samples"]
        return answers[["method", "seed", *PROBLEM, "accuracy", "samples"]]

    def answers(self) -> pd.DataFrame:
        """``method, seed`` and :data:`~analysis.run.ANSWER_COLUMNS`: a row a test problem."""
        return self._stacked("answers")

    def provenance(self) -> dict[str, str]:
        """What the finished runs record of their origin; several values are all named."""
        starts = [start for run in self.finished for start in run.starts or [{}]]
        names = list(dict.fromkeys(name for start in starts for name in start if name != "date"))
        values = {name: _joined([start.get(name) for start in starts]) for name in names}
        dates = sorted(start["date"] for start in starts if "date" in start)
        if dates:
            values["date"] = dates[0] if len(set(dates)) == 1 else f"{dates[0]} to {dates[-1]}"
        return values

    @property
    def commits(self) -> str:
        """The commits that the finished runs were made with."""
        return self.provenance().get("commit", "not recorded")


def _joined(values: Sequence[str | None]) -> str:
    known = sorted({value for value in values if value is not None})
    lacking = sum(value is None for value in values)
    return ", ".join([*known, *([f"not recorded for {lacking} starts"] if lacking else [])])


def make_command(comparison: str) -> str:
    """The make target that a comparison belongs to: ``supply-30`` is part of ``supply``."""
    return f"make reproduce-{comparison.partition('-')[0]}"


def no_runs(folder: Path) -> Runs:
    """A comparison of which there is no run."""
    return Runs((), {}, {}, (), folder)


def load_runs(folder: Path) -> Runs:
    """The runs of a comparison, one configuration a method, from their folders or their records.

    Raises:
        UpgeError: a folder that doesn't exist, damaged files, two configurations of one method,
            methods that were trained or evaluated on different data, or a seed that occurs twice.
    """
    if not folder.is_dir():
        raise UpgeError(
            f"{folder}: is no folder of a comparison; make it with `{make_command(folder.name)}`"
        )
    loaded = read_records(folder) if is_recorded(folder) else read_folders(folder)
    runs = Runs(*loaded, folder)
    _check_alike(runs.finished)
    return runs


def _check_alike(runs: Sequence[Run]) -> None:
    """Runs of one method differ in nothing but the seed, methods in nothing that is shared."""
    by_method: dict[str, Run] = {}
    by_seed: dict[tuple[str, int], Run] = {}
    for run in runs:
        other = by_method.setdefault(run.method, run)
        if places := _differences(other.config, run.config, {"seed", "key"}):
            reason = f"they differ in {', '.join(places)}"
            raise _mixed(f"{run.method} with two configurations", other, run, reason)
        twin = by_seed.setdefault((run.method, run.seed), run)
        if twin is not run:
            raise _mixed(f"{run.method} twice", twin, run, f"both are of seed {run.seed}")
    for run in by_method.values():
        other = next(iter(by_method.values()))
        unshared = set(other.config) | set(run.config)
        if places := _differences(other.config, run.config, unshared.difference(_SHARED)):
            reason = f"they differ in {', '.join(places)}"
            raise _mixed("runs that can't be compared", other, run, reason)


def _mixed(what: str, a: Run, b: Run, reason: str) -> UpgeError:
    return UpgeError(
        f"{a.path.parent}: holds {what}, {a.path.name} and {b.path.name} ({reason}); move or "
        "delete the ones you don't mean"
    )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], but: set[str]) -> list[str]:
    """The places, as ``stages.0.lr``, at which two configurations differ."""
    left, right = (
        dict(_flat({key: value for key, value in config.items() if key not in but}))
        for config in (a, b)
    )
    missing = object()
    places = sorted(left.keys() | right.keys())
    return [place for place in places if left.get(place, missing) != right.get(place, missing)]


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, value
