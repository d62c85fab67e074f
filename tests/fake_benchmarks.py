"""A made-up sampler and suites, and the folders that their responses are kept in."""

from __future__ import annotations

import string
from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.run import Evaluator, Part, parts
from upge.evaluation.suites import Suite
from upge.models.tiny import build_tokenizer
from upge.rollouts import Rollouts, Sampling
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem

TOKENIZER = build_tokenizer(string.printable)


TEXTS = ("so \\boxed{1}", "\\boxed{2}", "one", "\\boxed{sum}", "\\boxed{slow}")


SETTINGS = Sampling(16, 1.0)


class Fake:
    """Responses that depend on the prompts' seeds alone; every fourth, on average, is cut."""

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


class Letters:
    """A verifier that compares letters alone."""

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[float]:
        return [float(verdict is Verdict.RIGHT) for verdict in self.judge(responses, problems)]

    def judge(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        special = {"one": Verdict.UNBOXED, "\\boxed{sum}": Verdict.REFUSED}
        return [
            special.get(response)
            or (Verdict.RIGHT if f"{{{problem.answer}}}" in response else Verdict.WRONG)
            for response, problem in zip(responses, problems, strict=True)
        ]


def suite(count: int = 7, samples: int = 3, name: str = "made") -> Suite:
    problems = [Problem(f"{i} + {name}?", str(1 + i % 2), level=1 + i % 3) for i in range(count)]
    return Suite(name, problems, samples, f"digest of {name}", count)


def parts_of(own: Suite, rows: int = 6, done: Collection[int] = (), fewest: int = 1) -> list[Part]:
    return parts(own.name, own.problems, own.samples, rows, done=done, fewest=fewest)


def evaluate(
    folder: EvaluationFolder, *suites: Suite, sampler: Any = None, rows: int = 6, **run: Any
) -> None:
    """What the folder lacks of these suites, as the command has it sampled and kept."""
    evaluator = Evaluator(sampler or Fake(), TOKENIZER, Letters(), SETTINGS, seed=5)
    todo = [
        part for own in suites for part in parts_of(own, rows, folder.done(own.name, own.samples))
    ]
    evaluator.run(todo, folder.add, **run)
    for own in suites:
        folder.finish(own.name, len(own.problems), own.samples)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything kept of the responses."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


def open_folder(path: Path, *suites: Suite, **changes: Any) -> EvaluationFolder:
    path.mkdir(exist_ok=True)
    folder = EvaluationFolder(path)
    settings = {"weights": "w", "template": "zero", "seed": 5} | changes
    folder.open("a model", settings, suites, {"upge.evaluation": "1"})
    return folder


BOTH = (suite(), suite(4, 2, "other"))
