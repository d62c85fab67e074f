"""The moments of many algorithms on one instance, as a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upge.algorithms import REGISTRY, algorithm
from upge.common.errors import UpgeError
from upge.exact.instance import TARGETS, Instance
from upge.exact.moments import Moments, moments, prepared


@dataclass(frozen=True)
class Report:
    """The moments of the algorithms on an instance, and why some have none."""

    instance: Instance
    moments: Mapping[str, Moments]
    skipped: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Everything as JSON has it; a number that does not exist is null."""
        return {
            "objective": {target: self._objective(target) for target in TARGETS},
            "gradient": {target: self._gradient(target) for target in TARGETS},
            "algorithms": {name: _row(m) for name, m in self.moments.items()},
            "skipped": dict(self.skipped),
        }

    def lines(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """Everything in long format: algorithm, quantity, prefix, token, value."""
        record = self.record()
        for target in TARGETS:
            yield "", f"objective_{target}", "", "", record["objective"][target]
            for prefix, row in (record["gradient"][target] or {}).items():
                for token, value in enumerate(row):
                    yield "", f"gradient_{target}", prefix, token, value
        for name, row in record["algorithms"].items():
            for quantity, value in row.items():
                yield name, quantity, "", "", value
        for name, reason in self.skipped.items():
            yield name, "skipped", "", "", reason

    def _objective(self, target: str) -> float | None:
        setting = self.instance.setting
        if target not in setting.truth:
            return None
        return setting.objectives[target](setting.policy, question=setting.question).item()

    def _gradient(self, target: str) -> dict[str, list[float]] | None:
        setting = self.instance.setting
        if target not in setting.truth:
            return None
        tree = setting.policy.tree
        rows = setting.truth[target].view(tree.prefixes, tree.vocab).tolist()
        return dict(zip(tree.prefix_names, rows, strict=True))


def report(
    instance: Instance,
    names: Sequence[str] | None,
    normalizer: str,
    samples: int,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Report:
    """The moments of the algorithms named; of all that have some, if none is.

    Args:
        instance: the policy, its rewards and how a group is drawn.
        names: algorithms; None for the registry.
        normalizer: of every term, or ``own``.
        samples: groups drawn where the moments can't be exact.
        track: wraps the names, to show progress.

    Raises:
        UpgeError: an algorithm that was named, or all of them, have no moments on it.
    """
    chosen = [algorithm(name).name for name in names or REGISTRY]
    overrides = {} if instance.clip is None else {"clip": instance.clip}
    results: dict[str, Moments] = {}
    skipped: dict[str, str] = {}
    for name in track(chosen):
        try:
            estimator = prepared(name, normalizer, **overrides)
            results[name] = moments(estimator, instance.setting, samples=samples)
        except UpgeError as error:
            if names:
                raise
            skipped[name] = str(error)
    if not results:
        raise UpgeError(next(iter(skipped.values())))
    return Report(instance, results, skipped)


def _row(result: Moments) -> dict[str, float | str | None]:
    """The moments by name; null for 0/0 and for what the instance has no truth for."""
    return {name: _finite(value) for name, value in result.row().items()}


def _finite(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value
