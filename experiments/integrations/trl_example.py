"""Any algorithm in TRL: the package's base model on its synthetic problems, a few steps on a CPU.

python -m experiments.integrations.trl_example --algorithm hpt --steps 3
"""

from __future__ import annotations

import argparse
import sys
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from upge.common.errors import UpgeError
from upge.integrations.trl import UpgeTrainer
from upge.models.pretrained import load_pretrained
from upge.tasks import dataset
from upge.tasks.problem import Problem

DATA = dataset.synthetic(problems=400, demonstrations=None, validation=1, test=1)


def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """1 where the completion ends in the problem's answer."""
    return DATA.verifier(completions, [Problem("", known) for known in answer])


def questions(problems: list[Problem]) -> Dataset:
    """TRL's data set: prompts, answers for the reward, demonstrations for the estimator."""
    return Dataset.from_list(
        [
            {"prompt": p.prompt, "answer": p.answer, "demonstration": p.demonstration}
            for p in problems
        ]
    )


def train(
    algorithm: str = "hpt", steps: int = 3, base: str = "tiny_weak", **settings: Any
) -> UpgeTrainer:
    """The trainer after its steps; ``settings`` are GRPOConfig's."""
    model, tokenizer = load_pretrained(base)
    tokenizer.padding_side = "left"
    with TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": steps,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 4,
            "num_generations": 8,
            "max_completion_length": 48,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
        }
        config = GRPOConfig(**options | settings)
        trainer = UpgeTrainer(
            model,
            reward_funcs=reward,
            args=config,
            train_dataset=questions(DATA.train),
            processing_class=tokenizer,
            algorithm=algorithm,
        )
        trainer.remove_callback(PrinterCallback)  # a line of some 400 characters a step
        trainer.train()
    return trainer


def main() -> None:
    """Train and print what each step saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", default="hpt")
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    for row in train(given.algorithm, given.steps).state.log_history:
        if "reward" in row:
            share = row["offline_ratio"]
            print(f"step {row['step']}: reward {row['reward']:.3f}, offline ratio {share:.3f}")


if __name__ == "__main__":
    try:
        main()
    except UpgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
