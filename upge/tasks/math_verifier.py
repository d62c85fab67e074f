r"""The verifier of mathematical answers: what the last ``\boxed{…}`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upge.tasks.answers import boxed
from upge.tasks.grading import Verdict, grade
from upge.tasks.problem import Problem


@dataclass(frozen=True)
class BoxedAnswer:
    r"""1 where the last ``\boxed{…}`` that isn't empty is the answer.

    The gold answer may be as the benchmarks write it: LaTeX with or without ``$``, numbers as
    ``4.5e33``, or the letter of a choice.
    """

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [float(verdict is Verdict.RIGHT) for verdict in self.judge(responses, problems)]

    def judge(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The verdict on each response; the reward is 1 for ``RIGHT`` and 0 for all others."""
        return [
            _verdict(boxed(response), problem)
            for response, problem in zip(responses, problems, strict=True)
        ]


def _verdict(answer: str | None, problem: Problem) -> Verdict:
    if answer is None:
        return Verdict.UNBOXED
    return grade(problem.answer, answer, problem.kind)
