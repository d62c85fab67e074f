r"""The verifier of mathematical answers: what the last ``\boxed{…}`` holds, as mathematics.

Letters are compared first; what differs in these goes to math-verify (github.com/huggingface/
Math-Verify, which the official code grades with too), in processes with limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from upge.tasks.answers import (
    LONGEST,
    boxed,
    choice,
    has_base,
    is_closed,
    is_shallow,
    letters,
    says_more,
    spelled,
)
from upge.tasks.grading import DEFAULT, Settings, Verdict, compare
from upge.tasks.problem import Problem


@dataclass(frozen=True)
class BoxedAnswer:
    r"""1 where the last ``\boxed{…}`` that isn't empty says the same as the answer.

    The gold answer may be as the benchmarks write it: LaTeX with or without ``$``, numbers as
    ``4.5e33``, or the letter of a choice.

    Args:
        settings: time, memory and number of the processes that compare.
    """

    settings: Settings = DEFAULT

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [float(verdict is Verdict.RIGHT) for verdict in self.judge(responses, problems)]

    def judge(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """The verdict on each response; the reward is 1 for ``RIGHT`` and 0 for all others.

        Raises:
            UpgeError: math-verify is not installed, or no process can be kept.
        """
        pairs = [
            (spelled(problem.answer), boxed(response))
            for response, problem in zip(responses, problems, strict=True)
        ]
        verdicts = [_at_once(gold, answer) for gold, answer in pairs]
        open_ = [i for i, verdict in enumerate(verdicts) if verdict is None]
        compared = compare(
            [(pairs[i][0], spelled(pairs[i][1] or "")) for i in open_], self.settings
        )
        found = dict(zip(open_, compared, strict=True))
        return [found[i] if verdict is None else verdict for i, verdict in enumerate(verdicts)]


def _at_once(gold: str, answer: str | None) -> Verdict | None:
    """The verdict where no mathematics is needed for it."""
    if answer is None:
        return Verdict.UNBOXED
    answer = spelled(answer)
    if letters(answer) == letters(gold):
        return Verdict.RIGHT
    wanted = choice(gold)
    if wanted is not None and gold.lower() != gold:
        return Verdict.RIGHT if choice(answer) == wanted else Verdict.WRONG
    if len(answer) > LONGEST or not is_shallow(answer) or not is_closed(answer, gold):
        return Verdict.REFUSED
    if says_more(answer, gold) or not has_base(answer, gold):
        return Verdict.WRONG
    return None
