"""Problems from the Hugging Face hub."""

from __future__ import annotations

import re

from upge.errors import UpgeError
from upge.extras import require
from upge.tasks.problem import Problem


def load_gsm8k(split: str) -> list[Problem]:
    """GSM8K (arXiv 2110.14168) from the hub, solutions without the calculator's marks.

    Raises:
        UpgeError: the extra ``lm`` is missing, or the hub can't be reached.
    """
    datasets = require("datasets", "lm")
    try:
        records = datasets.load_dataset("openai/gsm8k", "main", split=split)
    except (OSError, ValueError) as error:
        raise UpgeError(
            f"GSM8K can't be had from the hub ({type(error).__name__}); set UPGE_DATA to a folder "
            "with gsm8k_train.jsonl"
        ) from error
    return [gsm8k_problem(record["question"], record["answer"]) for record in records]


def gsm8k_problem(question: str, answer: str) -> Problem:
    """One record: the solution, then ``####``, then the answer."""
    solution, marker, final = answer.rpartition("####")
    if not marker:
        raise UpgeError(f"a GSM8K answer lacks its '####': {answer[-40:]!r}")
    worked = re.sub(r"<<[^>]*>>", "", solution).strip()
    return Problem(question, final.strip().replace(",", ""), worked)
