"""Records of results: what was asked, by which code, from where, and what came out in short."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, FiniteFloat, TypeAdapter, ValidationError

from upge.common.errors import UpgeError
from upge.common.files import atomic_write, read_json
from upge.common.provenance import provenance

Kind = TypeVar("Kind")


def _rate(text: str) -> str:
    float(text)
    return text


class Choice(BaseModel):
    """How a method's learning rate was chosen.

    Args:
        lr: the rate; None if no trial succeeded.
        grid: validation accuracy by rate; None for a trial that failed, or wasn't needed.
        of: the method whose rate it is, if another's.
    """

    lr: FiniteFloat | None
    grid: dict[Annotated[str, AfterValidator(_rate)], FiniteFloat | None]
    of: str | None = None


class Named(BaseModel):
    """What a comparison names beside it: folders of runs, and of trials."""

    runs: list[str]
    trials: list[str] = []


CHOICES, NAMED = TypeAdapter(dict[str, Choice]), TypeAdapter(Named)


def read_checked(path: Path, kind: TypeAdapter[Kind]) -> Kind | None:
    """What a file of a comparison's own holds; None if it isn't there.

    Raises:
        UpgeError: it can't be read, or holds something else.
    """
    try:
        return kind.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UpgeError(f"{path}: can't be read ({error.strerror})") from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UpgeError(
            f"{path}: is damaged{place and f' ({place})'}; delete it and run the comparison again"
        ) from error


def read_choices(path: Path) -> dict[str, dict[str, Any]]:
    """How each method's learning rate was chosen, as :class:`Choice` has it; empty if unknown.

    Raises:
        UpgeError: see :func:`read_checked`.
    """
    choices = read_checked(path, CHOICES) or {}
    return {m: choice.model_dump(exclude_defaults=True) for m, choice in choices.items()}


def code_version(module: str) -> str:
    """Hash of the code of a module and of all modules of its package, and ours, that it imports.

    Comments, formatting and docstrings don't count: they change no number.
    """
    packages, seen, waiting = {module.partition(".")[0], "upge"}, dict[str, str](), [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        seen[name] = hashlib.sha256(ast.dump(_bare(tree)).encode()).hexdigest()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and _root(node) in packages:
                assert node.module is not None
                waiting += [node.module, *(f"{node.module}.{part.name}" for part in node.names)]
    return _digest(sorted(seen.items()))


def _root(node: ast.ImportFrom) -> str:
    return (node.module or "").partition(".")[0]


def key_of(recipe: Any, code: str) -> str:
    """What identifies a result: the recipe's values and the version of the code."""
    return _digest([asdict(recipe), code])


def read_record(path: Path) -> Mapping[str, Any]:
    """The record in a file; empty if there is none that can be read."""
    return read_json(path) or {}


def write_record(
    path: Path,
    name: str,
    key: str,
    recipe: Any,
    headlines: Mapping[str, float],
    seconds: float,
) -> None:
    """Write a result's record beside it."""
    record = {
        "name": name,
        "key": key,
        "recipe": asdict(recipe),
        "headlines": {name: float(f"{value:.9g}") for name, value in headlines.items()},
        "seconds": round(seconds, 1),
        "provenance": provenance(),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, text)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _source(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a name in a module that is no package
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _bare(tree: ast.Module) -> ast.Module:
    """The tree without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree
