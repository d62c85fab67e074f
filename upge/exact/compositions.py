"""What a group is composed of, and the estimator's moments given that, by enumeration.

The estimator is g = Σ_i x_i over the group's rows, x_i = Σ_t w_it ∇log π_θ(τ_it). What a weight
takes from the rest of the group (advantage, gate, normaliser) depends on the others' rewards and,
for some components, on their lengths: on their *class*. So, given how many rows of each class a
group holds (a multinomial *composition*), its rows are independent, and within the composition

    trace Cov[g] = Σ_i (E‖x_i‖² − ‖E x_i‖²),   E g = Σ_i E x_i,

with expectations over all trajectories of a row's class. No group is sampled. The weights are the
package's own: every composition is planned on representatives of its classes, and the plan is
carried over to all their trajectories.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations_with_replacement, groupby, product

import torch
from torch import Tensor

from upge.advantage import GAE, GroupCentered, GroupZScore, LeaveOneOut, One, Reward, Signed
from upge.common.errors import UpgeError
from upge.estimator import Estimator, Plan, TermPlan
from upge.exact.enumeration import Tree
from upge.exact.instance import Draws, Setting
from upge.normalization import (
    FixedLength,
    LengthSum,
    QuestionMean,
    QuestionSum,
    SequenceMean,
    TokenSum,
    TrajectoryMean,
)

#: Compositions that are planned one by one at most, and rows in all of them: a minute or two.
MAX_COMPOSITIONS, MAX_ROWS = 100_000, 50_000_000

#: Numbers held at a time.
PIECE = 4_000_000

#: Components that read no trajectory's length, and normalisers that read their own row's only. All
#: others are taken to read the lengths of the whole group.
_ADVANTAGES = (One, Reward, Signed, GAE, GroupZScore, GroupCentered, LeaveOneOut)
_NORMALIZERS = (TokenSum, TrajectoryMean, FixedLength, LengthSum, QuestionSum)
_OWN_LENGTH = (SequenceMean, QuestionMean)


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
        key = torch.stack([draws.offline.double(), draws.batch.reward, coarse_key.double()], 1)
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

    def compositions(self) -> Iterator[tuple[float, Mapping[int, int]]]:
        """Every composition: its probability, and the number of rows of each class in it."""
        log_p = [math.log(p) for p in self.probability]
        orders = sum(math.lgamma(size + 1) for _, size in self._kinds)
        for drawn in product(*(combinations_with_replacement(*kind) for kind in self._kinds)):
            counts = Counter(chain.from_iterable(drawn))
            logs = (n * log_p[c] - math.lgamma(n + 1) for c, n in counts.items())
            yield math.exp(math.fsum((orders, *logs))), counts


def _keys(estimator: Estimator, draws: Draws) -> tuple[Tensor, Tensor]:
    """(R,) what tells rows of the same reward apart, for the others' weights and for their own."""
    length, every = draws.batch.mask.sum(1), torch.ones_like(draws.offline)
    coarse, fine = torch.zeros_like(length), torch.zeros_like(length)
    for term in estimator.terms:
        own = draws.batch.rows_of(term.samples)
        if type(term.advantage) not in _ADVANTAGES:
            coarse = torch.maximum(coarse, length)
        if type(term.normalizer) in _OWN_LENGTH:
            fine = torch.where(own, length, fine)
        elif type(term.normalizer) not in _NORMALIZERS:
            counted = every if term.normalizer.scope in ("joint", "batch") else own
            coarse = torch.where(counted, torch.maximum(coarse, length), coarse)
        if term.weighs_by_batch:
            coarse = torch.where(own, length.max() + 1 + torch.arange(len(own)), coarse)
    return coarse, fine


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
    """Compositions that are planned one by one and evaluated together.

    A *slot* is a class present in a composition; an *entry* is a fine class of a slot, with its
    static weights of all terms.
    """

    def __init__(
        self, estimator: Estimator, setting: Setting, draws: Draws, classes: Classes
    ) -> None:
        self.estimator, self.setting, self.draws, self.classes = estimator, setting, draws, classes
        tree = setting.policy.tree
        self._per_row = tree.horizon * len(estimator.terms)
        self._per_slot = max(tree.prefixes * tree.vocab, len(setting.policy.theta))
        #: GAE is not known of a class, but of each trajectory, whatever the rest of the group.
        self._own_advantage = {
            k: term.advantage(draws.batch)
            for k, term in enumerate(estimator.terms)
            if "values" in term.advantage.needs
        }
        self.clear()

    def clear(self) -> None:
        """Forget all compositions."""
        self.numbers = 0  # that evaluating takes, about
        self._probability, self._successes = list[float](), list[int]()
        self._slots = list[tuple[int, int]]()  # composition, number of rows
        self._fine, self._slot, self._static = list[int](), list[int](), list[Tensor]()

    def add(self, probability: float, counts: Mapping[int, int]) -> None:
        """Plan one composition, once for every fine class of its classes."""
        classes, first = self.classes, len(self._slots)
        self._slots += [(len(self._probability), n) for n in counts.values()]
        copies = torch.tensor(list(counts.values()))
        fine = [classes.fine[c] for c in counts]
        for variant in range(max(map(len, fine))):
            chosen = torch.tensor([own[min(variant, len(own) - 1)] for own in fine])
            rows = classes.members[classes.start[chosen]].repeat_interleave(copies)
            static = self._plan(rows)[copies.cumsum(0) - copies]
            fresh = [i for i, own in enumerate(fine) if variant < len(own)]
            self._fine += chosen[fresh].tolist()
            self._slot += [first + i for i in fresh]
            self._static.append(static[fresh])
            self.numbers += int(classes.size[chosen[fresh]].sum()) * self._per_row
        self.numbers += len(fine) * self._per_slot
        solved = self.draws.batch.solved[rows] & ~self.draws.offline[rows]
        self._probability.append(probability)
        self._successes.append(int(solved.sum()))

    def _plan(self, rows: Tensor) -> Tensor:
        """(N, terms, 3) advantage, scale and batch weight of every row."""
        plan = self.estimator.plan(self.draws.batch.select(rows))
        columns = []
        for k, part in enumerate(plan.parts):
            carried = self._expand(k, rows, part.advantage[:, 0], part.scale[:, 0], None)
            same = torch.where(part.tokens, carried.advantage == part.advantage, True)
            if not same.all() or not torch.equal(carried.scale, part.scale):
                raise UpgeError(
                    f"{self.estimator.name}: a weight known before the forward pass varies within "
                    "a trajectory, so its moments can't be exact; take monte_carlo"
                )
            weight = torch.ones(()) if part.batch_weight is None else part.batch_weight
            static = (part.advantage[:, 0], part.scale[:, 0], weight.expand(len(rows)))
            columns.append(torch.stack(static, 1))
        return torch.stack(columns, 1)

    def _expand(
        self, k: int, rows: Tensor, advantage: Tensor, scale: Tensor, weight: Tensor | None
    ) -> TermPlan:
        """Term k's part for any rows, from one advantage, scale and batch weight a row."""
        tokens = self.draws.batch.tokens_of(self.estimator.terms[k].samples)[rows]
        wide = (
            self._own_advantage[k][rows]
            if k in self._own_advantage
            else advantage[:, None].expand(tokens.shape)
        )
        return TermPlan(tokens, wide, torch.where(tokens, scale[:, None], 0.0), weight)

    def evaluate(self) -> Conditional:
        """The moments given each of the compositions that were added."""
        fine, static = torch.tensor(self._fine), torch.cat(self._static)
        size = self.classes.size[fine]
        entry = torch.arange(len(fine)).repeat_interleave(size)
        within = torch.arange(len(entry)) - (size.cumsum(0) - size)[entry]
        rows = self.classes.members[self.classes.start[fine][entry] + within]
        weights = self._weights(rows, static[entry])
        return self._reduce(rows, torch.tensor(self._slot)[entry], weights)

    def _weights(self, rows: Tensor, static: Tensor) -> Tensor:
        """(R, H) w of the rows, each with its static weights (R, terms, 3)."""
        parts = []
        for k, term in enumerate(self.estimator.terms):
            advantage, scale, weight = static[:, k].unbind(1)
            batch_weight = weight[:, None] if term.weighs_by_batch else None
            parts.append(self._expand(k, rows, advantage, scale, batch_weight))
        batch, logp = self.draws.batch.select(rows), self.draws.logp[rows]
        return Plan(self.estimator, batch, tuple(parts)).estimate(logp, batch.entropy).weights

    def _reduce(self, rows: Tensor, slot: Tensor, weights: Tensor) -> Conditional:
        tree, scores = self.setting.policy.tree, self.setting.scores
        share, count = self.classes.conditional[rows], len(self._slots)
        norms = share * scores.square_norms(weights, self.draws.trajectory[rows])
        square = torch.zeros(count, dtype=torch.float64).index_add(0, slot, norms)
        table = tables(tree, slot, self.draws.cell[rows], share[:, None] * weights, count)
        mean = scores.combine(table)
        owner, copies = torch.tensor(self._slots).unbind(1)
        total = mean.new_zeros(len(self._probability), mean.shape[1])
        spread = (copies * (square - (mean**2).sum(1))).clamp(min=0)
        return Conditional(
            torch.tensor(self._probability, dtype=torch.float64),
            torch.tensor(self._successes),
            total.index_add(0, owner, copies[:, None] * mean),
            torch.zeros(len(total), dtype=torch.float64).index_add(0, owner, spread),
        )


