"""Exact mean and covariance of every estimator for one group, on policies that can be enumerated.

A group is ``group_size`` rollouts of π_θold and, for estimators that read them, ``demonstrations``
trajectories of π_β, all independent. The estimator is g = Σ_i x_i with x_i = Σ_t w_it ∇log π_θ(τ_it).
What a weight takes from the rest of the group (advantage, gate, normaliser) depends on the others'
rewards only, and for some components on their lengths: on their *class*. So, given how many rows
of each class a group holds (a multinomial composition), its rows are independent, and

    E‖g‖² = Σ_i (E‖x_i‖² − ‖E x_i‖²) + ‖Σ_i E x_i‖²   within a composition,

with expectations over all trajectories of a row's class. No group is sampled. The weights are the
package's own: each composition is planned on representatives of its classes, and the plan is
carried over to all their trajectories.

Estimators weighing by the whole group's entropy (SRFT) have one class a trajectory. Where that
makes more compositions than a Monte Carlo estimate has samples, they are sampled, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, groupby, product
from typing import Literal

import torch
from torch import Tensor

from upge.advantage import GAE, GroupCentered, GroupZScore, LeaveOneOut, One, Reward, Signed
from upge.algorithms import Value, algorithm
from upge.batch import TrajectoryBatch
from upge.errors import UpgeError
from upge.estimator import Estimator, Plan, Term, _Part
from upge.normalization import (
    FixedLength,
    LengthSum,
    QuestionMean,
    QuestionSum,
    SequenceMean,
    TokenSum,
    TrajectoryMean,
)
from upge.objective import Objective
from upge.theory.enumeration import Policy, Scores

#: Compositions that are planned one by one at most: about a minute.
MAX_COMPOSITIONS = 100_000

#: Default number of groups of a Monte Carlo estimate.
SAMPLES = 10_000

#: Numbers held at a time.
_PIECE = 4_000_000

#: Components that read no trajectory's length, and those that read their own row's only; all
#: others are taken to read the lengths of the whole group.
_NO_LENGTH = (One, Reward, Signed, GAE, GroupZScore, GroupCentered, LeaveOneOut) + (
    (TokenSum, TrajectoryMean, FixedLength, LengthSum, QuestionSum)
)
_OWN_LENGTH = (SequenceMean, QuestionMean)


@dataclass(frozen=True, eq=False)
class Setting:
    """One question: the policies, what is true, and how a group is drawn.

    Args:
        policy: π_θ.
        objective: J_μ with the rewards and, if there are demonstrations, π_β.
        group_size: rollouts a group.
        old: π_θold; π_θ if not given.
        demonstrations: trajectories of π_β a group, for estimators that read some.
        question: which of the policy's questions the group answers.
        critic: V for GAE: π_θold's exact, undiscounted E[r | prefix], or zero.

    Raises:
        UpgeError: sizes below what a group needs, or policies on different trees.
    """

    policy: Policy
    objective: Objective
    group_size: int
    old: Policy | None = None
    demonstrations: int = 1
    question: int = 0
    critic: Literal["exact", "zero"] = "exact"

    def __post_init__(self) -> None:
        for name, low in (("group_size", 1), ("demonstrations", 0)):
            if (size := getattr(self, name)) < low:
                raise UpgeError(f"{name}: got {size}, wanted at least {low}")
        for name, other in (("old", self.old), ("demo", self.objective.demo)):
            if other is not None and other.tree != self.policy.tree:
                raise UpgeError(f"{name}: got {other.tree}, wanted the policy's {self.policy.tree}")

    @property
    def reward(self) -> Tensor:
        """(M,) of the question."""
        return self.objective.reward[self.question]

    @cached_property
    def truth(self) -> Mapping[str, Tensor]:
        """(D,) ∇E[r] (``reward``) and ∇J (``mu``), at π_θ."""
        reward = Objective(self.objective.reward)
        pair = {"reward": reward, "mu": self.objective}
        return {name: j.gradient(self.policy, self.question) for name, j in pair.items()}

    @cached_property
    def scores(self) -> Scores:
        """∇log π_θ of all tokens."""
        return self.policy.scores(self.question)

    @cached_property
    def rollouts(self) -> Draws:
        """Groups of rollouts."""
        return Draws(self, None)

    @cached_property
    def mixed(self) -> Draws:
        """Groups of rollouts and demonstrations."""
        if self.objective.demo is None:
            raise UpgeError("there is no demonstration policy to draw demonstrations from")
        return Draws(self, self.objective.demo)

    def draws(self, estimator: Estimator) -> Draws:
        """What the estimator's groups are drawn from.

        Raises:
            UpgeError: it reads demonstrations and there are none.
        """
        reads = any(term.samples != "online" for term in estimator.terms)
        return self.mixed if reads else self.rollouts


class Draws:
    """All trajectories a group may hold as rows of a batch: first rollouts, then demonstrations.

    Attributes:
        trajectory: (R,) index in the tree.
        probability: (R,) of one draw.
        offline: (R,) bool, true for demonstrations.
        batch: the R rows, with the current policy's entropy.
        logp: (R, H) log π_θ.
        sizes: how many rollouts and how many demonstrations a group has.
    """

    def __init__(self, setting: Setting, demo: Policy | None) -> None:
        policy, tree, question = setting.policy, setting.policy.tree, setting.question
        old = setting.old or policy
        sources = [(old, setting.group_size)]
        if demo is not None and setting.demonstrations:
            sources.append((demo, setting.demonstrations))
        probs = [source.logp(question).exp() for source, _ in sources]
        index = [(p > 0).nonzero().flatten() for p in probs]
        self.sizes = tuple(size for _, size in sources)
        self.trajectory = torch.cat(index)
        self.probability = torch.cat([p[i] for p, i in zip(probs, index, strict=True)])
        self.offline = torch.arange(len(self.trajectory)) >= len(index[0])
        self.logp = policy.token_logp(question)[self.trajectory]
        self._check_support(policy)
        log_old = old.log_probs(question)
        values = tree.value(log_old, setting.reward) * (setting.critic == "exact")
        self.cell = tree.cell[self.trajectory]
        self.batch = TrajectoryBatch(
            mask=tree.mask[self.trajectory],
            reward=setting.reward[self.trajectory],
            group=torch.zeros_like(self.trajectory),
            offline=self.offline,
            old_logp=tree.at_tokens(log_old)[self.trajectory],
            values=tree.at_tokens(values[:, None].expand_as(log_old))[self.trajectory],
            max_length=tree.horizon,
            entropy=policy.entropy(question)[self.trajectory],
        )

    def _check_support(self, policy: Policy) -> None:
        bad = self.logp.isinf().any(1).nonzero().flatten()
        if len(bad):
            name = policy.tree.trajectory_name(int(self.trajectory[bad[0]]))
            raise UpgeError(
                f"trajectory {name!r} can be drawn but has probability 0 under the current policy, "
                "where log π has no gradient; give it a positive probability"
            )


class Classes:
    """The rows of ``draws`` by what the estimator's static weights read of them.

    A group is composed of coarse classes, which tell the other rows all they need. Within a coarse
    class fine ones differ in what only their own weight reads.

    Attributes:
        probability: of each coarse class in one draw of its kind.
        fine: the fine classes of each coarse class.
        members, start, size: rows of fine class f are members[start[f] : start[f] + size[f]].
        conditional: (R,) probability of a row given its coarse class.
    """

    def __init__(self, estimator: Estimator, draws: Draws) -> None:
        coarse_key, fine_key = _keys(estimator, draws)
        key = torch.stack([draws.offline.double(), draws.batch.reward, coarse_key], 1)
        coarse = torch.unique(key, dim=0, return_inverse=True)[1]
        pair = torch.stack([coarse, fine_key], 1)
        distinct, fine = torch.unique(pair, dim=0, return_inverse=True)
        mass = torch.zeros(int(coarse.max()) + 1, dtype=torch.float64)
        mass = mass.index_add(0, coarse, draws.probability)
        self.probability: list[float] = mass.tolist()
        owner = distinct[:, 0].tolist()
        self.fine = [list(own) for _, own in groupby(range(len(owner)), owner.__getitem__)]
        self.members = fine.argsort(stable=True)
        self.size = fine.bincount()
        self.start = self.size.cumsum(0) - self.size
        self.conditional = draws.probability / mass[coarse]
        split = int(coarse[~draws.offline].max()) + 1
        self._kinds = tuple(zip((range(split), range(split, len(mass))), draws.sizes, strict=False))

    @property
    def count(self) -> int:
        """The number of plans that all compositions take."""
        sides = (math.comb(len(kind) + size - 1, size) for kind, size in self._kinds)
        return math.prod(sides) * max(map(len, self.fine))

    def compositions(self) -> Iterator[tuple[float, dict[int, int]]]:
        """Every composition: its probability, and the number of rows of each class in it."""
        for drawn in product(*(combinations_with_replacement(*kind) for kind in self._kinds)):
            probability, counts = 1.0, dict[int, int]()
            for side in drawn:
                for done, c in enumerate(side, 1):  # the multinomial, one draw at a time
                    counts[c] = counts.get(c, 0) + 1
                    probability *= self.probability[c] * done / counts[c]
            yield probability, counts


def _keys(estimator: Estimator, draws: Draws) -> tuple[Tensor, Tensor]:
    """What tells rows of the same reward apart, for the others' weights and for their own."""
    length = draws.batch.mask.sum(1)
    coarse, fine = torch.zeros_like(length), torch.zeros_like(length)
    for term in estimator.terms:
        own = torch.ones_like(draws.offline)
        if term.samples != "all":
            own = draws.offline if term.samples == "offline" else ~draws.offline
        if _reads_lengths(term):
            counted = own | (term.normalizer.scope in ("joint", "batch"))
            if type(term.advantage) not in _NO_LENGTH:
                counted = torch.ones_like(own)
            coarse = torch.where(counted, torch.maximum(coarse, length), coarse)
        elif type(term.normalizer) in _OWN_LENGTH:
            fine = torch.where(own, length, fine)
        if _weighs_by_batch(term):
            coarse = torch.where(own, length.max() + 1 + torch.arange(len(own)), coarse)
    return coarse.double(), fine


