"""An instance: policies on one tree, rewards, and how a group is drawn; also written as JSON.

A group is ``group_size`` rollouts of π_θold and, for estimators that read them, ``demonstrations``
trajectories of π_β on the same question, all independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError, unknown
from upge.common.files import parse_strictly
from upge.estimator import Estimator
from upge.exact.enumeration import Policy, Scores, TabularPolicy, Tree
from upge.exact.objective import Objective

#: V of GAE: E[r | prefix] under π_θold, undiscounted, or 0 everywhere.
Critic = Literal["exact", "zero"]

#: What an estimator may be measured against: ∇E[r], and ∇J_μ with the instance's μ.
TARGETS = ("reward", "mu")


@dataclass(frozen=True, eq=False)
class Setting:
    """One question: the policies, what is true, and how a group is drawn.

    Args:
        policy: π_θ.
        objective: J with the rewards and, if there are demonstrations, π_β.
        group_size: rollouts a group.
        old: π_θold; π_θ if not given.
        demonstrations: trajectories of π_β a group, for estimators that read some.
        question: which of the policy's questions the group answers.
        critic: what GAE takes for V.

    Raises:
        UpgeError: sizes below what a group needs, a question or rewards that the policy has not,
            or policies on different trees.
    """

    policy: Policy
    objective: Objective
    group_size: int
    old: Policy | None = None
    demonstrations: int = 1
    question: int = 0
    critic: Critic = "exact"

    def __post_init__(self) -> None:
        for name, low in (("group_size", 1), ("demonstrations", 0)):
            if (size := getattr(self, name)) < low:
                raise UpgeError(f"{name}: got {size}, wanted at least {low}")
        for name, other in (("old", self.old), ("demo", self.objective.demo)):
            if other is not None and other.tree != self.policy.tree:
                raise UpgeError(f"{name}: got {other.tree}, wanted the policy's {self.policy.tree}")
        self.objective.check(self.policy)
        if not 0 <= self.question < self.policy.questions:
            raise UpgeError(
                f"question: got {self.question}, wanted one from 0 to {self.policy.questions - 1}"
            )

    @property
    def reward(self) -> Tensor:
        """(M,) of the question."""
        return self.objective.reward[self.question]

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """What estimators are measured against: E[r] and, unless it lacks a policy, J."""
        reward = {"reward": Objective(self.objective.reward)}
        return reward if self.objective.missing else reward | {"mu": self.objective}

    @cached_property
    def truth(self) -> Mapping[str, Tensor]:
        """(D,) the gradient of each of the objectives at π_θ."""
        return {name: j.gradient(self.policy, self.question) for name, j in self.objectives.items()}

    @cached_property
    def scores(self) -> Scores:
        """∇log π_θ of all tokens."""
        return self.policy.scores(self.question)

    def draws(self, estimator: Estimator) -> Draws:
        """What the estimator's groups are drawn from; demonstrations only if it reads some.

        Raises:
            UpgeError: it does, and there is no π_β.
        """
        if all(term.samples == "online" for term in estimator.terms):
            return self._rollouts
        if self.objective.demo is None:
            raise UpgeError(
                f"{estimator.name} reads demonstrations, but there is no demonstration policy"
            )
        return self._mixed

    @cached_property
    def _rollouts(self) -> Draws:
        return Draws(self, None)

    @cached_property
    def _mixed(self) -> Draws:
        return Draws(self, self.objective.demo)


class Draws:
    """All trajectories a group may hold as rows of a batch: first rollouts, then demonstrations.

    Attributes:
        trajectory: (R,) index in the tree.
        probability: (R,) of one draw.
        offline: (R,) bool, true for demonstrations.
        batch: the R rows, with the current policy's entropy.
        logp: (R, H) log π_θ.
        cell: (R, H) where the tokens stand in a flattened table (P · V).
        sizes: how many rollouts and, if it has some, how many demonstrations a group has.
    """

    def __init__(self, setting: Setting, demo: Policy | None) -> None:
        policy, tree, question = setting.policy, setting.policy.tree, setting.question
        old = setting.old or policy
        sources = [(old, setting.group_size)]
        if demo is not None and setting.demonstrations:
            sources.append((demo, setting.demonstrations))
        probs = [source.logp(question).exp() for source, _ in sources]
        index = [(p > 0).nonzero().flatten() for p in probs]
        rows = torch.cat(index)
        log_old = old.log_probs(question)
        values = tree.value(log_old, setting.reward) * (setting.critic == "exact")
        self.sizes = tuple(size for _, size in sources)
        self.trajectory, self.cell = rows, tree.cell[rows]
        self.probability = torch.cat([p[i] for p, i in zip(probs, index, strict=True)])
        self.offline = torch.arange(len(rows)) >= len(index[0])
        self.logp = policy.token_logp(question)[rows]
        self._check_support(tree)
        self.batch = TrajectoryBatch(
            mask=tree.mask[rows],
            reward=setting.reward[rows],
            group=torch.zeros_like(rows),
            offline=self.offline,
            old_logp=tree.at_tokens(log_old)[rows],
            values=tree.at_tokens(values[:, None].expand_as(log_old))[rows],
            max_length=tree.horizon,
            entropy=policy.entropy(question)[rows],
        )

    def _check_support(self, tree: Tree) -> None:
        bad = self.logp.isinf().any(1).nonzero().flatten()
        if len(bad):
            name = tree.trajectory_names[int(self.trajectory[bad[0]])]
            raise UpgeError(
                f"trajectory {name!r} can be drawn but has probability 0 under the current policy, "
                "where log π has no gradient; give it a positive probability"
            )


@dataclass(frozen=True, eq=False)
class Instance:
    """What an instance file says: the setting, and ``clip`` for the options of that name."""

    setting: Setting
    clip: float | None = None


#: Sums and squares of a few such numbers are finite.
MAX_NUMBER = 1e100

_TREE = ("vocab", "eos", "horizon")
_NEEDED = (*_TREE, "logits", "reward", "group_size", "mu")
_FIELDS = (*_NEEDED, "old_logits", "demo_logits", "clip")


def parse_instance(text: str, *, demonstrations: int = 1, critic: Critic = "exact") -> Instance:
    """Read an instance of one question with tabular policies.

    ``vocab``, ``eos``, ``horizon`` and ``group_size`` are whole numbers, ``mu`` and ``clip``
    numbers. ``logits``, ``old_logits`` and ``demo_logits`` map every prefix that can be continued
    (token ids joined by spaces, ``""`` the start) to ``vocab`` numbers, ``reward`` maps every
    trajectory (with its eos) to a number. Without ``old_logits`` the rollout policy is the current
    one; without ``demo_logits`` there are no demonstrations.

    Raises:
        UpgeError: not JSON, a field, prefix or trajectory that is missing, unknown or of the wrong
            type or size, or more trajectories than can be enumerated.
    """
    record = parse_strictly(text, "instance")
    for name in record:
        if name not in _FIELDS:
            raise unknown("field of the instance", name, _FIELDS)
    for name in _NEEDED:
        if record.get(name) is None:
            raise UpgeError(f"{name}: is missing from the instance")
    tree = Tree(*(_whole(name, record[name]) for name in _TREE))
    policies = {
        name: TabularPolicy(tree, _logits(tree, name, record[name]))
        for name in ("logits", "old_logits", "demo_logits")
        if record.get(name) is not None
    }
    clip = None if record.get("clip") is None else _number("clip", record["clip"])
    if clip is not None and clip < 0:
        raise UpgeError(f"clip: got {clip}, wanted a number ≥ 0")
    objective = Objective(
        _rewards(tree, record["reward"]), _number("mu", record["mu"]), policies.get("demo_logits")
    )
    setting = Setting(
        policies["logits"],
        objective,
        _whole("group_size", record["group_size"]),
        policies.get("old_logits"),
        demonstrations,
        critic=critic,
    )
    return Instance(setting, clip)


def _whole(name: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise UpgeError(f"{name}: got {given!r:.60}, wanted a whole number")
    if abs(given) > MAX_NUMBER:
        raise UpgeError(f"{name}: got {given!r:.60}…, wanted fewer digits")
    return given


def _number(name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise UpgeError(f"{name}: got {given!r:.60}, wanted a number")
    if not abs(given) <= MAX_NUMBER:
        raise UpgeError(f"{name}: got {given!r:.60}, wanted a finite number")
    return float(given)


def _entries(name: str, kind: str, given: Any, wanted: Sequence[str]) -> list[Any]:
    """The entries of a map in the order of its keys ``wanted``, which must be all of them."""
    if not isinstance(given, dict):
        raise UpgeError(f"{name}: got {given!r:.60}, wanted a map with an entry a {kind}")
    known = set(wanted)
    for key in wanted:
        if key not in given:
            raise UpgeError(f"{name}: {kind} {key!r} is missing, wanted all {len(wanted):,}")
    for key in given:
        if key not in known:
            raise UpgeError(
                f"{name}: unknown {kind} {key!r:.60}; it can't occur with this vocab, eos and "
                "horizon, or its token ids aren't joined by single spaces"
            )
    return [given[key] for key in wanted]


def _logits(tree: Tree, name: str, given: Any) -> Tensor:
    rows = []
    for prefix, row in zip(
        tree.prefix_names, _entries(name, "prefix", given, tree.prefix_names), strict=True
    ):
        label = f"{name} of prefix {prefix!r}"
        if not isinstance(row, list) or len(row) != tree.vocab:
            raise UpgeError(f"{label}: got {row!r:.60}, wanted a list of {tree.vocab} numbers")
        rows.append([_number(label, x) for x in row])
    return torch.tensor(rows, dtype=torch.float64)


def _rewards(tree: Tree, given: Any) -> Tensor:
    names = tree.trajectory_names
    entries = _entries("reward", "trajectory", given, names)
    numbers = [
        _number(f"reward of trajectory {name!r}", x) for name, x in zip(names, entries, strict=True)
    ]
    return torch.tensor(numbers, dtype=torch.float64)
