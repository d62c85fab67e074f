"""Supplies of demonstrations, from the comparisons of the study, and what was reached with each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pandas as pd
import torch

from analysis.accuracy.costs import costs
from analysis.accuracy.table import IN, OUT, averages
from analysis.budgets import Curve, points, validations
from analysis.methods import BASE, short_title, suite_title
from analysis.run import Run, Runs
from analysis.statistics import Estimate
from upge.common.errors import UpgeError
from upge.evaluation.metrics import pass_at_k_of_counts
from upge.tasks.synthetic import IN_DISTRIBUTION, LEVELS, OUT_OF_DISTRIBUTION

#: The comparisons of the study.
COMPARISONS = tuple(f"supply-{name}" for name in (30, 100, 300, 900, "levels", "families"))

#: Methods without demonstrations, whose runs in one comparison serve all supplies.
FREE = (BASE, "grpo")

#: The methods of the study.
METHODS = (*FREE, "sft", "sft_long", "sft_grpo", "luffy", "hpt_global_token")

#: What tests measure besides avg@k in and out of distribution: pass@k in distribution.
PASS = "pass"


def short(method: str) -> str:
    """A method's name where room is scarce: the study has one variant of each."""
    return "base" if method == BASE else short_title(method)


@dataclass(frozen=True)
class Supply:
    """A supply of demonstrations, and what was reached with it.

    Args:
        label: its short name in CSV.
        title: its short name for readers.
        demonstrations: how many problems have one.
        problems: how many problems are trained on.
        whole: whether demonstrations cover all families and levels that are trained on.
        runs: with this supply, and those that need none.
        tests: by :data:`IN`, :data:`OUT` and :data:`PASS`, by method.
    """

    label: str
    title: str
    demonstrations: int
    problems: int
    whole: bool
    runs: Runs
    tests: Mapping[str, Mapping[str, Estimate]]

    @property
    def costs(self) -> pd.DataFrame:
        """What each method's training took."""
        return costs(self.runs.metrics())

    @property
    def validated(self) -> list[Curve]:
        """Validations over compute; the base model, which is not validated, by its tests."""
        base = {method: e for method, e in self.tests[IN].items() if method == BASE}
        return points(base, self.costs) + validations(self.runs)

    def tested(self, what: str) -> list[Curve]:
        """Tests of whole trainings, at their compute."""
        return points(self.tests[what], self.costs)


@dataclass(frozen=True)
class Study:
    """The study.

    Args:
        comparisons: those that exist.
        supplies: in order.
        samples: of each test problem; k of avg@k and pass@k.
    """

    comparisons: Sequence[Runs]
    supplies: Sequence[Supply]
    samples: int

    @property
    def runs(self) -> Runs:
        """The finished runs of all comparisons, for their provenance."""
        finished = [run for runs in self.comparisons for run in runs.finished]
        return replace(self.comparisons[0], finished=finished)

    @property
    def validation_samples(self) -> int:
        """Samples of each validation problem."""
        evaluations = [supply.runs.finished[0].config["evaluation"] for supply in self.supplies]
        return min(int(evaluation["validation_samples"]) for evaluation in evaluations)


def make(comparisons: Sequence[Runs]) -> Study:
    """The study of comparisons, in whatever order.

    Raises:
        UpgeError: damaged runs, runs tested on different problems, or comparisons with the same
            supply.
    """
    comparisons = sorted(comparisons, key=lambda runs: runs.comparison)
    supplies = supplies_of(comparisons)
    answers = _answers(supplies)
    samples = int(answers["samples"].min()) if len(answers) else 0
    tests = {
        IN: _averages(answers, IN_DISTRIBUTION, k=1),
        OUT: _averages(answers, OUT_OF_DISTRIBUTION, k=1),
        PASS: _averages(answers, IN_DISTRIBUTION, k=samples),
    }
    tested = []
    for supply in supplies:
        names = {_name(supply, method): method for method in supply.runs.methods}
        found = {
            what: {m: estimates[name] for name, m in names.items() if name in estimates}
            for what, estimates in tests.items()
        }
        tested.append(replace(supply, tests=found))
    return Study(comparisons, tested, samples)


