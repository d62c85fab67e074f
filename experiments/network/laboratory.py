"""A policy and its questions: groups, reference gradients, estimates and their inner products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from experiments.network.gradients import Gradients, group_gradients, likelihood_of
from experiments.network.points import State
from experiments.network.statistics import Demo, Parts, averaged, product, resamples
from upge.advantage import LeaveOneOut
from upge.batch import TrajectoryBatch
from upge.estimator import Estimator, Term
from upge.models.policy import Policy
from upge.models.pretrained import load_pretrained
from upge.normalization import TrajectoryMean
from upge.reference import CurrentPolicy
from upge.rollouts import CachedSampler, Sampling, derive_seed
from upge.tasks.verifier import Verifier
from upge.training.experience import Question, collect

#: Unbiased for ∇E[r]: what reference gradients are made of.
UNBIASED = Estimator((Term("online", CurrentPolicy(), LeaveOneOut(), TrajectoryMean()),))

#: Rows of a forward or backward pass.
_ROWS = 64


class Network:
    """A policy at given parameters, which samples, scores and differentiates.

    Args:
        model: a transformers model; it is given attention that autograd can vectorise.
        tokenizer: decodes responses.
        verifier: grades them.
        max_tokens: the longest response.
    """

    def __init__(self, model: Any, tokenizer: Any, verifier: Verifier, max_tokens: int) -> None:
        model.set_attn_implementation("eager")
        self.model, self.tokenizer, self.verifier = model, tokenizer, verifier
        self.max_tokens = max_tokens
        self.policy, self.gradients = Policy(model), Gradients(model)
        self._sampler = CachedSampler(model, tokenizer.eos_token_id)

    @classmethod
    def load(cls, name: str, state: State, verifier: Verifier, max_tokens: int) -> Network:
        """A named model with other parameters."""
        model, tokenizer = load_pretrained(name)
        model.load_state_dict(state)
        return cls(model, tokenizer, verifier, max_tokens)

    def moved(self, name: str, step: Tensor) -> Network:
        """Another network, whose flat parameters are this one's plus ``step`` (D,)."""
        other = Network.load(name, self.model.state_dict(), self.verifier, self.max_tokens)
        flat = torch.nn.utils.parameters_to_vector(self.model.parameters()).detach()
        torch.nn.utils.vector_to_parameters(flat + step, other.model.parameters())
        return other

    def groups(
        self,
        questions: Sequence[Question],
        size: int,
        *,
        demonstration: bool,
        seed: tuple[Any, ...],
    ) -> TrajectoryBatch:
        """A group of ``size`` rollouts for each entry, and the demonstration if asked for.

        A question that comes K times has K independent groups.
        """
        return collect(
            questions,
            slots=range(len(questions)),
            sampler=self._sampler,
            demonstrations=demonstration,
            samples=size,
            settings=Sampling(self.max_tokens),
            seeds=[derive_seed(*seed, k) for k in range(len(questions))],
            verifier=self.verifier,
            tokenizer=self.tokenizer,
            device=torch.device("cpu"),
        ).batch

    def estimate(self, estimator: Estimator, batch: TrajectoryBatch) -> Tensor:
        """(D,) the estimator on a whole batch whose gates and normalisers need no policy."""
        plan = estimator.plan(batch)
        rows = plan.nonzero_rows().nonzero().flatten()
        order = rows[_ends(batch)[rows].argsort()]
        self.policy.zero_grad()
        for some in order.split(_ROWS) if len(order) else ():
            part = plan.select(some)
            width = int(_ends(part.batch).max())
            assert part.batch.tokens is not None
            logp = self.policy(part.batch.tokens[:, :width], part.batch.mask[:, :width]).logp
            missing = part.batch.mask.shape[1] - width
            part.estimate(torch.nn.functional.pad(logp, (0, missing))).loss.backward()
        own = [p.grad for p in self.policy.parameters()]
        zeros = (torch.zeros_like(p) for p in self.policy.parameters())
        filled = [z if g is None else g for g, z in zip(own, zeros, strict=True)]
        return -torch.cat([g.flatten() for g in filled])

    def demonstration(self, question: Question) -> Tensor:
        """(D,) ∇log π_θ of the demonstration, as a whole."""
        assert question.demonstration is not None
        ids = torch.tensor([question.prompt + question.demonstration])
        weights = (torch.arange(ids.shape[1]) >= len(question.prompt)).float()[None]
        return self.gradients(ids, weights)[0]


def _ends(batch: TrajectoryBatch) -> Tensor:
    """(N,) where each row's last response token stands, from 1."""
    places = torch.arange(1, batch.mask.shape[1] + 1)
    return (batch.mask * places).max(1).values


