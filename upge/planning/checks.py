"""What a run needs and what of it is here: model, problems, templates, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.models.bases import base_folder
from upge.models.pretrained import SMOLLM2, load_tokenizer, weight_files
from upge.planning.shapes import ModelShape
from upge.tasks.benchmarks import local_file
from upge.tasks.dataset import Dataset
from upge.tasks.encoding import encode, encode_response
from upge.training.config import Benchmarks, JsonLines, RunConfig
from upge.training.data import load_dataset
from upge.training.experience import check_lengths

T = TypeVar("T")

#: Problems whose lengths are measured, at most; spread evenly.
_MEASURED = 1000


@dataclass(frozen=True)
class Check:
    """One thing that a run needs.

    Attributes:
        what: it is.
        state: whether it is here and right; ``absent`` things stop no plan, ``wrong`` ones would
            stop the run.
        note: what was found, or what to do.
    """

    what: str
    state: Literal["ok", "absent", "wrong"]
    note: str


@dataclass(frozen=True)
class Measured:
    """Mean lengths in tokens, where problems and tokenizer are here."""

    prompt: int | None = None
    demonstration: int | None = None


def check_run(config: RunConfig, shape: ModelShape) -> tuple[list[Check], Measured]:
    """Look at everything without loading the model or sampling from it."""
    checks = [_model(config.model)]
    tokenizer = _tokenizer(config.model)
    dataset = _problems(config, tokenizer, checks)
    if tokenizer is None:
        checks.append(Check("tokenizer", "absent", "lengths are not measured without it"))
    if dataset is None or tokenizer is None:
        checks.append(_longest(config, shape))
        return checks, Measured()
    try:
        measured = _measure(config, shape, dataset, tokenizer, checks)
    except UpgeError as error:
        checks.append(Check("lengths", "wrong", str(error)))
        measured = Measured()
    return checks, measured


def _model(model: str) -> Check:
    if model == SMOLLM2:
        return _smollm2()
    folder = base_folder(model) or Path(model)
    if any(folder.glob("*.safetensors")):
        return Check("model", "ok", f"weights in {folder}")
    if folder.is_dir() or len(Path(model).parts) != 2:
        return Check("model", "absent", f"no weights in {folder}; download or make them first")
    if _is_cached(model):
        return Check("model", "ok", f"{model} is in the hub's cache")
    note = f"{model} is no folder here; a hub's model is downloaded when the run starts"
    return Check("model", "absent", note)


def _smollm2() -> Check:
    try:
        (weights,) = weight_files(SMOLLM2)
    except UpgeError as error:
        return Check("model", "absent", str(error))
    return Check("model", "ok", f"weights in {weights}")


def _tokenizer(model: str) -> Any | None:
    """The model's, where it is on this machine: a plan downloads nothing."""
    local = base_folder(model) or Path(model).exists() or _is_cached(model)
    local = local or (model == SMOLLM2 and _smollm2().state == "ok")
    return load_tokenizer(model) if local else None


def _is_cached(model: str) -> bool:
    hub = require("huggingface_hub", "lm")
    return isinstance(hub.try_to_load_from_cache(model, "config.json"), str)


def _problems(config: RunConfig, tokenizer: Any | None, checks: list[Check]) -> Dataset | None:
    """The data set, if its files are here; a template that can't be filled is wrong."""
    absent = _absent(config)
    if absent is None and tokenizer is None and isinstance(config.data, Benchmarks):
        absent = "they are not made into prompts without the tokenizer"
    if absent is not None:
        checks.append(Check("problems", "absent", absent))
        return None
    try:
        dataset = load_dataset(config)
    except UpgeError as error:
        checks.append(Check("problems", "wrong", str(error)))
        return None
    checks.append(_supply(config, dataset))
    return dataset


