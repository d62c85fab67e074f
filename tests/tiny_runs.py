"""Runs small enough for tests: a model, problems, configurations."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from upge.common import config
from upge.models.tiny import build_model, build_tokenizer
from upge.training.config import RunConfig
from upge.training.loop import Trainer
from upge.training.records import RunFolder

#: What no two runs share.
CLOCKS = {"seconds", "cpu_seconds"}


def make_base(folder: Path, steps: int = 300, build: Any = None) -> None:
    """A model that answers ``3+4=`` with ``#`` and a digit: the first one, most of the time.

    It has seen a few worked answers, ``34#3``, as the demonstrations are. ``build`` makes the
    random model for a vocabulary of that size; the package's tiny one, if not given.
    """
    random = Random(0)
    tokenizer = build_tokenizer("0123456789+=#")
    build = build or partial(build_model, hidden=32, layers=1, heads=2, seed=0)
    model = build(len(tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        texts = []
        for _ in range(32):
            a, b = random.randrange(10), random.randrange(10)
            digit = a if random.random() < 0.5 else random.randrange(10)
            worked = f"{a}{b}" if random.random() < 0.1 else ""
            texts.append(f"{a}+{b}={worked}#{digit}")
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
        ids = torch.cat([encoded.input_ids, encoded.input_ids.new_zeros(len(texts), 1)], 1)
        ends = encoded.attention_mask.sum(1)
        ids[torch.arange(len(texts)), ends] = tokenizer.eos_token_id
        labels = ids.masked_fill(torch.arange(ids.shape[1]) > ends[:, None], -100)
        labels[:, :4] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_problems(path: Path, demonstrations: int = 20, count: int = 30) -> None:
    """Problems whose answer is the first digit, the first ``demonstrations`` of them worked.

    Every eighth is never solved: its answer has two digits, which the base does not write.
    """
    pairs = Random(1).sample([(a, b) for a in range(10) for b in range(10)], count)
    with path.open("w", encoding="utf-8") as file:
        for i, (a, b) in enumerate(pairs):
            answer = f"{a}{b}" if i % 8 == 7 else str(a)
            record = {"problem": f"{a}+{b}=", "answer": answer}
            if i < demonstrations:
                record["solution"] = f"{a}{b}"
            file.write(json.dumps(record) + "\n")


class Tiny:
    """A folder with a base model and problems; made once a session."""

    def __init__(self, folder: Path, build: Any = None) -> None:
        self.folder, self.model = folder, folder / "base"
        make_base(self.model, build=build)
        self.problems = folder / "problems.jsonl"
        self.tests = folder / "held.jsonl"
        write_problems(self.problems)
        write_problems(self.tests, 0, 6)

    def config(self, algorithm: str = "hpt", **changes) -> RunConfig:
        """Three steps of four questions, two checkpoints; changes of the stage or of the run."""
        stage = {
            "algorithm": algorithm,
            "steps": 3,
            "prompts_per_step": 4,
            "group_size": 4,
            "lr": 1e-3,
            "warmup": 1,
        }
        stage |= {key: changes.pop(key) for key in list(changes) if key in STAGE}
        given = {
            "name": algorithm,
            "model": str(self.model),
            "data": self.data(),
            "stages": [stage],
            "evaluation": {"every": None, "validation_samples": 2, "test_samples": None},
            "max_tokens": 8,
            "tokens_per_microbatch": 64,
            "checkpoint_every": 2,
            "norms_every": 2,
        }
        return config.build(given | changes, RunConfig)

    def data(self, **changes) -> dict:
        """The problems as a configuration names them."""
        own = {
            "kind": "jsonl",
            "train": str(self.problems),
            "test": str(self.tests),
            "held_out": 4,
            "prompt": "{problem}",
            "demonstration": "{solution}#{answer}",
            "marker": "#",
        }
        return own | changes


STAGE = {
    "steps", "prompts_per_step", "group_size", "lr", "minibatches", "epochs", "options",
    "entropy_bonus", "skip_norm", "on_bad_step", "max_grad_norm", "temperature", "warmup",
    "weight_decay",
}  # fmt: skip


def run(config: RunConfig, folder: Path) -> RunFolder:
    """Train; the run's folder."""
    Trainer(config, RunFolder(folder)).run()
    return RunFolder(folder)


def numbers(folder: RunFolder) -> list[dict]:
    """The metrics but the clocks."""
    return [
        {key: value for key, value in line.items() if key not in CLOCKS}
        for line in folder.metrics()
    ]


def weights(folder: RunFolder) -> bytes:
    """The trained model's file."""
    return (folder.policy / "model.safetensors").read_bytes()
