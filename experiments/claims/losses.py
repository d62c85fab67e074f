"""Equations 11, 12 and 14–20: the losses, their gradients, and what they are gradients of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from experiments.claims.claim import TOLERANCE, Result, Trial, claim, median, rule
from experiments.claims.lab import SEEDS, Case, cosine, distance, random_case
from experiments.claims.toys import Role, hunt, toys
from upge.advantage import Advantage, GroupCentered, GroupZScore, One
from upge.algorithms import Terms, algorithm, get
from upge.estimator import Term, compose
from upge.exact.instance import Critic
from upge.exact.moments import exact
from upge.normalization import (
    FixedLength,
    Normalizer,
    QuestionMean,
    QuestionSum,
    SequenceMean,
    TokenSum,
    TrajectoryMean,
)
from upge.reference import CurrentPolicy, RolloutPolicy
from upge.stabilization import Clip
from upge.verification.maths import Scalar
from upge.verification.published import Ops, Sample
from upge.verification.symbolic import Loss, SymbolicResult, verify_symbolic

_CLIP = 0.2


def proof(result: SymbolicResult) -> Result:
    """A proof of :mod:`upge.verification.symbolic` as the result of a claim."""
    equal = "all equal" if result.proved else "the last of which differs"
    return rule(
        [Trial(result.proved, result.counterexample or "")],
        result.cells,
        f"cells compared by sympy, {equal}",
        symbolic=True,
        unit="proofs",
        notes=[f"∂L/∂log π_θ = −w for every token of {result.instances} small batches"]
        if result.proved
        else (),
    )


# ------------------------------------------------------------------------------------- equation 11


def eq11(samples: Sequence[Sample], ops: Ops, *, clip: Scalar = _CLIP) -> Scalar:
    """−(1/n) Σ_i Σ_t min(r_it A_i, clip(r_it) A_i), A_i the z-score, averaged over questions."""
    rollouts = [sample for sample in samples if not sample.demonstration]
    questions = {sample.question for sample in rollouts}
    loss: Scalar = 0
    for sample in rollouts:
        rewards = [other.reward for other in rollouts if other.question == sample.question]
        n, mean = len(rewards), sum(rewards) / len(rewards)
        if max(rewards) == min(rewards):
            continue
        std = ops.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (n - 1))
        advantage = (sample.reward - mean) / std
        for new, old in zip(sample.logp, sample.old_logp, strict=True):
            ratio = ops.exp(new - old)
            inside = ops.minimum(ops.maximum(ratio, 1 - clip), 1 + clip)
            loss -= ops.minimum(ratio * advantage, inside * advantage) / (n * len(questions))
    return loss


def _clipped(advantage: Advantage, normalizer: Normalizer) -> Terms:
    return (Term("online", RolloutPolicy(), advantage, normalizer, Clip(_CLIP, _CLIP)),)


@claim(
    "eq11",
    "The gradient of L_RL is −(1/n) Σ_i Σ_t 1_Clip (1/π_θold) Â ∇π_θ, wherever L_RL has one.",
    "eq. 11",
)
def rl_loss(advantage: Advantage | None = None) -> Result:
    """Eq. 11 differentiated by sympy against the row, on every cell of its clip."""
    terms = _clipped(advantage or GroupZScore(), QuestionSum())
    return proof(verify_symbolic(algorithm("grpo"), terms=terms, loss=eq11))


@claim(
    "eq11-dr-grpo",
    "L_RL with the printed A_i is Dr. GRPO, as the text calls it.",
    "eq. 11 with eq. 5",
)
def dr_grpo(advantage: Advantage | None = None) -> Result:
    """Dr. GRPO's published loss against eq. 11's row, both divided by the fixed length."""
    published = algorithm("dr_grpo")
    result = verify_symbolic(published, terms=_clipped(advantage or GroupZScore(), FixedLength()))
    bare = verify_symbolic(published, terms=_clipped(GroupCentered(), FixedLength()))
    factors = [1 / torch.tensor([1.0] * k + [0.0] * (8 - k)).std().item() for k in range(1, 8)]
    return rule(
        [Trial(result.proved, result.counterexample or "")],
        0.0 if result.proved else max(factors) / min(factors),
        "largest over smallest 1/std of groups of 8: no constant makes one the other"
        if not result.proved
        else "difference",
        symbolic=True,
        unit="comparisons",
        notes=[
            f"without std it {'is' if bare.proved else 'is not'} Dr. GRPO, up to the constant "
            "length that Dr. GRPO divides by"
        ],
    )


# ---------------------------------------------------------------------------- equations 12, 14, 15


def eq12(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """−(1/|τ*|) Σ_t log π_θ(τ*_t), averaged over demonstrations."""
    demonstrations = [sample for sample in samples if sample.demonstration]
    loss: Scalar = 0
    for sample in demonstrations:
        loss -= sum(sample.logp) / (ops.exp(0) * len(sample.logp) * len(demonstrations))
    return loss


def eq14(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """−Σ_τ Σ_t log π_θ(τ_t) over demonstrations."""
    return ops.exp(0) * -sum(x for s in samples if s.demonstration for x in s.logp)


def _supervised(normalizer: Normalizer) -> Terms:
    return (Term("offline", CurrentPolicy(), One(), normalizer),)


@claim(
    "eq12",
    "The gradient of L_SFT is −(1/|τ*|) Σ_t ∇π_θ/π_θ.",
    "eq. 12",
)
def sft_loss(normalizer: Normalizer | None = None) -> Result:
    """Eq. 12 differentiated by sympy against π_ref = π_θ, Â = 1 with that normaliser."""
    terms = _supervised(normalizer or SequenceMean())
    return proof(verify_symbolic(algorithm("sft"), terms=terms, loss=eq12))


@claim(
    "eq12-length",
    "L_SFT, divided by |τ*|, is the SFT term of the common objective: its mean gradient over π_β "
    "is along −∇KL(π_β ‖ π_θ).",
    "eq. 12 with eq. 1–2",
)
def sft_length(per_token: bool = True, seeds: Sequence[int] = SEEDS) -> Result:
    """The angle between E_{π_β}[(1/|τ|) ∇log π_θ(τ)] and E_{π_β}[∇log π_θ(τ)]."""
    trials, cosines = [], []
    for horizon in (1, 2, 3, 4):
        for seed in seeds:
            c = _length_cosine(random_case(seed, horizon=horizon), per_token)
            cosines.append(c)
            words = f"answers of up to {horizon} tokens: cosine {c:.4f}"
            trials.append(Trial(1 - c < TOLERANCE, words, inside=horizon == 1))
    return rule(
        trials,
        min(cosines),
        "smallest cosine of the two, answers of up to 4 tokens",
        condition="all demonstrations have one length",
        counterexample=_bent(lambda case: _length_cosine(case, per_token), "demo"),
    )


def _length_cosine(case: Case, per_token: bool) -> float:
    weight = case.policy.tree.length[:, None].double() ** -float(per_token)
    return cosine(case.sample(case.demo, weight).mean, case.sft)


def _bent(angle: Callable[[Case], float], role: Role) -> Callable[[], str | None]:
    """A search for the smallest toy of up to two tokens where the cosine is below 1."""
    return hunt(
        lambda case: angle(case) < 1 - 1e-6,
        toys(2, 2, (role,), top=3),
        tuple(dict.fromkeys(("theta", role))),
        lambda case: f"cosine {angle(case):.4f}",
    )


@claim(
    "eq14-15",
    "The gradient of the summed SFT loss is −Σ ∇π_θ/π_θ: π_ref = π_θ, Â = 1.",
    "eq. 14–15",
)
def summed_sft(loss: Loss = eq14) -> Result:
    """Eq. 14 differentiated by sympy against the row of Table 1."""
    terms = _supervised(TokenSum())
    return proof(verify_symbolic(algorithm("sft"), terms=terms, loss=loss))


# ---------------------------------------------------------------------------------- equations 16–20


@claim(
    "eq16-18-ppo",
    "The gradient of PPO's surrogate is the same means over Â 1_Clip/π_θold ∇π_θ, wherever it has "
    "one.",
    "eq. 16–18",
)
def ppo_loss(clip: float = _CLIP) -> Result:
    """PPO's published loss at ε = 0.2 against the row, with ``clip`` in the row."""
    return proof(verify_symbolic(algorithm("ppo"), terms=get("ppo", clip=clip).terms))


