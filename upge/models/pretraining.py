"""Pre-training of the tiny base models on the synthetic suites.

The base answers a bare prompt tersely (``#292``), which only works where few steps are needed, and
writes a worked solution when the prompt stands behind ``/``. A small share of bare prompts of low
levels is worked too: the skill that post-training has to bring out is there, but not the default.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.models.tiny import build_model, build_tokenizer
from upge.tasks.problem import Problem
from upge.tasks.synthetic import (
    ALPHABET,
    ANSWER_MARKER,
    IN_DISTRIBUTION,
    LEVELS,
    OUT_OF_DISTRIBUTION,
    draw,
)

#: The prefix behind which the base writes worked solutions.
WORKED = "/"

#: Raised whenever a change of the code changes the weights that a recipe leads to.
NUMBERS = 1

Shares = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class PretrainingRecipe:
    """What determines a base model.

    Args:
        hidden, layers, heads: its size; see :func:`upge.models.tiny.build_model`.
        steps: optimizer steps; the learning rates fall linearly to 0 over them.
        batch_tokens: tokens a step, about.
        muon_lr: learning rate of the matrices inside the blocks, by Muon.
        adam_lr: learning rate of embeddings, norms and biases, by AdamW.
        warmup: steps over which the rates rise.
        worked: share of problems shown as worked solutions behind ``/``.
        worked_levels: how these fall on levels 1–5.
        bare_worked: share of the bare prompts of each level that are worked.
        terse_levels: how the bare prompts fall on levels 1–5.
        unseen: share of problems from the out-of-distribution families.
        unseen_worked_levels: how worked ones of those families fall on levels 1–5.
        seed: of weights and data.

    Raises:
        UpgeError: a size or rate that is not above 0, or a share outside [0, 1].
    """

    hidden: int = 64
    layers: int = 4
    heads: int = 4
    steps: int = 6000
    batch_tokens: int = 2304
    muon_lr: float = 0.02
    adam_lr: float = 0.003
    warmup: int = 100
    worked: float = 0.5
    worked_levels: Shares = (0.2, 0.24, 0.28, 0.24, 0.04)
    bare_worked: Shares = (0.02, 0.04, 0.05, 0.005, 0.0)
    terse_levels: Shares = (0.3, 0.4, 0.1, 0.1, 0.1)
    unseen: float = 0.15
    unseen_worked_levels: Shares = (0.5, 0.35, 0.15, 0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _SHARES:
                _check_shares(field.name, value)
            elif field.name != "seed" and not 0 < value < math.inf:
                raise UpgeError(f"{field.name}: got {value}, wanted a finite number above 0")

    @property
    def key(self) -> str:
        """Hash of all that determines the base."""
        given = asdict(self) | {"numbers": NUMBERS}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]


_SHARES = (
    "worked",
    "worked_levels",
    "bare_worked",
    "terse_levels",
    "unseen",
    "unseen_worked_levels",
)


def _check_shares(name: str, value: float | Shares) -> None:
    shares = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) and len(value) != len(LEVELS):
        raise UpgeError(
            f"{name}: got {len(value)} shares, wanted one for each of {len(LEVELS)} levels"
        )
    if not all(0 <= share <= 1 for share in shares):
        raise UpgeError(f"{name}: got {value}, wanted shares from 0 to 1")


def examples(recipe: PretrainingRecipe, random: Random) -> Iterator[tuple[str, str]]:
    """Endless (prompt, response) texts."""
    while True:
        unseen = random.random() < recipe.unseen
        family = random.choice(list(OUT_OF_DISTRIBUTION if unseen else IN_DISTRIBUTION))
        if random.random() < recipe.worked:
            levels = recipe.unseen_worked_levels if unseen else recipe.worked_levels
            problem = _of_level(family, levels, random)
            yield WORKED + problem.prompt, str(problem.demonstration)
        else:
            problem = _of_level(family, recipe.terse_levels, random)
            worked = random.random() < recipe.bare_worked[problem.level - 1]
            terse = ANSWER_MARKER + problem.answer
            yield problem.prompt, str(problem.demonstration) if worked else terse


def _of_level(family: str, shares: Shares, random: Random) -> Problem:
    (level,) = random.choices(LEVELS, weights=shares)
    return draw(family, level, "pretraining", random)


def _batches(
    recipe: PretrainingRecipe, tokenizer: Any, random: Random
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels (N, T) of about ``batch_tokens`` each, of similar lengths, in random order."""
    source = examples(recipe, random)
    while True:
        pool = sorted((next(source) for _ in range(1024)), key=lambda pair: len("".join(pair)))
        batches: list[list[tuple[str, str]]] = [[]]
        for pair in pool:
            if (len(batches[-1]) + 1) * (len("".join(pair)) + 1) > recipe.batch_tokens:
                batches.append([])
            batches[-1].append(pair)
        random.shuffle(batches)
        for batch in batches:
            yield _tensors(batch, tokenizer)


def _tensors(batch: list[tuple[str, str]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) + len(response) for prompt, response in batch) + 1
    ids = torch.full((len(batch), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    encoded = tokenizer(["".join(pair) for pair in batch], add_special_tokens=False).input_ids
    for row, ((prompt, _), own) in enumerate(zip(batch, encoded, strict=True)):
        own = torch.tensor([*own, tokenizer.eos_token_id])
        ids[row, : len(own)] = own
        labels[row, len(prompt) : len(own)] = own[len(prompt) :]
    return ids, labels


def optimizers(model: Any, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.dim() == 2 and "embed" not in n)]
    if not hasattr(torch.optim, "Muon"):
        raise UpgeError(
            f"pre-training takes torch.optim.Muon, which torch {torch.__version__} lacks; install "
            "torch 2.9 or newer"
        )
    return [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pretrain(
    recipe: PretrainingRecipe, progress: Callable[[int, float], None] = lambda step, loss: None
) -> tuple[Any, Any]:
    """The base model of a recipe, and its tokenizer; the same on the same machine and versions.

    Args:
        recipe: what to train.
        progress: called after each step with its number, from 1, and loss.

    Raises:
        UpgeError: the loss is not finite, or torch is older than 2.9.
    """
    tokenizer = build_tokenizer(ALPHABET)
    model = build_model(
        len(tokenizer), recipe.hidden, recipe.layers, recipe.heads, recipe.seed
    ).train()
    both = optimizers(model, recipe.muon_lr, recipe.adam_lr)

    def rate(step: int) -> float:
        return min((step + 1) / recipe.warmup, 1 - step / recipe.steps)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in both]
    batches = _batches(recipe, tokenizer, Random(recipe.seed))
    for step in range(1, recipe.steps + 1):
        ids, labels = next(batches)
        # Right padding under a causal mask: no response token sees it.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        for optimizer, schedule in zip(both, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        if not math.isfinite(value := loss.item()):
            raise UpgeError(
                f"pre-training: the loss of step {step} is not finite; lower muon_lr and adam_lr"
            )
        progress(step, value)
    return model.eval(), tokenizer
