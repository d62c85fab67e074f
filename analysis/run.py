"""A finished run as tables and figures see it, and checks of what is read."""

from __future__ import annotations

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
    """

    path: Path
    config: Mapping[str, Any]
    starts: Sequence[Mapping[str, str]]
    result: Mapping[str, Any]
    steps: pd.DataFrame
    answers: pd.DataFrame

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


#: Unfinished runs: method and seed by folder, where known.
Unfinished = Mapping[str, tuple[str, int] | None]

#: Finished runs, unfinished ones, how learning rates were chosen, and the trials of that.
Loaded = tuple[Sequence[Run], Unfinished, Mapping[str, Mapping[str, Any]], Sequence[Trial]]


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