@dataclass(frozen=True, eq=False)
class Sample:
    """K groups of one question under every estimator, as inner products in float64.

    Attributes:
        gram: (E, K, K).
        cross: (E, K, B) with the blocks of the reference.
        demo: (E, K) with the demonstration's gradient s.
        reference: (B, B) of the blocks.
        demo_reference: (B,) of the blocks with s.
        demo_square: ‖s‖².
        solved: (K,) successes of each group.
    """

    gram: Tensor
    cross: Tensor
    demo: Tensor
    reference: Tensor
    demo_reference: Tensor
    demo_square: float
    solved: Tensor

    @classmethod
    def of(cls, found: Tensor, blocks: Tensor, demo: Tensor, solved: Tensor) -> Sample:
        """From gradients (E, K, D), reference blocks (B, D) and s (D,)."""
        return cls(
            torch.stack([own @ own.T for own in found]).double(),
            torch.stack([own @ blocks.T for own in found]).double(),
            (found @ demo).double(),
            (blocks @ blocks.T).double(),
            (blocks @ demo).double(),
            (demo @ demo).item(),
            solved,
        )

    def parts(self, index: int, groups: Tensor, blocks: Tensor, mu: float = 0.0) -> Parts:
        """One estimator's numbers against ∇E[r] + μ s, under each resample."""
        own = Parts.of(self.gram[index], self.cross[index], self.reference, groups, blocks)
        return own if not mu else own.shifted(mu, groups, self._demo(index, blocks))

    def _demo(self, index: int, blocks: Tensor) -> Demo:
        norm = self.gram[index].diagonal()
        own = self.demo[index]
        directed = torch.where(norm > 0, norm, 1.0).rsqrt() * own
        truth = blocks @ self.demo_reference / blocks.sum(1)
        return Demo(own, directed, truth, self.demo_square)


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of all questions, and of steps: the mean over questions of one group each.

    Attributes:
        names: of the estimators, in order.
        each: one a question.
        step: of the mean gradients.
        between: (K, K) inner products of two estimators' steps, by their names.
    """

    names: tuple[str, ...]
    each: list[Sample]
    step: Sample
    between: Mapping[tuple[str, str], Tensor]
    draws: int
    seed: int

    def counts(self, question: int) -> tuple[Tensor, Tensor]:
        """Resamples of groups and of blocks; of steps for question −1."""
        sample = self.step if question < 0 else self.each[question]
        own = derive_seed(self.seed, "bootstrap", question)
        groups = resamples(sample.gram.shape[1], self.draws, own)
        return groups, resamples(len(sample.reference), self.draws, own + 1)

    def question(self, name: str, question: int, mu: float = 0.0) -> Parts:
        """One estimator on one question (−1: on steps)."""
        sample = self.step if question < 0 else self.each[question]
        return sample.parts(self.names.index(name), *self.counts(question), mu)

    def pooled(self, name: str, mu: float = 0.0) -> Parts:
        """One estimator, averaged over questions."""
        return averaged(self.question(name, i, mu) for i in range(len(self.each)))

    def turned(self, one: str, other: str) -> Tensor:
        """(R,) 1 − cos² of the angle between two estimators' mean steps, on the same groups."""
        groups, _ = self.counts(-1)
        norms = [product(self.step.gram[self.names.index(name)], groups) for name in (one, other)]
        along = product(self.between[one, other], groups)
        return 1 - along**2 / (norms[0] * norms[1])


def measure(
    estimators: Mapping[str, Estimator],
    batches: Sequence[TrajectoryBatch],
    network: Network,
    blocks: Tensor,
    demos: Tensor,
    *,
    on_policy: bool,
    between: Sequence[tuple[str, str]] = (),
    draws: int,
    seed: int,
) -> Samples:
    """Every estimator on the groups of every question.

    Args:
        estimators: by name.
        batches: one a question, the same number of groups in each.
        network: π_θ.
        blocks: (Q, B, D) reference gradients of the questions.
        demos: (Q, D) gradients of their demonstrations.
        on_policy: whether π_θ sampled the groups: its ratios are then exactly 1.
        between: pairs of estimators whose steps are compared with each other.
        draws: resamples of the bootstrap.
        seed: of the bootstrap.
    """
    each, steps = [], torch.zeros(())
    for batch, own_blocks, demo in zip(batches, blocks, demos, strict=True):
        likelihood = likelihood_of(network.policy, batch)
        if on_policy:
            batch = replace(batch, old_logp=likelihood.logp)
        found = group_gradients(list(estimators.values()), batch, likelihood, network.gradients)
        each.append(Sample.of(found, own_blocks, demo, solved(batch)))
        steps = steps + found / len(batches)
    names = tuple(estimators)
    pairs = {(a, b): (steps[names.index(a)] @ steps[names.index(b)].T).double() for a, b in between}
    total = torch.stack([sample.solved for sample in each]).sum(0)
    step = Sample.of(steps, blocks.mean(0), demos.mean(0), total)
    return Samples(names, each, step, pairs, draws, seed)


def solved(batch: TrajectoryBatch) -> Tensor:
    """(K,) successes among the rollouts of each group."""
    return batch.per_question((batch.rows_of("online") & (batch.reward > 0)).double())


def reference(
    network: Network, question: Question, rollouts: int, blocks: int, seed: tuple[Any, ...]
) -> tuple[Tensor, float]:
    """(B, D) independent unbiased estimates of ∇E[r], and the success rate seen.

    Each is the leave-one-out estimate of a block of ``rollouts``/``blocks`` rollouts.
    """
    size = rollouts // blocks
    batch = network.groups([question] * blocks, size, demonstration=False, seed=seed)
    rows = [(batch.question == b).nonzero().flatten() for b in range(blocks)]
    found = torch.stack([network.estimate(UNBIASED, batch.select(own)) for own in rows])
    return found, batch.reward.mean().item()


def divergence(batch: TrajectoryBatch, network: Network) -> float:
    """KL(π_θold ‖ π_θ) of whole trajectories in nats, from rollouts of π_θold.

    The mean of w − 1 − log w, w = π_θ(τ)/π_θold(τ): unbiased, and of less variance than −log w.
    """
    assert batch.old_logp is not None
    logp = likelihood_of(network.policy, batch).logp
    log_ratio = torch.where(batch.tokens_of("online"), logp - batch.old_logp, 0.0).double().sum(1)
    own = log_ratio[batch.rows_of("online")]
    return (own.exp() - 1 - own).mean().item()
