"""The published losses of every algorithm, one plain loop each.

This file is a reference: it is written from the papers, imports nothing from the package and
keeps to loops over questions, samples and tokens, so that the package's vectorised estimator can
be checked against it. Each function returns the loss to be minimised as one scalar; its gradient,
by autograd or by sympy, is what the estimator has to reproduce.

Conventions that hold for every loss:

* ``r`` is the token ratio ``pi_theta / pi_theta_old``; ``sg`` is the stop-gradient.
* The z-score divides by the standard deviation with ``n - 1`` and adds no epsilon; it is 0 for a
  set whose rewards are all equal, a set of one element included.
* ``Q`` counts the questions with at least one sample that the term reads, ``n_q`` those samples
  of question ``q``, and ``N`` is the sum of the ``n_q``.
* A loss of rollouts ignores the demonstrations in the list, and the other way round; a loss that
  finds no sample to read is 0.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from upge.common.errors import UpgeError

Scalar = Any
"""A 0-dim torch tensor, a sympy expression or a float."""


@dataclass(frozen=True)
class Sample:
    """One trajectory of at least one token.

    Args:
        logp: ``log pi_theta(tau_t | q, tau_<t)`` at each token; carries the gradient.
        old_logp: ``log pi_theta_old`` at each token; constants.
        reward: the trajectory's reward, a plain number.
        question: which question the trajectory answers.
        demonstration: whether it comes from the demonstrator rather than from the policy.
        values: ``V(s_t)`` before each token; constants, read by the losses with GAE.
        entropy: entropy of ``pi_theta`` at each position; constants, read by the SRFT losses.
        sampler_logp, ref_logp, teacher_logp: log-probabilities of the tokens under the sampler of a
            rollout, a reference, and a teacher; constants.
    """

    logp: Sequence[Scalar]
    old_logp: Sequence[Scalar]
    reward: float
    question: int
    demonstration: bool
    values: Sequence[Scalar] | None = None
    entropy: Sequence[Scalar] | None = None
    sampler_logp: Sequence[Scalar] | None = None
    ref_logp: Sequence[Scalar] | None = None
    teacher_logp: Sequence[Scalar] | None = None


class Ops(Protocol):
    """The maths that the losses need; each function takes plain numbers as well as scalars."""

    def exp(self, x: Scalar) -> Scalar:
        """Return the exponential of x."""

    def log(self, x: Scalar) -> Scalar:
        """Return the natural logarithm of x."""

    def sqrt(self, x: Scalar) -> Scalar:
        """Return the square root of x."""

    def minimum(self, a: Scalar, b: Scalar) -> Scalar:
        """Return the smaller of a and b."""

    def maximum(self, a: Scalar, b: Scalar) -> Scalar:
        """Return the larger of a and b."""

    def sigmoid(self, x: Scalar) -> Scalar:
        """Return 1 / (1 + exp(-x))."""

    def detach(self, x: Scalar) -> Scalar:
        """Return x as a constant (stop-gradient)."""


# --- groups and counts ---------------------------------------------------------------------------


def _rollouts(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if not sample.demonstration]


def _demonstrations(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.demonstration]


def _questions(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Group the samples by question, in order of first appearance."""
    groups: dict[int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.question, []).append(sample)
    return list(groups.values())


def _same_question(samples: Iterable[Sample], sample: Sample) -> list[Sample]:
    return [other for other in samples if other.question == sample.question]


def _tokens(samples: Iterable[Sample]) -> int:
    return sum(len(sample.logp) for sample in samples)


# --- advantages ----------------------------------------------------------------------------------


def _mean(numbers: Sequence[Scalar]) -> Scalar:
    return sum(numbers) / len(numbers)


def _z_score(reward: float, rewards: Sequence[float], ops: Ops) -> Scalar:
    """Return (reward - mean) / std over rewards, with n - 1 in std; 0 if they are all equal."""
    if max(rewards) == min(rewards):
        return 0
    mean = _mean(rewards)
    variance = sum((other - mean) ** 2 for other in rewards) / (len(rewards) - 1)
    return (reward - mean) / ops.sqrt(variance)


def _group_advantage(sample: Sample, group: Iterable[Sample], ops: Ops) -> Scalar:
    """Return the z-score of the sample's reward over the group."""
    return _z_score(sample.reward, [other.reward for other in group], ops)


def _centred(sample: Sample, group: Iterable[Sample]) -> float:
    """Return the reward minus the group's mean."""
    centred: float = sample.reward - _mean([other.reward for other in group])
    return centred


def _centred_as_coded(sample: Sample, group: Sequence[Sample]) -> float:
    """Return the reward minus the group's mean, which counts as 0 in a group of one.

    The rule of the official code of arXiv 2509.04419 with grpo_use_std=False: a trajectory that
    is alone in its group keeps its reward as advantage.
    """
    return sample.reward if len(group) == 1 else _centred(sample, group)


def _leave_one_out(sample: Sample, group: Iterable[Sample]) -> float:
    """Return the reward minus the mean of the others in the group; 0 without others."""
    others = [other.reward for other in group if other is not sample]
    if not others:
        return 0.0
    advantage: float = sample.reward - _mean(others)
    return advantage


def _gae(sample: Sample, gamma: float, gae_lambda: float) -> list[Scalar]:
    """Return generalised advantages (arXiv 1506.02438, eq. 16) with the reward at the last token.

    delta_t = reward_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lambda A_{t+1},  V_end = 0
    """
    if sample.values is None:
        raise ValueError("a loss with generalised advantages needs Sample.values")
    advantages: list[Scalar] = []
    next_value: Scalar = 0
    next_advantage: Scalar = 0
    reward: Scalar = sample.reward
    for value in reversed(sample.values):
        delta = reward + gamma * next_value - value
        next_advantage = delta + gamma * gae_lambda * next_advantage
        advantages.insert(0, next_advantage)
        next_value = value
        reward = 0
    return advantages


