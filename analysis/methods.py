"""Order, groups and names of methods, suites and base models in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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


class Suite(NamedTuple):
    """What readers call a synthetic suite, and what its problems ask for."""

    title: str
    task: str


#: Facts of :mod:`upge.tasks.synthetic`.
SUITES = {
    "sum": Suite("addition", "+ and −"),
    "aff": Suite("affine", "× alternating with + or −"),
    "perm": Suite("permutation", "reversal or rotation, alternating with + or −"),
    "cond": Suite("conditional", "+ or − by the parity of the left digit, mixed with + and −"),
    "inv": Suite("inverse", "the start that leads to a given result"),
    "post": Suite("postfix", "+ and − in postfix notation"),
    "mix": Suite("mixed", "all operations"),
    "alt": Suite("implicit", "+ and − alternating, not written out"),
}

#: What figures call the bundled base models.
BASES = {"tiny": "main model", "tiny_weak": "weak model", "tiny_small": "small model"}


def title(method: str) -> str:
    """A method as tables and figures call it; an unknown one by its name."""
    return REGISTRY[method].title if method in REGISTRY else _TITLES.get(method, method)


def short_title(method: str) -> str:
    """The part before a comma: the method, whatever its variant."""
    return title(method).partition(",")[0]


def suite_title(suite: str) -> str:
    """A suite as tables and figures call it; an unknown one by its name."""
    return SUITES[suite].title if suite in SUITES else suite


def ordered(methods: Iterable[str]) -> list[str]:
    """Methods, each once, in the order of :data:`METHODS`, then all others as they come."""
    names = list(dict.fromkeys(methods))
    return [m for m in METHODS if m in names] + [m for m in names if m not in METHODS]


def grouped(methods: Iterable[str]) -> dict[str, list[str]]:
    """The groups that these methods belong to; those without one are ``Others``."""
    names = ordered(methods)
    groups = {group: [m for m in members if m in names] for group, members in GROUPS.items()}
    groups["Others"] = [m for m in names if m not in METHODS]
    return {group: members for group, members in groups.items() if members}