@claim(
    "eq16-18-grpo",
    "The gradient of GRPO's surrogate is the same means over Â 1_Clip/π_θold ∇π_θ, wherever it has "
    "one.",
    "eq. 16–18",
)
def grpo_loss(normalizer: str = "question_mean") -> Result:
    """GRPO's published loss against the row."""
    terms = get("grpo", normalizer=normalizer).terms
    return proof(verify_symbolic(algorithm("grpo"), terms=terms))


@claim(
    "eq16-18-length",
    "The mean over the tokens of a trajectory, 1/|τ|, leaves a gradient along ∇E[r].",
    "eq. 16–18 as an estimate of eq. 2's first term",
)
def token_mean(normalizer: Normalizer | None = None, seeds: Sequence[int] = SEEDS[:10]) -> Result:
    """The angle between E[g] and ∇E[r], on policy, Â centred, groups of 4."""
    trials, cosines, summed = [], [], []
    for horizon in (1, 2, 3, 4):
        for seed in seeds:
            case = random_case(seed, horizon=horizon)
            c = _normalized_cosine(case, normalizer or QuestionMean())
            summed.append(_normalized_cosine(case, TrajectoryMean()))
            cosines.append(c)
            words = f"answers of up to {horizon} tokens: cosine {c:.4f}"
            trials.append(Trial(1 - c < TOLERANCE, words, inside=horizon == 1))
    return rule(
        trials,
        min(cosines),
        "smallest cosine of E g and ∇E[r], answers of up to 4 tokens",
        condition="all trajectories have one length",
        counterexample=_bent(
            lambda case: _normalized_cosine(case, normalizer or QuestionMean()), "theta"
        ),
        notes=[f"with token sums the cosine is at least 1 − {max(1 - min(summed), 0):.1g}"],
    )


