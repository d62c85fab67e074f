"""Which cases the fast suite takes: ``make test-slow`` takes all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest

from upge.algorithms import REGISTRY

#: Rows that stand for all: imitation, a critic, z-scores and signs, token, sequence and weight
#: clips, and mixtures under entropy weights, a schedule and HPT's gate.
FAST_ROWS = frozenset({
    "sft", "ppo", "grpo", "gspo", "cispo", "w_reinforce", "luffy", "srft", "chord",
    "hpt_global_token",
})  # fmt: skip


def slow_cases(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Tests of other rows than those, and what ``spread(n)`` leaves out of a function's cases."""
    spread = defaultdict(list)
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        names = {v if isinstance(v, str) else getattr(v, "name", None) for v in values}
        rows = {name for name in names if isinstance(name, str) and name in REGISTRY}
        if rows - FAST_ROWS:
            yield item
        elif marker := item.get_closest_marker("spread"):
            spread[item.originalname, item.path, marker.args[0]].append(item)
    for (_, _, count), cases in spread.items():
        kept = {i * len(cases) // count for i in range(count)}
        yield from (item for i, item in enumerate(cases) if i not in kept)