def _reads_lengths(term: Term) -> bool:
    normalizers = _NO_LENGTH + _OWN_LENGTH
    return type(term.normalizer) not in normalizers or type(term.advantage) not in _NO_LENGTH


def _weighs_by_batch(term: Term) -> bool:
    return term.entropy_weight is not None and term.entropy_weight.level == "batch"


@dataclass(frozen=True, eq=False)
class Conditional:
    """The estimator given the composition of its group, for C compositions.

    Attributes:
        probability: (C,) of the composition.
        successes: (C,) rollouts with R > 0.
        mean: (C, D) E[g | composition].
        spread: (C,) trace Cov[g | composition].
    """

    probability: Tensor
    successes: Tensor
    mean: Tensor
    spread: Tensor


class _Piece:
    """Compositions planned one by one, evaluated together.

    A *slot* is a class present in a composition; an *entry* is a fine class of a slot, with its
    static weights of all terms.
    """

    def __init__(self, estimator: Estimator, setting: Setting, draws: Draws, classes: Classes):
        self.estimator, self.setting, self.draws, self.classes = estimator, setting, draws, classes
        self.local = {
            k: term.advantage(draws.batch)
            for k, term in enumerate(estimator.terms)
            if "values" in term.advantage.needs
        }
        self.probability, self.successes = list[float](), list[int]()
        self.slots = list[tuple[int, int]]()  # composition, number of rows
        self.fine, self.slot, self.static = list[int](), list[int](), list[Tensor]()

    @property
    def weight(self) -> int:
        """How many numbers evaluating it takes, about."""
        tree = self.setting.policy.tree
        rows = self.classes.size[self.fine].sum().item() * tree.horizon
        wide = max(tree.prefixes * tree.vocab, len(self.setting.policy.theta))
        return int(rows) + len(self.slots) * wide

    def add(self, probability: float, counts: dict[int, int]) -> None:
        """Plan one composition, once for every fine class of its own-reading weights."""
        first = len(self.slots)
        self.slots += [(len(self.probability), n) for n in counts.values()]
        self.probability.append(probability)
        size = torch.tensor(list(counts.values()))
        fine = [self.classes.fine[c] for c in counts]
        for variant in range(max(map(len, fine))):
            chosen = torch.tensor([own[min(variant, len(own) - 1)] for own in fine])
            rows = self.classes.members[self.classes.start[chosen]].repeat_interleave(size)
            static = self._plan(rows)[size.cumsum(0) - size]
            fresh = [i for i, own in enumerate(fine) if variant < len(own)]
            self.fine += chosen[fresh].tolist()
            self.slot += [first + i for i in fresh]
            self.static.append(static[fresh])
        self.successes.append(int((self.draws.batch.reward[rows] > 0)[~self.draws.offline[rows]].sum()))

    def _plan(self, rows: Tensor) -> Tensor:
        """(N, terms, 3) advantage, scale and batch weight of the rows' first token."""
        plan = self.estimator.plan(self.draws.batch.select(rows))
        columns = []
        for k, part in enumerate(plan.parts):
            advantage = self.local[k][rows] if k in self.local else part.advantage[:, :1]
            carried = torch.stack([advantage.expand_as(part.scale), part.scale[:, :1].expand_as(part.scale)])
            planned = torch.stack([part.advantage, part.scale])
            if not torch.equal(carried[:, part.tokens], planned[:, part.tokens]):
                raise UpgeError(
                    f"{self.estimator.name}: a static weight varies within a trajectory, so it has "
                    "no exact moments here; take monte_carlo"
                )
            weight = torch.ones(()) if part.batch_weight is None else part.batch_weight
            columns.append(torch.stack([part.advantage[:, 0], part.scale[:, 0], weight.expand(len(rows))], 1))
        return torch.stack(columns, 1)
