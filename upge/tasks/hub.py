"""Problems from the Hugging Face hub: where each data set is, and what its records mean."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from string import ascii_uppercase
from typing import Any

from upge.common.errors import UpgeError
from upge.common.hub import hub
from upge.common.optional import require
from upge.tasks.answers import boxed
from upge.tasks.problem import Problem, Record, data_folder, level_of, worked


@dataclass(frozen=True)
class Source:
    """A data set of the hub.

    Args:
        hub: its id.
        split: its split.
        read: makes a problem of a record.
        subset: its configuration, if it has several.
        kind: what its answers are (:data:`~upge.tasks.reading.grammar.KINDS`), if that is one.
    """

    hub: str
    split: str
    read: Callable[[Record], Problem]
    subset: str | None = None
    kind: str = ""

    def problem(self, record: Record) -> Problem:
        """The problem of a record."""
        return self.declared(self.read(record))

    def declared(self, problem: Problem) -> Problem:
        """The problem with the kind that its answer is."""
        return replace(problem, kind=problem.kind or self.kind)


def fetch(source: Source) -> list[Problem]:
    """The problems of a source, downloaded or from the hub's cache on this machine.

    A line on standard error says so first: either may take a while.

    Raises:
        UpgeError: the extra ``math`` is missing, the hub can't be reached, the data set is gated or
            has other columns than it had.
    """
    datasets = require("datasets", "train")
    names = [source.hub] if source.subset is None else [source.hub, source.subset]
    print(
        f"upge: no file of {source.hub} in {data_folder()} (UPGE_DATA), asking the hub",
        file=sys.stderr,
        flush=True,
    )
    try:
        with hub("train"):
            records = datasets.load_dataset(*names, split=source.split)
    except (OSError, ValueError) as error:
        raise UpgeError(
            f"{source.hub} can't be had from the hub ({type(error).__name__}); see whether there "
            "is a network and, for a gated set, `hf auth login`; or set UPGE_DATA to a folder that "
            "has it as a file"
        ) from error
    try:
        return [source.problem(record) for record in records]
    except (KeyError, TypeError, LookupError) as error:
        raise UpgeError(
            f"{source.hub} has changed its columns ({error!r}); set UPGE_DATA to a folder that has "
            "it as a file with problem and answer"
        ) from error


# ------------------------------------------------------------------------------------------ records


def gsm8k_record(record: Record) -> Problem:
    """A record of openai/gsm8k."""
    return gsm8k_problem(record["question"], record["answer"])


def gsm8k_problem(question: str, answer: str) -> Problem:
    """One record: the solution, then ``####``, then the answer."""
    solution, marker, final = answer.rpartition("####")
    if not marker:
        raise UpgeError(f"a GSM8K answer lacks its '####': {answer[-40:]!r}")
    unmarked = re.sub(r"<<[^>]*>>", "", solution).strip()
    return Problem(question, final.strip().replace(",", ""), worked(unmarked))


def columns(
    problem: str, answer: str = "answer", solution: str = ""
) -> Callable[[Record], Problem]:
    """Reads records whose columns have these names."""

    def read(record: Record) -> Problem:
        return Problem(
            record[problem],
            _text(record[answer]),
            worked(record.get(solution)),
            record.get("subject") or "",
            level_of(record.get("level")),
        )

    return read


def math_record(record: Record) -> Problem:
    r"""A record of MATH: its answer is what its solution boxes."""
    solution = record["solution"]
    answer = boxed(solution)
    if answer is None:
        raise KeyError(f"no box in {solution[-40:]!r}")
    level = level_of(record.get("level"))
    return Problem(record["problem"], answer, solution, record.get("type") or "", level)


def openr1_record(record: Record) -> Problem:
    """A record of OpenR1-Math-46k-8192, as published or as the official code rewrites it.

    The system prompt, LUFFY's, is left out as there.
    """
    *_, question = record["prompt"]
    target = record["target"]
    demonstration = target[0]["content"] if target else None
    answer = record["reward_model"]["ground_truth"]
    family = record.get("data_source") or ""
    return Problem(question["content"], answer, worked(demonstration), family)


def svamp_record(record: Record) -> Problem:
    """A record of SVAMP."""
    body = record["Body"].strip()
    return Problem(f"{body} {record['Question'].strip()}", _text(record["Answer"]))


def arc_record(record: Record) -> Problem:
    """A record of ARC; a few number their options instead of lettering them."""
    labels = record["choices"]["label"]
    letter = ascii_uppercase[labels.index(record["answerKey"])]
    return _choice(record["question"], record["choices"]["text"], letter)


def gpqa_record(record: Record) -> Problem:
    """A record of GPQA, its options in an order that hangs on the question alone."""
    right = record["Correct Answer"].strip()
    options = [right, *(record[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))]
    Random(record["Question"]).shuffle(options)
    return _choice(record["Question"].strip(), options, ascii_uppercase[options.index(right)])


def _choice(question: str, options: list[str], answer: str) -> Problem:
    lettered = zip(ascii_uppercase, options, strict=False)
    return Problem("\n".join([f"{question}\n", *(f"{a}) {text}" for a, text in lettered)]), answer)


def _text(answer: Any) -> str:
    """An answer, or several, as one text; a whole number without its decimals."""
    if answer is None or (isinstance(answer, float) and not math.isfinite(answer)):
        raise KeyError("a record without an answer")
    if isinstance(answer, list):
        return ", ".join(map(_text, answer))
    return re.sub(r"(?<=\d)\.0+$", "", str(answer)) if not isinstance(answer, str) else answer
