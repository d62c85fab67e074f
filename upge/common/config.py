"""Typed configurations from YAML; what makes no sense is refused at load, in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from upge.common.errors import UpgeError, unknown
from upge.common.files import read_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="Config")
D = TypeVar("D", bound="DataclassInstance")

#: Characters that a file may stand for, its aliases written out.
_LONGEST = 10_000_000


class Config(BaseModel):
    """A configuration: frozen, without unknown keys, without silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.2's core schema: null, true, false, numbers and texts; no key twice in a mapping."""

    yaml_implicit_resolvers: Mapping[str, Any] = {}

    def compose_document(self) -> yaml.Node:
        root = super().compose_document()
        if _length(root, {}) > _LONGEST:
            raise yaml.constructor.ConstructorError(
                None, None, "its aliases stand for too many values", root.start_mark
            )
        return root

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:  # as of "!!int abc"
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r:.40} can't be read as {kind}", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?\d+", list("-+0123456789")),
    ("float", r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"({_pattern})$"), _first)
_Loader.yaml_constructors = {
    f"tag:yaml.org,2002:{name}": _Loader.yaml_constructors[f"tag:yaml.org,2002:{name}"]
    for name in ("null", "bool", "str", "seq", "map")
} | {
    None: _Loader.yaml_constructors[None],
    "tag:yaml.org,2002:int": lambda loader, node: int(loader.construct_scalar(node)),
    "tag:yaml.org,2002:float": lambda loader, node: float(loader.construct_scalar(node)),
}


def _length(node: yaml.Node, lengths: dict[int, float]) -> float:
    """Characters that a node stands for; infinitely many if it holds itself."""
    if id(node) not in lengths:
        lengths[id(node)] = math.inf
        inside = node.value
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        scalar = isinstance(node, yaml.ScalarNode)
        total = len(inside) if scalar else sum(_length(part, lengths) for part in inside)
        lengths[id(node)] = 1 + total
    return lengths[id(node)]


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("too many values inside each other") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UpgeError: a file that can't be read or holds no mapping.
    """
    try:
        values = _parse(read_text(str(path)))
    except yaml.YAMLError as error:
        raise UpgeError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UpgeError(f"{path}: got {type(values).__name__}, wanted a mapping of keys to values")
    return values


def parse_value(text: str) -> Any:
    """A value as YAML reads it: a number, a text, a list.

    Raises:
        UpgeError: the text is no YAML.
    """
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise UpgeError(f"{text!r:.60} is no YAML value") from error


# ------------------------------------------------------------------------------------- validation


def build(values: Mapping[str, Any], kind: type[C]) -> C:
    """The configuration with these values.

    Raises:
        UpgeError: a key that is unknown (with the nearest known one), missing or of the wrong type,
            or values that don't go together.
    """
    try:
        # By way of JSON: strict about types, but a list stands for a tuple, and 1 for 1.0.
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise _sentence(error, kind, values) from None


def build_dataclass(values: Mapping[str, Any], kind: type[D]) -> D:
    """The dataclass with these values, checked as configurations are.

    Raises:
        UpgeError: as :func:`build` and the dataclass do.
    """
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        default = ... if field.default is dataclasses.MISSING else field.default
        fields[field.name] = (hints[field.name], default)
    checked = build(values, create_model(kind.__name__, __base__=Config, **fields))
    return kind(**{name: getattr(checked, name) for name in fields})


def load(path: Path, kind: type[D]) -> D:
    """The dataclass whose fields a YAML file sets, checked as configurations are.

    Raises:
        UpgeError: as :func:`read_yaml`, :func:`build` and the dataclass do, naming the file.
    """
    values = read_yaml(path)
    try:
        return build_dataclass(values, kind)
    except UpgeError as error:
        raise UpgeError(f"{path}: {error}") from error


#: What values were wanted, by the type of pydantic's error; otherwise its message says it.
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _sentence(error: ValidationError, kind: type[Config], values: Mapping[str, Any]) -> UpgeError:
    """The first fault as one sentence; a misspelled key also leaves its right one missing."""
    faults = error.errors(include_url=False)
    fault: Any = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    path, names = _locate(kind, values, fault["loc"])
    place, context = ".".join(path), fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return unknown("key", place, [".".join([*path[:-1], name]) for name in names])
        case "missing":
            return UpgeError(f"{place}: is missing")
        case "union_tag_not_found":
            return UpgeError(f"{place}.kind: is missing")
        case "union_tag_invalid":
            kinds = context["expected_tags"].replace("'", "").split(", ")
            return unknown(f"{place}.kind", context["tag"], kinds)
        case "json_invalid":
            return UpgeError("a value is no Unicode text, or holds too many others in each other")
        case "value_error":
            return UpgeError(": ".join(filter(None, [place, str(context["error"])])))
        case other:
            wanted = _WANTED.get(other, fault["msg"].removeprefix("Input should be "))
            return UpgeError(f"{place}: got {fault['input']!r:.60}, wanted {wanted}")


def _locate(kind: Any, values: Any, location: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """A place as the user wrote it, and the names of the keys that it may have.

    Pydantic's location also names the member of a union that was tried, which no user wrote.
    """
    path = []
    for part in location:
        models = _models(kind)
        types = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        inside = range(len(values)) if isinstance(values, list) else values
        held = isinstance(inside, range | Mapping) and part in inside
        if types:
            kind = types[0]
        elif not held:
            continue
        values = values[part] if held else None
        path.append(str(part))
    return path, sorted({name for model in _models(kind) for name in model.model_fields})


def _models(kind: Any) -> list[type[BaseModel]]:
    """The configurations inside a type, as ``A | B`` and ``tuple[A, ...]`` have them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in get_args(kind) for model in _models(part)]


# ---------------------------------------------------------------------------------------- changes


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``difference`` laid over it, mappings inside mappings merged likewise.

    A mapping of another ``kind`` replaces the one in ``base``.
    """
    merged = dict(base)
    for key, value in difference.items():
        held = merged.get(key)
        if isinstance(held, Mapping) and isinstance(value, Mapping):
            kinds = {part["kind"] for part in (held, value) if "kind" in part}
            value = value if len(kinds) > 1 else merge(held, value)
        merged[key] = value
    return merged


def override(values: dict[str, Any], setting: str) -> None:
    """Apply ``path.to.key=value`` to a mapping, in place; list items by their number, from 0.

    Raises:
        UpgeError: a setting that is not of this form, leads nowhere or has no YAML for its value.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UpgeError(f"--set {setting}: wanted KEY=VALUE, as stages.0.lr=3e-4")
    *path, last = key.split(".")
    place: Any = values
    for part in path:
        place = _descend(place, part, key)
    try:
        value = parse_value(text)
    except UpgeError as error:
        raise UpgeError(f"--set {key}: {error}; quote it, as '{key}=\"…\"'") from error
    if isinstance(place, list):
        _descend(place, last, key)
        place[int(last)] = value
    else:
        place[last] = value


def _descend(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        if part not in map(str, range(len(place))):
            raise UpgeError(
                f"--set {key:.60}: there is no item {part!r:.20}; items are numbered from 0"
            )
        return place[int(part)]
    inside = place.setdefault(part, {})
    if not isinstance(inside, dict | list):
        raise UpgeError(f"--set {key}: {part!r} holds a value, not a mapping")
    return inside
