"""The methods of the comparison: order, groups and names in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable

from upge.algorithms import REGISTRY

#: What methods learn from; each group shares a panel.
GROUPS: dict[str, tuple[str, ...]] = {
    "Demonstrations": ("sft", "dft"),
    "Rollouts": ("grpo", "dr_grpo"),
    "Both": ("sft_grpo", "luffy", "srft"),
    "HPT": ("hpt", "hpt_official", "hpt_global_token", "hpt_sequence_mean", "hpt_wiener"),
}

BASE = "base"
METHODS = (BASE, *(method for group in GROUPS.values() for method in group))

#: Names of what is no registered algorithm.
_TITLES = {
    BASE: "Base model",
    "sft_grpo": "SFT→GRPO",
    "hpt_sequence_mean": "HPT, sequence means",
    "rl_end": "RL alone",
    **{f"hpt_gamma_{right}": f"HPT, γ = {right}/8" for right in range(1, 9)},
    "sft_last": "SFT, last micro-batch only",
    "sft_means": "SFT, mean of means",
    "sft_both": "SFT, both faults",
    "sft_long": "SFT, as much compute as HPT",
    "sft_grpo_last": "SFT→GRPO, last micro-batch only",
    "sft_grpo_means": "SFT→GRPO, mean of means",
    "sft_grpo_both": "SFT→GRPO, both faults",
    "sft_grpo_long": "SFT→GRPO, as much compute as HPT",
}


def title(method: str) -> str:
    """A method as tables and figures call it; its own name if it has no other."""
    return REGISTRY[method].title if method in REGISTRY else _TITLES.get(method, method)


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods, each once, in the order of :data:`METHODS`, then all others as they come."""
    given = list(dict.fromkeys(methods))
    return [m for m in METHODS if m in given] + [m for m in given if m not in METHODS]


def grouped(methods: Iterable[str]) -> dict[str, list[str]]:
    """The groups that these methods fill; those in none are ``Others``."""
    given = ordered(methods)
    found = {name: [m for m in own if m in given] for name, own in GROUPS.items()}
    found["Others"] = [m for m in given if m not in METHODS]
    return {name: own for name, own in found.items() if own}
