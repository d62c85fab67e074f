"""The callable under test: where it is, what it asks for, what it is told besides."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from upge.common.errors import UpgeError
from upge.testing.names import COUNTS, OUTSIDE, QUANTITIES, quantity_of


@dataclass(frozen=True)
class Target:
    """A callable and what its parameters mean.

    Attributes:
        call: the callable.
        title: how to print it.
        parameters: each parameter that is handed something, and the quantity it means.
        constants: parameters that get the same value at every call.
        positional: parameters that have no keyword.
        optional: parameters of these that have a default.
        source: how a script obtains it, as lines of Python that bind ``loss``.
    """

    call: Callable[..., Any]
    title: str
    parameters: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    source: tuple[str, ...] = ()

    @property
    def asks(self) -> frozenset[str]:
        """The quantities that it reads."""
        return frozenset(self.parameters.values())


def load(place: str) -> tuple[Any, tuple[str, ...]]:
    """The object at ``file.py:name`` or ``package.module:name``, and Python lines that get it.

    Raises:
        UpgeError: there is no such file, module or name, or its import fails.
    """
    module_name, colon, name = place.rpartition(":")
    if not colon or not name:
        raise UpgeError(f"{place}: wanted FILE.py:NAME or MODULE:NAME, as losses.py:my_loss")
    if module_name.endswith(".py"):
        module, line = _from_file(Path(module_name)), f"from {Path(module_name).stem} import "
    else:
        module, line = _imported(module_name), f"from {module_name} import "
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n in dir(module) if not n.startswith("_"))
            raise UpgeError(f"{module_name} has no {name!r}; it has: {near[:300] or 'nothing'}")
        found = getattr(found, part)
    first, _, rest = name.partition(".")
    made = f"{name}()" if inspect.isclass(found) else name
    lines = [line + first] + ([f"loss = {made}"] if rest or made != "loss" else [])
    return found, tuple(lines)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise UpgeError(f"{path}: no such file")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = spec_from_file_location(path.stem, path)
    loader = None if spec is None else spec.loader
    assert spec is not None and loader is not None  # as for every name that ends in .py
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    _executed(str(path), lambda: loader.exec_module(module))
    return module


def _imported(name: str) -> Any:
    sys.path.insert(0, "")
    return _executed(name, lambda: import_module(name))


def _executed(what: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except (Exception, SystemExit) as error:
        raise UpgeError(f"{what} can't be imported: {type(error).__name__}: {error}") from error


def target(
    found: Any,
    title: str = "",
    arguments: Mapping[str, Any] | None = None,
    source: Sequence[str] = (),
) -> Target:
    """What a callable (or a class of callables, made without arguments) asks for.

    Args:
        found: the callable; of an ``nn.Module`` its ``forward`` is read.
        title: how to print it; its name if not given.
        arguments: by parameter, the name of a quantity or a constant.
        source: Python lines that get it.

    Raises:
        UpgeError: no callable; a parameter without default whose name says nothing.
    """
    arguments = arguments or {}
    call = _made(found)
    named_as = getattr(found, "func", found)  # of a functools.partial
    title = title or getattr(named_as, "__qualname__", type(found).__name__).split("<locals>.")[-1]
    # A wrapper that torch.compile or functools made keeps the signature of what it wraps.
    signature = signature_of(call, title)
    named = {n: v for n, v in arguments.items() if isinstance(v, str) and v in QUANTITIES}
    constants = {n: v for n, v in arguments.items() if n not in named}
    parameters: dict[str, str] = {}
    optional, positional = set(), []
    takes_any = False
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            takes_any |= parameter.kind is parameter.VAR_KEYWORD
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(name)
        if name in constants:
            continue
        quantity = quantity_of(name, named)
        has_default = parameter.default is not parameter.empty
        # A number by default is the callable's own setting, unless somebody says otherwise.
        setting = isinstance(parameter.default, (bool, int, float, str)) and quantity not in COUNTS
        if quantity is None or (has_default and setting and name not in named):
            if not has_default:
                _refuse_outside(title, signature)
                raise UpgeError(
                    f"{title}: nothing is known under the name of its parameter {name!r}; say what "
                    f"it is with --arg {name}=QUANTITY (one of {', '.join(_common())}) or give it "
                    f"a constant with --arg {name}=VALUE; for more, wrap it in a function"
                )
            continue
        parameters[name] = quantity
        if has_default:
            optional.add(name)
    for name in arguments:
        if name not in signature.parameters and not takes_any:
            raise UpgeError(
                f"{title} has no parameter {name!r}; it has {', '.join(signature.parameters)}"
            )
        if name in named:
            parameters[name] = QUANTITIES[named[name]]
    twice = [n for n, q in parameters.items() if list(parameters.values()).count(q) > 1]
    # Of two names of one thing, as eos_mask and response_mask, both get it; only log π can't.
    if sum(parameters[n] == "logp" for n in twice) > 1:
        which = ", ".join(n for n in twice if parameters[n] == "logp")
        raise UpgeError(f"{title}: {which} all look like log π_θ; say what each is with --arg")
    return Target(
        call, title, parameters, constants, tuple(positional), frozenset(optional), tuple(source)
    )


class Outside(UpgeError):
    """A form that no sum of weights on tokens' own ∇log π has."""


def _refuse_outside(title: str, signature: inspect.Signature) -> None:
    for kind, names in OUTSIDE.items():
        for name in signature.parameters:
            if any(part in name.lower() for part in names):
                raise Outside(
                    f"{title} asks for {name}: {kind}, which is outside of the unified view, "
                    "whose weights act on the tokens of single trajectories"
                )


def _made(found: Any) -> Callable[..., Any]:
    if inspect.isclass(found):
        try:
            found = found()
        except TypeError as error:
            raise UpgeError(
                f"{found.__name__} can't be made without arguments ({error}); name a function, or "
                "an instance that your file makes"
            ) from error
    if not callable(found):
        raise UpgeError(f"{found!r:.60} is no callable; name a function, a class or an instance")
    result: Callable[..., Any] = found
    return result


def signature_of(call: Any, title: str = "") -> inspect.Signature:
    """The parameters of a callable; of an ``nn.Module``, those of its ``forward``.

    Raises:
        UpgeError: it does not tell them.
    """
    forward = getattr(call, "forward", None)
    if forward is not None and type(call).__module__.startswith("torch._dynamo"):
        original = getattr(call, "_orig_mod", None)
        forward = getattr(original, "forward", forward)
    try:
        return inspect.signature(call if forward is None else forward)
    except (ValueError, TypeError) as error:
        raise UpgeError(
            f"{title or call} does not tell its parameters ({error}); wrap it in a function that "
            "does"
        ) from error


def _common() -> list[str]:
    return ["logp", "old_logp", "ref_logp", "sampler_logp", "advantage", "reward", "group", "mask"]


def parse_arguments(settings: Sequence[str], flag: str = "--arg") -> dict[str, Any]:
    """``NAME=QUANTITY`` and ``NAME=VALUE`` strings; values as Python writes them.

    Args:
        settings: the strings.
        flag: that they come from.

    Raises:
        UpgeError: a string of another form.
    """
    arguments: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise UpgeError(f"{flag} {setting}: wanted NAME=QUANTITY or NAME=VALUE")
        try:
            arguments[name] = text if text in QUANTITIES else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[name] = text
    return arguments
