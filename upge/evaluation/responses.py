"""Responses to problems: sampling, grading, keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upge.rollouts.sampler import Sampler, Sampling, question_seed
from upge.tasks.problem import Problem
from upge.tasks.verifier import Verifier


@dataclass(frozen=True)
class Responses:
    """k graded responses to each of P problems.

    Args:
        problems: P problems.
        texts: P lists of k responses.
        rewards: (P, k).
        lengths: (P, k), tokens.
    """

    problems: Sequence[Problem]
    texts: Sequence[Sequence[str]]
    rewards: Tensor
    lengths: Tensor

    def save(self, path: Path) -> None:
        """Write one row a response, as Parquet."""
        import pyarrow
        from pyarrow import parquet

        k = self.rewards.shape[1]
        rows = [
            {
                "suite": problem.family,
                "level": problem.level,
                "prompt": problem.prompt,
                "answer": problem.answer,
                "sample": i,
                "response": self.texts[p][i],
                "reward": self.rewards[p, i].item(),
                "tokens": int(self.lengths[p, i]),
            }
            for p, problem in enumerate(self.problems)
            for i in range(k)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
        partial.replace(path)


def respond(
    problems: Sequence[Problem],
    *,
    sampler: Sampler,
    tokenizer: Any,
    verifier: Verifier,
    samples: int,
    settings: Sampling,
    seed: int,
) -> Responses:
    """Sample and grade ``samples`` responses to each problem.

    A problem's responses hang on the seed, its prompt and the policy, not on the other problems.
    """
    prompts = [tokenizer.encode(problem.prompt, add_special_tokens=False) for problem in problems]
    seeds = [question_seed(seed, "evaluation", problem.prompt) for problem in problems]
    rollouts = sampler(prompts, samples, settings, seeds)
    lengths = rollouts.mask.sum(1).cpu()
    ids = [
        row[:length] for row, length in zip(rollouts.tokens.tolist(), lengths.tolist(), strict=True)
    ]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    rewards = verifier(texts, [problem for problem in problems for _ in range(samples)])
    return Responses(
        problems,
        [texts[start : start + samples] for start in range(0, len(texts), samples)],
        torch.tensor(rewards).view(-1, samples),
        lengths.view(-1, samples),
    )
