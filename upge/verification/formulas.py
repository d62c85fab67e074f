"""Twins: the formula of every component in scalars, over symbols or over numbers.

A twin is written from its component's docstring, one loop at a time. The proof of
:mod:`upge.verification.symbolic` evaluates twins over symbols; :func:`weights` evaluates them over
numbers, which ties them to the tensors that train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from upge.advantage import (
    GAE,
    BatchZScore,
    GroupCentered,
    GroupRelative,
    GroupZScore,
    KLGradient,
    LeaveOneOut,
    One,
    Penalized,
    Reward,
    Signed,
)
from upge.algorithms import Terms
from upge.batch import Samples
from upge.common.errors import UpgeError
from upge.estimator import EntropyWeight, Estimator, Term
from upge.feedback import Gate, Linear, Sigmoid, Switch
from upge.likelihood import Complement, PolicyShaping, Unshaped
from upge.normalization import (
    FixedLength,
    LengthSum,
    QuestionMean,
    QuestionSum,
    SequenceMean,
    TokenMean,
    TokenSum,
    TrajectoryMean,
)
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy, SequenceRatio
from upge.stabilization import (
    CISMask,
    Clip,
    Correction,
    DualClip,
    GeometricClip,
    NoMask,
    RatioCap,
    SigmoidGate,
    WeightClip,
)
from upge.verification.maths import Floats, Maths, Scalar
from upge.verification.published import Sample
from upge.wiener import Wiener


@dataclass(frozen=True)
class Rows:
    """A batch as twins see it: trajectories i of tokens t, and the maths to use on them."""

    samples: Sequence[Sample]
    max_length: Scalar
    maths: Maths

    def of(self, samples: Samples) -> list[int]:
        """The rows that a term over ``samples`` reads."""
        kept = {"all": (False, True), "online": (False,), "offline": (True,)}[samples]
        return [i for i, sample in enumerate(self.samples) if sample.demonstration in kept]

    def question(self, i: int, samples: Samples) -> list[int]:
        """Those of them that answer the question of row i."""
        wanted = self.samples[i].question
        return [j for j in self.of(samples) if self.samples[j].question == wanted]

    def reward(self, i: int) -> Scalar:
        """R(τ_i)."""
        return self.maths.number(self.samples[i].reward)

    def rewards(self, rows: Sequence[int]) -> list[Scalar]:
        """R of several rows."""
        return [self.reward(i) for i in rows]

    def length(self, i: int) -> int:
        """|τ_i|."""
        return len(self.samples[i].logp)

    def entropy(self, i: int) -> Sequence[Scalar]:
        """H of the row's tokens."""
        return self._given(self.samples[i].entropy, "entropy")

    def values(self, i: int) -> Sequence[Scalar]:
        """V of the row's tokens."""
        return self._given(self.samples[i].values, "values")

    def logp_of(self, i: int, policy: str) -> Sequence[Scalar]:
        """Log-probabilities of the row's tokens under another policy, as ``ref_logp``."""
        return self._given(getattr(self.samples[i], policy), policy)

    def _given(self, numbers: Sequence[Scalar] | None, name: str) -> Sequence[Scalar]:
        if numbers is None:
            raise UpgeError(f"a term needs {name}, which a sample lacks; give it to every sample")
        return numbers

    def log_ratio(self, i: int, t: int) -> Scalar:
        """log(π_θ/π_θold) of a token."""
        return self.samples[i].logp[t] - self.samples[i].old_logp[t]

    def ratio(self, i: int, t: int) -> Scalar:
        """π_θ/π_θold of a token."""
        return self.maths.exp(self.log_ratio(i, t))

    def mean_log_ratio(self, i: int) -> Scalar:
        """(1/|τ_i|) log(π_θ(τ_i)/π_θold(τ_i))."""
        return sum(self.log_ratio(i, t) for t in range(self.length(i))) / self.length(i)


Twin = TypeVar("Twin", bound=Callable[..., Any])
FORMULAS: dict[type, Callable[..., Any]] = {}