# ---------------------------------------------------------------------------------------- supplies


def supplies_of(comparisons: Sequence[Runs]) -> list[Supply]:
    """No demonstration, then ever more, then those of some levels or families; without tests.

    Args:
        comparisons: those of the study that exist.

    Raises:
        UpgeError: comparisons with the same supply.
    """
    made = [runs for runs in comparisons if runs.finished]
    having = {m: next((runs for runs in made if m in runs.methods), None) for m in FREE}
    free = [run for method, runs in having.items() if runs for run in runs.of(method)]
    supplies = sorted(
        (_supply(runs, free) for runs in made),
        key=lambda supply: (not supply.whole, supply.demonstrations, supply.label),
    )
    for a, b in pairwise(supplies):
        if a.label == b.label:
            raise UpgeError(
                f"{a.runs.folder} and {b.runs.folder}: both supply {a.label} demonstrations; name "
                "one of them"
            )
    if all(run.method == BASE for run in free):
        return supplies
    nothing = replace(supplies[0].runs, finished=free, unfinished={})
    return [Supply("0", "0", 0, supplies[0].problems, True, nothing, {}), *supplies]


def _supply(runs: Runs, free: Sequence[Run]) -> Supply:
    supply = runs.finished[0].config["data"]["supply"]
    whole, number = not _part(supply, str), _demonstrations(supply)
    label, title = (str(number) if whole else _part(supply, name) for name in (str, suite_title))
    bound = [run for run in runs.finished if run.method in METHODS and run.method not in FREE]
    together = replace(runs, finished=[*free, *bound])
    return Supply(label, title, number, supply["problems"], whole, together, {})


def _demonstrations(supply: Mapping[str, Any]) -> int:
    """How many problems have one: of those covered, as many as are allowed."""
    share = len(supply["families"]) * len(supply["levels"])
    covered = supply["problems"] * share // (len(IN_DISTRIBUTION) * len(LEVELS))
    allowed = supply["demonstrations"]
    return int(covered if allowed is None else min(covered, allowed))


def _part(supply: Mapping[str, Any], name: Callable[[str], str]) -> str:
    """The levels or families that a supply is restricted to; empty if it covers all."""
    levels, families = supply["levels"], supply["families"]
    texts = []
    if set(levels) < set(LEVELS):
        texts.append(f"levels {min(levels)}–{max(levels)}")
    if set(families) < set(IN_DISTRIBUTION):
        texts.append(", ".join(map(name, families)))
    return "; ".join(texts)


# ------------------------------------------------------------------------------------------- tests


def _name(supply: Supply, method: str) -> str:
    """A method's name among those of all supplies; without demonstrations one name serves all."""
    return method if method in FREE else f"{method} at {supply.label}"


def _answers(supplies: Sequence[Supply]) -> pd.DataFrame:
    """Of all supplies, so that one bootstrap of the problems serves all."""
    parts: dict[str, pd.DataFrame] = {}
    for supply in supplies:
        answers = supply.runs.answers()
        for method, rows in answers.groupby("method", sort=False) if len(answers) else ():
            name = _name(supply, str(method))
            parts.setdefault(name, rows.assign(method=name))
    return pd.concat(parts.values(), ignore_index=True) if parts else pd.DataFrame()


def _averages(answers: pd.DataFrame, suites: Iterable[str], k: int) -> dict[str, Estimate]:
    """pass@k averaged over suites, by method; k = 1 is the share of correct answers."""
    splits = dict.fromkeys(suites, "")
    rows = answers[answers["suite"].isin(list(splits))] if len(answers) else answers
    if not len(rows):
        return {}
    counts = list(zip(rows["right"], rows["samples"], strict=True))
    passes = {
        (right, n): pass_at_k_of_counts(torch.tensor([right]), n, [k]).item()
        for right, n in set(counts)
    }
    return averages(rows.assign(accuracy=[passes[count] for count in counts]), splits)[""]
