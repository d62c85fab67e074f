"""A made-up sampler and benchmarks, and the folders that their responses are kept in."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from upge.evaluation.benchmarks import (
    Benchmark,
)
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.run import Evaluator
from upge.models.tiny import build_tokenizer
from upge.rollouts import Rollouts, Sampling
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem

TOKENIZER = build_tokenizer(string.printable)


TEXTS = ("so \\boxed{1}", "\\boxed{2}", "one", "\\boxed{sum}", "\\boxed{slow}")


SETTINGS = Sampling(16, 1.0)


class Fake:
    """Responses that hang on the prompts' seeds alone; every fourth, on average, is cut."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        settings: Sampling,
        seeds: Sequence[int],
    ) -> Rollouts:
        self.asked.append(len(prompts))
        rows, ends = [], []
        for seed in seeds:
            random = Random(seed)
            for _ in range(samples):
                rows.append(TOKENIZER.encode(random.choice(TEXTS)))
                ends.append(random.random() < 0.75)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(settings.max_tokens) < lengths[:, None]
        tokens = torch.zeros(mask.shape, dtype=torch.long)
        for row, own in zip(tokens, rows, strict=True):
            row[: len(own)] = torch.tensor(own)
        return Rollouts(tokens, mask, torch.zeros(mask.shape), torch.tensor(ends))

    def synchronize(self) -> None: ...


def judge(responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
    """Letters alone."""
    special = {
        "one": Verdict.UNBOXED,
        "\\boxed{sum}": Verdict.REFUSED,
        "\\boxed{slow}": Verdict.TIME,
    }
    return [
        special.get(response)
        or (Verdict.RIGHT if f"{{{problem.answer}}}" in response else Verdict.WRONG)
        for response, problem in zip(responses, problems, strict=True)
    ]


def benchmark(count: int = 7, samples: int = 3, name: str = "made") -> Benchmark:
    problems = [Problem(f"{i} + {name}?", str(1 + i % 2), level=1 + i % 3) for i in range(count)]
    return Benchmark(name, problems, samples, f"digest of {name}", count)


def evaluator(sampler: Any = None, rows: int = 6) -> Evaluator:
    return Evaluator(sampler or Fake(), TOKENIZER, judge, SETTINGS, seed=5, rows=rows)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything kept of the responses."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


def open_folder(path: Path, *benchmarks: Benchmark, **changes: Any) -> EvaluationFolder:
    path.mkdir(exist_ok=True)
    given = {"weights": "w", "template": "zero", "seed": 5} | changes
    about = {own.name: {"digest": own.digest} for own in benchmarks}
    folder = EvaluationFolder(path)
    folder.open("a model", given, about)
    return folder


BOTH = (benchmark(), benchmark(4, 2, "other"))
