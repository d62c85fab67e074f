"""Losses with a fault planted in each, and the diagnosis that ``upge check`` has to give.

Each is one of a few correct losses with one part exchanged, as public bug reports have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: log-ratio (N, T) of log π_θ, log π_θold and the mask.
Ratio = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Loss terms (N, T) of the log-ratio, Â and log π_θ.
Terms = Callable[[Tensor, Tensor, Tensor], Tensor]
#: A scalar of terms and mask.
Reduction = Callable[[Tensor, Tensor], Tensor]
#: Â (N,) of rewards and questions.
Rule = Callable[[Tensor, Tensor], Tensor]
#: Penalty (N, T) of log π_θ and log π_ref.
Penalty = Callable[[Tensor, Tensor], Tensor]


# ------------------------------------------------------------------------------ ratios


def token_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Log r."""
    return logp - old


def upside_down(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Log 1/r."""
    return old - logp


def sequence_ratio(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Log s, GSPO's, with GSPO-token's gradient."""
    mean = ((logp - old) * mask).sum(1) / mask.sum(1).clamp(min=1)
    return logp - logp.detach() + mean.detach()[:, None]


def sequence_product(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """The log of the product of the tokens' ratios, without the root of |τ|."""
    return ((logp - old) * mask).sum(1, keepdim=True).expand(logp.shape)


def sequence_over_width(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Log s, with |τ| counted with its padding."""
    mean = ((logp - old) * mask).sum(1) / mask.shape[1]
    return logp - logp.detach() + mean.detach()[:, None]


def ratio_of_itself(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """Log r with π_θ, detached, in the place of π_θold."""
    return logp - logp.detach()


# ------------------------------------------------------------------------------ terms


def clipped(low: float = 0.2, high: float = 0.2) -> Terms:
    """PPO's."""

    def terms(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
        r = log_ratio.exp()
        return torch.maximum(-a * r, -a * r.clamp(1 - low, 1 + high))

    return terms


def swapped(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """PPO's with a minimum where the loss has a maximum."""
    r = log_ratio.exp()
    return torch.minimum(-a * r, -a * r.clamp(0.8, 1.2))


def two_sided(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """PPO's without the unclipped branch."""
    return -a * log_ratio.exp().clamp(0.8, 1.2)


def upper_only(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """PPO's with the upper bound alone."""
    r = log_ratio.exp()
    return torch.maximum(-a * r, -a * r.clamp(max=1.2))


def unclipped(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """−Â r."""
    return -a * log_ratio.exp()


def reversed_sign(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """PPO's objective, minimized."""
    r = log_ratio.exp()
    return torch.minimum(a * r, a * r.clamp(0.8, 1.2))


def score(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """−Â log π, REINFORCE's."""
    return -a * logp


def weight_clipped(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """CISPO's."""
    return -a * log_ratio.exp().clamp(max=5.0).detach() * logp


def weight_clipped_with_gradient(log_ratio: Tensor, a: Tensor, logp: Tensor) -> Tensor:
    """CISPO's without its stop-gradient."""
    return -a * log_ratio.exp().clamp(max=5.0) * logp


# ------------------------------------------------------------------------------ reductions


def token_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """A mean over response tokens."""
    return torch.where(mask.bool(), terms, 0.0).sum() / mask.sum().clamp(min=1)


def sequence_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Token means of rows, averaged."""
    sums = torch.where(mask.bool(), terms, 0.0).sum(1)
    return (sums / mask.sum(1).clamp(min=1)).mean()


def padded_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """A mean over all positions of masked terms."""
    return torch.where(mask.bool(), terms, 0.0).mean()


def unmasked_mean(terms: Tensor, mask: Tensor) -> Tensor:
    """A mean over all positions, padding's terms included."""
    return terms.mean()


def unmasked_sum(terms: Tensor, mask: Tensor) -> Tensor:
    """All terms, over the response tokens."""
    return terms.sum() / mask.sum().clamp(min=1)


def over_width(terms: Tensor, mask: Tensor) -> Tensor:
    """Token sums of rows over the padded width."""
    return (torch.where(mask.bool(), terms, 0.0).sum(1) / mask.shape[1]).sum()


def by_products(terms: Tensor, mask: Tensor) -> Tensor:
    """A mean over response tokens, by products with the mask."""
    return (terms * mask).sum() / mask.sum().clamp(min=1)


def unguarded_rows(terms: Tensor, mask: Tensor) -> Tensor:
    """Token means of rows, of which an empty one is 0/0."""
    return (torch.where(mask.bool(), terms, 0.0).sum(1) / mask.sum(1)).mean()


def unguarded_tokens(terms: Tensor, mask: Tensor) -> Tensor:
    """A mean over response tokens that may be none."""
    return torch.where(mask.bool(), terms, 0.0).sum() / mask.sum()


def weighted_by_place(terms: Tensor, mask: Tensor) -> Tensor:
    """A mean in which later rows count less."""
    weight = 1 / torch.arange(1, len(mask) + 1)
    return (torch.where(mask.bool(), terms, 0.0).sum(1) * weight).sum()


# ------------------------------------------------------------------------------ advantages


def _by_question(reward: Tensor, group: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
    result = torch.zeros_like(reward)
    for question in group.unique():
        rows = group == question
        result[rows] = rule(reward[rows])
    return result


def z_score(ddof: int = 1, epsilon: float = 1e-6) -> Rule:
    """GRPO's, by question; over n − ddof."""

    def rule(reward: Tensor, group: Tensor) -> Tensor:
        def of(r: Tensor) -> Tensor:
            n = max(len(r) - ddof, 1)
            return (r - r.mean()) / (((r - r.mean()) ** 2).sum().div(n).sqrt() + epsilon)

        return _by_question(reward, group, of)

    return rule


def centered(reward: Tensor, group: Tensor) -> Tensor:
    """R − mean, by question."""
    return _by_question(reward, group, lambda r: r - r.mean())


def uncentered(reward: Tensor, group: Tensor) -> Tensor:
    """R."""
    return reward


def over_std_alone(reward: Tensor, group: Tensor) -> Tensor:
    """R/std, by question."""
    return _by_question(reward, group, lambda r: r / (r.std() + 1e-6))


def of_the_batch(reward: Tensor, group: Tensor) -> Tensor:
    """(R − mean)/std of the whole batch."""
    return (reward - reward.mean()) / (reward.std() + 1e-6)


def by_the_batchs_std(reward: Tensor, group: Tensor) -> Tensor:
    """R − mean of the question, over the whole batch's standard deviation."""
    return centered(reward, group) / (reward.std() + 1e-6)


def minus_batch_mean(reward: Tensor, group: Tensor) -> Tensor:
    """R − mean of the batch."""
    return reward - reward.mean()


# ------------------------------------------------------------------------------ penalties


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """e^(ref − log π) − (ref − log π) − 1."""
    k = ref - logp
    return k.exp() - k - 1


def k3_reversed(logp: Tensor, ref: Tensor) -> Tensor:
    """k3 with the two policies exchanged."""
    return k3(ref, logp)


def minus_k3(logp: Tensor, ref: Tensor) -> Tensor:
    """k3 with the other sign."""
    return -k3(logp, ref)


def k2(logp: Tensor, ref: Tensor) -> Tensor:
    """(log π − ref)²/2."""
    return (logp - ref) ** 2 / 2


def absolute(logp: Tensor, ref: Tensor) -> Tensor:
    """|log π − ref|."""
    return (logp - ref).abs()


# ------------------------------------------------------------------------------ put together


@dataclass(frozen=True)
class Planted:
    """A loss, what it is claimed to be, and the fault that a check has to name.

    Attributes:
        name: of the fault as a reader knows it.
        fault: of :data:`upge.testing.report.FAULTS`; empty for a correct loss.
        claim: the registered algorithm that the loss is said to be.
        options: of the claim.
        make: gives the callable.
    """

    name: str
    fault: str
    claim: str
    make: Callable[[], Callable[..., Tensor]]
    options: tuple[tuple[str, float | str], ...] = ()


def only(values: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """The values, and 0 at padding, whatever stands there."""
    return [torch.where(mask.bool(), value, 0.0) for value in values]


def handed(
    terms: Terms, reduce: Reduction, ratio: Ratio = token_ratio, guard: bool = True
) -> Callable[[], Callable[..., Tensor]]:
    """A loss that is handed Â; a guarded one reads nothing at padding."""

    def make() -> Callable[..., Tensor]:
        def loss(
            logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor
        ) -> Tensor:
            if guard:
                logprobs, old_logprobs = only((logprobs, old_logprobs), response_mask)
            made = terms(ratio(logprobs, old_logprobs, response_mask), advantages, logprobs)
            return reduce(made, response_mask)

        return loss

    return make


def rewarded(rule: Rule, terms: Terms | None = None) -> Callable[[], Callable[..., Tensor]]:
    """A loss that computes Â from rewards; PPO's clip, token means of rows."""

    def make() -> Callable[..., Tensor]:
        def loss(
            logprobs: Tensor,
            old_logprobs: Tensor,
            rewards: Tensor,
            group: Tensor,
            response_mask: Tensor,
        ) -> Tensor:
            logprobs, old_logprobs = only((logprobs, old_logprobs), response_mask)
            a = rule(rewards, group)[:, None]
            made = (terms or clipped())(logprobs - old_logprobs, a, logprobs)
            return sequence_mean(made, response_mask)

        return loss

    return make


def penalized(penalty: Penalty) -> Callable[[], Callable[..., Tensor]]:
    """PPO's with 0.04 of a penalty."""

    def make() -> Callable[..., Tensor]:
        def loss(
            logprobs: Tensor,
            old_logprobs: Tensor,
            ref_logprobs: Tensor,
            advantages: Tensor,
            response_mask: Tensor,
        ) -> Tensor:
            policies = (logprobs, old_logprobs, ref_logprobs)
            logprobs, old_logprobs, ref_logprobs = only(policies, response_mask)
            made = clipped()(logprobs - old_logprobs, advantages, logprobs)
            return token_mean(made + 0.04 * penalty(logprobs, ref_logprobs), response_mask)

        return loss

    return make


def with_entropy(coefficient: float) -> Callable[[], Callable[..., Tensor]]:
    """DAPO's with an entropy bonus."""

    def make() -> Callable[..., Tensor]:
        def loss(
            logprobs: Tensor,
            old_logprobs: Tensor,
            advantages: Tensor,
            response_mask: Tensor,
            entropy: Tensor,
        ) -> Tensor:
            policies = (logprobs, old_logprobs, entropy)
            logprobs, old_logprobs, entropy = only(policies, response_mask)
            made = clipped(0.2, 0.28)(logprobs - old_logprobs, advantages, logprobs)
            return token_mean(made - coefficient * entropy, response_mask)

        return loss

    return make


def corrected(
    rho: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[[], Callable[..., Tensor]]:
    """DAPO's, each token times a weight of log π_θ, log π_θold and log π_sampler."""

    def make() -> Callable[..., Tensor]:
        def loss(
            logprobs: Tensor,
            old_logprobs: Tensor,
            rollout_logprobs: Tensor,
            advantages: Tensor,
            response_mask: Tensor,
        ) -> Tensor:
            policies = (logprobs, old_logprobs, rollout_logprobs)
            logprobs, old_logprobs, rollout_logprobs = only(policies, response_mask)
            made = clipped(0.2, 0.28)(logprobs - old_logprobs, advantages, logprobs)
            return token_mean(rho(logprobs, old_logprobs, rollout_logprobs) * made, response_mask)

        return loss

    return make


def whitened() -> Callable[..., Tensor]:
    """DAPO's, with the Â handed in standardized once more."""

    def loss(
        logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor
    ) -> Tensor:
        a = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        made = clipped(0.2, 0.28)(logprobs - old_logprobs, a[:, None], logprobs)
        return token_mean(made, response_mask)

    return loss


def batch_normalized() -> Callable[..., Tensor]:
    """DAPO's, with ratios over their mean in the batch."""

    def loss(
        logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor
    ) -> Tensor:
        r = (logprobs - old_logprobs).exp()
        r = r / torch.where(response_mask.bool(), r, 0.0).sum().detach()
        return token_mean(-advantages * r, response_mask)

    return loss


def in_place() -> Callable[..., Tensor]:
    """DAPO's, with Â changed in place."""

    def loss(
        logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor
    ) -> Tensor:
        advantages *= 2
        made = clipped(0.2, 0.28)(logprobs - old_logprobs, advantages, logprobs)
        return token_mean(made, response_mask)

    return loss


def detached() -> Callable[..., Tensor]:
    """A loss of detached log-probabilities."""

    def loss(
        logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor
    ) -> Tensor:
        made = clipped()(logprobs.detach() - old_logprobs, advantages, logprobs)
        return token_mean(made + 0 * logprobs, response_mask)

    return loss


def _truncated(logp: Tensor, old: Tensor, sampler: Tensor) -> Tensor:
    return (old - sampler).exp().clamp(max=2.0)


def _upside_down(logp: Tensor, old: Tensor, sampler: Tensor) -> Tensor:
    return (sampler - old).exp()


def _squared(logp: Tensor, old: Tensor, sampler: Tensor) -> Tensor:
    return (2 * (old - sampler)).exp()


CORRECT = (
    Planted("PPO's clip, token means of rows", "", "ppo", handed(clipped(), sequence_mean)),
    Planted("DAPO", "", "dapo", handed(clipped(0.2, 0.28), token_mean)),
    Planted("DAPO by products", "", "dapo", handed(clipped(0.2, 0.28), by_products)),
    Planted("GRPO from rewards", "", "grpo", rewarded(z_score())),
    Planted("GRPO with another ε", "", "grpo", rewarded(z_score(epsilon=1e-4))),
    Planted(
        "GSPO",
        "",
        "gspo",
        handed(clipped(3e-4, 4e-4), sequence_mean, sequence_ratio),
    ),
    Planted("CISPO", "", "cispo", handed(weight_clipped, token_mean)),
    Planted(
        "PPO's clip with k3",
        "",
        "dapo",
        penalized(k3),
        (("clip_high", 0.2), ("kl", 0.04), ("kl_gradient", "k3")),
    ),
    Planted(
        "DAPO with an entropy bonus", "", "dapo", with_entropy(0.01), (("entropy_bonus", 0.01),)
    ),
    Planted(
        "DAPO with truncated importance weights",
        "",
        "dapo",
        corrected(_truncated),
        (("correction", "token-truncate"), ("correction_high", 2.0)),
    ),
)

_K3 = (("clip_high", 0.2), ("kl", 0.04), ("kl_gradient", "k3"))
_TIS = (("correction", "token-truncate"), ("correction_high", 2.0))

FAULTY = (
    Planted("ratio upside down", "ratio_upside_down", "dapo",
            handed(unclipped, token_mean, upside_down)),
    Planted("clip's minimum and maximum swapped", "clip_mirrored", "ppo",
            handed(swapped, sequence_mean)),
    Planted("clip without the unclipped branch", "clip_two_sided", "ppo",
            handed(two_sided, sequence_mean)),
    Planted("nothing clipped", "clip_missing", "ppo", handed(unclipped, sequence_mean)),
    Planted("upper bound alone", "clip_one_sided", "ppo", handed(upper_only, sequence_mean)),
    Planted("other bounds", "clip_bounds", "ppo", handed(clipped(0.2, 0.28), sequence_mean)),
    Planted("bounds exchanged", "clip_bounds", "dapo", handed(clipped(0.28, 0.2), token_mean)),
    Planted("sign reversed", "sign", "ppo", handed(reversed_sign, sequence_mean)),
    Planted("PPO's clip for REINFORCE", "reference", "dapo", handed(score, token_mean)),
    Planted("stop-gradient missing", "stop_gradient", "cispo",
            handed(weight_clipped_with_gradient, token_mean)),
    Planted("everything detached", "no_gradient", "dapo", detached),
    Planted("ratio of a policy to itself", "reference", "dapo",
            handed(unclipped, token_mean, ratio_of_itself)),
    Planted("product of ratios for their geometric mean", "sequence_sum", "gspo",
            handed(unclipped, sequence_mean, sequence_product)),
    Planted("padding counted in the geometric mean", "length_counts_padding", "gspo",
            handed(clipped(3e-4, 4e-4), sequence_mean, sequence_over_width)),
    Planted("token's ratio for the sequence's", "reference", "gspo",
            handed(clipped(3e-4, 4e-4), sequence_mean)),
    Planted("mean over padding", "padded_mean", "dapo", handed(clipped(0.2, 0.28), padded_mean)),
    Planted("token means of rows for a token mean", "normalizer", "dapo",
            handed(clipped(0.2, 0.28), sequence_mean)),
    Planted("token mean for token means of rows", "normalizer", "ppo",
            handed(clipped(), token_mean)),
    Planted("padded width", "padded_width", "dr_grpo", handed(clipped(), over_width)),
    Planted("mask forgotten in the sum", "masked_gradient", "dapo",
            handed(clipped(0.2, 0.28), unmasked_sum, guard=False)),
    Planted("mask forgotten", "masked_gradient", "dapo",
            handed(clipped(0.2, 0.28), unmasked_mean, guard=False)),
    Planted("divides by the micro-batch's tokens", "split", "dapo",
            handed(clipped(0.2, 0.28), token_mean)),
    Planted("0 · NaN at padding", "nan_padding", "dapo",
            handed(clipped(0.2, 0.28), by_products, guard=False)),
    Planted("an empty row divides by 0", "empty_row", "ppo", handed(clipped(), unguarded_rows)),
    Planted("an empty batch divides by 0", "empty_batch", "dapo",
            handed(clipped(0.2, 0.28), unguarded_tokens)),
    Planted("rows weighed by their place", "row_order", "dapo",
            handed(clipped(0.2, 0.28), weighted_by_place)),
    Planted("std over n", "std_over_n", "grpo", rewarded(z_score(0))),
    Planted("std missing", "std_missing", "grpo", rewarded(centered)),
    Planted("std where none belongs", "std_present", "rloo",
            rewarded(z_score(), score)),
    Planted("no mean taken off", "not_centered", "grpo", rewarded(uncentered)),
    Planted("no mean taken off before the std", "not_centered", "grpo", rewarded(over_std_alone)),
    Planted("mean and std of the batch", "mean_of_batch", "grpo", rewarded(of_the_batch)),
    Planted("mean of the batch", "mean_of_batch", "grpo", rewarded(minus_batch_mean)),
    Planted("std of the batch", "std_of_batch", "grpo", rewarded(by_the_batchs_std)),
    Planted("equal rewards give 0/0", "equal_rewards", "grpo", rewarded(z_score(1, 0.0))),
    Planted("Â standardized twice", "whitens", "dapo", lambda: whitened()),
    Planted("ratios over their sum in the batch", "couples_rows", "dapo",
            lambda: batch_normalized()),
    Planted("k3 reversed", "kl_reversed", "dapo", penalized(k3_reversed), _K3),
    Planted("k3 with the other sign", "kl_sign", "dapo", penalized(minus_k3), _K3),
    Planted("|k| for k3", "kl", "dapo", penalized(absolute), _K3),
    Planted("k2 for k3", "kl", "dapo", penalized(k2), _K3),
    Planted("KL where none belongs", "kl", "dapo", penalized(k3), (("clip_high", 0.2),)),
    Planted("entropy malus", "entropy_sign", "dapo", with_entropy(-0.01),
            (("entropy_bonus", 0.01),)),
    Planted("another entropy coefficient", "entropy", "dapo", with_entropy(0.1),
            (("entropy_bonus", 0.01),)),
    Planted("sampler's ratio upside down", "correction_upside_down", "dapo",
            corrected(_upside_down), _TIS),
    Planted("sampler's ratio squared", "correction", "dapo", corrected(_squared), _TIS),
    Planted("inputs changed", "mutates", "dapo", lambda: in_place()),
)  # fmt: skip
