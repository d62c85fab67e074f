"""The results of an evaluation: a row a suite, or one a level or family of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

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
from upge.evaluation.responses import Response, Responses
from upge.tasks.grading import Verdict

Row = dict[str, Any]
Answers = Sequence[Sequence[Response]]


def result_rows(
    folder: EvaluationFolder,
    suites: Mapping[str, int | None],
    *,
    by: str = "suite",
    against: EvaluationFolder | None = None,
) -> list[Row]:
    """avg@k, pass@k, intervals, counts of verdicts, and the difference to another evaluation.

    Args:
        folder: the evaluation.
        suites: names, and how many problems of each count; None for all that are there.
        by: what a row is: ``suite``, ``family`` or ``level``.
        against: another evaluation of the same suites.

    Raises:
        UpgeError: an evaluation lacks a suite or problems, or means another suite by its name.
    """
    rows = []
    for name, count in suites.items():
        own = _first(folder, name, count)
        other = None if against is None else _counterpart(folder, against, name, own, count)
        labels = [name if by == "suite" else getattr(problem, by) for problem in own.problems]
        for label in sorted(set(labels)):
            places = [place for place, each in enumerate(labels) if each == label]
            answers = [own.answers[place] for place in places]
            row: Row = {"suite": name, by: label} | _measures(answers) | _counts(answers)
            if against is not None and other is not None:
                row |= _compared(answers, [other.answers[place] for place in places])
                row["other"] = str(against.path)
            ks = powers_of_two(row["samples"])
            means = pass_at_k(_rewards(answers), ks).mean(0).tolist()
            rows.append(row | {f"pass@{k}": mean for k, mean in zip(ks, means, strict=True)})
    return rows


def _first(folder: EvaluationFolder, name: str, count: int | None) -> Responses:
    own = folder.responses(name)
    if not own.problems:
        raise UpgeError(
            f"{folder.path}: no problem of {name} has its responses yet; rerun the command that "
            "samples them"
        )
    return Responses(own.problems[:count], own.answers[:count], own.places[:count])


def _counterpart(
    folder: EvaluationFolder, other: EvaluationFolder, name: str, own: Responses, count: int | None
) -> Responses:
    """The other evaluation's responses to the same problems."""
    mine, theirs = (r.suites.get(name) if (r := f.record) else None for f in (folder, other))
    if theirs is None:
        raise UpgeError(f"--against {other.path}: has no {name}; evaluate it there too")
    if mine and mine.digest != theirs.digest:
        raise UpgeError(
            f"--against {other.path}: its {name} has other problems or answers; evaluate both with "
            "the same file"
        )
    found = _first(other, name, count)
    if found.places != own.places:
        counts = len(found.places), len(own.places)
        raise UpgeError(
            f"--against: has {counts[0]} of the problems of {name}, and {counts[1]} are compared; "
            f"finish it, or compare with --limit {min(counts)}"
        )
    return found


def _rewards(answers: Answers) -> list[list[float]]:
    return [[response.reward for response in own] for own in answers]


def _measures(answers: Answers) -> Row:
    """Means over the problems, and their intervals; k is the least number of responses to one."""
    rewards, k = _rewards(answers), min(map(len, answers))
    row: Row = {"problems": len(answers), "samples": k}
    for name, values in (
        ("avg@k", avg_at_k(rewards)),
        ("pass@k", pass_at_k(rewards, [k])[:, 0]),
    ):
        low, high = interval(values)
        row |= {name: values.mean().item(), f"{name} low": low, f"{name} high": high}
    return row


def _counts(answers: Answers) -> Row:
    """Counts of responses, all and by what became of them, and their mean length."""
    responses = [response for own in answers for response in own]
    verdicts = Counter(response.verdict for response in responses)
    return {
        "responses": len(responses),
        "tokens": sum(response.tokens for response in responses) / len(responses),
        "truncated": sum(not response.finished for response in responses),
        **dict.fromkeys(map(str, Verdict), 0),
        **verdicts,
    }


def _compared(own: Answers, other: Answers) -> Row:
    """avg@k minus the other's, on the same problems, and how many only one of both solves."""
    mine, theirs = _rewards(own), _rewards(other)
    differences = avg_at_k(mine) - avg_at_k(theirs)
    low, high = paired_interval(differences)
    alone, other_alone = (int(each.sum()) for each in exclusive_solves(mine, theirs))
    return {
        "minus_other": differences.mean().item(),
        "minus_other low": low,
        "minus_other high": high,
        "alone": alone,
        "other_alone": other_alone,
    }