def formula(kind: type) -> Callable[[Twin], Twin]:
    """Makes the decorated function the twin of components of this very type.

    Unlike with ``functools.singledispatch`` a subclass has no twin until it is given its own: it
    exists because its formula differs. A twin takes the component, the :class:`Rows` and, by its
    kind: reference (i, t), log π_ref; stabilization (i, t, Â); advantage and shaping (i, t);
    normalizer (i, the term's rows, the counted rows), 1/Z; feedback (P, n), the pair (α, β).
    """

    def add(formula: Twin) -> Twin:
        FORMULAS[kind] = formula
        return formula

    return add


def _twin(component: Any, *args: Any) -> Any:
    if type(component) not in FORMULAS:
        name = type(component).__name__
        raise UpgeError(
            f"{name} has no symbolic twin; write its formula in "
            f"upge/verification/formulas.py under @formula({name})"
        )
    return FORMULAS[type(component)](component, *args)


@formula(CurrentPolicy)
def _current_policy(_: CurrentPolicy, rows: Rows, i: int, t: int) -> Scalar:
    return rows.samples[i].logp[t]


@formula(RolloutPolicy)
def _rollout_policy(_: RolloutPolicy, rows: Rows, i: int, t: int) -> Scalar:
    return rows.samples[i].old_logp[t]


@formula(ConstantOne)
def _constant_one(_: ConstantOne, rows: Rows, i: int, t: int) -> Scalar:
    return 0


@formula(SequenceRatio)
def _sequence_ratio(_: SequenceRatio, rows: Rows, i: int, t: int) -> Scalar:
    return rows.samples[i].logp[t] - rows.mean_log_ratio(i)


