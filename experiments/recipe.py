"""Recipes: typed YAML files, refused at load when they make no sense.

A recipe is a frozen dataclass; a file sets its fields, every one that has no default and no other.
"""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from upge.errors import UpgeError, unknown

R = TypeVar("R")

#: Numbers that YAML 1.1 reads as words, having no point: 1e-3.
_EXPONENTIAL = r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    type(None): "nothing",
}


def load(path: Path, kind: type[R]) -> R:
    """The recipe in a YAML file.

    Raises:
        UpgeError: a file that can't be read or isn't a mapping; a key that is unknown, missing or
            of the wrong type; values that the recipe refuses. Each names file and key.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UpgeError(f"{path}: can't be read ({error})") from error
    except yaml.YAMLError as error:
        raise UpgeError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, Mapping):
        raise UpgeError(f"{path}: got {type(given).__name__}, wanted a mapping of keys to values")
    try:
        return build(given, kind)
    except UpgeError as error:
        raise UpgeError(f"{path}: {error}") from error


def build(given: Mapping[str, Any], kind: type[R]) -> R:
    """The recipe with these values, each checked against its field's type.

    Raises:
        UpgeError: a key that is unknown, missing or of the wrong type, or a refused value.
    """
    assert is_dataclass(kind)
    known = {field.name: field for field in fields(kind)}
    for key in given:
        if key not in known:
            raise unknown("key", str(key), known)
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise UpgeError(f"{name}: is missing, wanted {_wanted(get_type_hints(kind)[name])}")
    types_of = get_type_hints(kind)
    return kind(**{name: _convert(name, value, types_of[name]) for name, value in given.items()})


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """The value as the type has it: lists become tuples, whole numbers floats where asked for."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(name, x, arguments[0]) for x in value)
    if origin is Literal and value in arguments:
        return value
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _convert(name, value, option)
            except UpgeError:
                continue
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is float and isinstance(value, str) and re.fullmatch(_EXPONENTIAL, value):
        return float(value)
    if wanted in _WORDS and type(value) is wanted:
        return value
    raise UpgeError(f"{name}: got {value!r:.60}, wanted {_wanted(wanted)}")


def _wanted(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return f"a list, each {_wanted(arguments[0])}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(option) for option in arguments)
    return _WORDS[kind]
