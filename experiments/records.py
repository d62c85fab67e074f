"""Records of results: what was asked, by which code, from where, and what came out in short."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, FiniteFloat, TypeAdapter, ValidationError

from upge.common.code import digest
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


def key_of(recipe: Any, code: str) -> str:
    """What identifies a result: the recipe's values and the version of the code."""
    return digest([asdict(recipe), code])


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
