"""Rollouts: responses sampled from the policy, behind one protocol."""

from upge.rollouts.backends import BACKENDS, Backend, open_sampler
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Rollouts, Sampler, Sampling, question_seed

__all__ = [
    "BACKENDS",
    "Backend",
    "CachedSampler",
    "Rollouts",
    "Sampler",
    "Sampling",
    "open_sampler",
    "question_seed",
]
