"""The common objective J_{λ,μ} of eq. 1 and appendix B.2, exact on enumerable policies.

    J_μ(θ) = E_{τ~π_θ}[r(τ|q)] − μ KL(π_β(·|q) ‖ π_θ(·|q))
    J_{λ,μ}(θ) = J_μ(θ) − λ KL(π_θ(·|q) ‖ π_ref(·|q))

averaged over the questions q. Both divergences are between distributions of whole trajectories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.exact.enumeration import Policy


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) from log-probabilities (M,); infinite if p has mass where q has none."""
    p = log_p.exp()
    return (p * torch.where(p > 0, log_p - log_q, 0.0)).sum()


@dataclass(frozen=True, eq=False)
class Objective:
    """J_{λ,μ} as a function of the policy.

    Args:
        reward: (Q, M) r(τ|q) of every trajectory of the policy's tree, or (M,) for one question.
        mu: μ ≥ 0.
        demo: π_β; needed where μ > 0.
        lam: λ ≥ 0.
        reference: π_ref; needed where λ > 0.

    Raises:
        UpgeError: a reward that is not finite, or a weight that is negative.
    """

    reward: Tensor
    mu: float = 0.0
    demo: Policy | None = None
    lam: float = 0.0
    reference: Policy | None = None

    def __post_init__(self) -> None:
        if not self.reward.isfinite().all():
            raise UpgeError("reward: got an entry that is not a finite number")
        object.__setattr__(self, "reward", torch.atleast_2d(self.reward.double()))
        for name, weight in (("mu", self.mu), ("lam", self.lam)):
            if not 0 <= weight < math.inf:
                raise UpgeError(f"{name}: got {weight}, wanted a finite number ≥ 0")

    @property
    def missing(self) -> str | None:
        """The policy that a divergence of positive weight lacks, if any."""
        if self.mu and self.demo is None:
            return "demo"
        return "reference" if self.lam and self.reference is None else None

    def __call__(
        self, policy: Policy, theta: Tensor | None = None, question: int | None = None
    ) -> Tensor:
        """J at ``theta`` (the policy's own if not given), a differentiable scalar.

        It is −∞ where a weighted divergence is infinite. ``question`` restricts it to one.

        Raises:
            UpgeError: a divergence without its policy, or rewards that don't go with the policy's
                questions and trajectories.
        """
        if self.missing:
            raise UpgeError(f"J lacks its {self.missing} policy; give one, or weight 0")
        self.check(policy)
        chosen = range(policy.questions) if question is None else [question]
        return torch.stack([self._of(policy, theta, q) for q in chosen]).mean()

    def check(self, policy: Policy) -> None:
        """Refuse rewards of another number of questions or trajectories than the policy's."""
        wanted = (policy.questions, policy.tree.trajectories)
        if tuple(self.reward.shape) != wanted:
            raise UpgeError(f"reward: got shape {tuple(self.reward.shape)}, wanted {wanted}")

    def gradient(self, policy: Policy, question: int | None = None) -> Tensor:
        """(D,) ∇_θ J at the policy's parameters.

        Raises:
            UpgeError: J is −∞: π_β or π_θ has mass where its counterpart has none.
        """
        theta = policy.theta.clone().requires_grad_()
        value = self(policy, theta, question)
        if value.isinf():
            raise UpgeError(
                "J is −∞ and has no gradient: the demonstration policy has mass where π_θ has "
                "none, or π_θ where the reference policy has none"
            )
        (gradient,) = torch.autograd.grad(value, theta)
        return gradient

    def _of(self, policy: Policy, theta: Tensor | None, question: int) -> Tensor:
        log_pi = policy.logp(question, theta)
        value = log_pi.exp() @ self.reward[question]
        if self.mu and self.demo:
            value = value - self.mu * kl(self.demo.logp(question), log_pi)
        if self.lam and self.reference:
            value = value - self.lam * kl(log_pi, self.reference.logp(question))
        return value
