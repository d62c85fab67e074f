"""Validation and the final test of a run, shared by its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upge.evaluation.responses import Responses
from upge.evaluation.run import respond_suites
from upge.rollouts import Sampler
from upge.tasks.dataset import Dataset
from upge.tasks.problem import Problem
from upge.training.config import RunConfig
from upge.training.processes import gather


@dataclass(frozen=True)
class Evaluator:
    """Measures the policy; its methods are called by all processes together.

    A problem's responses depend on seed, prompt and policy alone: so do the numbers, whatever the
    number of processes.

    Args:
        config: the run.
        dataset: its problems.
        tokenizer: the model's.
        sampler: samples from the policy.
        accelerator: Accelerate's object.
    """

    config: RunConfig
    dataset: Dataset
    tokenizer: Any
    sampler: Sampler
    accelerator: Any

    def validate(self) -> float:
        """Accuracy on the validation problems."""
        samples = self.config.evaluation.validation_samples
        responses = self._respond({"validation": self.dataset.validation}, samples)
        return responses["validation"].rewards.mean().item()

    def test(self, folder: Path) -> dict[str, Any]:
        """Accuracy on each test suite, and the averages over those in and out of distribution.

        Args:
            folder: where the main process writes the responses, a Parquet file a suite.
        """
        samples = self.config.evaluation.test_samples
        if samples is None or not self.dataset.tests:
            return {}
        suites = {}
        for name, responses in self._respond(self.dataset.tests, samples).items():
            if self.accelerator.is_main_process:
                responses.save(folder / f"{name}.parquet")
            suites[name] = responses.rewards.mean().item()
        unseen = self.dataset.unseen
        return {
            "suites": suites,
            "in_distribution": _average({k: v for k, v in suites.items() if k not in unseen}),
            "out_of_distribution": _average({k: v for k, v in suites.items() if k in unseen}),
        }

    def _respond(
        self, suites: Mapping[str, Sequence[Problem]], samples: int
    ) -> dict[str, Responses]:
        return respond_suites(
            suites,
            samples=samples,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            gather=lambda own: gather(self.accelerator, own),
            sampler=self.sampler,
            tokenizer=self.tokenizer,
            verifier=self.dataset.verifier,
            settings=self.config.evaluation.sampling(self.config.max_tokens),
            seed=self.config.seed,
        )


def _average(accuracy: Mapping[str, float]) -> float | None:
    return sum(accuracy.values()) / len(accuracy) if accuracy else None
