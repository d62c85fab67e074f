"""Do the enumerated findings carry over to a trained network?

The base model and two later points of one training run. At each: the true gradient of E[r] over all
parameters for some questions, from a very large sample; and every estimator's bias, variance and
angles at the paper's group size, from independent groups, with 95 % intervals. Off policy, groups
come from π_θold: the policy some updates earlier in training (``path``), or one from which π_θ lies
a set KL away along ∇E[r] (``gradient``).

Levels: ``question`` i; ``pooled``, the mean over questions as if they had no common parameter; and
``step``, the mean gradient of one group of every question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.bias_variance.advantage import estimator as with_advantage
from experiments.bias_variance.common import (
    Progress,
    Row,
    Rows,
    check_numbers,
    chosen,
    silent,
)
from experiments.bias_variance.reference import REFERENCES
from experiments.bias_variance.reference import estimator as with_reference
from experiments.network.laboratory import (
    Network,
    Samples,
    divergence,
    measure,
    reference,
    solved,
)
from experiments.network.points import State, points
from experiments.network.statements import OFF_POLICY, covered, gains, on_policy
from experiments.network.statistics import Interval, Parts
from upge.advantage import GroupZScore, LeaveOneOut
from upge.algorithms import get
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.estimator import Estimator, Term
from upge.exact.mixture import RL
from upge.normalization import TrajectoryMean
from upge.reference import RolloutPolicy
from upge.stabilization import Clip, DualClip, SigmoidGate, Stabilization, WeightClip
from upge.tasks.dataset import Dataset
from upge.training.config import Evaluation, RunConfig, Stage
from upge.training.data import load_dataset
from upge.training.experience import Question, encode_questions

RUNS = Path("runs/network")

POINTS = ("base", "middle", "end")


@dataclass(frozen=True)
class Recipe:
    """The run, the questions, and the sizes of samples.

    Args:
        model: the base.
        algorithm: what it is trained with.
        lr: learning rate.
        steps: of training, after which the policy is measured; 0 is the base.
        seed: of training and of all samples.
        candidates: training problems among which the questions are chosen.
        trial: rollouts that tell a candidate's success rate, at each point.
        questions: how many are chosen.
        group_size: rollouts a group, n.
        groups: independent groups a question, on policy.
        old_groups: the same, off policy.
        rollouts: of a question's reference gradient.
        blocks: independent parts of these.
        lags: updates between π_θold and π_θ on the training path.
        kl: KL(π_θold ‖ π_θ) along ∇E[r], in nats, nearly.
        mu: μ of J_μ.
        draws: resamples of the bootstrap.
    """

    model: str
    algorithm: str
    lr: float
    steps: tuple[int, ...]
    seed: int
    candidates: int
    trial: int
    questions: int
    group_size: int
    groups: int
    old_groups: int
    rollouts: int
    blocks: int
    lags: tuple[int, ...]
    kl: tuple[float, ...]
    mu: float
    draws: int

    def __post_init__(self) -> None:
        if len(self.steps) != len(POINTS) or list(self.steps) != sorted(set(self.steps)):
            raise UpgeError(f"steps: got {self.steps}, wanted {len(POINTS)} rising numbers")
        check_numbers(self, 0, math.inf, "steps", "seed")
        check_numbers(self, 2, 1000, "group_size", "trial", "groups", "old_groups", "blocks")
        check_numbers(self, 1, 10_000, "questions", "candidates", "lags")
        check_numbers(self, 2 * self.blocks, 10_000_000, "rollouts")
        check_numbers(self, 0, 10, "kl", "mu", "lr", strict=True)
        check_numbers(self, 10, 100_000, "draws")

    @property
    def run(self) -> RunConfig:
        """The training run."""
        stage = Stage(
            algorithm=self.algorithm,
            steps=self.steps[-1],
            lr=self.lr,
            group_size=self.group_size,
        )
        return RunConfig(
            name="network",
            model=self.model,
            stages=(stage,),
            seed=self.seed,
            evaluation=Evaluation(every=None, test_samples=None),
            norms_every=None,
        )

    def earlier(self, step: int) -> dict[int, int]:
        """The steps of training some updates before ``step``, by lag."""
        return {lag: step - lag for lag in self.lags if lag <= step}


# ---------------------------------------------------------------------------------- estimators

#: Registered algorithms on policy, each with its own normaliser; those with a ratio are like one
#: of these where it is 1 (GSPO, SAPO and PPO without a critic like GRPO, CISPO like DAPO).
REGISTERED = (
    "reinforce",
    "rloo",
    "grpo",
    "dr_grpo",
    "dapo",
    "sft",
    "dft",
    "luffy",
    "srft",
    "chord",
    "sft_rl",
    "hpt",
    "hpt_official",
    "hpt_global_token",
    "hpt_wiener",
)

#: Masks at their usual settings, as the study ``mask`` has them.
MASKS: dict[str, Stabilization] = {
    "clip": Clip(0.2, 0.2),
    "dual_clip": DualClip(0.2, 0.2, dual=3.0),
    "tis": WeightClip(0.0, 2.0),
    "sapo": SigmoidGate(1.0, 1.05),
}

#: Registered algorithms off policy.
RATIOS = ("grpo", "gspo")


def on_policy_estimators() -> dict[str, Estimator]:
    """By name: the registered ones, a z-score that differs from ``rloo`` by its Â alone, and Σ."""
    components = {"z_score": with_advantage(GroupZScore()), "rl": RL}
    return {name: get(name) for name in REGISTERED} | components


def off_policy_estimators() -> dict[str, Estimator]:
    """By name: reference policies and masks with all else equal, and registered ones."""
    references = {name: with_reference(r) for name, r in REFERENCES.items()}
    masks = {
        name: Estimator((Term("online", RolloutPolicy(), LeaveOneOut(), TrajectoryMean(), mask),))
        for name, mask in MASKS.items()
    }
    return references | masks | {name: get(name) for name in RATIOS}


# ---------------------------------------------------------------------------------- the study


def study(recipe: Recipe, progress: Progress = silent, runs: Path = RUNS) -> list[Row]:
    """Train, choose questions, measure at every point; then hold the statements against it."""
    needed = {s for step in recipe.steps for s in (step, *recipe.earlier(step).values())}
    total = 2 + sum(2 + len(recipe.earlier(s)) + len(recipe.kl) for s in recipe.steps)
    done = iter(range(1, total + 1))

    def tick() -> None:
        progress(next(done), total)

    states = points(recipe.run, needed, runs)
    tick()
    data = load_dataset(recipe.run)
    networks = {s: _network(recipe, states[s], data) for s in recipe.steps}
    asked = choose(recipe, list(networks.values()), data)
    tick()
    rows: list[Row] = []
    for name, step in zip(POINTS, recipe.steps, strict=True):
        place = Place(recipe, name, step, networks[step], asked)
        tick()
        rows += place.on_policy()
        tick()
        for lag, earlier in recipe.earlier(step).items():
            rows += place.off_policy("path", lag, _network(recipe, states[earlier], data))
            tick()
        for nats in recipe.kl:
            rows += place.off_policy("gradient", nats, place.behind(nats))
            tick()
    return rows


def _network(recipe: Recipe, state: State, data: Dataset) -> Network:
    return Network.load(recipe.model, state, data.verifier, recipe.run.max_tokens)


def choose(recipe: Recipe, networks: Sequence[Network], data: Dataset) -> list[Question]:
    """Questions that are solved sometimes at every point, of several success rates.

    Of twice as many, those whose outcome varies most where it varies least (p (1 − p) over the
    points), every second by p.
    """
    problems = data.train[: recipe.candidates]
    network = networks[0]
    candidates = encode_questions(
        problems,
        network.tokenizer,
        data.verifier,
        max_tokens=network.max_tokens,
        drop_long=False,
    )
    if (most := len(candidates) // 2) < recipe.questions:
        raise UpgeError(
            f"questions: got {recipe.questions}, wanted at most {most}, half of the candidates"
        )
    rates = torch.stack([success(network, candidates, recipe) for network in networks])
    spread = (rates * (1 - rates)).amin(0)
    able = spread.argsort(descending=True, stable=True)[: 2 * recipe.questions]
    ordered = able[rates[:, able].mean(0).argsort(stable=True)]
    return [candidates[i] for i in ordered[:: -(-len(ordered) // recipe.questions)].tolist()]


def success(network: Network, questions: Sequence[Question], recipe: Recipe) -> Tensor:
    """(Q,) share of the trial's rollouts that succeed."""
    seed = (recipe.seed, "trial")
    batch = network.groups(questions, recipe.trial, demonstration=False, seed=seed)
    return solved(batch) / recipe.trial


