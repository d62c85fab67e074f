"""Rollouts: responses sampled from the policy, behind one protocol."""

from upge.rollouts.backends import BACKENDS, COPIES, Backend, check_backend, open_sampler
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Rollouts, Sampler, Sampling, question_seed

__all__ = [
    "BACKENDS",
    "COPIES",
    "Backend",
    "CachedSampler",
    "Rollouts",
    "Sampler",
    "Sampling",
    "check_backend",
    "open_sampler",
    "question_seed",
]