@formula(NoMask)
def _no_mask(_: NoMask, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    return 1


def _clip(ratio: Scalar, advantage: Scalar, low: float, high: float, maths: Maths) -> Scalar:
    """0 if Â > 0 and ratio > 1 + high, or Â < 0 and ratio < 1 − low; else 1."""
    too_high = maths.where(ratio - (1 + maths.number(high)), 0, 1)
    too_low = maths.where((1 - maths.number(low)) - ratio, 0, 1)
    return maths.where(advantage, too_high, maths.where(-advantage, too_low, 1))


@formula(Clip)
def _ratio_clip(c: Clip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    sequence = c.level == "sequence"
    ratio = rows.maths.exp(rows.mean_log_ratio(i)) if sequence else rows.ratio(i, t)
    return _clip(ratio, advantage, c.low, c.high, rows.maths)


@formula(CISMask)
def _cis_mask(c: CISMask, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    return _clip(rows.ratio(i, t), advantage, c.low, c.high, rows.maths)


@formula(DualClip)
def _dual_clip(c: DualClip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    where = rows.maths.where
    far = where(-advantage, where(rows.ratio(i, t) - rows.maths.number(c.dual), 0, 1), 1)
    return far * _ratio_clip(c, rows, i, t, advantage)


@formula(WeightClip)
def _weight_clip(c: WeightClip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    where, number = rows.maths.where, rows.maths.number
    ratio, low, high = rows.ratio(i, t), number(c.low), number(c.high)
    return where(ratio - high, high, where(low - ratio, low, ratio)) / ratio


@formula(RatioCap)
def _is_cap(c: RatioCap, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    ratio, cap = rows.ratio(i, t), rows.maths.number(c.cap)
    capped = rows.maths.where(ratio - cap, cap, ratio) / ratio
    return _twin(c.inner, rows, i, t, advantage) * capped


@formula(SigmoidGate)
def _sigmoid_gate(c: SigmoidGate, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    tau = rows.maths.where(advantage, rows.maths.number(c.tau_pos), rows.maths.number(c.tau_neg))
    p = 1 / (1 + rows.maths.exp(-tau * (rows.ratio(i, t) - 1)))
    return 4 * p * (1 - p)


@formula(GeometricClip)
def _geometric_clip(c: GeometricClip, rows: Rows, i: int, t: int, advantage: Scalar) -> Scalar:
    where, low, high = rows.maths.where, rows.maths.number(c.low), rows.maths.number(c.high)

    def beyond(s: int) -> Scalar:
        """log(r_s/clip(r_s)): positive above the range, negative below it."""
        raw = rows.log_ratio(i, s)
        above = where(raw - high, raw - high, 0)
        below = where(-low - raw, raw + low, 0)
        return where(advantage, above, below)

    inside_high = where(rows.log_ratio(i, t) - high, 0, 1)
    inside_low = where(-low - rows.log_ratio(i, t), 0, 1)
    total = sum(beyond(s) for s in range(rows.length(i)))
    return where(advantage, inside_high, inside_low) * rows.maths.exp(-total / rows.length(i))


@formula(One)
def _one(_: One, rows: Rows, i: int, t: int) -> Scalar:
    return 1


@formula(Reward)
def _reward(_: Reward, rows: Rows, i: int, t: int) -> Scalar:
    return rows.reward(i)


@formula(Signed)
def _signed(a: Signed, rows: Rows, i: int, t: int) -> Scalar:
    return rows.maths.number(a.positive if rows.reward(i) > 0 else a.negative)


@formula(GAE)
def _gae(a: GAE, rows: Rows, i: int, t: int) -> Scalar:
    if rows.samples[i].demonstration:
        return 0
    values, last = rows.values(i), rows.length(i) - 1
    gamma, gae_lambda = rows.maths.number(a.gamma), rows.maths.number(a.gae_lambda)

    def delta(s: int) -> Scalar:
        return (rows.reward(i) if s == last else gamma * values[s + 1]) - values[s]

    return sum((gamma * gae_lambda) ** (s - t) * delta(s) for s in range(t, last + 1))


def _mean(numbers: Sequence[Scalar]) -> Scalar:
    return sum(numbers) / len(numbers)


def _z_score(x: Scalar, among: Sequence[Scalar], maths: Maths) -> Scalar:
    """(x − mean)/std, with n − 1 in std."""
    squares = sum((y - _mean(among)) ** 2 for y in among)
    return (x - _mean(among)) / maths.sqrt(squares / (len(among) - 1))


def _all_equal(numbers: Sequence[Scalar]) -> bool:
    return len(set(numbers)) <= 1


@formula(GroupZScore)
def _group_z_score(a: GroupZScore, rows: Rows, i: int, t: int) -> Scalar:
    among = rows.rewards(rows.question(i, a.over))
    return 0 if _all_equal(among) else _z_score(rows.reward(i), among, rows.maths)


@formula(GroupCentered)
def _group_centered(a: GroupCentered, rows: Rows, i: int, t: int) -> Scalar:
    among = rows.rewards(rows.question(i, a.over))
    if a.keep_singletons and len(among) <= 1:
        return rows.reward(i)
    return rows.reward(i) - _mean(among) if among else rows.reward(i)


@formula(GroupRelative)
def _group_relative(a: GroupRelative, rows: Rows, i: int, t: int) -> Scalar:
    among = rows.rewards(rows.question(i, a.over))
    nothing = _all_equal(among) or _mean(among) == 0
    return 0 if nothing else (rows.reward(i) - _mean(among)) / _mean(among)


@formula(LeaveOneOut)
def _leave_one_out(a: LeaveOneOut, rows: Rows, i: int, t: int) -> Scalar:
    others = rows.rewards([j for j in rows.question(i, "online") if j != i])
    lone = not others and i in rows.question(i, "online")
    return 0 if lone else rows.reward(i) - (_mean(others) if others else 0)


@formula(BatchZScore)
def _batch_z_score(a: BatchZScore, rows: Rows, i: int, t: int) -> Scalar:
    def x(j: int) -> Scalar:
        return rows.reward(j) if a.of == "reward" else _group_centered(GroupCentered(), rows, j, t)

    among = [x(j) for j in rows.of("online") for _ in range(rows.length(j))]
    return 0 if _all_equal(among) else _z_score(x(i), among, rows.maths)


@formula(KLGradient)
def _kl_gradient(a: KLGradient, rows: Rows, i: int, t: int) -> Scalar:
    k = (
        rows.samples[i].logp[t]
        - rows.logp_of(i, "ref_logp" if a.to == "reference" else "teacher_logp")[t]
    )
    return -{"k1": 1, "k2": k, "k3": 1 - rows.maths.exp(-k), "k1+1": k + 1}[a.psi]


@formula(Penalized)
def _penalized(a: Penalized, rows: Rows, i: int, t: int) -> Scalar:
    def penalized(j: int, sample: Sample) -> Sample:
        if sample.demonstration:
            return sample
        pairs = zip(sample.old_logp, rows.logp_of(j, "ref_logp"), strict=True)
        kl = sum(old - reference for old, reference in pairs)
        return replace(sample, reward=sample.reward - rows.maths.number(a.beta) * kl)

    samples = [penalized(j, sample) for j, sample in enumerate(rows.samples)]
    return _twin(a.inner, replace(rows, samples=samples), i, t)


@formula(Correction)
def _correction(c: Correction, rows: Rows, i: int, t: int) -> Scalar:
    pairs = zip(rows.samples[i].old_logp, rows.logp_of(i, "sampler_logp"), strict=True)
    logs = [old - sampler for old, sampler in pairs]
    log_rho = {"token": logs[t], "sequence": sum(logs), "geometric": sum(logs) / len(logs)}[c.level]
    rho, low, high = rows.maths.exp(log_rho), rows.maths.number(c.low), rows.maths.number(c.high)
    beyond_low, beyond_high = (low, high) if c.rule == "truncate" else (0, 0)
    within = 1 if c.rule == "reject" else rho
    return rows.maths.where(
        rho - high, beyond_high, rows.maths.where(low - rho, beyond_low, within)
    )


@formula(Unshaped)
def _unshaped(_: Unshaped, rows: Rows, i: int, t: int) -> Scalar:
    return 1


@formula(PolicyShaping)
def _policy_shaping(f: PolicyShaping, rows: Rows, i: int, t: int) -> Scalar:
    gamma = rows.maths.number(f.gamma)
    return gamma / (rows.maths.exp(rows.samples[i].logp[t]) + gamma) ** 2


@formula(Complement)
def _complement(_: Complement, rows: Rows, i: int, t: int) -> Scalar:
    return 1 - rows.maths.exp(rows.samples[i].logp[t])


@formula(TokenSum)
def _token_sum(_: TokenSum, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return 1


@formula(TokenMean)
def _token_mean(_: TokenMean, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return rows.maths.number(1) / (max(sum(rows.length(j) for j in counted), 1))


@formula(TrajectoryMean)
def _trajectory_mean(
    _: TrajectoryMean, rows: Rows, i: int, own: list[int], counted: list[int]
) -> Scalar:
    return rows.maths.number(1) / (max(len(counted), 1))


@formula(SequenceMean)
def _sequence_mean(
    _: SequenceMean, rows: Rows, i: int, own: list[int], counted: list[int]
) -> Scalar:
    return rows.maths.number(1) / (max(len(counted), 1) * rows.length(i))


@formula(FixedLength)
def _fixed_length(_: FixedLength, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return rows.maths.number(1) / (max(len(counted), 1) * rows.max_length)


@formula(LengthSum)
def _length_sum(_: LengthSum, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    return rows.maths.number(1) / rows.max_length


@formula(QuestionSum)
def _question_sum(_: QuestionSum, rows: Rows, i: int, own: list[int], counted: list[int]) -> Scalar:
    questions = {rows.samples[j].question for j in counted}
    of_this = [j for j in own if rows.samples[j].question == rows.samples[i].question]
    return rows.maths.number(1) / (max(len(questions), 1) * len(of_this))


@formula(QuestionMean)
def _question_mean(
    z: QuestionMean, rows: Rows, i: int, own: list[int], counted: list[int]
) -> Scalar:
    return _question_sum(z, rows, i, own, counted) / rows.length(i)


@formula(Switch)
def _switch(f: Switch, rows: Rows, p: Scalar, n: int) -> tuple[Scalar, Scalar]:
    # A P within 1e-6 of gamma is equal to it, as in the component.
    return (1, 0) if p - rows.maths.number(f.gamma) > 1e-6 else (0, 1)


@formula(Linear)
def _linear(f: Linear, rows: Rows, p: Scalar, n: int) -> tuple[Scalar, Scalar]:
    return p, 1 - p


@formula(Sigmoid)
def _sigmoid(f: Sigmoid, rows: Rows, p: Scalar, n: int) -> tuple[Scalar, Scalar]:
    x = rows.maths.number(f.steepness) * (p - rows.maths.number(f.gamma))
    return 1 / (1 + rows.maths.exp(-x)), 1 / (1 + rows.maths.exp(x))


@formula(Wiener)
def _wiener(f: Wiener, rows: Rows, p: Scalar, n: int) -> tuple[Scalar, Scalar]:
    number = rows.maths.number
    mu, noise, novelty = number(f.mu), number(f.noise), number(f.novelty)
    a, b = number(f.prior_solved) + n * p, number(f.prior_failed) + n * (1 - p)
    q1 = b / (a + b)
    q2 = q1 * (b + 1) / (a + b + 1)
    q3 = q2 * (b + 2) / (a + b + 2)
    kappa, w = rows.maths.sqrt(1 - novelty), n * p * (1 - p)
    h1 = q1 - q2 + mu * kappa * q1
    h2 = kappa * (q2 - q3) + mu * (kappa**2 * q2 + novelty)
    e = kappa**2 * q2 + novelty + noise
    scale = noise / (1 + mu) / ((w + noise) * e - w * kappa**2 * q1**2)
    alpha = scale * (h1 * e - h2 * kappa * q1)
    beta = scale * ((w + noise) * h2 - w * kappa * q1 * h1)
    return alpha, rows.maths.where(beta, beta, 0)


@formula(Gate)
def _gate(gate: Gate, rows: Rows, i: int) -> Scalar:
    """α or β at P, the share of solved rollouts; 1 or 0 where there is no demonstration."""
    rewards = rows.rewards(rows.question(i, "online"))
    solved = rows.maths.number(sum(1 for reward in rewards if reward > 0))
    pair = (1, 0)
    if rows.question(i, "offline"):
        pair = _twin(gate.feedback, rows, solved / max(len(rewards), 1), len(rewards))
    return pair[0] if gate.side == "rl" else pair[1]


@formula(EntropyWeight)
def _entropy_weight(e: EntropyWeight, rows: Rows, i: int, samples: Samples) -> Scalar:
    over = [i] if e.level == "sequence" else rows.of(samples)
    return rows.maths.exp(e.sign * _mean([h for j in over for h in rows.entropy(j)]))


def _open_rows(term: Term, rows: Rows) -> list[int]:
    own = rows.of(term.samples)
    return own if term.gate is None else [i for i in own if _twin(term.gate, rows, i) != 0]


def _term_weight(term: Term, terms: Terms, rows: Rows, i: int, t: int) -> Scalar:
    """One token's c · α · 1_stable · (π_θ/π_ref) · Â · f'(π_θ) · e^{±H} / Z."""
    own = rows.of(term.samples)
    if i not in own:
        return 0
    counted = {
        "term": own,
        "open": _open_rows(term, rows),
        "joint": sorted({j for other in terms for j in _open_rows(other, rows)}),
        "batch": rows.of("all"),
    }[term.normalizer.scope]
    advantage = _twin(term.advantage, rows, i, t)
    weight = rows.maths.number(term.coefficient)
    weight *= _twin(term.normalizer, rows, i, own, counted) * advantage
    weight *= _twin(term.stabilization, rows, i, t, advantage)
    weight *= rows.maths.exp(rows.samples[i].logp[t] - _twin(term.reference, rows, i, t))
    weight *= _twin(term.shaping, rows, i, t)
    for correction in term.corrections:
        weight *= _twin(correction, rows, i, t)
    if term.gate is not None:
        weight *= _twin(term.gate, rows, i)
    if term.entropy_weight is not None:
        weight *= _twin(term.entropy_weight, rows, i, term.samples)
    return weight


def weight(terms: Terms, rows: Rows, i: int, t: int) -> Scalar:
    """The twins' w of token t of row i, over all terms."""
    return sum(_term_weight(term, terms, rows, i, t) for term in terms)


def weights(
    estimator: Estimator, samples: Sequence[Sample], *, max_length: int | None = None
) -> list[list[float]]:
    """The twins' w of every token of every sample, in numbers.

    Args:
        estimator: what to take the weights of.
        samples: trajectories of plain numbers.
        max_length: the longest response allowed; the longest one in ``samples`` if not given.
    """
    longest = max((len(sample.logp) for sample in samples), default=1)
    rows = Rows(samples, max_length or longest, Floats())
    return [
        [float(weight(estimator.terms, rows, i, t)) for t in range(rows.length(i))]
        for i in range(len(samples))
    ]