def _absent(config: RunConfig) -> str | None:
    """What of the problems is not on this machine; None if all is."""
    data = config.data
    files: dict[str, Path | None] = {}
    if isinstance(data, Benchmarks):
        files = {name: local_file(name) for name in data.sets}
    elif isinstance(data, JsonLines):
        named = (data.train, data.validation, data.test)
        files = {name: Path(name) for name in named if name is not None}
    for name, path in files.items():
        if path is None:
            return f"{name} comes from the hub when the run starts"
        if not path.is_file():
            return f"{path} is not here"
    return None


def _supply(config: RunConfig, dataset: Dataset) -> Check:
    shown = sum(problem.demonstration is not None for problem in dataset.train)
    reads = [stage.algorithm for stage in config.stages if stage.reads_demonstrations]
    if reads and not shown:
        note = f"{reads[0]} learns from demonstrations, but no training problem has one"
        return Check("problems", "wrong", note)
    dropped = [f"; dropped: {count} × {why}" for why, count in dataset.dropped.items()]
    note = (
        f"{len(dataset.train)} to train on, {shown} of them with a demonstration, "
        f"{len(dataset.validation)} to validate on, {sum(map(len, dataset.tests.values()))} to "
        f"test on{''.join(dropped)}"
    )
    return Check("problems", "ok", note)


def _longest(config: RunConfig, shape: ModelShape) -> Check:
    if config.max_tokens >= shape.positions:
        note = f"max_tokens {config.max_tokens}, but the model has {shape.positions} positions"
        return Check("lengths", "wrong", note)
    room = shape.positions - config.max_tokens
    return Check("lengths", "ok", f"{room} of {shape.positions} positions are left for a prompt")


def _measure(
    config: RunConfig, shape: ModelShape, dataset: Dataset, tokenizer: Any, checks: list[Check]
) -> Measured:
    train = _spread(dataset.train)
    suites = (dataset.validation, *dataset.tests.values())
    prompts = [encode(tokenizer, problem.prompt) for problem in train]
    tested = [encode(tokenizer, p.prompt) for suite in suites for p in _spread(suite)]
    check_lengths(prompts, tested, config, SimpleNamespace(max_position_embeddings=shape.positions))
    note = f"prompts of up to {max(map(len, prompts + tested))} tokens"
    shown = [problem.demonstration for problem in dataset.train if problem.demonstration]
    if not shown or not any(stage.reads_demonstrations for stage in config.stages):
        checks.append(Check("lengths", "ok", note))
        return Measured(_mean(list(map(len, prompts))))
    lengths = [len(encode_response(tokenizer, text)) for text in _spread(shown)]
    fault = _too_long(lengths, config)
    kept = [length for length in lengths if length <= config.max_tokens]
    # Where none of those that were measured is kept, one of the others may be.
    longest = config.max_tokens
    left = bool(kept) or any(len(encode_response(tokenizer, text)) <= longest for text in shown)
    wrong = not left or (bool(fault) and config.long_demonstrations == "refuse")
    note += f", demonstrations of up to {max(lengths)}{fault}{'' if left else ': none is left'}"
    checks.append(Check("lengths", "wrong" if wrong else "ok", note))
    return Measured(_mean(list(map(len, prompts))), _mean(kept))


def _too_long(lengths: list[int], config: RunConfig) -> str:
    """How many demonstrations are, and what becomes of them; nothing where none is."""
    long = sum(length > config.max_tokens for length in lengths)
    fate = {"refuse": "which stops the run", "drop": "which are dropped"}
    if not long:
        return ""
    return (
        f"; {long} of {len(lengths)} are longer than max_tokens {config.max_tokens}, "
        f"{fate[config.long_demonstrations]}"
    )


def _spread(all_of_them: Sequence[T]) -> Sequence[T]:
    return all_of_them[:: max(len(all_of_them) // _MEASURED, 1)]


def _mean(lengths: list[int]) -> int | None:
    return round(sum(lengths) / len(lengths)) if lengths else None
