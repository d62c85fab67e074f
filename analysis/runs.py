"""Run folders as pandas frames: what finished, what did not, and where all of it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.methods import ordered
from upge.errors import UpgeError

#: What runs of one comparison have in common, whatever the method.
_SHARED = ("model", "data", "evaluation", "max_tokens")

#: How far the accuracy of stored responses may lie from the one in ``result.json`` (float32).
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: its folder.
        config: the resolved configuration.
        starts: provenance of each start; more than one if the run was resumed.
        result: the final numbers.
    """

    path: Path
    config: Mapping[str, Any]
    starts: Sequence[Mapping[str, str]]
    result: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The method."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    def metrics(self) -> pd.DataFrame:
        """One row a step; empty for a run without steps.

        Raises:
            UpgeError: a file that is damaged anywhere but in a last line that was cut short.
        """
        path = self.path / "metrics.jsonl"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            return pd.DataFrame([json.loads(line) for line in text.split("\n")[:-1] if line])
        except ValueError as error:
            raise UpgeError(
                f"{path}: is damaged ({error}); delete the run and make it again"
            ) from error

    def responses(self) -> pd.DataFrame:
        """One row a sampled response to a test problem.

        Raises:
            UpgeError: a file that can't be read, or that is not what ``result.json`` sums up.
        """
        frames = [self._suite(name, value) for name, value in self.result["suites"].items()]
        return pd.concat(frames, ignore_index=True)

    def _suite(self, name: str, accuracy: float) -> pd.DataFrame:
        path = self.path / "evaluation" / f"{name}.parquet"
        remedy = "delete the run and make it again"
        try:
            frame = pd.read_parquet(path)
            found = frame["reward"].mean()
        except (OSError, ValueError, KeyError) as error:
            raise UpgeError(f"{path}: can't be read ({error}); {remedy}") from error
        if abs(found - accuracy) > _TOLERANCE:
            raise UpgeError(f"{path}: is not the evaluation that result.json sums up; {remedy}")
        return frame


@dataclass(frozen=True)
class Runs:
    """The runs of a folder.

    Args:
        folder: where they are; its name is the profile's.
        finished: those that are used.
        unfinished: folders that are not used, and the method and seed of each, where known.
        selection: how each method's learning rate was chosen; empty if that is not recorded.
    """

    folder: Path
    finished: Sequence[Run]
    unfinished: Mapping[str, tuple[str, int] | None]
    selection: Mapping[str, Mapping[str, Any]]

    @property
    def profile(self) -> str:
        """The profile they were made with."""
        return self.folder.resolve().name

    @property
    def trial(self) -> dict[str, int]:
        """Steps and seed of the trials that rates were chosen by; empty if there are none."""
        for path in sorted(self.folder.glob("selection/*/config.json")):
            config = _read_json(path) or {}
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

    def of(self, method: str) -> list[Run]:
        """A method's finished runs, by seed."""
        return sorted((r for r in self.finished if r.method == method), key=lambda r: r.seed)

    def seeds(self, method: str) -> list[int]:
        """The seeds of a method's finished runs."""
        return [run.seed for run in self.of(method)]

    def metrics(self) -> pd.DataFrame:
        """Every step of every run: ``method``, ``seed``, and what was measured."""
        runs = self._ordered
        return _stack(runs, [run.metrics() for run in runs])

    @property
    def _ordered(self) -> list[Run]:
        return [run for method in self.methods for run in self.of(method)]

    def problems(self) -> pd.DataFrame:
        """``method, seed, suite, level, prompt, accuracy, samples``: a row a test problem.

        Accuracy is the share of right answers among a run's samples.
        """
        evaluated = [run for run in self._ordered if run.result.get("suites")]
        keys = ["suite", "level", "prompt"]
        frames = [
            run.responses()
            .groupby(keys, sort=True)["reward"]
            .agg(accuracy="mean", samples="size")
            .reset_index()
            for run in evaluated
        ]
        return _stack(evaluated, frames)

    def provenance(self) -> dict[str, str]:
        """What the finished runs record of their origin; several values are all named."""
        starts = [start for run in self.finished for start in run.starts or [{}]]
        names = list(dict.fromkeys(name for start in starts for name in start if name != "date"))
        found = {name: _values([start.get(name) for start in starts]) for name in names}
        dates = sorted(start["date"] for start in starts if "date" in start)
        if dates:
            found["date"] = dates[0] if len(set(dates)) == 1 else f"{dates[0]} to {dates[-1]}"
        return found

    @property
    def commits(self) -> str:
        """The commits that the finished runs were made with."""
        return self.provenance().get("commit", "not recorded")


def _values(given: Sequence[str | None]) -> str:
    known = sorted({value for value in given if value is not None})
    lacking = sum(value is None for value in given)
    return ", ".join([*known, *([f"not recorded for {lacking} starts"] if lacking else [])])


def _stack(runs: Sequence[Run], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    parts = [
        frame.assign(method=run.method, seed=run.seed)
        for run, frame in zip(runs, frames, strict=True)
        if len(frame)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def load_runs(folder: Path) -> Runs:
    """The runs of a comparison, one configuration a method.

    Where ``comparison.json`` names the folders that belong to it, older ones don't count.

    Raises:
        UpgeError: a folder that isn't there, runs of several configurations of one method, or of
            methods that were not trained or evaluated on the same.
    """
    if not folder.is_dir():
        raise UpgeError(f"{folder}: is no folder of runs; make them with `make reproduce-table2`")
    finished, unfinished = [], {}
    named = (_read_json(folder / "comparison.json") or {}).get("runs")
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and p.name != "selection"):
        if named is not None and path.name not in named:
            continue
        config, result = _read_json(path / "config.json"), _read_json(path / "result.json")
        if config is not None and {"name", "seed"} <= config.keys() and result is not None:
            starts = (_read_json(path / "provenance.json") or {}).get("starts", [])
            finished.append(Run(path, config, starts, result))
        elif config is not None or (path / "metrics.jsonl").exists():
            known = config or {}
            told = {"name", "seed"} <= known.keys()
            unfinished[path.name] = (known["name"], known["seed"]) if told else None
    _check_alike(folder, finished)
    selection = _read_json(folder / "selection.json") or {}
    return Runs(folder, finished, unfinished, selection)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _check_alike(folder: Path, runs: Sequence[Run]) -> None:
    """A mean over runs that were asked for different things would be a mean over nothing."""
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.method, run)
        differences = _differences(other.config, run.config, {"seed", "key"})
        twice = run is not other and run.seed == other.seed
        if differences or twice:
            reason = f"they differ in {', '.join(differences)}" if differences else "the same seed"
            raise _mixed(f"{run.method} with two configurations", other, run, reason)
    for run in first.values():
        other = next(iter(first.values()))
        unshared = set(other.config) | set(run.config)
        differences = _differences(other.config, run.config, unshared.difference(_SHARED))
        if differences:
            reason = f"they differ in {', '.join(differences)}"
            raise _mixed("runs that can't be compared", other, run, reason)


def _mixed(what: str, a: Run, b: Run, reason: str) -> UpgeError:
    return UpgeError(
        f"{a.path.parent}: holds {what}, {a.path.name} and {b.path.name} ({reason}); move away or "
        "delete those that are not meant"
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
