"""Sampling, grading and keeping the responses to whole benchmarks.

While one part is sampled, the one before is graded and written: grading waits for other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from upge.evaluation.benchmarks import Benchmark
from upge.evaluation.folder import EvaluationFolder
from upge.evaluation.responses import draw
from upge.rollouts.sampler import Sampler, Sampling
from upge.tasks.grading import Verdict
from upge.tasks.problem import Problem

#: The verdict on each response to its problem.
Judge = Callable[[Sequence[str], Sequence[Problem]], Sequence[Verdict]]


@dataclass(frozen=True)
class Evaluator:
    """What asks benchmarks.

    Args:
        sampler: the rollout backend.
        tokenizer: the model's.
        judge: grades responses.
        settings: how they are sampled.
        seed: of the sampling.
        rows: responses to a part's problems, at most, but always whole problems. A kill costs at
            most the part that is sampled and the one that is graded meanwhile. Responses hang on
            it by rounding alone.
    """

    sampler: Sampler
    tokenizer: Any
    judge: Judge
    settings: Sampling
    seed: int = 0
    rows: int = 64

    def run(
        self,
        benchmarks: Sequence[Benchmark],
        folder: EvaluationFolder,
        progress: Callable[[str, int], None] = lambda name, responses: None,
    ) -> None:
        """Sample what the folder lacks of the benchmarks.

        Whatever ends it, what was sampled of whole parts is graded and kept.

        Args:
            benchmarks: what to ask.
            folder: where responses go.
            progress: called with a benchmark's name and the responses that came in.

        Raises:
            UpgeError: see :func:`upge.evaluation.responses.draw`; math-verify is missing; a file
                can't be written.
        """
        with ThreadPoolExecutor(1) as keeper:
            keeping: list[Future[None]] = []
            for own in benchmarks:
                for places in parts(own, folder.done(own.name), self.rows):
                    columns = self._sample(own, places)
                    progress(own.name, len(places) * own.samples)
                    _settle(keeping)
                    keeping.append(keeper.submit(self._keep, own, columns, folder))
                keeping.append(keeper.submit(folder.finish, own.name, len(own.problems)))
            _settle(keeping)

    def _sample(self, benchmark: Benchmark, places: Sequence[int]) -> dict[str, list[Any]]:
        """Responses to some problems, problem by problem."""
        problems = [benchmark.problems[place] for place in places]
        own: list[list[tuple[str, int, bool]]] = [[] for _ in places]
        for drawn in draw(
            problems,
            sampler=self.sampler,
            tokenizer=self.tokenizer,
            samples=benchmark.samples,
            settings=self.settings,
            seed=self.seed,
        ):
            responses = zip(drawn.texts, drawn.lengths, drawn.finished, strict=True)
            for row, response in zip(drawn.rows, responses, strict=True):
                own[row].append(response)
        texts, lengths, finished = zip(*(one for each in own for one in each), strict=True)
        return {
            "problem": [place for place in places for _ in range(benchmark.samples)],
            "sample": list(range(benchmark.samples)) * len(places),
            "response": list(texts),
            "tokens": list(lengths),
            "finished": list(finished),
        }

    def _keep(
        self, benchmark: Benchmark, columns: dict[str, list[Any]], folder: EvaluationFolder
    ) -> None:
        problems = [benchmark.problems[place] for place in columns["problem"]]
        verdicts = self.judge(columns["response"], problems)
        about = {
            "suite": [benchmark.name] * len(problems),
            "family": [problem.family for problem in problems],
            "level": [problem.level for problem in problems],
            "prompt": [problem.prompt for problem in problems],
            "answer": [problem.answer for problem in problems],
            "reward": [float(verdict is Verdict.RIGHT) for verdict in verdicts],
            "verdict": [str(verdict) for verdict in verdicts],
        }
        folder.add(benchmark.name, columns | about)


def parts(benchmark: Benchmark, done: set[int], rows: int) -> Iterator[list[int]]:
    """Places of the problems that are not done, part by part, each the same after every kill."""
    size = max(rows // benchmark.samples, 1)
    for start in range(0, len(benchmark.problems), size):
        places = range(start, min(start + size, len(benchmark.problems)))
        if left := [place for place in places if place not in done]:
            yield left


def _settle(keeping: list[Future[None]]) -> None:
    """Wait for what is being kept, and raise what kept it from that."""
    while keeping:
        keeping.pop(0).result()
