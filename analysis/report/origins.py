"""Where numbers come from: the runs behind a comparison, as the page lists them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.methods import title
from analysis.records import is_recorded
from analysis.run import Run, Runs, Trial
from analysis.runs import load_runs
from analysis.tables import NONE

#: What tables show of provenance.
COLUMNS = ("commit", "hardware", "date")

#: What they show of results.
_ACCURACIES = ("in_distribution", "out_of_distribution")

#: What tells one run of a method from another.
_OWN = ("seed", "key", "name")


@dataclass(frozen=True)
class Origin:
    """The runs of a comparison.

    Args:
        id: its name in links.
        name: profile and comparison.
        runs: all of it.
    """

    id: str
    name: str
    runs: Runs

    @property
    def comparison(self) -> str:
        """The comparison."""
        return self.runs.comparison

    @property
    def model(self) -> str:
        """The base model."""
        return ", ".join(sorted({str(run.config["model"]) for run in self.runs.finished})) or NONE

    @property
    def seeds(self) -> str:
        """The seeds of the finished runs."""
        return _listed(self.runs.all_seeds)

    @property
    def hours(self) -> str:
        """CPU time of training, all runs together."""
        steps = self.runs.metrics()
        return f"{steps['cpu_seconds'].sum() / 3600:.1f}" if "cpu_seconds" in steps else NONE

    @property
    def provenance(self) -> Mapping[str, str]:
        """Commits, versions, hardware and dates."""
        return self.runs.provenance()

    def methods(self) -> Iterator[list[str]]:
        """Method, learning rates, steps and seeds of each."""
        for method in self.runs.methods:
            runs = self.runs.of(method)
            stages = runs[0].config["stages"]
            rates = " → ".join(f"{stage['lr']:g}" for stage in stages) or NONE
            steps = " + ".join(f"{stage['steps']:,}" for stage in stages) or NONE
            yield [title(method), rates, steps, _listed(self.runs.seeds(method))]

    @property
    def header(self) -> list[str]:
        """What :meth:`listed` has of each run."""
        return ["folder", *(name.replace("_", " ") for name in _ACCURACIES), *COLUMNS]

    def listed(self) -> Iterator[list[str]]:
        """Folder, accuracies and provenance of each run."""
        for run in self.runs.finished:
            accuracies = (_percent(run.result.get(name)) for name in _ACCURACIES)
            yield [run.path.name, *accuracies, *_started(run)]

    def unfinished(self) -> list[str]:
        """Folders of runs without a result."""
        return list(self.runs.unfinished)

    def trials(self) -> Iterator[tuple[list[str], bool]]:
        """The trials that learning rates were chosen by, and whether each was the choice."""
        for trial in sorted(self.runs.trials, key=_method_and_rate):
            method, rate = _method_and_rate(trial)
            chosen = self.runs.selection.get(method, {}).get("lr") == rate
            *_, accuracy = [None, *trial.validation.values()]
            yield [title(method), f"{rate:g}", _percent(accuracy), trial.folder], chosen

    def configurations(self) -> Iterator[tuple[str, str]]:
        """What all runs share, then what each method has of its own, as YAML."""
        configs = {m: self.runs.of(m)[0].config for m in self.runs.methods}
        shared = _shared(list(configs.values()))
        yield "All methods", _yaml(shared)
        for method, config in configs.items():
            own = {k: v for k, v in config.items() if k not in shared and k not in _OWN}
            yield title(method), _yaml(own)


def origins(records: Path) -> list[Origin]:
    """The comparisons below a folder, a folder a profile: their records, or the runs themselves.

    Raises:
        UpgeError: damaged records or runs.
    """
    folders = sorted(
        (
            path
            for path in records.glob("*/*")
            if is_recorded(path) or (path / "comparison.json").exists()
        ),
        key=_by_numbers,
    )
    return [
        Origin(f"runs-{'-'.join(names)}", " / ".join(names), load_runs(folder))
        for folder in folders
        for names in [folder.relative_to(records).parts]
    ]


def _by_numbers(path: Path) -> list[str | int]:
    """So that supply-30 comes before supply-100."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [int(part) if part.isdigit() else part for part in parts]


def _method_and_rate(trial: Trial) -> tuple[str, float]:
    return str(trial.config["name"]), float(trial.config["stages"][-1]["lr"])


def _shared(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = configs or [{}]
    return {
        key: value
        for key, value in first.items()
        if key not in _OWN and all(key in other and other[key] == value for other in others)
    }


def _started(run: Run) -> list[str]:
    """Provenance of a run's starts; a resumed run has several."""
    starts = run.starts or [{}]
    return [
        ", ".join(dict.fromkeys(start.get(name, "not recorded") for start in starts))
        for name in COLUMNS
    ]


def _yaml(value: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or NONE