def tables(tree: Tree, slot: Tensor, cell: Tensor, weights: Tensor, count: int) -> Tensor:
    """(count, P, V) sums of weights (R, H) over the rows of each slot, where their tokens stand."""
    size = tree.prefixes * tree.vocab
    flat = weights.new_zeros(count * size)
    flat.index_add_(0, (slot[:, None] * size + cell).flatten(), weights.flatten())
    return flat.view(count, tree.prefixes, tree.vocab)


def conditional(estimator: Estimator, setting: Setting) -> Iterator[Conditional]:
    """The estimator given each composition of its group, some compositions at a time.

    Raises:
        UpgeError: more compositions than can be planned.
    """
    draws = setting.draws(estimator)
    classes = Classes(estimator, draws)
    _check_count(estimator.name, classes.count, draws.sizes)
    piece = _Piece(estimator, setting, draws, classes)
    for composition in classes.compositions():
        piece.add(*composition)
        if piece.numbers > PIECE:
            yield piece.evaluate()
            piece.clear()
    if piece.numbers:
        yield piece.evaluate()


def _check_count(name: str, count: int, sizes: tuple[int, ...]) -> None:
    for number, limit, what in (
        (count, MAX_COMPOSITIONS, "compositions"),
        (count * sum(sizes), MAX_ROWS, "rows in all compositions"),
    ):
        if number > limit:
            raise UpgeError(
                f"{name}: groups of {' + '.join(map(str, sizes))} trajectories have {number:,} "
                f"{what}, more than the {limit:,} that can be evaluated; take smaller groups, a "
                "shorter horizon or fewer distinct rewards, or a normalizer that counts no tokens"
            )
