"""Autoregressive policies small enough to enumerate: every trajectory, its probability, its score.

Tokens are 0 … V−1, one of them end-of-sequence. A trajectory ends with eos or after ``horizon``
tokens, so with B = V − 1 there are P = Σ_{t<H} B^t prefixes to continue and M = Σ_{t≤H} B^t
trajectories. Both are counted as the nodes of a B-ary tree, level by level: node i has prefix i;
trajectory i is node i followed by eos, or node i itself at depth H.

A policy is a function of flat parameters θ that gives log π_θ(token | question, prefix) as a table
(P, V). Everything else is read off such tables, in float64, without sampling.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from upge.common.errors import UpgeError

#: What is enumerated at most; beyond it memory, not time, runs out.
MAX_TRAJECTORIES, MAX_TOKENS = 2_000_000, 20_000_000

#: Entries of a Jacobian of all log-probabilities over a network's parameters, at most.
MAX_JACOBIAN = 50_000_000

_PIECE = 4_000_000


@dataclass(frozen=True)
class Tree:
    """All trajectories over ``vocab`` tokens that end with ``eos`` or after ``horizon`` tokens.

    Raises:
        UpgeError: sizes that can't be meant, or more trajectories or tokens than fit.
    """

    vocab: int
    eos: int
    horizon: int

    def __post_init__(self) -> None:
        for name, low in (("vocab", 2), ("horizon", 1)):
            if (value := getattr(self, name)) < low:
                raise UpgeError(f"{name}: got {value}, wanted at least {low}")
        if not 0 <= self.eos < self.vocab:
            raise UpgeError(f"eos: got {self.eos}, wanted a token from 0 to {self.vocab - 1}")
        size = f"vocab {self.vocab} and horizon {self.horizon}"
        if self._magnitude >= 18:
            raise UpgeError(
                f"{size} make at least 10^{self._magnitude} trajectories, more than the "
                f"{MAX_TRAJECTORIES:,} that can be enumerated"
            )
        if self.trajectories > MAX_TRAJECTORIES:
            raise UpgeError(
                f"{size} make {self.trajectories:,} trajectories, more than the "
                f"{MAX_TRAJECTORIES:,} that can be enumerated"
            )
        if (tokens := self.trajectories * self.horizon) > MAX_TOKENS:
            raise UpgeError(
                f"{size} make {self.trajectories:,} trajectories of up to {self.horizon:,} tokens: "
                f"{tokens:,} places, more than the {MAX_TOKENS:,} that can be enumerated"
            )

    @property
    def _magnitude(self) -> int:
        """A k with 10^k ≤ M, close to the largest, found without counting."""
        branching, depth = (min(size, 10**18) for size in (self.vocab - 1, self.horizon))
        return max(depth * int(1000 * math.log10(branching)) // 1000, int(math.log10(depth)))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Index of the first node of each depth 0 … H + 1 (the last is the number of nodes)."""
        sizes = ((self.vocab - 1) ** depth for depth in range(self.horizon + 1))
        return tuple(accumulate(sizes, initial=0))

    @property
    def prefixes(self) -> int:
        """P, the prefixes that are continued."""
        return self.levels[self.horizon]

    @property
    def trajectories(self) -> int:
        """M."""
        branching = self.vocab - 1
        if branching == 1:
            return self.horizon + 1
        return int((branching ** (self.horizon + 1) - 1) // (branching - 1))

    @cached_property
    def continuing(self) -> Tensor:
        """(V − 1,) the tokens but eos, in order; a node's k-th child appends the k-th of them."""
        tokens = torch.arange(self.vocab)
        return tokens[tokens != self.eos]

    @cached_property
    def length(self) -> Tensor:
        """(M,) tokens of each trajectory, its eos included."""
        sizes = torch.tensor(self.levels).diff()
        depth = torch.arange(self.horizon + 1).repeat_interleave(sizes)
        return (depth + 1).clamp(max=self.horizon)

    @cached_property
    def mask(self) -> Tensor:
        """(M, H) bool, true at a trajectory's tokens."""
        return torch.arange(self.horizon) < self.length[:, None]

    @cached_property
    def prefix(self) -> Tensor:
        """(M, H) index of the prefix that each token continues; 0 at padding."""
        prefix = torch.zeros(self.trajectories, self.horizon, dtype=torch.long)
        for depth in range(self.horizon + 1):
            rows = slice(self.levels[depth], self.levels[depth + 1])
            code = torch.arange(self.levels[depth + 1] - self.levels[depth])
            for t in reversed(range(min(depth + 1, self.horizon))):
                ancestor = code // (self.vocab - 1) ** (depth - t)
                prefix[rows, t] = self.levels[t] + ancestor
        return prefix

    @cached_property
    def tokens(self) -> Tensor:
        """(M, H) token ids; eos at padding."""
        tokens = torch.full((self.trajectories, self.horizon), self.eos)
        for depth in range(1, self.horizon + 1):
            rows = slice(self.levels[depth], self.levels[depth + 1])
            code = torch.arange(self.levels[depth + 1] - self.levels[depth])
            for t in range(depth):
                digit = code // (self.vocab - 1) ** (depth - t - 1) % (self.vocab - 1)
                tokens[rows, t] = self.continuing[digit]
        return tokens

    @cached_property
    def cell(self) -> Tensor:
        """(M, H) where (prefix, token) stands in a flattened table (P · V)."""
        return self.prefix * self.vocab + self.tokens

    @cached_property
    def trajectory_names(self) -> list[str]:
        """Token ids of every trajectory joined by spaces, with its eos."""
        rows = zip(self.tokens.tolist(), self.length.tolist(), strict=True)
        return [" ".join(map(str, tokens[:length])) for tokens, length in rows]

    @cached_property
    def prefix_names(self) -> list[str]:
        """Token ids of every prefix joined by spaces; empty for the start."""
        return [name.rpartition(" ")[0] for name in self.trajectory_names[: self.prefixes]]

    def at_tokens(self, table: Tensor) -> Tensor:
        """(M, H) entries of a table (P, V) at the trajectories' tokens; 0 at padding."""
        return torch.where(self.mask, table.reshape(-1)[self.cell], 0.0)

    def value(self, log_probs: Tensor, reward: Tensor) -> Tensor:
        """(P,) V(prefix) = E[r | prefix] of a policy's table (P, V), r (M,) at the end."""
        probs, node = log_probs.exp(), reward.clone()
        for depth in reversed(range(self.horizon)):
            here = slice(self.levels[depth], self.levels[depth + 1])
            children = node[self.levels[depth + 1] : self.levels[depth + 2]]
            ahead = probs[here][:, self.continuing] * children.view(-1, self.vocab - 1)
            node[here] = probs[here, self.eos] * reward[here] + ahead.sum(1)
        return node[: self.prefixes]


class Scores(ABC):
    """∇log π_θ(token | prefix) of every entry of a policy's table, as sums over entries need it."""

    @abstractmethod
    def combine(self, table: Tensor) -> Tensor:
        """(S, D) Σ_{p,v} table[s, p, v] ∇log π(v | p), for tables (S, P, V)."""

    @abstractmethod
    def square_norms(self, weights: Tensor, rows: Tensor) -> Tensor:
        """(R,) ‖Σ_t weights[r, t] ∇log π(τ_t | τ_<t)‖² of trajectories ``rows`` (R,)."""


class Policy(ABC):
    """π_θ(token | question, prefix) as a function of flat parameters θ (D,)."""

    def __init__(self, tree: Tree, theta: Tensor, questions: int) -> None:
        self.tree, self.theta, self.questions = tree, theta.detach().double(), questions

    @abstractmethod
    def log_probs(self, question: int = 0, theta: Tensor | None = None) -> Tensor:
        """(P, V) log π_θ at ``theta`` (its own if not given), differentiable in it."""

    @abstractmethod
    def scores(self, question: int = 0) -> Scores:
        """∇log π_θ at its own parameters."""

    def token_logp(self, question: int = 0, theta: Tensor | None = None) -> Tensor:
        """(M, H) log π_θ of every token of every trajectory; 0 at padding."""
        return self.tree.at_tokens(self.log_probs(question, theta))

    def logp(self, question: int = 0, theta: Tensor | None = None) -> Tensor:
        """(M,) log π_θ(τ | question)."""
        return self.token_logp(question, theta).sum(1)

    def entropy(self, question: int = 0) -> Tensor:
        """(M, H) entropy in nats of the distribution that each token was drawn from."""
        log_pi = self.log_probs(question)
        entropy = -torch.where(log_pi.isinf(), 0.0, log_pi.exp() * log_pi).sum(1, keepdim=True)
        return self.tree.at_tokens(entropy.expand_as(log_pi))


class _TabularScores(Scores):
    """One-hot minus softmax in the prefix's block; blocks of different prefixes are orthogonal."""

    def __init__(self, policy: TabularPolicy, question: int) -> None:
        self._cell, self._question, self._questions = policy.tree.cell, question, policy.questions
        self._pi = policy.log_probs(question).exp()
        self._norms = (1 - 2 * self._pi + (self._pi**2).sum(1, keepdim=True)).flatten()

    def combine(self, table: Tensor) -> Tensor:
        own = (table - self._pi * table.sum(-1, keepdim=True)).flatten(1)
        if self._questions == 1:
            return own
        gradient = own.new_zeros(len(own), self._questions, own.shape[1])
        gradient[:, self._question] = own
        return gradient.flatten(1)

    def square_norms(self, weights: Tensor, rows: Tensor) -> Tensor:
        return (weights**2 * self._norms[self._cell[rows]]).sum(1)


class TabularPolicy(Policy):
    """One logit vector a question and prefix: θ is ``logits`` (Q, P, V), or (P, V) for one."""

    def __init__(self, tree: Tree, logits: Tensor) -> None:
        shape = (tree.prefixes, tree.vocab)
        if logits.dim() not in (2, 3) or tuple(logits.shape[-2:]) != shape:
            raise UpgeError(
                f"logits: got shape {tuple(logits.shape)}, wanted (questions, *{shape})"
            )
        questions = logits.shape[0] if logits.dim() == 3 else 1
        super().__init__(tree, logits.reshape(-1), questions)

    @classmethod
    def random(
        cls, tree: Tree, seed: int, *, questions: int = 1, scale: float = 1.0
    ) -> TabularPolicy:
        """Normal logits of standard deviation ``scale``."""
        generator = torch.Generator().manual_seed(seed)
        shape = (questions, tree.prefixes, tree.vocab)
        return cls(tree, scale * torch.randn(shape, generator=generator, dtype=torch.float64))

    def log_probs(self, question: int = 0, theta: Tensor | None = None) -> Tensor:
        logits = (self.theta if theta is None else theta).view(self.questions, -1, self.tree.vocab)
        return logits[question].log_softmax(-1)

    def scores(self, question: int = 0) -> Scores:
        return _TabularScores(self, question)


class _JacobianScores(Scores):
    def __init__(self, cell: Tensor, jacobian: Tensor) -> None:
        self._cell, self._jacobian = cell, jacobian

    def combine(self, table: Tensor) -> Tensor:
        return table.flatten(1) @ self._jacobian

    def square_norms(self, weights: Tensor, rows: Tensor) -> Tensor:
        size = max(_PIECE // self._jacobian.shape[1], 1)
        pieces = zip(weights.split(size), self._cell[rows].split(size), strict=True)
        return torch.cat([self._piece(*piece) for piece in pieces])

    def _piece(self, weights: Tensor, cell: Tensor) -> Tensor:
        gradient = weights.new_zeros(len(weights), self._jacobian.shape[1])
        for t in range(weights.shape[1]):
            gradient += weights[:, t, None] * self._jacobian[cell[:, t]]
        return (gradient**2).sum(1)


class NetworkPolicy(Policy):
    """Shared parameters: logits = U tanh(W x(prefix) + e(question)) + b.

    x is the one-hot code of the tokens of the prefix, position by position; θ = (W, e, U, b) with
    ``hidden`` units, drawn normally with ``scale`` from ``seed``, or as given.
    """

    def __init__(
        self,
        tree: Tree,
        hidden: int = 4,
        *,
        seed: int = 0,
        questions: int = 1,
        scale: float = 1.0,
        theta: Tensor | None = None,
    ) -> None:
        width = max((tree.horizon - 1) * tree.vocab, 1)
        self._shapes = ((hidden, width), (questions, hidden), (tree.vocab, hidden), (tree.vocab,))
        size = sum(map(math.prod, self._shapes))
        if theta is None:
            generator = torch.Generator().manual_seed(seed)
            theta = scale * torch.randn(size, generator=generator, dtype=torch.float64)
        if tuple(theta.shape) != (size,):
            raise UpgeError(f"theta: got shape {tuple(theta.shape)}, wanted ({size},)")
        super().__init__(tree, theta, questions)
        self._features = _one_hot(tree, width)

    def log_probs(self, question: int = 0, theta: Tensor | None = None) -> Tensor:
        return self._of(self.theta if theta is None else theta, self._features, question)

    def _of(self, theta: Tensor, features: Tensor, question: int) -> Tensor:
        w, e, u, b = _unflatten(theta, self._shapes)
        return ((features @ w.T + e[question]).tanh() @ u.T + b).log_softmax(-1)

    def scores(self, question: int = 0) -> Scores:
        entries = self.tree.prefixes * self.tree.vocab * len(self.theta)
        if entries > MAX_JACOBIAN:
            raise UpgeError(
                f"the gradients of all log-probabilities have {entries:,} entries, more than the "
                f"{MAX_JACOBIAN:,} that are held; take a smaller network or tree"
            )
        of_prefix = torch.func.jacrev(lambda theta, x: self._of(theta, x, question))
        jacobian = torch.func.vmap(of_prefix, in_dims=(None, 0))(self.theta, self._features)
        return _JacobianScores(self.tree.cell, jacobian.flatten(0, 1))


def _one_hot(tree: Tree, width: int) -> Tensor:
    """(P, width) one-hot code of each prefix's tokens; trajectory i < P is prefix i and eos."""
    code = torch.zeros(tree.prefixes, width, dtype=torch.float64)
    tokens, length = tree.tokens[: tree.prefixes], tree.length[: tree.prefixes] - 1
    for t in range(tree.horizon - 1):
        rows = (length > t).nonzero().flatten()
        code[rows, t * tree.vocab + tokens[rows, t]] = 1.0
    return code


def _unflatten(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    pieces = flat.split([math.prod(shape) for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
