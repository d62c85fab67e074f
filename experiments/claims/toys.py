"""The smallest counterexample: all policies with small whole-number odds, tried by their size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, product
from math import gcd
from typing import Literal

import torch

from experiments.claims.lab import Case
from upge.exact.enumeration import TabularPolicy, Tree

Role = Literal["theta", "old", "demo"]
_NAMES: dict[Role, str] = {"theta": "π_θ", "old": "π_θold", "demo": "π_β"}

#: Toys that are tried at most.
TRIED = 1_000


@dataclass(frozen=True)
class Toy:
    """A question with few answers: whole-number odds of every token after every prefix.

    Attributes:
        tree: all answers; token 0 ends one.
        theta, old, demo: (P · V) odds under π_θ, π_θold, π_β.
        reward: (M,) of every answer.
    """

    tree: Tree
    theta: tuple[int, ...]
    old: tuple[int, ...]
    demo: tuple[int, ...]
    reward: tuple[float, ...]

    def case(self) -> Case:
        """The same as policies."""
        policy, old, demo = (self._policy(odds) for odds in (self.theta, self.old, self.demo))
        return Case(policy, old, demo, torch.tensor(self.reward, dtype=torch.float64))

    def _policy(self, odds: Sequence[int]) -> TabularPolicy:
        table = torch.tensor(odds, dtype=torch.float64).view(-1, self.tree.vocab)
        return TabularPolicy(self.tree, table.log())

    def words(self, *roles: Role) -> str:
        """The rewards, and the policies ``roles`` as fractions."""
        answers = "answers of one token"
        if self.tree.horizon > 1:
            names = (name.replace(" ", "") for name in self.tree.trajectory_names)
            answers = f"answers {', '.join(names)}"
        rewards = ", ".join(f"{r:g}" for r in self.reward)
        parts = (f"{_NAMES[role]} = {self._fractions(getattr(self, role))}" for role in roles)
        return ", ".join([f"{answers} with r = ({rewards})", *parts])

    def _fractions(self, odds: Sequence[int]) -> str:
        size = self.tree.vocab
        rows = [odds[i : i + size] for i in range(0, len(odds), size)]
        texts = ["(" + ", ".join(str(Fraction(x, sum(row))) for x in row) + ")" for row in rows]
        if len(texts) == 1:
            return texts[0]
        prefixes = (name.replace(" ", "") or "the start" for name in self.tree.prefix_names)
        return " and ".join(f"{x} after {at}" for x, at in zip(texts, prefixes, strict=True))


def _rows(vocab: int, low: int, top: int) -> list[tuple[int, ...]]:
    """Odds of one prefix's tokens, without a common factor."""
    return [row for row in product(range(low, top + 1), repeat=vocab) if gcd(*row) == 1]


def toys(
    vocab: int,
    horizon: int,
    varied: Sequence[Role],
    *,
    top: int = 4,
    lowest: int = 0,
    rewards: Sequence[float] = (0.0, 1.0),
) -> Iterator[Toy]:
    """All toys, small odds first.

    Args:
        vocab: tokens.
        horizon: of the tree.
        varied: the policies that vary; the others are as even as can be, π_θold like π_θ.
        top: the largest odds.
        lowest: the smallest odds of π_β; with 0 it need not cover.
        rewards: that answers may have, not all equal.
    """
    tree = Tree(vocab, 0, horizon)
    lows = {role: lowest if role == "demo" else 1 for role in varied}
    tables = [product(_rows(vocab, lows[role], top), repeat=tree.prefixes) for role in varied]
    flat = [[tuple(x for row in table for x in row) for table in some] for some in tables]
    chosen = sorted(product(*flat), key=lambda odds: sum(map(sum, odds)))
    even = (1,) * (tree.prefixes * vocab)
    rewarded = [r for r in product(rewards, repeat=tree.trajectories) if len(set(r)) > 1]
    for odds in chosen:
        given = dict(zip(varied, odds, strict=True))
        theta = given.get("theta", even)
        for reward in rewarded:
            yield Toy(tree, theta, given.get("old", theta), given.get("demo", even), reward)


def smallest(fails: Callable[[Case], bool], candidates: Iterator[Toy]) -> Toy | None:
    """The first toy on which ``fails`` is true; None if none of :data:`TRIED` is."""
    tried = islice(candidates, TRIED)
    return next((toy for toy in tried if fails(toy.case())), None)


def hunt(
    fails: Callable[[Case], bool],
    candidates: Iterator[Toy],
    roles: Sequence[Role],
    tell: Callable[[Case], str],
) -> Callable[[], str | None]:
    """A search for the :func:`smallest`, put off until it is called; it words what it found.

    Args:
        fails: of a toy's policies.
        candidates: small ones first.
        roles: the policies to be named.
        tell: what happens there.
    """

    def search() -> str | None:
        toy = smallest(fails, candidates)
        return None if toy is None else f"{toy.words(*roles)}: {tell(toy.case())}"

    return search
