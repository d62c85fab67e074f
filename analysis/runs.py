"""Loading the runs of a comparison, from their folders or their records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.records import is_recorded, read_records
from analysis.run import Run, Runs, make_command
from analysis.run_folders import read_folders
from upge.common.errors import UpgeError

#: What all runs of a comparison share, whatever the method.
_SHARED = ("model", "data", "evaluation", "max_tokens")


def load_runs(folder: Path) -> Runs:
    """The runs of a comparison, one configuration a method, from their folders or their records.

    Raises:
        UpgeError: a folder that doesn't exist, damaged files, two configurations of one method,
            methods that were trained or evaluated on different data, or a seed that occurs twice.
    """
    if not folder.is_dir():
        raise UpgeError(
            f"{folder}: is no folder of a comparison; make it with `{make_command(folder.name)}`"
        )
    runs = read_records(folder) if is_recorded(folder) else read_folders(folder)
    _check_alike(runs.finished)
    return runs


def _check_alike(runs: Sequence[Run]) -> None:
    """Runs of one method differ in nothing but the seed, methods in nothing that is shared."""
    by_method: dict[str, Run] = {}
    by_seed: dict[tuple[str, int], Run] = {}
    for run in runs:
        other = by_method.setdefault(run.method, run)
        if places := _differences(other.config, run.config, {"seed", "key"}):
            reason = f"they differ in {', '.join(places)}"
            raise _mixed(f"{run.method} with two configurations", other, run, reason)
        twin = by_seed.setdefault((run.method, run.seed), run)
        if twin is not run:
            raise _mixed(f"{run.method} twice", twin, run, f"both are of seed {run.seed}")
    for run in by_method.values():
        other = next(iter(by_method.values()))
        unshared = set(other.config) | set(run.config)
        if places := _differences(other.config, run.config, unshared.difference(_SHARED)):
            reason = f"they differ in {', '.join(places)}"
            raise _mixed("runs that can't be compared", other, run, reason)


def _mixed(what: str, a: Run, b: Run, reason: str) -> UpgeError:
    return UpgeError(
        f"{a.path.parent}: holds {what}, {a.path.name} and {b.path.name} ({reason}); move or "
        "delete the ones you don't mean"
    )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], but: set[str]) -> list[str]:
    """The places, as ``stages.0.lr``, at which two configurations differ."""
    left, right = (
        dict(_flat({key: value for key, value in config.items() if key not in but}))
        for config in (a, b)
    )
    missing = object()
    places = sorted(left.keys() | right.keys())
    return [place for place in places if left.get(place, missing) != right.get(place, missing)]


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, value
