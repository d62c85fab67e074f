"""A finished run as tables and figures see it, wherever its numbers are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype, is_string_dtype

from upge.common.errors import UpgeError

#: What tables and figures read of a step. Records keep these, and all digits of them.
STEP_COLUMNS = (
    "step",
    "stage",
    "validation",
    "reward",
    "solved",
    "offline_ratio",
    "demonstrations",
    "response_length",
    "entropy",
    "tokens_sampled",
    "tokens_computed",
    "per_term_grad_norm",
    "flops",
    "seconds",
    "cpu_seconds",
)

#: What they read of a test problem: correct answers, samples, and tokens of all samples.
PROBLEM = ("suite", "level", "prompt")
ANSWER_COLUMNS = (*PROBLEM, "right", "samples", "tokens")

#: How far the accuracy of stored answers may lie from the one in the result (float32).
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Run(ABC):
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

    @property
    def rates(self) -> str:
        """The learning rate of each stage, as ``0.001 → 0.0003``; empty without stages."""
        return " → ".join(f"{stage['lr']:g}" for stage in self.config["stages"])

    @abstractmethod
    def metrics(self) -> pd.DataFrame:
        """One row a step with those of :data:`STEP_COLUMNS` that were measured.

        Raises:
            UpgeError: numbers that are damaged.
        """

    @abstractmethod
    def answers(self) -> pd.DataFrame:
        """One row a test problem with :data:`ANSWER_COLUMNS`.

        Raises:
            UpgeError: numbers that can't be read, or that contradict the result.
        """


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
class RunSet:
    """What a folder holds.

    Args:
        finished: runs with a result.
        unfinished: folders of runs without one; method and seed of each, where known.
        selection: how each method's learning rate was chosen; empty if not recorded.
        trials: the runs that it was chosen by.
    """

    finished: Sequence[Run]
    unfinished: Mapping[str, tuple[str, int] | None]
    selection: Mapping[str, Mapping[str, Any]]
    trials: Sequence[Trial]


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


def check_result(run: Run) -> None:
    """Check that a run that was to be tested has accuracies.

    Raises:
        UpgeError: it has none, or one that is no share.
    """
    if run.config.get("evaluation", {}).get("test_samples") is None:
        return
    suites = run.result.get("suites")
    shares = list(suites.values()) if isinstance(suites, dict) else []
    if not shares or not all(isinstance(x, int | float) and 0 <= x <= 1 for x in shares):
        raise UpgeError(
            f"{run.path}: its result lacks an accuracy from 0 to 1 for each test suite; delete the "
            "run and make the comparison again"
        )


def check_accuracy(answers: pd.DataFrame, accuracy: float, place: str, remedy: str) -> None:
    """Check that answers to a suite have the accuracy that the result names.

    Raises:
        UpgeError: they have another.
    """
    share = answers["right"].sum() / max(answers["samples"].sum(), 1)
    if not abs(share - accuracy) <= _TOLERANCE:  # neither is NaN
        raise UpgeError(f"{place}: its answers contradict the run's result; {remedy}")
