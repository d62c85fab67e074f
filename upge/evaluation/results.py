"""What is read off the kept responses to benchmarks: a row each, or one a level or family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.metrics import (
    avg_at_k,
    exclusive_solves,
    interval,
    paired_interval,
    pass_at_k,
    powers_of_two,
)
from upge.tasks.grading import Verdict

Row = dict[str, Any]

#: What is counted of a benchmark's responses, and the verdicts that count.
COUNTS = {
    "right": (Verdict.RIGHT,),
    "unboxed": (Verdict.UNBOXED,),
    "refused": (Verdict.REFUSED,),
    "over_limit": (Verdict.TIME, Verdict.KILLED),
}


class Outcome:
    """The first problems of a benchmark, their responses and what these are worth.

    Args:
        table: as :meth:`EvaluationFolder.table` gives it.
        problems: how many problems; None for all that are there.

    Raises:
        UpgeError: there is none.
    """

    def __init__(self, table: Any, problems: int | None = None) -> None:
        columns = table.drop_columns(["prompt", "answer", "response"]).to_pydict()
        self.problems = list(dict.fromkeys(columns["problem"]))[:problems]
        if not self.problems:
            raise UpgeError("no problem has its responses yet; run the same command again")
        self.samples = len(table) // len(dict.fromkeys(columns["problem"]))
        rows = len(self.problems) * self.samples
        self.columns = {name: values[:rows] for name, values in columns.items()}

    @property
    def rewards(self) -> Tensor:
        """(P, k)."""
        rewards = torch.tensor(self.columns["reward"], dtype=torch.float64)
        return rewards.view(len(self.problems), self.samples)

    def labels(self, by: str) -> list[Any]:
        """The suite, family or level of each problem."""
        labels: list[Any] = self.columns[by][:: self.samples]
        return labels

    def rows(self, by: str = "suite", against: Outcome | None = None) -> list[Row]:
        """A row for each label: avg@k, pass@k, their intervals, counts, and how another model does.

        Args:
            by: ``suite``, ``family`` or ``level``.
            against: another model's responses to the same problems.

        Raises:
            UpgeError: the other one has other problems.
        """
        if against is not None:
            self._check(against)
        labels = self.labels(by)
        rows = []
        for label in sorted(set(labels)):
            places = [place for place, own in enumerate(labels) if own == label]
            row = {"suite": self.columns["suite"][0], by: label}
            row |= self._measures(places) | self._counts(places)
            if against is not None:
                row |= self._compared(against, places)
            rows.append(row | self._passes(places))
        return rows

    def _measures(self, places: list[int]) -> Row:
        rewards, k = self.rewards[places], self.samples
        row: Row = {"problems": len(places), "samples": k}
        values = {"avg@k": avg_at_k(rewards), "pass@k": pass_at_k(rewards, [k])[:, 0]}
        for name, own in values.items():
            low, high = interval(own, k)
            row |= {name: own.mean().item(), f"{name} low": low, f"{name} high": high}
        return row

    def _passes(self, places: list[int]) -> Row:
        ks = powers_of_two(self.samples)
        means = pass_at_k(self.rewards[places], ks).mean(0).tolist()
        return {f"pass@{k}": mean for k, mean in zip(ks, means, strict=True)}

    def _counts(self, places: list[int]) -> Row:
        k = self.samples
        own = [place * k + sample for place in places for sample in range(k)]
        tokens = [self.columns["tokens"][row] for row in own]
        verdicts = Counter(self.columns["verdict"][row] for row in own)
        counts = {
            name: sum(verdicts[verdict] for verdict in counted) for name, counted in COUNTS.items()
        }
        truncated = sum(not self.columns["finished"][row] for row in own)
        return {"tokens": sum(tokens) / len(own), "truncated": truncated} | counts

    def _check(self, other: Outcome) -> None:
        if self.problems != other.problems:
            raise UpgeError(
                f"--against: has {len(other.problems)} of the problems of "
                f"{self.columns['suite'][0]}, and {len(self.problems)} are compared; finish it, "
                f"or compare with --limit {min(len(self.problems), len(other.problems))}"
            )

    def _compared(self, other: Outcome, places: list[int]) -> Row:
        """avg@k less the other's, on the same problems, and what only one of both solves."""
        own, theirs = self.rewards[places], other.rewards[places]
        differences = avg_at_k(own) - avg_at_k(theirs)
        low, high = paired_interval(differences, min(self.samples, other.samples))
        names = ("minus_other", "minus_other low", "minus_other high")
        values = (differences.mean().item(), low, high)
        first, second = (int(alone.sum()) for alone in exclusive_solves(own, theirs))
        return dict(zip(names, values, strict=True)) | {"alone": first, "other_alone": second}


def result_rows(
    folder: EvaluationFolder,
    problems: Mapping[str, int | None],
    *,
    by: str = "suite",
    against: EvaluationFolder | None = None,
) -> list[Row]:
    """The rows of several benchmarks.

    Args:
        folder: the evaluation.
        problems: names, and how many problems of each count; None for all that are there.
        by: ``suite``, ``family`` or ``level``.
        against: another evaluation of the same benchmarks.

    Raises:
        UpgeError: an evaluation lacks a benchmark or problems, or means another one by its name.
    """
    rows = []
    for name, count in problems.items():
        other = None
        if against is not None:
            _check_same(name, folder, against)
            other = Outcome(against.table(name), count)
        found = Outcome(folder.table(name), count).rows(by, other)
        rows += found if against is None else [row | {"other": str(against.path)} for row in found]
    return rows


def _check_same(name: str, folder: EvaluationFolder, other: EvaluationFolder) -> None:
    own, theirs = (each.about.get("benchmarks", {}).get(name) for each in (folder, other))
    if theirs is None:
        raise UpgeError(f"--against {other.path}: has no {name}; evaluate it there too")
    if own["digest"] != theirs["digest"]:
        raise UpgeError(
            f"--against {other.path}: its {name} has other problems or answers; evaluate both with "
            "the same file"
        )
