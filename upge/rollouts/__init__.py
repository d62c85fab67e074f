"""Rollouts: responses sampled from the policy, behind one protocol."""

from upge.rollouts.backends import BACKENDS, ENGINES, Backend, check_backend, open_sampler
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Rollouts, Sampler, Sampling, derive_seed

__all__ = [
    "BACKENDS",
    "ENGINES",
    "Backend",
    "CachedSampler",
    "Rollouts",
    "Sampler",
    "Sampling",
    "check_backend",
    "derive_seed",
    "open_sampler",
]
