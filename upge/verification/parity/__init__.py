"""Third-party parity: the estimator against losses that others wrote, called as they ship them.

Compared are gradients in float64: d loss / d log π_θ for verl's loss functions, and those of all
parameters of a small language model for TRL's trainers. Nothing of theirs is copied or replaced;
where a constant differs by design, both sides are given the same option or data on which it does
not act, and the cell's ``reason`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from upge.algorithms import REGISTRY, Algorithm, Value, algorithm
from upge.common.errors import UpgeError
from upge.common.optional import available, hint
from upge.verification.numeric import worst_of
from upge.verification.parity import trl, verl
from upge.verification.parity.common import Library, relative_error
from upge.verification.parity.isolation import isolated

LibraryName = Literal["trl", "verl"]

LIBRARIES: dict[LibraryName, Library] = {"trl": trl.LIBRARY, "verl": verl.LIBRARY}

#: Random batches of each comparison, by their seeds.
SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Parity:
    """One algorithm compared with one library.

    Attributes:
        error: max |g − g'| / max |g'| of the gradients, the largest over all batches; None where
            there is nothing to compare with.
        reason: how the two sides were aligned; without an error, why there is none.
        function: what of the library was called.
        version: the library's version, empty if it is not installed.
    """

    error: float | None
    reason: str
    function: str
    version: str


def parity(library: LibraryName) -> dict[str, Parity]:
    """Every registered algorithm compared with ``library``; a missing library never raises."""
    with isolated():
        return {name: _cell(library, entry) for name, entry in REGISTRY.items()}


def cell(library: LibraryName, name: str) -> Parity:
    """One entry of :func:`parity`."""
    with isolated():
        return _cell(library, algorithm(name))


def compare(library: LibraryName, name: str, **ours: Value) -> float:
    """The largest relative error of an algorithm's gradients; ``ours`` changes our options only.

    Raises:
        UpgeError: the library is not installed or has no function for the algorithm.
    """
    if reason := _no_function(library, algorithm(name)) or _missing(library):
        raise UpgeError(f"{name} can't be compared with {library}: {reason}")
    with isolated():
        return _error(library, name, ours)


def _cell(library: LibraryName, entry: Algorithm) -> Parity:
    row = LIBRARIES[library].rows.get(entry.name)
    function = row.function if row else ""
    if reason := _no_function(library, entry) or _missing(library):
        return Parity(None, reason, function, _version(library))
    assert row is not None
    try:
        error = _error(library, entry.name, {})
    except ImportError as broken:
        reason = f"{row.function} can't be imported: {broken}"
        return Parity(None, reason, function, _version(library))
    return Parity(error, row.note, function, _version(library))


def _error(library: LibraryName, name: str, changed: dict[str, Value]) -> float:
    side = LIBRARIES[library]
    row = side.rows[name]
    estimator = algorithm(name)(**({**row.ours, **changed}))
    pairs = (side.gradients(row, estimator, seed) for seed in SEEDS)
    return worst_of(relative_error(ours, theirs) for ours, theirs in pairs)


def _missing(library: LibraryName) -> str:
    if available(library):
        return ""
    return f"{library} is not installed; install it with {hint(library, library)}"


def _no_function(library: LibraryName, entry: Algorithm) -> str:
    side = LIBRARIES[library]
    if entry.name in side.rows:
        return ""
    if len({term.samples for term in entry.terms}) > 1:
        return f"{side.title} has no loss that reads rollouts and demonstrations together"
    return side.absent.get(entry.name, f"{side.title} ships no {entry.title}")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
