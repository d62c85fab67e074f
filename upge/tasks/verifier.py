"""Verifiers: the rule-based reward R ∈ {0, 1} of a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from upge.common.errors import UpgeError
from upge.tasks.problem import Problem


class Verifier(Protocol):
    """Grades many responses at a time; never evaluates a response as code, and never raises."""

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        """R(τ) of each response to its problem."""


@dataclass(frozen=True)
class MarkedAnswer:
    """1 where the text behind the last ``marker`` is the answer, but for surrounding blanks."""

    marker: str

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise UpgeError(f"marker: got {self.marker!r}, wanted a visible text, as '####'")

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [
            float(self.answer(response) == problem.answer.strip())
            for response, problem in zip(responses, problems, strict=True)
        ]

    def answer(self, response: str) -> str | None:
        """The text behind the last marker; None without one."""
        _, found, answer = response.rpartition(self.marker)
        return answer.strip() if found else None
