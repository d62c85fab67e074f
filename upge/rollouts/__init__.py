"""Rollouts: responses sampled from the policy, behind one protocol."""

from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Rollouts, Sampler, Sampling, question_seed

__all__ = ["CachedSampler", "Rollouts", "Sampler", "Sampling", "question_seed"]
