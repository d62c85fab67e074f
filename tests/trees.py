"""Trajectories of a tree by recursion."""

from collections.abc import Iterator

from torch import Tensor

from upge.exact.enumeration import Policy, Tree

Tokens = tuple[int, ...]


def recursion(tree: Tree, prefix: Tokens = ()) -> Iterator[Tokens]:
    """All trajectories, by continuing prefixes one token at a time."""
    for token in range(tree.vocab):
        tau = (*prefix, token)
        if token == tree.eos or len(tau) == tree.horizon:
            yield tau
        else:
            yield from recursion(tree, tau)


def name(tokens: Tokens) -> str:
    return " ".join(map(str, tokens))


def entry(policy: Policy, table: Tensor, prefix: Tokens, token: int) -> Tensor:
    return table[policy.tree.prefix_names.index(name(prefix)), token]
