"""Validates a comparison of real models before its first run starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from experiments.comparison import BASE, Recipe
from upge.common.errors import UpgeError
from upge.planning.memory import check_run_memory
from upge.tasks.dataset import Dataset
from upge.training.config import RunConfig, Synthetic
from upge.training.data import load_dataset


def check(recipe: Recipe, methods: Sequence[str], *, on_cpu: bool = False) -> Iterator[str]:
    """Refuse a comparison whose runs cannot work.

    Args:
        recipe: the comparison.
        methods: which of its methods.
        on_cpu: whether a comparison for a GPU may run without one.

    Yields:
        What the user should know, line by line.

    Raises:
        UpgeError: there is no GPU or too little memory on it, the model or the problems cannot be
            loaded, or a method's demonstrations are missing.
    """
    if recipe.gpu and not torch.cuda.is_available():
        if not on_cpu:
            raise UpgeError(
                "the profile asks for a GPU and torch finds none; take PROFILE=cpu, or pass "
                "--on-cpu to experiments.compare, which then takes days"
            )
        yield "on the CPU, though the profile asks for a GPU"
    rates = dict.fromkeys(recipe.methods, min(recipe.selection.rates))
    configs = [recipe.config(method, 0, rates) for method in (BASE, *methods)]
    for config in configs:
        check_run_memory(config)
    if isinstance(configs[0].data, Synthetic):
        return
    dataset = load_dataset(configs[0])
    for config in configs:
        _check_demonstrations(config, dataset)
    if dataset.omissions:
        yield dataset.omissions


def _check_demonstrations(config: RunConfig, dataset: Dataset) -> None:
    reading = [stage.algorithm for stage in config.stages if stage.reads_demonstrations]
    if reading and not any(problem.demonstration for problem in dataset.train):
        raise UpgeError(
            f"{reading[0]} learns from demonstrations, but no training problem has one; add "
            "solutions, or leave the method out"
        )
