"""Verifiers: the rule-based reward R ∈ {0, 1} of a response."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from upge.common.errors import UpgeError
from upge.tasks.answers import final_part
from upge.tasks.grading import Verdict, grade, is_number
from upge.tasks.problem import Problem


class Verifier(Protocol):
    """Grades many responses at a time; never evaluates a response as code, and never raises."""

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        """R(τ) of each response to its problem."""


#: What a model writes after its answer that begins another problem.
_NEXT_PROBLEM = re.compile(r"\s(?:Question|Problem|Exercise|Example|Human|User|Q)\s*\d*\s*[:.]")


@dataclass(frozen=True)
class MarkedAnswer:
    """1 where the line behind the last ``marker`` says the answer.

    Args:
        marker: what stands before an answer.
        exact: compare all that stands behind it with the answer, letter by letter but for
            surrounding blanks. Otherwise answers that are numbers are compared as numbers, so that
            ``$1,200.00`` is 1200, and what follows on other lines is not read.
    """

    marker: str
    exact: bool = False

    def __post_init__(self) -> None:
        if not self.marker.strip():
            raise UpgeError(f"marker: got {self.marker!r}, wanted a visible text, as '####'")

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [float(verdict is Verdict.RIGHT) for verdict in self.judge(responses, problems)]

    def judge(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The verdict on each response; the reward is 1 for ``RIGHT`` and 0 for all others."""
        return [
            self._verdict(response, problem)
            for response, problem in zip(responses, problems, strict=True)
        ]

    def _verdict(self, response: str, problem: Problem) -> Verdict:
        gold = problem.answer.strip()
        text = response if self.exact else self._without_more(final_part(response))
        _, marker, behind = text.rpartition(self.marker)
        if not marker:
            return Verdict.UNBOXED
        line = behind.strip().partition("\n")[0].strip()
        if behind.strip() == gold or (line == gold and not self.exact):
            return Verdict.RIGHT
        if self.exact or not is_number(gold):
            return Verdict.WRONG
        line = line.strip("*`_ ")
        return grade(gold, line, "number") if is_number(line) else Verdict.UNREAD

    def _without_more(self, response: str) -> str:
        """The response up to the next problem, if it poses one behind its answer."""
        start = response.find(self.marker)
        other = _NEXT_PROBLEM.search(response, start) if start >= 0 else None
        return response[: other.start()] if other else response