class Place:
    """A point of training: π_θ with the reference gradients of the questions."""

    def __init__(
        self, recipe: Recipe, name: str, step: int, network: Network, asked: list[Question]
    ) -> None:
        self.recipe, self.name, self.step, self.network = recipe, name, step, network
        self.asked, self.seed = asked, recipe.seed
        found = [
            reference(network, q, recipe.rollouts, recipe.blocks, (self.seed, name, "truth", i))
            for i, q in enumerate(asked)
        ]
        self.blocks = torch.stack([blocks for blocks, _ in found])
        self.success = [success for _, success in found]
        self.demos = torch.stack([network.demonstration(q) for q in asked])

    def on_policy(self) -> list[Row]:
        """All registered estimators, the gates, and the statements."""
        recipe = self.recipe
        batches = self._batches(self.network, recipe.groups, "on", demonstration=True)
        samples = measure(
            on_policy_estimators(),
            batches,
            self.network,
            self.blocks,
            self.demos,
            on_policy=True,
            between=[("z_score", "rloo")],
            draws=recipe.draws,
            seed=self.seed,
        )
        shared: Row = {"part": "on policy", "kl": 0.0, "kl_wanted": 0.0}
        rows = list(self._measures(samples, {"reward": 0.0, "mu": recipe.mu}))
        for target, mu in (("reward", 0.0), ("mu", recipe.mu)):
            for gate, share in gains(samples, mu, recipe.group_size).items():
                which: Row = {"level": "pooled", "estimator": gate, "target": target}
                rows.append(which | {"measure": "share"} | _interval(Interval.of(share)))
        for name, statement in on_policy(recipe.group_size, recipe.mu, len(self.asked)).items():
            found, verdict = statement(samples)
            rows.append(_stated(name, verdict) | _interval(found))
        return [self._row(shared | row) for row in rows]

    def off_policy(self, direction: str, wanted: float, old: Network) -> list[Row]:
        """Reference policies, masks and the statements, on groups of π_θold."""
        recipe = self.recipe
        tag = f"{direction} {wanted:g}"
        batches = self._batches(old, recipe.old_groups, tag, demonstration=False)
        samples = measure(
            off_policy_estimators(),
            batches,
            self.network,
            self.blocks,
            self.demos,
            on_policy=False,
            draws=recipe.draws,
            seed=self.seed,
        )
        kl = sum(divergence(batch, self.network) for batch in batches) / len(batches)
        shared: Row = {"part": direction, "kl": kl, "kl_wanted": wanted}
        rows = list(self._measures(samples, {"reward": 0.0}))
        coverage, seen = covered(samples)
        where: Row = {"measure": "coverage", "estimator": "trajectory"}
        rows.append({**where, **_interval(coverage)})
        for name, statement in OFF_POLICY.items():
            found, verdict = statement(samples)
            rows.append(_stated(name, verdict if seen else "not decided") | _interval(found))
        return [self._row(shared | row) for row in rows]

    def behind(self, nats: float) -> Network:
        """π_θold from which π_θ lies about ``nats`` away, along the mean of the questions' ∇E[r].

        The divergence grows with the square of a small step, which gives the next step to try.
        """
        along = self.blocks.mean((0, 1))
        along = along / along.norm()
        size, old = 0.1, self.network
        for trial in range(5):
            old = self.network.moved(self.recipe.model, -size * along)
            batches = self._batches(old, 8, f"search {nats:g} {trial}", demonstration=False)
            found = sum(divergence(batch, self.network) for batch in batches) / len(batches)
            if abs(math.log(max(found, 1e-9) / nats)) < 0.1:
                break
            size *= min(max(math.sqrt(nats / max(found, 1e-9)), 0.1), 10.0)
        return old

    def _batches(
        self, source: Network, count: int, tag: str, *, demonstration: bool
    ) -> list[TrajectoryBatch]:
        return [
            source.groups(
                [q] * count,
                self.recipe.group_size,
                demonstration=demonstration,
                seed=(self.seed, self.name, tag, i),
            )
            for i, q in enumerate(self.asked)
        ]

    def _measures(self, samples: Samples, targets: dict[str, float]) -> Iterator[Row]:
        for name in samples.names:
            for target, mu in targets.items():
                which: Row = {"estimator": name, "target": target}
                yield from _all(which | {"level": "step"}, samples.question(name, -1, mu))
                yield from _all(which | {"level": "pooled"}, samples.pooled(name, mu))
                for i, success in enumerate(self.success if target == "reward" else ()):
                    own: Row = which | {"level": f"question {i}", "success": success}
                    yield from _all(own, samples.question(name, i, mu), ("weight", "cosine"))

    def _row(self, row: Row) -> Row:
        words: Row = {"point": self.name, "step": self.step}
        words |= dict.fromkeys(("part", "kl_wanted", "kl", "level", "success"), "")
        words |= dict.fromkeys(("estimator", "target", "measure"), "")
        words |= {"value": math.nan, "low": math.nan, "high": math.nan, "verdict": ""}
        whole = words | {"level": "pooled", "success": math.nan} | row
        return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in whole.items()}


def _all(which: Row, parts: Parts, columns: Sequence[str] = ()) -> Iterator[Row]:
    for column, resampled in parts.measures().items():
        if not columns or column in columns:
            yield which | {"measure": column} | _interval(Interval.of(resampled))


def _interval(found: Interval) -> Row:
    return {"value": found.value, "low": found.low, "high": found.high}


def _stated(name: str, verdict: str) -> Row:
    return {"measure": "statement", "estimator": name, "verdict": verdict}


def headlines(rows: Rows) -> dict[str, float]:
    """Every statement's number where it belongs; how many points it carries over to."""
    numbers: dict[str, float] = {}
    stated = chosen(rows, measure="statement")
    for name in dict.fromkeys(str(row["estimator"]) for row in stated):
        own = [row for row in chosen(stated, estimator=name)]
        for row in own:
            where = f"{name}, {row['point']}, {row['part']} {row['kl_wanted']:g}"
            numbers[where] = float(row["value"])
        for verdict in ("carries over", "does not", "not decided"):
            numbers[f"{verdict}: {name}"] = sum(row["verdict"] == verdict for row in own)
    return numbers