# --- ratios, clips and weights -------------------------------------------------------------------


def _ratio(sample: Sample, t: int, ops: Ops) -> Scalar:
    return ops.exp(sample.logp[t] - sample.old_logp[t])


def _sequence_ratio(sample: Sample, ops: Ops) -> Scalar:
    """Return (pi_theta(tau) / pi_theta_old(tau)) ** (1 / |tau|)."""
    total: Scalar = 0
    for new, old in zip(sample.logp, sample.old_logp, strict=True):
        total = total + (new - old)
    return ops.exp(total / len(sample.logp))


def _clip(x: Scalar, low: float, high: float, ops: Ops) -> Scalar:
    return ops.minimum(ops.maximum(x, low), high)


def _surrogate(ratio: Scalar, advantage: Scalar, low: float, high: float, ops: Ops) -> Scalar:
    """Return min(ratio A, clip(ratio, 1 - low, 1 + high) A)."""
    return ops.minimum(ratio * advantage, _clip(ratio, 1 - low, 1 + high, ops) * advantage)


def _shaped(logp: Scalar, shaping: float, ops: Ops) -> Scalar:
    """Return f(pi) = pi / (pi + shaping)."""
    probability = ops.exp(logp)
    return probability / (probability + shaping)


def _sign(sample: Sample) -> int:
    return 1 if sample.reward > 0 else -1


def _mean_entropy(samples: Iterable[Sample]) -> Scalar:
    """Return the mean entropy over all tokens of the samples, a constant as the entropies are."""
    total: Scalar = 0
    count = 0
    for sample in samples:
        if sample.entropy is None:
            raise ValueError("the SRFT losses need Sample.entropy")
        for entropy in sample.entropy:
            total = total + entropy
            count += 1
    return total / count


# --- supervised ----------------------------------------------------------------------------------


