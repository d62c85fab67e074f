"""A finished run as tables and figures see it, wherever its numbers are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype, is_string_dtype
from pydantic import BaseModel, Field, ValidationError

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

#: What they read of a test problem: how many samples are right, of how many, and of how many tokens
#: all of them together.
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
        """The method."""
        return str(self.config["name"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def suites(self) -> Mapping[str, float]:
        """The accuracy on each test suite; empty for a run that was not tested."""
        suites: Mapping[str, float] = self.result.get("suites", {})
        return suites

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
            UpgeError: numbers that can't be read, or that are not what the result sums up.
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
class Found:
    """What a folder holds.

    Args:
        finished: runs with a result.
        unfinished: folders of runs without one, and the method and seed of each, where known.
        selection: how each method's learning rate was chosen; empty if that is not recorded.
        trials: the runs that it was chosen by.
    """

    finished: Sequence[Run]
    unfinished: Mapping[str, tuple[str, int] | None]
    selection: Mapping[str, Mapping[str, Any]]
    trials: Sequence[Trial]


def _words(column: pd.Series) -> bool:
    return is_string_dtype(column) and not column.isna().any()


def _numbers(column: pd.Series) -> bool:
    return is_numeric_dtype(column) or column.isna().all()


def _lists(column: pd.Series) -> bool:
    return all(isinstance(x, Sequence | np.ndarray) for x in column.dropna())


_KINDS = {
    **dict.fromkeys(STEP_COLUMNS, _numbers),
    **dict.fromkeys(("solved", "per_term_grad_norm"), _lists),
    **dict.fromkeys(("step", "level", "right", "samples", "tokens"), is_integer_dtype),
    **dict.fromkeys(("run", "suite", "prompt"), _words),
    "reward": is_numeric_dtype,
}


def check_columns(
    frame: pd.DataFrame, needed: Sequence[str], place: str | Path, remedy: str
) -> None:
    """Refuse a table without one of these columns, or with one that holds something else.

    Raises:
        UpgeError: naming the first such column.
    """
    for name in dict.fromkeys([*needed, *(name for name in frame if name in _KINDS)]):
        if name not in frame or not _KINDS[name](frame[name]):
            raise UpgeError(f"{place}: is damaged (column {name}); {remedy}")


class _Tested(BaseModel):
    """The result of a run with a test."""

    suites: Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]], Field(min_length=1)
    ]


def check_result(run: Run) -> None:
    """Refuse the result of a run with a test that doesn't have its accuracies.

    Raises:
        UpgeError: none, or one that is no share.
    """
    if run.config.get("evaluation", {}).get("test_samples") is None:
        return
    try:
        _Tested.model_validate(run.result, strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UpgeError(
            f"{run.path}: its result lacks an accuracy from 0 to 1 ({place}); delete the run "
            "and make the comparison again"
        ) from error


def check_accuracy(answers: pd.DataFrame, accuracy: float, place: str, remedy: str) -> None:
    """Refuse answers to a suite that its result does not sum up."""
    found = answers["right"].sum() / max(answers["samples"].sum(), 1)
    if not abs(found - accuracy) <= _TOLERANCE:  # neither is NaN
        raise UpgeError(f"{place}: is not the evaluation that the result sums up; {remedy}")
