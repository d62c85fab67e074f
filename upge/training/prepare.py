"""All that a run needs but the model's weights; whatever can be wrong is found here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upge.common.errors import UpgeError
from upge.models.pretrained import load_config, load_tokenizer
from upge.rollouts import check_backend
from upge.tasks.dataset import Dataset
from upge.tasks.encoding import encode
from upge.training.config import RunConfig, Stage
from upge.training.data import load_dataset
from upge.training.experience import Question, check_lengths, encode_questions


@dataclass(frozen=True)
class Prepared:
    """The problems of a run.

    Attributes:
        dataset: as text, with their verifier.
        tokenizer: the model's.
        questions: the training problems as token ids.
    """

    dataset: Dataset
    tokenizer: Any
    questions: list[Question]

    def pool(self, stage: Stage) -> list[Question]:
        """The questions of a stage: where no rollouts are read, those with a demonstration."""
        if stage.samples_rollouts:
            return self.questions
        return [question for question in self.questions if question.demonstration is not None]


def prepare(config: RunConfig, processes: int = 1) -> Prepared:
    """Load and encode the problems of a run.

    Args:
        config: the run.
        processes: how many share it.

    Raises:
        UpgeError: what keeps the run from being made, but for the model's weights.
    """
    _check_processes(config, processes)
    check_backend(config.backend)
    dataset = load_dataset(config)
    tokenizer = load_tokenizer(config.model)
    questions = encode_questions(
        dataset.train,
        tokenizer,
        dataset.verifier,
        max_tokens=config.max_tokens,
        drop_long=config.long_demonstrations == "drop",
        demonstrations=any(stage.reads_demonstrations for stage in config.stages),
    )
    suites = (dataset.validation, *dataset.tests.values())
    tested = [encode(tokenizer, problem.prompt) for suite in suites for problem in suite]
    trained = [question.prompt for question in questions]
    check_lengths(trained, tested, config, load_config(config.model))
    _check_demonstrations(config, dataset, questions)
    return Prepared(dataset, tokenizer, questions)


def _check_processes(config: RunConfig, processes: int) -> None:
    fewest = min((stage.prompts_per_step for stage in config.stages), default=processes)
    if fewest < processes:
        raise UpgeError(
            f"prompts_per_step: got {fewest} for {processes} processes, wanted at least one each"
        )


def _check_demonstrations(config: RunConfig, dataset: Dataset, questions: list[Question]) -> None:
    readers = [stage.algorithm for stage in config.stages if stage.reads_demonstrations]
    if not readers or any(question.demonstration for question in questions):
        return
    count = sum(problem.demonstration is not None for problem in dataset.train)
    if count:
        fault = f"all {count} are longer than max_tokens {config.max_tokens}; raise it"
    elif dataset.omissions:
        fault = f"no training problem has one left ({dataset.omissions}); change what is dropped"
    else:
        fault = "no training problem has one; add solutions to the problems"
    raise UpgeError(
        f"{readers[0]} learns from demonstrations, but {fault}, or take an algorithm without"
    )
