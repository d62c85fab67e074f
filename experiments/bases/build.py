"""From a recipe to a base's folder: trained, measured, and written as a whole or not at all."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experiments.bases import words
from experiments.bases.measure import accuracy, word_accuracy
from experiments.records import read_record
from upge.common.config import build_dataclass, read_yaml
from upge.common.errors import UpgeError, unknown
from upge.common.files import write_json
from upge.common.provenance import provenance
from upge.models.bases import RECORD
from upge.models.pretrained import save_pretrained
from upge.models.pretraining import PretrainingRecipe, pretrain

RECIPES = Path(__file__).parent

Recipe = PretrainingRecipe | words.WordsRecipe


def recipe_names() -> list[str]:
    """The bases there are recipes of."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of a base; one that is ``like`` another holds only the difference.

    ``kind: words`` marks one that is trained on word problems rather than the synthetic suites.

    Raises:
        UpgeError: a name without a recipe, or a recipe that makes no sense.
    """
    try:
        values = _values(name)
        if values.pop("kind", None) == "words":
            return build_dataclass(values, words.WordsRecipe)
        return build_dataclass(values, PretrainingRecipe)
    except UpgeError as error:
        raise UpgeError(f"base {name}: {error}") from error


def _values(name: str) -> dict[str, Any]:
    if name not in recipe_names():
        raise unknown("base", name, recipe_names())
    own = read_yaml(RECIPES / f"{name}.yaml")
    model = own.pop("like", None)
    return own if model is None else _values(model) | own


def is_made(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds the base of this recipe."""
    return read_record(folder / RECORD).get("key") == recipe.key


def make(
    name: str,
    recipe: Recipe,
    folder: Path,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train and measure a base on one thread, and write its folder.

    Checkpoints of a base of word problems, from which training resumes, go to a folder beside it.
    """
    started = time.monotonic()
    with _one_thread():
        if isinstance(recipe, words.WordsRecipe):
            checkpoints = folder.with_name(f"{name}-{recipe.constant_key}")
            model, tokenizer = words.pretrain(recipe, checkpoints, progress)
            model = model.half().float()  # as it is saved
            found: dict[str, Any] = word_accuracy(model, tokenizer)
            dtype = torch.float16  # half the size, and no accuracy lost
        else:
            model, tokenizer = pretrain(recipe, progress)
            found, dtype = accuracy(model, tokenizer), torch.float32
    record = {
        "name": name,
        "key": recipe.key,
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "accuracy": found,
        "seconds": round(time.monotonic() - started, 1),
        "machine": machine(),
        "provenance": provenance(),
    }

    def write(partial: Path) -> None:
        save_pretrained(model, tokenizer, partial, dtype)
        write_json(partial / RECORD, record)

    _replace(folder, write)


def copy(source: Path, folder: Path) -> None:
    """Copy a base's folder, as a whole or not at all."""
    _replace(folder, lambda partial: shutil.copytree(source, partial))


def machine() -> str:
    """What two machines have in common that train the same base bit for bit."""
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _replace(folder: Path, write: Callable[[Path], Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
        partial = Path(scratch) / folder.name
        write(partial)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        partial.rename(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The number of threads changes the last digits of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
