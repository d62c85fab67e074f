"""How accurate a base is.

Those of the synthetic suites by family and level, on bare prompts and behind the mark ``/``; that
of word problems by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from upge.evaluation.metrics import pass_at_k
from upge.evaluation.run import respond
from upge.models.pretraining import WORKED
from upge.rollouts import CachedSampler, Sampling
from upge.tasks.problem import Problem
from upge.tasks.synthetic import ANSWER_MARKER, FAMILIES, LEVELS, suite
from upge.tasks.verifier import MarkedAnswer
from upge.tasks.word_problems import MARKER, PARTS
from upge.tasks.word_problems import suite as word_suite

#: Mean accuracy of each family at levels 1–5.
Levels = dict[str, list[float]]

#: Tokens of a solution to a word problem; the longest of the templates takes 165.
_LONGEST_SOLUTION = 176

#: The two ways to ask, and what stands before the prompt.
MODES = {"bare": "", "worked": WORKED}


def accuracy(model: Any, tokenizer: Any, problems: int = 20, samples: int = 4) -> dict[str, Levels]:
    """Share of right responses, by mode, family and level.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        problems: validation problems a family and level.
        samples: responses to each, at temperature 1, as training samples them.
    """
    suites = {family: suite(family, "validation", problems) for family in FAMILIES}
    sampler = CachedSampler(model, tokenizer.eos_token_id)

    def measure(asked: Sequence[Problem]) -> list[float]:
        rewards = respond(
            asked,
            sampler=sampler,
            tokenizer=tokenizer,
            verifier=MarkedAnswer(ANSWER_MARKER, exact=True),
            samples=samples,
            settings=Sampling(max_tokens=64),
            seed=0,
        ).rewards
        # A suite's problems come level by level.
        return [round(x, 4) for x in rewards.view(len(LEVELS), -1).mean(1).tolist()]

    return {
        mode: {
            family: measure([replace(p, prompt=mark + p.prompt) for p in suites[family]])
            for family in FAMILIES
        }
        for mode, mark in MODES.items()
    }


def word_accuracy(
    model: Any, tokenizer: Any, problems: int = 108, samples: int = 8
) -> dict[str, dict[str, float]]:
    """pass@1 and pass@k of word problems by part.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        problems: validation problems a part.
        samples: k responses to each, at temperature 1.
    """
    sampler = CachedSampler(model, tokenizer.eos_token_id)
    settings = Sampling(max_tokens=_LONGEST_SOLUTION)
    found = {}
    for part in PARTS:
        responses = respond(
            word_suite([part], "validation", problems),
            sampler=sampler,
            tokenizer=tokenizer,
            verifier=MarkedAnswer(MARKER),
            samples=samples,
            settings=settings,
            seed=0,
        )
        one, many = pass_at_k(responses.rewards, (1, samples)).mean(0).tolist()
        found[part] = {"pass@1": round(one, 4), f"pass@{samples}": round(many, 4)}
    return found


def mean(levels: Levels) -> float:
    """Over families and levels."""
    return sum(map(sum, levels.values())) / sum(map(len, levels.values()))


def table(name: str, found: dict[str, Any]) -> Table:
    """Accuracies for the terminal."""
    return _by_level(name, found) if MODES.keys() == found.keys() else _by_part(name, found)


def _by_part(name: str, found: dict[str, dict[str, float]]) -> Table:
    shown = Table("part", *next(iter(found.values())), title=name)
    for part, values in found.items():
        shown.add_row(part, *(f"{value:.3f}" for value in values.values()))
    return shown


def _by_level(name: str, found: dict[str, Levels]) -> Table:
    shown = Table("mode", "family", *(f"level {level}" for level in LEVELS), "mean", title=name)
    for mode, levels in found.items():
        for family, values in levels.items():
            cells = (f"{value:.3f}" for value in [*values, sum(values) / len(values)])
            shown.add_row(mode, family, *cells)
        means = [sum(column) / len(column) for column in zip(*levels.values(), strict=True)]
        shown.add_row(mode, "all", *(f"{x:.3f}" for x in [*means, mean(levels)]), end_section=True)
    return shown
