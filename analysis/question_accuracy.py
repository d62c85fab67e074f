"""How many rollouts of each training question were right, epoch by epoch, from a run's steps."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.run import Run
from upge.common.config import build
from upge.rollouts import derive_seed
from upge.training.config import RunConfig, Stage
from upge.training.data import load_dataset
from upge.training.experience import question_order

#: What is known of a question.
QUESTION = ("level", "family", "prompt")


def question_accuracy(run: Run) -> pd.DataFrame:
    """:data:`QUESTION`, ``epoch, accuracy``: of the last stage that samples rollouts.

    Epochs count from 1 at the stage's start; only those that have come to their end are there.
    Records know a step's questions by their places in it; which these are follows from the seed.
    """
    config = _config(run)
    problems = load_dataset(config).train
    rows = [
        (problems[i].level, problems[i].family, problems[i].prompt, epoch, share)
        for i, epoch, share in _asked(run, config, len(problems))
    ]
    frame = pd.DataFrame(rows, columns=[*QUESTION, "epoch", "accuracy"])
    whole = frame.groupby("epoch")["accuracy"].transform("size") == len(problems)
    return frame[whole].reset_index(drop=True)


def _config(run: Run) -> RunConfig:
    given = {key: value for key, value in run.config.items() if key != "key"}
    return build(given, RunConfig)


def _asked(run: Run, config: RunConfig, count: int) -> Iterator[tuple[int, int, float]]:
    """Index, epoch and share of right rollouts of each question that a step asked."""
    sampling = [i for i, stage in enumerate(config.stages) if stage.samples_rollouts]
    metrics = run.metrics()
    if not sampling or "solved" not in metrics:
        return
    number = sampling[-1]
    stage, before = config.stages[number], sum(s.steps for s in config.stages[:number])
    for line in metrics[metrics["stage"] == number].itertuples():
        step = line.step - before - 1
        order = _order(stage, number, config.seed, step, count)
        for slot, (question, share) in enumerate(zip(order, line.solved, strict=True)):
            yield question, (step * stage.prompts_per_step + slot) // count + 1, float(share)


def _order(stage: Stage, number: int, seed: int, step: int, count: int) -> list[int]:
    """The questions of a stage's step, as the loop draws them."""
    return question_order(count, stage.prompts_per_step, step, derive_seed(seed, number, "order"))