def sft(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """Supervised fine-tuning (arXiv 2509.04419, eq. 12 and 14).

    L = -(1 / sum |tau*|) sum over demonstrations, sum_t log pi(tau*_t)

    The paper prints a mean over one demonstration's tokens (eq. 12) and a plain sum over all
    (eq. 14); here the sum is divided by the number of all demonstration tokens of the batch.
    """
    demonstrations = _demonstrations(samples)
    count = _tokens(demonstrations)
    loss: Scalar = 0
    for sample in demonstrations:
        for logp in sample.logp:
            loss = loss - logp / count
    return loss


def dft(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """Dynamic fine-tuning (arXiv 2508.05629).

    L = -(1 / sum |tau*|) sum over demonstrations, sum_t sg(pi(tau*_t)) log pi(tau*_t)

    Normalised, like `sft`, by the number of all demonstration tokens of the batch.
    """
    demonstrations = _demonstrations(samples)
    count = _tokens(demonstrations)
    loss: Scalar = 0
    for sample in demonstrations:
        for logp in sample.logp:
            loss = loss - ops.detach(ops.exp(logp)) * logp / count
    return loss


# --- on-policy, token level ----------------------------------------------------------------------


def ppo(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    clip: float = 0.2,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> Scalar:
    """Proximal policy optimisation (arXiv 2509.04419, eq. 16; arXiv 1707.06347, eq. 7).

    L = -(1/Q) sum_q (1/n_q) sum_i (1/|tau_i|) sum_t min(r A, clip(r, 1 - clip, 1 + clip) A)

    A is the generalised advantage of arXiv 1506.02438, with the reward at the last token.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantages = _gae(sample, gamma, gae_lambda)
            for t in range(len(sample.logp)):
                term = _surrogate(_ratio(sample, t, ops), advantages[t], clip, clip, ops)
                loss = loss - term / (len(groups) * len(group) * len(sample.logp))
    return loss


def ppo_dual_clip(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    clip: float = 0.2,
    dual_clip: float = 3.0,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
) -> Scalar:
    """PPO with a dual clip (arXiv 1912.09729).

    L = -mean as in `ppo` of   min(r A, clip(r) A)                      where A >= 0
                               max(min(r A, clip(r) A), dual_clip A)    where A < 0

    Written without testing the sign, A = A+ + A- with A+ = max(A, 0) and A- = min(A, 0): one of
    the two is 0, and each branch is 0 when its part is.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantages = _gae(sample, gamma, gae_lambda)
            for t in range(len(sample.logp)):
                ratio = _ratio(sample, t, ops)
                gain = ops.maximum(advantages[t], 0)
                harm = ops.minimum(advantages[t], 0)
                term = _surrogate(ratio, gain, clip, clip, ops) + ops.maximum(
                    _surrogate(ratio, harm, clip, clip, ops), dual_clip * harm
                )
                loss = loss - term / (len(groups) * len(group) * len(sample.logp))
    return loss


def grpo(samples: Sequence[Sample], ops: Ops, *, clip: float = 0.2) -> Scalar:
    """Group-relative policy optimisation (arXiv 2509.04419, eq. 5, 17, 18; arXiv 2402.03300).

    L = -(1/Q) sum_q (1/n_q) sum_i (1/|tau_i|) sum_t min(r A_i, clip(r, 1 - clip, 1 + clip) A_i)

    A_i is the z-score over the question's rollouts; no KL term.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            for t in range(len(sample.logp)):
                term = _surrogate(_ratio(sample, t, ops), advantage, clip, clip, ops)
                loss = loss - term / (len(groups) * len(group) * len(sample.logp))
    return loss


def dr_grpo(samples: Sequence[Sample], ops: Ops, *, max_length: int, clip: float = 0.2) -> Scalar:
    """GRPO done right (arXiv 2503.20783).

    L = -(1/N) sum_i (1/max_length) sum_t min(r A_i, clip(r, 1 - clip, 1 + clip) A_i)

    A_i = R_i - mean over the question's rollouts, without std. The paper drops 1/|tau|; the
    constant that its code divides by instead is max_length.
    """
    rollouts = _rollouts(samples)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _centred(sample, _same_question(rollouts, sample))
        for t in range(len(sample.logp)):
            term = _surrogate(_ratio(sample, t, ops), advantage, clip, clip, ops)
            loss = loss - term / (max_length * len(rollouts))
    return loss


def dapo(
    samples: Sequence[Sample], ops: Ops, *, clip_low: float = 0.2, clip_high: float = 0.28
) -> Scalar:
    """DAPO's loss (arXiv 2503.14476, eq. 8).

    L = -(1 / sum |tau_i|) sum_i sum_t min(r A_i, clip(r, 1 - clip_low, 1 + clip_high) A_i)

    A_i is the z-score over the question's rollouts. The paper divides by the tokens of a group
    and averages over questions; here, as in the codes that run it, by the tokens of the batch.
    Dynamic sampling and the overlong penalty act on the data, not on the loss.
    """
    rollouts = _rollouts(samples)
    count = _tokens(rollouts)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _group_advantage(sample, _same_question(rollouts, sample), ops)
        for t in range(len(sample.logp)):
            ratio = _ratio(sample, t, ops)
            loss = loss - _surrogate(ratio, advantage, clip_low, clip_high, ops) / count
    return loss


def reinforce_plus_plus(samples: Sequence[Sample], ops: Ops, *, clip: float = 0.2) -> Scalar:
    """REINFORCE++ (arXiv 2501.03262), critic-free and without KL.

    L = -(1 / sum |tau_i|) sum_i sum_t min(r A_i, clip(r, 1 - clip, 1 + clip) A_i)

    Every token carries the reward of its trajectory as return (no discount), and A is the z-score
    of that return over all tokens of all rollouts in the batch, so that a long trajectory counts
    more in mean and std. The variant with a group baseline is another algorithm.
    """
    rollouts = _rollouts(samples)
    returns = [sample.reward for sample in rollouts for _ in sample.logp]
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _z_score(sample.reward, returns, ops)
        for t in range(len(sample.logp)):
            term = _surrogate(_ratio(sample, t, ops), advantage, clip, clip, ops)
            loss = loss - term / len(returns)
    return loss


def reinforce_plus_plus_baseline(
    samples: Sequence[Sample], ops: Ops, *, clip: float = 0.2
) -> Scalar:
    """REINFORCE++ with a baseline (arXiv 2501.03262), without KL.

    L = -(1 / sum |tau_i|) sum_i sum_t min(r A_i, clip(r, 1 - clip, 1 + clip) A_i)

    A is the z-score, over all tokens of all rollouts, of c_i = R_i less the mean of its question.
    """
    rollouts = _rollouts(samples)
    centred = [_centred(sample, _same_question(rollouts, sample)) for sample in rollouts]
    returns = [c for c, sample in zip(centred, rollouts, strict=True) for _ in sample.logp]
    loss: Scalar = 0
    for c, sample in zip(centred, rollouts, strict=True):
        advantage = _z_score(c, returns, ops)
        for t in range(len(sample.logp)):
            term = _surrogate(_ratio(sample, t, ops), advantage, clip, clip, ops)
            loss = loss - term / len(returns)
    return loss


def cispo(
    samples: Sequence[Sample], ops: Ops, *, ratio_max: float = 5.0, ratio_min: float = 0.0
) -> Scalar:
    """CISPO (arXiv 2506.13585, eq. 4 and 5).

    L = -(1 / sum |tau_i|) sum_i sum_t sg(clip(r, ratio_min, ratio_max)) A_i log pi(tau_it)

    A_i is the z-score over the question's rollouts. The bounds are those of the ratio itself, in
    the paper's symbols 1 - eps_low^IS and 1 + eps_high^IS. The paper sets no lower one and gives
    no number for the upper one; 5 is eps_max of ScaleRL (arXiv 2510.13786). The paper divides by
    the tokens of a group, here by those of the batch. Its optional token mask (eq. 6, 7) is not
    part of this loss.
    """
    rollouts = _rollouts(samples)
    count = _tokens(rollouts)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _group_advantage(sample, _same_question(rollouts, sample), ops)
        for t, logp in enumerate(sample.logp):
            weight = ops.detach(_clip(_ratio(sample, t, ops), ratio_min, ratio_max, ops))
            loss = loss - weight * advantage * logp / count
    return loss


def tis(samples: Sequence[Sample], ops: Ops, *, cap: float = 2.0) -> Scalar:
    """Truncated importance sampling (Yao et al. 2025, on the gap of sampler and trainer).

    L = -(1/Q) sum_q (1/n_q) sum_i (1/|tau_i|) sum_t sg(min(pi / pi_old, cap)) A_i log pi(tau_it)

    pi_old is the distribution that the sampler drew from; A_i is the z-score over the question's
    rollouts. The truncated weight is V-trace's (arXiv 1802.01561), used without another clip.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            for t, logp in enumerate(sample.logp):
                weight = ops.detach(ops.minimum(_ratio(sample, t, ops), cap))
                term = weight * advantage * logp
                loss = loss - term / (len(groups) * len(group) * len(sample.logp))
    return loss


def sapo(
    samples: Sequence[Sample], ops: Ops, *, tau_pos: float = 1.0, tau_neg: float = 1.05
) -> Scalar:
    """Soft adaptive policy optimisation (arXiv 2511.20347).

    L = -(1/Q) sum_q (1/n_q) sum_i (1/|tau_i|) sum_t f(r) A_i,  f(r) = sigmoid(k (r - 1)) 4 / k

    k = tau_pos where A_i > 0 and tau_neg otherwise; A_i is the z-score over the question's
    rollouts, whose sign is that of the reward minus the group's mean. The factor 4 / k makes the
    slope at r = 1 equal to 1.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            k = tau_pos if _centred(sample, group) > 0 else tau_neg
            for t in range(len(sample.logp)):
                gate = ops.sigmoid(k * (_ratio(sample, t, ops) - 1)) * 4 / k
                loss = loss - gate * advantage / (len(groups) * len(group) * len(sample.logp))
    return loss


# --- on-policy, trajectory level -----------------------------------------------------------------


def reinforce(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """REINFORCE with a reward of +1 or -1 (arXiv 2509.04419, Table 1).

    L = -(1/N) sum_i A_i sum_t log pi(tau_it),  A_i = +1 where the reward is positive, else -1
    """
    rollouts = _rollouts(samples)
    loss: Scalar = 0
    for sample in rollouts:
        for logp in sample.logp:
            loss = loss - _sign(sample) * logp / len(rollouts)
    return loss


def maxrl(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """Maximum likelihood RL (arXiv 2602.02710): the group's deviation in units of its mean.

    L = -(1/N) sum_i A_i sum_t log pi(tau_it),  A_i = (R_i - mean_q) / mean_q, 0 if mean_q = 0
    """
    rollouts = _rollouts(samples)
    loss: Scalar = 0
    for sample in rollouts:
        group = _same_question(rollouts, sample)
        mean = _mean([other.reward for other in group])
        advantage = 0 if mean == 0 else _centred(sample, group) / mean
        for logp in sample.logp:
            loss = loss - advantage * logp / len(rollouts)
    return loss


def psr(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """Positive sample reinforcement (arXiv 2506.01347): likelihood of the successes.

    L = -(1/N) sum over rollouts with R > 0, sum_t log pi(tau_it);  N counts all rollouts
    """
    return _weighted_signs(samples, 1, 0)


def nsr(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """Negative sample reinforcement (arXiv 2506.01347): unlikelihood of the failures.

    L = (1/N) sum over rollouts with R <= 0, sum_t log pi(tau_it);  N counts all rollouts
    """
    return _weighted_signs(samples, 0, 1)


def w_reinforce(samples: Sequence[Sample], ops: Ops, *, positive: float = 0.1) -> Scalar:
    """Weighted REINFORCE (arXiv 2506.01347): positive * `psr` + `nsr`."""
    return _weighted_signs(samples, positive, 1)


def _weighted_signs(samples: Sequence[Sample], positive: float, negative: float) -> Scalar:
    rollouts = _rollouts(samples)
    loss: Scalar = 0
    for sample in rollouts:
        for logp in sample.logp:
            if sample.reward > 0:
                loss = loss - positive * logp / len(rollouts)
            else:
                loss = loss + negative * logp / len(rollouts)
    return loss


def asymre(samples: Sequence[Sample], ops: Ops, *, delta: float = 0.1) -> Scalar:
    """Asymmetric REINFORCE (arXiv 2506.20520), its baseline delta below the question's mean.

    L = -(1/N) sum_i (R_i - V_q) sum_t log pi(tau_it),  V_q = mean_q - delta
    """
    rollouts = _rollouts(samples)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _centred(sample, _same_question(rollouts, sample)) + delta
        for logp in sample.logp:
            loss = loss - advantage * logp / len(rollouts)
    return loss


def rloo(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """REINFORCE leave-one-out (arXiv 2402.14740).

    L = -(1/N) sum_i A_i sum_t log pi(tau_it)

    A_i = R_i - mean of the rewards of the question's other rollouts; 0 without others.
    """
    rollouts = _rollouts(samples)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _leave_one_out(sample, _same_question(rollouts, sample))
        for logp in sample.logp:
            loss = loss - advantage * logp / len(rollouts)
    return loss


def gspo(
    samples: Sequence[Sample], ops: Ops, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Scalar:
    """Group sequence policy optimisation (arXiv 2507.18071, eq. 5 to 7).

    L = -(1/Q) sum_q (1/n_q) sum_i min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)
    s_i = (pi_theta(tau_i) / pi_theta_old(tau_i)) ** (1 / |tau_i|)

    One term a trajectory; A_i is the z-score over the question's rollouts.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            ratio = _sequence_ratio(sample, ops)
            term = _surrogate(ratio, advantage, clip_low, clip_high, ops)
            loss = loss - term / (len(groups) * len(group))
    return loss


def luspo(
    samples: Sequence[Sample], ops: Ops, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Scalar:
    """Length-unbiased sequence policy optimisation (arXiv 2602.05261).

    L = -(1/Q) sum_q (1/n_q) sum_i |tau_i| min(s_i A_i, clip(s_i, 1 - clip_low, 1 + clip_high) A_i)

    `gspo` with each trajectory's term times its length.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            ratio = _sequence_ratio(sample, ops)
            term = _surrogate(ratio, advantage, clip_low, clip_high, ops)
            loss = loss - len(sample.logp) * term / (len(groups) * len(group))
    return loss


def gspo_token(
    samples: Sequence[Sample], ops: Ops, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Scalar:
    """GSPO-token (arXiv 2507.18071, eq. 13 and 14).

    L = -(1/Q) sum_q (1/n_q) sum_i (1/|tau_i|) sum_t
            min(s_it A_i, clip(s_it, 1 - clip_low, 1 + clip_high) A_i)
    s_it = sg(s_i) pi(tau_it) / sg(pi(tau_it))

    The paper allows an advantage for each token; here A_i is the z-score over the question's
    rollouts, with which value and gradient are those of `gspo`.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            sequence_ratio = ops.detach(_sequence_ratio(sample, ops))
            for logp in sample.logp:
                ratio = sequence_ratio * ops.exp(logp) / ops.detach(ops.exp(logp))
                term = _surrogate(ratio, advantage, clip_low, clip_high, ops)
                loss = loss - term / (len(groups) * len(group) * len(sample.logp))
    return loss


def gmpo(
    samples: Sequence[Sample], ops: Ops, *, clip_low: float = 0.4, clip_high: float = 0.4
) -> Scalar:
    """Geometric-mean policy optimisation (arXiv 2507.20673).

    L = -(1/Q) sum_q (1/n_q) sum_i
            [prod_t |min(r A_i, clip(r, exp(-clip_low), exp(clip_high)) A_i)|] ** (1/|tau_i|)
            * sign(A_i)

    The clip bounds log r, and one-sidedly so, by the minimum; A_i is the z-score over the
    question's rollouts. The geometric mean is taken as the exponential of the mean logarithm, and
    a trajectory with A_i = 0 adds nothing.
    """
    groups = _questions(_rollouts(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            rewards = [other.reward for other in group]
            if max(rewards) == min(rewards) or _centred(sample, group) == 0:
                continue
            centred = _centred(sample, group)
            sign = 1 if centred > 0 else -1
            advantage = _group_advantage(sample, group, ops)
            log_product: Scalar = 0
            for t in range(len(sample.logp)):
                log_ratio = sample.logp[t] - sample.old_logp[t]
                ratio = ops.exp(log_ratio)
                clipped = ops.exp(_clip(log_ratio, -clip_low, clip_high, ops))
                factor = ops.minimum(ratio * advantage, clipped * advantage)
                log_product = log_product + ops.log(sign * factor)
            term = ops.exp(log_product / len(sample.logp)) * sign
            loss = loss - term / (len(groups) * len(group))
    return loss


# --- off-policy ----------------------------------------------------------------------------------


def offline_reinforce(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """REINFORCE with a reward of +1 or -1 on demonstrations.

    L = -(1/N) sum_i A_i sum_t log pi(tau*_it),  A_i = +1 where the reward is positive, else -1
    """
    demonstrations = _demonstrations(samples)
    loss: Scalar = 0
    for sample in demonstrations:
        for logp in sample.logp:
            loss = loss - _sign(sample) * logp / len(demonstrations)
    return loss


def srft_offline(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """SRFT's off-policy term (arXiv 2509.04419, eq. 19 and 20).

    L = -(1/Q) sum_q (1/n_q) sum_i (1/|tau*_i|) sum_t pi(tau*_it) A_i

    The behaviour policy counts as 1 and there is no clip. A_i is the z-score over the question's
    rollouts and demonstrations; the sums run over demonstrations.
    """
    groups = _questions(_demonstrations(samples))
    loss: Scalar = 0
    for group in groups:
        for sample in group:
            advantage = _group_advantage(sample, _same_question(samples, sample), ops)
            for logp in sample.logp:
                term = ops.exp(logp) * advantage
                loss = loss - term / (len(groups) * len(group) * len(sample.logp))
    return loss


def luffy_offline(samples: Sequence[Sample], ops: Ops, *, shaping: float = 0.1) -> Scalar:
    """LUFFY's off-policy term (arXiv 2509.04419, Table 1; arXiv 2504.14945).

    L = -(1 / sum |tau*_i|) sum_i sum_t f(pi(tau*_it)) A_i,  f(x) = x / (x + shaping)

    The behaviour policy counts as 1 and there is no clip. A_i is the z-score over the question's
    rollouts and demonstrations; the sums run over demonstrations.
    """
    demonstrations = _demonstrations(samples)
    count = _tokens(demonstrations)
    loss: Scalar = 0
    for sample in demonstrations:
        advantage = _group_advantage(sample, _same_question(samples, sample), ops)
        for logp in sample.logp:
            loss = loss - _shaped(logp, shaping, ops) * advantage / count
    return loss


# --- mixed ---------------------------------------------------------------------------------------


def luffy(
    samples: Sequence[Sample], ops: Ops, *, shaping: float = 0.1, clip: float | None = None
) -> Scalar:
    """LUFFY (arXiv 2504.14945): rollouts and demonstrations in one group.

    L = -(1/Z) [sum over rollouts, sum_t r A_i  +  sum over demonstrations, sum_t f(pi) A_i]

    Z is the number of all tokens of the batch, f(x) = x / (x + shaping), the behaviour policy
    counts as 1, and A_i is the z-score over the question's rollouts and demonstrations. The
    paper's mixed-policy objective prints a clip on r, and LUFFY removes it, as its scripts do;
    with clip, r A_i becomes min(r A_i, clip(r, 1 - clip, 1 + clip) A_i).
    """
    count = _tokens(samples)
    loss: Scalar = 0
    for sample in samples:
        advantage = _group_advantage(sample, _same_question(samples, sample), ops)
        for t, logp in enumerate(sample.logp):
            if sample.demonstration:
                term = _shaped(logp, shaping, ops) * advantage
            elif clip is None:
                term = _ratio(sample, t, ops) * advantage
            else:
                term = _surrogate(_ratio(sample, t, ops), advantage, clip, clip, ops)
            loss = loss - term / count
    return loss


def srft(samples: Sequence[Sample], ops: Ops) -> Scalar:
    """SRFT as its paper defines it (arXiv 2506.19767, eq. 6 to 13).

    L = L_sft + L_off + L_self
    L_sft  = -0.5 sg(exp(-H_demo)) (1/N_demo) sum over demonstrations, log pi(tau*_i)
    L_off  = `srft_offline`: the behaviour policy counts as 1, no clip, A over the union
    L_self = -(1/N) [0.1 sg(exp(H_roll)) sum over correct rollouts, log pi(tau_i)
                     - sum over wrong rollouts, log pi(tau_i)]

    log pi(tau) is the sum over tokens: the paper writes expectations of log pi(y | x) for whole
    answers. The two sums of L_self come from splitting one expectation over rollouts with reward
    +1 or -1 (eq. 11), so both are divided by the number N of all rollouts; correct means a
    positive reward. The paper writes the entropy of the policy as one number H(pi) and leaves its
    estimate open: here the mean over the tokens of all demonstrations in L_sft, and over the
    tokens of all rollouts in L_self.
    """
    demonstrations = _demonstrations(samples)
    rollouts = _rollouts(samples)
    loss = srft_offline(samples, ops)
    if demonstrations:
        weight = 0.5 * ops.exp(-_mean_entropy(demonstrations))
        for sample in demonstrations:
            for logp in sample.logp:
                loss = loss - weight * logp / len(demonstrations)
    if rollouts:
        weight = 0.1 * ops.exp(_mean_entropy(rollouts))
        for sample in rollouts:
            for logp in sample.logp:
                if sample.reward > 0:
                    loss = loss - weight * logp / len(rollouts)
                else:
                    loss = loss + logp / len(rollouts)
    return loss


def srft_official(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    max_length: int,
    shaping: float = 0.1,
    devices: int = 1,
) -> Scalar:
    """SRFT as the official code of arXiv 2509.04419 has it (train_srft.sh).

    L = -(1 / sum |tau*|) sum over demonstrations, 0.5 sg(exp(-H_i)) sum_t log pi(tau*_it)
        -(1 / (devices max_length)) [sum over demonstrations, A_i sum_t f(pi(tau*_it))
                                     + sum over rollouts, c_i sum_t log pi(tau_it)]
    c_i = 0.1 sg(exp(H_i)) for a correct rollout, -1 for a wrong one

    H_i is the mean token entropy of the sequence itself, f(x) = x / (x + shaping), and A_i is the
    reward minus the mean over the question's rollouts and demonstrations, without std (the reward
    itself where the demonstration is alone). The second part is a sum over sequences, not a mean:
    see `hpt_official`. Correct means a positive reward. The entropy bonus (0.001) is left out.
    """
    demonstrations = _demonstrations(samples)
    count = _tokens(demonstrations)
    loss: Scalar = 0
    for sample in demonstrations:
        weight = 0.5 * ops.exp(-_mean_entropy([sample]))
        advantage = _centred_as_coded(sample, _same_question(samples, sample))
        for logp in sample.logp:
            loss = loss - weight * logp / count
            loss = loss - _shaped(logp, shaping, ops) * advantage / (devices * max_length)
    for sample in _rollouts(samples):
        weight = 0.1 * ops.exp(_mean_entropy([sample])) if sample.reward > 0 else -1
        for logp in sample.logp:
            loss = loss - weight * logp / (devices * max_length)
    return loss


def chord(samples: Sequence[Sample], ops: Ops, *, mu: float = 0.1, clip: float = 0.2) -> Scalar:
    """CHORD-phi (arXiv 2508.11408).

    L = (1 - mu) L_GRPO - mu (1 / sum |tau*|) sum over demonstrations, sum_t phi log pi(tau*_t)
    phi = sg(pi (1 - pi))

    mu is constant, 0.1 as in the authors' configuration of CHORD-phi (CHORD-mu decays it). The
    authors' code averages the demonstrations' part over all their tokens, as here; for the
    rollouts' part, `grpo`, the means of GRPO's own paper are kept.
    """
    demonstrations = _demonstrations(samples)
    count = _tokens(demonstrations)
    loss = (1 - mu) * grpo(samples, ops, clip=clip)
    for sample in demonstrations:
        for logp in sample.logp:
            probability = ops.exp(logp)
            weight = ops.detach(probability * (1 - probability))
            loss = loss - mu * weight * logp / count
    return loss


def sft_rl(
    samples: Sequence[Sample], ops: Ops, *, sft_coefficient: float = 1.0, clip: float = 0.2
) -> Scalar:
    """SFT and RL with fixed coefficients (arXiv 2509.04419, eq. 13 without its switch).

    L = L_GRPO + sft_coefficient L_SFT, as in `grpo` and `sft`
    """
    return grpo(samples, ops, clip=clip) + sft_coefficient * sft(samples, ops)


# --- hybrid post-training ------------------------------------------------------------------------


def _switch(samples: Sequence[Sample], gamma: float) -> tuple[list[Sample], list[Sample]]:
    """Return the rollouts of the ungated questions and the demonstrations of the gated ones.

    A question is gated if it has a demonstration and P <= gamma, where P is the fraction of its
    rollouts with a positive reward (eq. 7 to 10), 0 without rollouts.
    """
    kept: list[Sample] = []
    taught: list[Sample] = []
    for group in _questions(samples):
        rollouts = _rollouts(group)
        demonstrations = _demonstrations(group)
        solved = sum(1 for sample in rollouts if sample.reward > 0)
        performance = solved / len(rollouts) if rollouts else 0.0
        if demonstrations and performance <= gamma:
            taught.extend(demonstrations)
        else:
            kept.extend(rollouts)
    return kept, taught


def hpt(samples: Sequence[Sample], ops: Ops, *, gamma: float = 0.0, clip: float = 0.2) -> Scalar:
    """Hybrid post-training as printed (arXiv 2509.04419, eq. 5 and 7 to 13).

    L = (1/Q) sum_q (alpha L_RL + beta L_SFT),  (alpha, beta) = (1, 0) if P > gamma else (0, 1)
    L_RL  = -(1/n) sum_i sum_t min(r A_i, clip(r, 1 - clip, 1 + clip) A_i)
    L_SFT = -(1/|tau*|) sum_t log pi(tau*_t), averaged over the question's demonstrations

    A_i is the z-score over the question's rollouts (eq. 5), and L_RL has no 1/|tau| (eq. 11). A
    question without demonstration keeps (1, 0); one without rollouts has P = 0. Q counts all
    questions.
    """
    rollouts, demonstrations = _switch(samples, gamma)
    questions = len(_questions(samples))
    loss: Scalar = 0
    for group in _questions(rollouts):
        for sample in group:
            advantage = _group_advantage(sample, group, ops)
            for t in range(len(sample.logp)):
                term = _surrogate(_ratio(sample, t, ops), advantage, clip, clip, ops)
                loss = loss - term / (questions * len(group))
    for group in _questions(demonstrations):
        for sample in group:
            for logp in sample.logp:
                loss = loss - logp / (questions * len(group) * len(sample.logp))
    return loss


def hpt_official(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    max_length: int,
    gamma: float = 0.0,
    sft_coefficient: float = 1.0,
    devices: int = 1,
) -> Scalar:
    """HPT as the official scripts run it (code of arXiv 2509.04419, train.sh).

    L = -(1 / (devices max_length)) sum over rollouts of ungated questions, sum_t r A_i
        - sft_coefficient (1 / sum |tau*|) sum over demonstrations of gated questions,
          sum_t log pi(tau*_t)

    A_i is the reward minus the mean over the question's rollouts, without std; there is no clip.
    The code divides the token sum by the response length of the batch (max_length) and by no
    number of samples: within a device the RL part is a sum over its on-policy sequences, and
    devices enters as data parallelism averages gradients (8 in the scripts). The SFT part is a
    token mean of a micro-batch; one micro-batch is assumed, since the code adds those means up.
    The gate is a number of correct rollouts there: gamma = switch_gate / n. The entropy bonus
    (0.001) is left out.
    """
    rollouts, demonstrations = _switch(samples, gamma)
    count = _tokens(demonstrations)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _centred_as_coded(sample, _same_question(rollouts, sample))
        for t in range(len(sample.logp)):
            loss = loss - _ratio(sample, t, ops) * advantage / (devices * max_length)
    for sample in demonstrations:
        for logp in sample.logp:
            loss = loss - sft_coefficient * logp / count
    return loss


def off_on(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    max_length: int,
    gamma: float = 0.0,
    shaping: float = 0.1,
    devices: int = 1,
) -> Scalar:
    """OFF/ON (arXiv 2509.04419, Table 5): the switch with off-policy RL in place of SFT.

    L = -(1 / (devices max_length)) [sum over rollouts of ungated questions, sum_t r A_i
            + sum over demonstrations of gated questions, sum_t f(pi(tau*_t)) A_i]

    The official code's off-policy loss under its switch: f(x) = x / (x + shaping), no clip, and a
    sum over sequences as in `hpt_official`. A gated question's rollouts are dropped before
    advantages are taken, so its one demonstration is alone in its group, whose mean counts as 0,
    and A_i is its own reward. No script of this ablation is published.
    """
    rollouts, demonstrations = _switch(samples, gamma)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _centred_as_coded(sample, _same_question(rollouts, sample))
        for t in range(len(sample.logp)):
            loss = loss - _ratio(sample, t, ops) * advantage / (devices * max_length)
    for sample in demonstrations:
        advantage = _centred_as_coded(sample, _same_question(demonstrations, sample))
        for logp in sample.logp:
            loss = loss - _shaped(logp, shaping, ops) * advantage / (devices * max_length)
    return loss


def mix_on(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    max_length: int,
    gamma: float = 0.0,
    sft_coefficient: float = 0.1,
    off_coefficient: float = 1.0,
    shaping: float = 0.1,
    devices: int = 1,
) -> Scalar:
    """Mix/ON (arXiv 2509.04419, Table 5): the switch with SFT and off-policy RL together.

    L = -(1 / (devices max_length)) [sum over rollouts of ungated questions, sum_t r A_i
            + off_coefficient sum over demonstrations of gated questions, sum_t f(pi(tau*_t)) A_i]
        - sft_coefficient (1 / sum |tau*|) sum over those demonstrations, sum_t log pi(tau*_t)

    The official code's loss "switch_off_sft"; advantages and normalisers as in `off_on`, and the
    SFT part as in `hpt_official`.
    """
    rollouts, demonstrations = _switch(samples, gamma)
    count = _tokens(demonstrations)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _centred_as_coded(sample, _same_question(rollouts, sample))
        for t in range(len(sample.logp)):
            loss = loss - _ratio(sample, t, ops) * advantage / (devices * max_length)
    for sample in demonstrations:
        advantage = _centred_as_coded(sample, _same_question(demonstrations, sample))
        for logp in sample.logp:
            term = off_coefficient * _shaped(logp, shaping, ops) * advantage
            loss = loss - term / (devices * max_length)
            loss = loss - sft_coefficient * logp / count
    return loss


def hpt_global_token(
    samples: Sequence[Sample], ops: Ops, *, gamma: float = 0.0, clip: float = 0.2
) -> Scalar:
    """HPT with one token count for both of its terms.

    L = -(1/Z) [sum over rollouts of ungated questions, sum_t min(r A_i, clip(r) A_i)
                + sum over demonstrations of gated questions, sum_t log pi(tau*_t)]

    Z counts the tokens of both sums; A_i is the reward minus the mean over the question's
    rollouts. No paper prints it: it is `hpt` with the normaliser that arXiv 2604.23747 asks for.
    """
    rollouts, demonstrations = _switch(samples, gamma)
    count = _tokens(rollouts) + _tokens(demonstrations)
    loss: Scalar = 0
    for sample in rollouts:
        advantage = _centred(sample, _same_question(rollouts, sample))
        for t in range(len(sample.logp)):
            ratio = _ratio(sample, t, ops)
            loss = loss - _surrogate(ratio, advantage, clip, clip, ops) / count
    for sample in demonstrations:
        for logp in sample.logp:
            loss = loss - logp / count
    return loss


def hpt_wiener(
    samples: Sequence[Sample],
    ops: Ops,
    *,
    mu: float = 0.5,
    noise: float = 3.0,
    novelty: float = 0.25,
    prior_solved: float = 0.5,
    prior_failed: float = 0.5,
    clip: float = 0.2,
) -> Scalar:
    """HPT with both losses, weighted by what is expected of them; printed in no paper.

    L = -(1/Z) sum over questions of
        [alpha sum over rollouts, sum_t min(r A_i, clip(r) A_i)
         + beta sum over demonstrations, sum_t log pi(tau*_t)]

    A_i and Z are those of `hpt_global_token`. (alpha, beta) solve, with w = n P (1 - P),

        (w + noise) alpha + k E[f] beta = E[p f] + mu k E[f]
        w k E[f] alpha + (k^2 E[f^2] + novelty + noise) beta
            = k E[p f^2] + mu (k^2 E[f^2] + novelty)

    up to the common factor noise / (1 + mu), where k = sqrt(1 - novelty), and the expectations are
    over the failure rate f = 1 - p given P, a priori Beta(prior_failed, prior_solved). beta is 0
    where it would be negative. A question without demonstration has (1, 0).
    """
    parts: list[tuple[Scalar, list[Sample], Scalar, list[Sample]]] = []
    count = 0
    for group in _questions(samples):
        rollouts, demonstrations = _rollouts(group), _demonstrations(group)
        alpha, beta = 1, 0
        if demonstrations:
            n, solved = len(rollouts), sum(1 for sample in rollouts if sample.reward > 0)
            failures = _rising(prior_failed + n - solved, prior_solved + prior_failed + n)
            alpha, beta = _wiener(n, solved, failures, ops.sqrt(1 - novelty), mu, noise, novelty)
        count += _tokens(rollouts) * (alpha != 0) + _tokens(demonstrations) * (beta != 0)
        parts.append((alpha, rollouts, beta, demonstrations))
    loss: Scalar = 0
    for alpha, rollouts, beta, demonstrations in parts:
        for sample in rollouts:
            advantage = _centred(sample, rollouts)
            for t in range(len(sample.logp)):
                ratio = _ratio(sample, t, ops)
                loss = loss - alpha * _surrogate(ratio, advantage, clip, clip, ops) / count
        for sample in demonstrations:
            for logp in sample.logp:
                loss = loss - beta * logp / count
    return loss


def _rising(a: Scalar, total: Scalar) -> list[Scalar]:
    """Return E[f^j] for j = 0 to 3, f from a Beta distribution of parameters a and total - a."""
    powers: list[Scalar] = [1]
    for j in range(3):
        powers.append(powers[-1] * (a + j) / (total + j))
    return powers


def _wiener(
    n: int,
    solved: int,
    f: Sequence[Scalar],
    k: Scalar,
    mu: Scalar,
    noise: Scalar,
    novelty: Scalar,
) -> tuple[Scalar, Scalar]:
    """Return (alpha, beta) of `hpt_wiener` by elimination of beta; f[j] is E[f^j].

    The equations are multiplied by n, which spares a division of whole numbers.
    """
    heed = k * f[1]
    second = k**2 * f[2] + novelty + noise
    rl = f[1] - f[2] + mu * heed
    sft = k * (f[2] - f[3]) + mu * (k**2 * f[2] + novelty)
    mass, n = solved * (n - solved), max(n, 1)
    alpha = (rl - heed * sft / second) * n / (mass + noise * n - mass * heed**2 / second)
    beta = (sft - mass * heed * alpha / n) / second
    scale = noise / (1 + mu)
    return scale * alpha, scale * beta if beta > 0 else 0


LOSSES: dict[str, Callable[..., Scalar]] = {
    loss.__name__: loss
    for loss in (
        sft,
        ppo,
        grpo,
        reinforce,
        cispo,
        gspo,
        srft_offline,
        luffy_offline,
        dr_grpo,
        rloo,
        reinforce_plus_plus,
        reinforce_plus_plus_baseline,
        dapo,
        ppo_dual_clip,
        tis,
        luspo,
        maxrl,
        psr,
        nsr,
        w_reinforce,
        asymre,
        gspo_token,
        gmpo,
        sapo,
        dft,
        offline_reinforce,
        chord,
        luffy,
        srft,
        srft_official,
        hpt,
        hpt_official,
        hpt_global_token,
        hpt_wiener,
        off_on,
        mix_on,
        sft_rl,
    )
}
"""Every loss by its name."""


def loss_of(name: str) -> Callable[..., Scalar]:
    """The published loss of an algorithm.

    Raises:
        UpgeError: there is none of that name.
    """
    if name not in LOSSES:
        raise UpgeError(
            f"{name} has no published loss to compare with; add one of that name to "
            "upge/verification/published.py, or set LOSSES[name] in your script"
        )
    return LOSSES[name]
