"""What finite steps with gated weights do to E[r]: the study ``mixing`` beyond one small step.

Each of many questions has a table of logits of its own. A step adds η g, g = α g_RL + β g_SFT of
one sampled group and demonstration a question. Gates are compared at equal length of the step: η
is set so that the root mean square of ‖η g‖ over the first step's groups is the same for all. The
factor of β, the only other freedom, is each gate's best of a grid. All gates see the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.bias_variance.common import Row, table_problem, tilted
from experiments.bias_variance.mixing_cases import Recipe, Shape, demonstrator, grid, shapes
from upge.exact.enumeration import Tree
from upge.wiener import Wiener


class Walk(NamedTuple):
    """One problem and demonstrator."""

    seed: int
    success: float
    distance: float


def walks(recipe: Recipe) -> list[Walk]:
    """All of a recipe's."""
    pairs = product(recipe.step_seeds, recipe.step_demonstrations)
    return [Walk(seed, success, distance) for seed, (success, distance) in pairs]


def gates(recipe: Recipe) -> dict[str, Shape]:
    """Every gate's f and g by name; the Wiener gates are called by their μ, the switches by γ."""
    wieners = {f"wiener {mu:g}": Wiener(mu) for mu in recipe.step_mus}
    found = shapes(recipe.weights_at, wieners, recipe.step_gammas)
    return {
        f"{name} {gamma:g}" if name == "switch" else name: shape
        for (name, gamma), shape in found.items()
    }


class World:
    """Questions with tables of their own, of which ``repeats`` copies learn side by side."""

    def __init__(self, recipe: Recipe, case: Walk) -> None:
        base = table_problem(recipe.vocab, recipe.step_horizon, 0.3, case.seed)
        self.size, self.repeats, tree = recipe.weights_at, recipe.repeats, base.policy.tree
        rates = quantiles(recipe.questions, recipe.step_prior)
        start = torch.stack([tilted(base.policy, base.reward, p).log_probs() for p in rates])
        self.start = start.repeat(recipe.repeats, 1, 1)
        self.solved = base.reward > 0
        demo = demonstrator(base.policy, base.reward, case.success, case.distance, case.seed)
        self.demo = demo.logp().exp()
        self.counts = token_counts(tree)
        self.visits = self.counts.view(-1, tree.prefixes, tree.vocab).sum(2)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(R, M) of trajectories."""
        return (logits.log_softmax(-1).flatten(1) @ self.counts.T).exp()

    def success(self, logits: Tensor) -> Tensor:
        """(R,) E[r]."""
        return self.probabilities(logits)[:, self.solved].sum(1)

    def gradients(
        self, logits: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Successes k (R,) of sampled groups, Σ_i (R_i − P) s_i and s*, both (R, P, V)."""
        chances = self.probabilities(logits)
        drawn = torch.multinomial(chances, self.size, True, generator=generator)
        taught = torch.multinomial(self.demo, len(logits), True, generator=generator)
        reward = self.solved[drawn].double()
        advantage = reward - reward.mean(1, keepdim=True)
        rl = torch.zeros_like(chances).scatter_add(1, drawn, advantage)
        sft = torch.nn.functional.one_hot(taught, chances.shape[1]).double()
        pi = logits.softmax(-1)
        return reward.sum(1).long(), self._score(rl, pi), self._score(sft, pi)

    def _score(self, weights: Tensor, pi: Tensor) -> Tensor:
        """(R, P, V) Σ_τ w(τ) ∇log π(τ): tokens taken, less those expected at the places visited."""
        return (weights @ self.counts).view_as(pi) - pi * (weights @ self.visits)[:, :, None]

    def mean(self, values: Tensor) -> tuple[float, float]:
        """Over all questions and repeats, with the standard error, over repeats."""
        each = values.view(self.repeats, -1).mean(1)
        return each.mean().item(), (each.std() / math.sqrt(self.repeats)).item()


def token_counts(tree: Tree) -> Tensor:
    """(M, P·V) how often each trajectory takes each token at each prefix."""
    counts = torch.zeros(tree.trajectories, tree.prefixes * tree.vocab, dtype=torch.float64)
    return counts.scatter_add(1, tree.cell, tree.mask.double())


def quantiles(count: int, prior: tuple[float, ...]) -> list[float]:
    """``count`` success rates that stand for Beta(a, b)."""
    rates, weights = grid(1000, prior)
    reached = torch.tensor(weights, dtype=torch.float64).cumsum(0)
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return [rates[min(i, 999)] for i in torch.searchsorted(reached, places).tolist()]


def walk(recipe: Recipe, case: Walk) -> Iterator[Row]:
    """The gain in E[r] of one step, by its length, and E[r] after training, for every gate."""
    world = World(recipe, case)
    shared: Row = {
        "part": "steps",
        "seed": case.seed,
        "n": recipe.weights_at,
        "demo_success": case.success,
        "demo_distance": case.distance,
    }
    for gate, shape in gates(recipe).items():
        factors = recipe.factors if shape[0].any() and shape[1].any() else (1.0,)
        runs = [_run(world, recipe, shape, factor, case.seed) for factor in factors]
        for place in runs[0]:
            best = max(run[place] for run in runs)
            measure, x = place
            yield shared | {
                "measure": measure,
                "gate": gate,
                "x": x,
                "value": best[0],
                "error": best[1],
            }


#: Measure and x, to value and standard error.
Run = dict[tuple[str, float], tuple[float, float]]


def _run(world: World, recipe: Recipe, shape: Shape, factor: float, seed: int) -> Run:
    f, g = shape
    generator = torch.Generator().manual_seed(seed)

    def direction(logits: Tensor) -> Tensor:
        k, rl, sft = world.gradients(logits, generator)
        return f[k][:, None, None] * rl + factor * g[k][:, None, None] * sft

    logits = world.start
    step = direction(logits)
    size = (step**2).sum((1, 2)).mean().sqrt()
    before = world.success(logits)
    found: Run = {
        ("step", norm): world.mean(world.success(logits + norm / size * step) - before)
        for norm in recipe.norms
    }
    for done in range(1, max(recipe.training) + 1):
        logits = logits + recipe.training_norm / size * step
        if done in recipe.training:
            found["training", done] = world.mean(world.success(logits))
        step = direction(logits)
    return found