def _normalized_cosine(case: Case, normalizer: Normalizer) -> float:
    what = compose(Term("online", CurrentPolicy(), GroupCentered(), normalizer))
    return cosine(exact(what, case.setting(4, old=False)).mean, case.rl)


@claim(
    "eq19-20",
    "The gradient of the offline loss −mean π_θ Â is −mean Â ∇π_θ: π_ref ≡ 1, no clip.",
    "eq. 19–20",
)
def srft_loss(reference: str = "srft_offline") -> Result:
    """SRFT's published offline loss against the row of the registry entry ``reference``."""
    terms = algorithm(reference).terms
    return proof(verify_symbolic(algorithm("srft_offline"), terms=terms))


@claim(
    "table1-gae",
    "PPO's Â = GAE makes its on-policy gradient ∇E[r].",
    "Table 1, PPO",
)
def gae(critics: Sequence[Critic] = ("exact", "zero"), seeds: Sequence[int] = SEEDS[:10]) -> Result:
    """E[g] with λ = 0.95 and λ = 1, with the exact critic and with one that says 0."""
    trials, biases = [], []
    for critic in critics:
        for gae_lambda in (1.0, 0.95):
            what = get("ppo", gae_lambda=gae_lambda, normalizer="trajectory_mean")
            for seed in seeds:
                case = random_case(seed)
                setting = case.setting(old=False, critic=critic)
                bias = distance(exact(what, setting).mean, case.rl)
                inside = critic == "exact" or gae_lambda == 1.0
                words = f"V {critic}, λ = {gae_lambda:g}: bias {bias:.3g} of ‖∇E[r]‖"
                trials.append(Trial(bias < TOLERANCE, words, inside))
                biases += [] if inside else [bias]
    return rule(
        trials,
        median(biases) if biases else 0.0,
        "‖E g − ∇E[r]‖/‖∇E[r]‖ with V ≡ 0 and λ = 0.95, median",
        condition="the critic is exact (V = E[r | prefix] of π_θ) or λ = 1",
    )
