"""Which code a number comes from: a digest of each module, whatever its comments and docstrings."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

#: The package whose modules always count.
_PACKAGE = "upge"

Code = Mapping[str, str]


def digest(value: Any) -> str:
    """Hash of a value that JSON can hold, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def code_version(*modules: str) -> str:
    """Hash of :func:`code_of` these modules."""
    return digest(sorted(code_of(*modules).items()))


def code_of(*modules: str, without: Iterable[str] = ()) -> dict[str, str]:
    """A digest of these modules and of all that they import, also within functions.

    Modules of their own packages and of this one count, and those that lie beside a script;
    comments, formatting and docstrings don't, which change no number.

    Args:
        modules: names; one that is imported may be on no path, as ``__main__``.
        without: names of modules that are left out, with what they alone import.

    Returns:
        Digests by name; a module without a source file has none.
    """
    packages = {_PACKAGE, *(name.partition(".")[0] for name in modules)}
    folders = {folder for name in modules if (folder := _folder(name)) is not None}
    digests: dict[str, str] = {}
    waiting, skipped = list(modules), set(without)
    while waiting:
        name = waiting.pop()
        if name in digests or name in skipped or (path := _source(name)) is None:
            continue
        if name.partition(".")[0] in packages or _folder(name) in folders:
            digests[name], imported = _read(path, path.stat().st_mtime_ns)
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += [resolve_name(other, package) for other in imported]
    return digests


def code_of_parts(*parts: Any) -> dict[str, str]:
    """:func:`code_of` the modules, outside of this package, that define these objects.

    Args:
        parts: functions, and dataclasses with all they hold.

    Returns:
        Digests by module; by object, where its module has no source file, as at a prompt.
    """
    digests: dict[str, str] = {}
    for part in _definitions(parts):
        if part.__module__.partition(".")[0] == _PACKAGE:
            continue
        found = code_of(part.__module__)
        digests |= found or {f"{part.__module__}.{part.__qualname__}": _digest_of_object(part)}
    return digests


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those packages that are installed, whatever they were built for."""
    installed = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in packages:
        try:
            installed[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    return installed


def differing(code: Code, other: Code) -> list[str]:
    """Names of the modules and packages in which two differ."""
    return sorted(name for name in {*code, *other} if code.get(name) != other.get(name))


def listed(names: Iterable[str], most: int = 4) -> str:
    """The names as a list in a sentence, the first ones of many."""
    names = list(names)
    shown = names if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} others"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else "nothing"


def _source(module: str) -> Path | None:
    """The file of a module; None if there is none, or no module of that name."""
    loaded = sys.modules.get(module)
    try:
        origin = getattr(loaded, "__file__", None) if loaded else _origin(module)
    except (ImportError, ValueError, AttributeError):  # a name in a module that is no package
        return None
    path = Path(origin) if origin else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _origin(module: str) -> str | None:
    spec = find_spec(module)
    return spec.origin if spec else None


def _folder(module: str) -> Path | None:
    """The folder that a top-level module lies in; None if it is installed, or in a package."""
    path = _source(module)
    if path is None or "." in module or "site-packages" in path.parts:
        return None
    return path.parent.parent if path.name == "__init__.py" else path.parent


@lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> tuple[str, tuple[str, ...]]:
    """A file's digest and the names that it imports, kept as long as it doesn't change."""
    tree = ast.parse(path.read_bytes())
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [part.name for part in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            dot = "" if module.endswith(".") else "."
            names += [module, *(f"{module}{dot}{part.name}" for part in node.names)]
    return hashlib.sha256(ast.dump(_bare(tree)).encode()).hexdigest(), tuple(names)


def _bare(tree: ast.Module) -> ast.Module:
    """The tree without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree


def _definitions(parts: Iterable[Any], seen: set[int] | None = None) -> Iterator[Any]:
    """The functions, and the classes of the dataclasses, that objects are made of."""
    seen = set() if seen is None else seen
    for part in parts:
        inside: Iterable[Any] = ()
        if id(part) in seen:
            continue
        if isinstance(part, FunctionType):
            yield part
            inside = inspect.getclosurevars(part).nonlocals.values()
        elif isinstance(part, partial):
            inside = [part.func, *part.args, *part.keywords.values()]
        elif isinstance(part, Mapping):
            inside = part.values()
        elif isinstance(part, tuple | list):
            inside = part
        elif is_dataclass(part) and not isinstance(part, type):
            yield type(part)
            inside = [getattr(part, field.name) for field in fields(part)]
        seen.add(id(part))
        yield from _definitions(inside, seen)


def _digest_of_object(part: Any) -> str:
    """Of a class or function whose module has no file: of its text, or else of its bytecode."""
    try:
        text = inspect.getsource(part)
    except (OSError, TypeError):
        functions = [part] if isinstance(part, FunctionType) else vars(part).values()
        text = repr([_flat(f.__code__) for f in functions if isinstance(f, FunctionType)])
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(value: Any) -> Any:
    """Bytecode with all it holds, without the addresses of what is compiled within it."""
    if isinstance(value, CodeType):
        return value.co_code, value.co_names, [_flat(constant) for constant in value.co_consts]
    return value
