"""How many rollouts of each training question were correct, epoch by epoch, from a run's steps."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.run import Run
from upge.common.config import build
from upge.rollouts import derive_seed
from upge.training.config import RunConfig
from upge.training.data import load_dataset
from upge.training.experience import question_order

#: What identifies a question.
QUESTION = ("level", "family", "prompt")


def question_accuracy(run: Run) -> pd.DataFrame:
    """:data:`QUESTION`, ``epoch, accuracy`` in the last stage that samples rollouts.

    Epochs count from 1 at the stage's start; unfinished ones are left out. Records know a step's
    questions by their places in it; the seed determines which questions these are.
    """
    config = build({key: value for key, value in run.config.items() if key != "key"}, RunConfig)
    problems = load_dataset(config).train
    rows = [
        (problems[i].level, problems[i].family, problems[i].prompt, epoch, share)
        for i, epoch, share in _asked(run, config, len(problems))
    ]
    frame = pd.DataFrame(rows, columns=[*QUESTION, "epoch", "accuracy"])
    whole = frame.groupby("epoch")["accuracy"].transform("size") == len(problems)
    return frame[whole].reset_index(drop=True)


def _asked(run: Run, config: RunConfig, count: int) -> Iterator[tuple[int, int, float]]:
    """Index, epoch and share of correct rollouts of each question of each step."""
    sampling = [i for i, stage in enumerate(config.stages) if stage.samples_rollouts]
    if not sampling or "solved" not in run.steps:
        return
    number = sampling[-1]
    stage, before = config.stages[number], sum(s.steps for s in config.stages[:number])
    seed = derive_seed(config.seed, number, "order")
    for line in run.steps[run.steps["stage"] == number].itertuples():
        step = line.step - before - 1
        order = question_order(count, stage.prompts_per_step, step, seed)
        for slot, (question, share) in enumerate(zip(order, line.solved, strict=True)):
            yield question, (step * stage.prompts_per_step + slot) // count + 1, float(share)
