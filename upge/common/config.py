"""Typed configurations from YAML, refused at load, in one sentence, when they make no sense."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from upge.common.errors import UpgeError, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="Config")
D = TypeVar("D", bound="DataclassInstance")


class Config(BaseModel):
    """A configuration: frozen, no key but its own, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


#: What PyYAML lets through where a text is not of its type, as month 13 or ``!!int abc``.
_NOT_OF_ITS_TYPE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.1, but with 1e-3 as a number, and no key twice in a mapping."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except _NOT_OF_ITS_TYPE as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r:.40} can't be read as {kind}", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)
# The resolver above also takes whole numbers; the one for these has to come first.
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first].sort(
        key=lambda pair: pair[0] != "tag:yaml.org,2002:int"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UpgeError: a file that can't be read or holds no mapping.
    """
    try:
        given = _parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UpgeError(f"{path}: can't be read ({error})") from error
    except yaml.YAMLError as error:
        raise UpgeError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict):
        raise UpgeError(f"{path}: got {type(given).__name__}, wanted a mapping of keys to values")
    return given


def parse_value(text: str) -> Any:
    """A value as YAML reads it: a number, a word, a list.

    Raises:
        UpgeError: the text is no YAML.
    """
    try:
        return _parse(text)
    except yaml.YAMLError as error:
        raise UpgeError(f"{text!r:.60} is no YAML value") from error


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("too many values inside each other") from error


def build(given: Mapping[str, Any], kind: type[C]) -> C:
    """The configuration with these values.

    Raises:
        UpgeError: a key that is unknown (with the nearest known one), missing or of the wrong type,
            or values that go badly together.
    """
    try:
        # Strict about types, but a list stands for a tuple and a whole number for a real one.
        return kind.model_validate_json(_json(given))
    except ValidationError as error:
        raise _sentence(error, kind) from None


def load(path: Path, kind: type[D]) -> D:
    """The dataclass whose fields a YAML file sets, checked as configurations are.

    Raises:
        UpgeError: as :func:`read_yaml`, :func:`build` and the dataclass do, naming the file.
    """
    given = read_yaml(path)
    try:
        return build_dataclass(given, kind)
    except UpgeError as error:
        raise UpgeError(f"{path}: {error}") from error


def build_dataclass(given: Mapping[str, Any], kind: type[D]) -> D:
    """The dataclass with these values, checked as configurations are.

    Raises:
        UpgeError: as :func:`build` and the dataclass do.
    """
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        default = ... if field.default is dataclasses.MISSING else field.default
        fields[field.name] = (hints[field.name], default)
    values = build(given, create_model(kind.__name__, __base__=Config, **fields))
    return kind(**{name: getattr(values, name) for name in fields})


def _json(given: Mapping[str, Any]) -> str:
    try:
        return json.dumps(given)
    except (TypeError, ValueError, RecursionError) as error:
        raise UpgeError(f"a value is none that a configuration can hold ({error})") from error


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``difference`` laid over it, mappings inside mappings merged likewise.

    Where both say of what ``kind`` they are and differ in it, they have nothing to merge.
    """
    merged = dict(base)
    for key, value in difference.items():
        own = merged.get(key)
        if isinstance(own, Mapping) and isinstance(value, Mapping) and _alike(own, value):
            value = merge(own, value)
        merged[key] = value
    return merged


def _alike(own: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return not {"kind"} <= own.keys() & value.keys() or own["kind"] == value["kind"]


def override(given: dict[str, Any], setting: str) -> None:
    """Apply ``path.to.key=value`` to a mapping, in place; list items by their number, from 0.

    Raises:
        UpgeError: a setting that is not of this form, leads nowhere or has no YAML for its value.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UpgeError(f"--set {setting}: wanted KEY=VALUE, as stages.0.lr=3e-4")
    *path, last = key.split(".")
    place: Any = given
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


#: Pydantic's words, and those of YAML.
_WORDS = {
    "Input should be": "wanted",
    "String should": "wanted it to",
    "valid array": "list",
    "valid dictionary": "mapping",
    "an object": "a mapping",
    "valid integer": "whole number",
    "valid number": "number",
    "valid string": "word",
    "valid boolean": "true or false",
}


def _sentence(error: ValidationError, kind: type[Config]) -> UpgeError:
    """The first fault as one sentence; a misspelled key also leaves its right one missing."""
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    path, inside = _walk(kind, fault["loc"])
    place = ".".join(path)
    if fault["type"] == "extra_forbidden":
        prefix = place[: place.rfind(".") + 1]
        names = {name for model in _models(inside) for name in model.model_fields}
        return unknown("key", place, [prefix + name for name in names])
    if fault["type"] == "missing":
        return UpgeError(f"{place}: is missing")
    if fault["type"] == "json_invalid":
        if "recursion" in fault["msg"]:
            return UpgeError("a value holds too many others inside each other; wanted fewer")
        return UpgeError("a value holds text that is no Unicode; write it in UTF-8")
    if fault["type"] == "union_tag_not_found":
        return UpgeError(f"{place}.{_tag(fault)}: is missing")
    if fault["type"] == "union_tag_invalid":
        tags = fault["ctx"]["expected_tags"].replace("'", "").split(", ")
        return unknown(f"{place}.{_tag(fault)}", fault["ctx"]["tag"], tags)
    message = fault["msg"].removeprefix("Value error, ")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if fault["type"] == "value_error":
        return UpgeError(f"{place}: {message}" if place else message)
    return UpgeError(f"{place}: got {fault['input']!r:.60}, {message}")


def _tag(fault: Any) -> str:
    """The key that says which of several configurations is meant."""
    return str(fault["ctx"]["discriminator"]).strip("'")


def _walk(kind: Any, place: Sequence[int | str]) -> tuple[list[str], Any]:
    """A place as the user wrote it, and the configuration it is in.

    Pydantic also names the member of a union that was tried, which no user wrote.
    """
    path = []
    for i, part in enumerate(place):
        models = _models(kind)
        found = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if found:
            kind = found[0]
        elif models and isinstance(part, str) and i + 1 < len(place):
            continue
        path.append(str(part))
    return path, kind


def _models(kind: Any) -> list[type[BaseModel]]:
    """The configurations inside a type, as ``A | B`` and ``tuple[A, ...]`` have them."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for part in get_args(kind) for model in _models(part)]
