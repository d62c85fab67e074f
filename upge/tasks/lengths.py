"""What is too long to train on, counted by what is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from upge.tasks.problem import Problem


def within(
    problems: Sequence[Problem],
    tokens: Callable[[str], int],
    *,
    prompt: int,
    demonstration: int | None = None,
) -> tuple[list[Problem], Counter[str]]:
    """The problems whose prompt is short enough, without demonstrations that aren't.

    Args:
        problems: as the policy reads them.
        tokens: how many tokens a text has.
        prompt: the most tokens of a prompt; longer problems are dropped.
        demonstration: the most of a demonstration, its end-of-sequence token included; a longer one
            is dropped and its problem stays. None for any.

    Returns:
        What is kept, and how much was dropped, by reason.
    """
    dropped: Counter[str] = Counter()
    kept = []
    for problem in problems:
        if tokens(problem.prompt) > prompt:
            dropped[f"prompt of more than {prompt} tokens"] += 1
            continue
        worked = problem.demonstration
        if worked and demonstration is not None and tokens(worked) + 1 > demonstration:
            dropped[f"demonstration of more than {demonstration} tokens"] += 1
            problem = replace(problem, demonstration=None)
        kept.append(problem)
    return kept, dropped
