"""The runs of a comparison as tables and figures see them, and checks of what is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype, is_string_dtype

from analysis.methods import ordered
from upge.common.errors import UpgeError

#: What tables and figures read of a step. Records keep these, and all digits of them.
STEP_COLUMNS = (
    *("step", "stage", "validation", "reward", "solved", "offline_ratio", "demonstrations"),
    *("response_length", "entropy", "tokens_sampled", "tokens_computed", "per_term_grad_norm"),
    *("flops", "seconds", "cpu_seconds"),
)

#: What they read of a test problem: correct answers, samples, and tokens of all samples.
PROBLEM = ("suite", "level", "prompt")
ANSWER_COLUMNS = (*PROBLEM, "right", "samples", "tokens")

#: How far the accuracy of stored answers may lie from the one in the result (float32).
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: its folder.
        config: the resolved configuration.
        starts: provenance of each start; more than one if the run was resumed.
        result: the final numbers.
        steps: a row a step with those of :data:`STEP_COLUMNS` that were measured.
        answers: a row a test problem with :data:`ANSWER_COLUMNS`.
        code: digests of the modules that made it; empty for runs that kept none.
    """

    path: Path
    config: Mapping[str, Any]
    starts: Sequence[Mapping[str, str]]
    result: Mapping[str, Any]
    steps: pd.DataFrame
    answers: pd.DataFrame
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def suites(self) -> Mapping[str, float]:
        """The accuracy on each test suite; empty for a run that was not tested."""
        suites: Mapping[str, float] = self.result.get("suites", {})
        return suites


@dataclass(frozen=True)
class Trial:
    """A run that a learning rate was judged by.

    Args:
        folder: its name.
        config: the resolved configuration.
        starts: provenance of each start.
        validation: accuracy on the validation problems, by step.
    """

    folder: str
    config: Mapping[str, Any]
    starts: Sequence[Mapping[str, str]]
    validation: Mapping[str, float]


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
    unfinished: Mapping[str, tuple[str, int] | None]
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


# ------------------------------------------------------------------------------------------ checks


def _words(column: pd.Series) -> bool:
    return bool(is_string_dtype(column) and not column.isna().any())


def _numbers(column: pd.Series) -> bool:
    return bool(is_numeric_dtype(column) or column.isna().all())


def _lists(column: pd.Series) -> bool:
    return all(isinstance(x, Sequence | np.ndarray) for x in column.dropna())


_KINDS: dict[str, Callable[[pd.Series], bool]] = {
    **dict.fromkeys(STEP_COLUMNS, _numbers),
    **dict.fromkeys(("solved", "per_term_grad_norm"), _lists),
    **dict.fromkeys(("step", "level", "right", "samples", "tokens"), is_integer_dtype),
    **dict.fromkeys(("run", "suite", "prompt"), _words),
    "reward": is_numeric_dtype,
}


def check_columns(
    frame: pd.DataFrame, needed: Sequence[str], place: str | Path, remedy: str
) -> None:
    """Check that a table has the needed columns, and that known columns hold what they should.

    Raises:
        UpgeError: naming the first column that is missing or of another type.
    """
    for name in dict.fromkeys([*needed, *(name for name in frame if name in _KINDS)]):
        if name not in frame or not _KINDS[name](frame[name]):
            raise UpgeError(f"{place}: is damaged (column {name}); {remedy}")


def check_run(run: Run, remedy: str) -> None:
    """Check that a run that was to be tested has accuracies, and answers that agree with them.

    Raises:
        UpgeError: it has none, or others.
    """
    suites = run.result.get("suites")
    shares = list(suites.values()) if isinstance(suites, dict) else []
    tested = run.config.get("evaluation", {}).get("test_samples") is not None
    if tested and not (shares and all(isinstance(x, int | float) and 0 <= x <= 1 for x in shares)):
        raise UpgeError(
            f"{run.path}: its result lacks an accuracy from 0 to 1 for each test suite; {remedy}"
        )
    for suite, accuracy in run.suites.items():
        answers = run.answers[run.answers["suite"] == suite]
        share = answers["right"].sum() / max(answers["samples"].sum(), 1)
        if not abs(share - accuracy) <= _TOLERANCE:  # neither is NaN
            raise UpgeError(f"{run.path}, {suite}: answers contradict the run's result; {remedy}")
