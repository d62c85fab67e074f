"""Responses to problems: sampling, grading, keeping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.evaluation.folder import schema
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Sampler, Sampling, derive_seed
from upge.tasks.encoding import encode
from upge.tasks.problem import Problem
from upge.tasks.verifier import Verifier

#: Responses of a problem that share a seed and are sampled together.
BLOCK = 64

#: Responses sampled before they are decoded and graded, at most: their tensors are held till then.
_IN_FLIGHT = 4096


@dataclass(frozen=True)
class Responses:
    """k graded responses to each of P problems.

    Args:
        problems: P problems.
        texts: P lists of k responses.
        rewards: (P, k), float64.
        lengths: (P, k), tokens.
    """

    problems: Sequence[Problem]
    texts: Sequence[Sequence[str]]
    rewards: Tensor
    lengths: Tensor

    def save(self, path: Path) -> None:
        """Write one row a response, as Parquet, in the layout of :mod:`upge.evaluation.folder`.

        Without its columns ``finished`` and ``verdict``; the suite is called as the file.
        """
        pyarrow = require("pyarrow", "train")
        parquet = require("pyarrow.parquet", "train")
        count, k = self.rewards.shape
        own = [problem for problem in self.problems for _ in range(k)]
        columns = {
            "problem": [p for p in range(count) for _ in range(k)],
            "suite": [path.stem] * len(own),
            "family": [problem.family for problem in own],
            "level": [problem.level for problem in own],
            "prompt": [problem.prompt for problem in own],
            "answer": [problem.answer for problem in own],
            "sample": list(range(k)) * count,
            "response": [text for texts in self.texts for text in texts],
            "reward": self.rewards.flatten().tolist(),
            "tokens": self.lengths.flatten().tolist(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        parquet.write_table(pyarrow.table(columns, schema=schema(columns)), partial)
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> Responses:
        """Read what :meth:`save` or an evaluation wrote; demonstrations and splits are not in it.

        Raises:
            UpgeError: a file that can't be read, or holds something else.
        """
        pyarrow = require("pyarrow", "train")
        parquet = require("pyarrow.parquet", "train")
        try:
            rows = parquet.read_table(path).to_pylist()
            firsts = [row for row in rows if row["sample"] == 0]
            shape = len(firsts), -1
            texts = [row["response"] for row in rows]
            k = len(rows) // len(firsts)
            return Responses(
                [_problem(row) for row in firsts],
                [texts[start : start + k] for start in range(0, len(texts), k)],
                torch.tensor([row["reward"] for row in rows], dtype=torch.float64).view(shape),
                torch.tensor([row["tokens"] for row in rows]).view(shape),
            )
        except (
            OSError,
            pyarrow.ArrowException,
            KeyError,
            RuntimeError,
            ZeroDivisionError,
        ) as error:
            raise UpgeError(
                f"{path}: can't be read as responses ({type(error).__name__}); evaluate again"
            ) from error


def _problem(row: Mapping[str, Any]) -> Problem:
    family = row.get("family", row["suite"])  # once they were one column
    return Problem(row["prompt"], row["answer"], family=family, level=row["level"])


def respond(
    problems: Sequence[Problem],
    *,
    sampler: Sampler,
    tokenizer: Any,
    verifier: Verifier,
    samples: int,
    settings: Sampling,
    seed: int,
    progress: Callable[[int], None] = lambda count: None,
) -> Responses:
    """Sample and grade ``samples`` responses to each problem.

    A problem's responses hang on the seed, its prompt and the policy, not on the other problems.

    Args:
        problems: the problems.
        sampler: the rollout backend.
        tokenizer: encodes prompts and decodes responses.
        verifier: grades them.
        samples: responses to each problem, k.
        settings: how they are sampled.
        seed: of the sampling.
        progress: called with the number of responses that came in, time and again.

    Raises:
        UpgeError: no problem, one that the tokenizer can't encode, or a policy that gives its
            responses no finite probability.
    """
    texts: list[list[str]] = [[] for _ in problems]
    rewards: list[list[float]] = [[] for _ in problems]
    lengths: list[list[int]] = [[] for _ in problems]
    for drawn in draw(
        problems,
        sampler=sampler,
        tokenizer=tokenizer,
        samples=samples,
        settings=settings,
        seed=seed,
    ):
        graded = verifier(drawn.texts, [problems[row] for row in drawn.rows])
        for row, text, reward, length in zip(
            drawn.rows, drawn.texts, graded, drawn.lengths, strict=True
        ):
            texts[row].append(text)
            rewards[row].append(reward)
            lengths[row].append(length)
        progress(len(drawn.rows))
    return Responses(
        problems, texts, torch.tensor(rewards, dtype=torch.float64), torch.tensor(lengths)
    )


class Drawn(NamedTuple):
    """Responses as they come in: of each its problem's place, text, tokens, and whether it ended.

    Those to one problem come in the order of their samples.
    """

    rows: list[int]
    texts: list[str]
    lengths: list[int]
    finished: list[bool]


def draw(
    problems: Sequence[Problem],
    *,
    sampler: Sampler,
    tokenizer: Any,
    samples: int,
    settings: Sampling,
    seed: int,
) -> Iterator[Drawn]:
    """Sample ``samples`` responses to each problem, some of them at a time; see :func:`respond`.

    Raises:
        UpgeError: see :func:`respond`.
    """
    if not problems:
        raise UpgeError("there are no problems to respond to; name a file or suite that has some")
    # Other backends may know probabilities only after top-p, and then say NaN.
    backend = getattr(sampler, "sampler", sampler)  # the loop's has one inside
    hidden = settings.top_p < 1 and not isinstance(backend, CachedSampler)
    prompts = [encode(tokenizer, problem.prompt) for problem in problems]
    for first, count, rows in _batches([len(prompt) for prompt in prompts], samples):
        rollouts = sampler(
            [prompts[row] for row in rows],
            count,
            settings,
            [derive_seed(seed, "evaluation", problems[row].prompt, first) for row in rows],
        )
        if not (hidden or rollouts.logp.isfinite().all()):
            raise UpgeError(
                "the policy gives its responses no finite probability, it has broken; start anew "
                "with a lower lr, or take another policy"
            )
        lengths = rollouts.mask.sum(1).tolist()
        yield Drawn(
            [row for row in rows for _ in range(count)],
            rollouts.texts(tokenizer),
            lengths,
            rollouts.finished.tolist(),
        )


def respond_suites(suites: Mapping[str, Sequence[Problem]], **options: Any) -> dict[str, Responses]:
    """Responses to several suites, sampled together so that batches are full.

    Args:
        suites: problems by suite.
        options: those of :func:`respond`, which gives the same responses suite by suite.

    Raises:
        UpgeError: see :func:`respond`.
    """
    whole = respond([problem for problems in suites.values() for problem in problems], **options)
    parts = {}
    start = 0
    for name, problems in suites.items():
        own = slice(start, start + len(problems))
        parts[name] = Responses(problems, whole.texts[own], whole.rewards[own], whole.lengths[own])
        start = own.stop
    return parts


def _batches(lengths: list[int], samples: int) -> Iterator[tuple[int, int, list[int]]]:
    """Number of the first response, responses a problem, and problems of like prompt lengths."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for first in range(0, samples, BLOCK):
        count = min(BLOCK, samples - first)
        size = _IN_FLIGHT // count
        for start in range(0, len(order), size):
            yield first, count, order[start : start + size]
