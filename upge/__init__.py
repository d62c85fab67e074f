"""UPGE: every LLM post-training algorithm as one policy gradient estimator (arXiv 2509.04419)."""

from upge.algorithms import REGISTRY, algorithm, get
from upge.batch import TrajectoryBatch
from upge.errors import UpgeError
from upge.estimator import Estimate, Estimator, Term, compose
from upge.likelihood import token_likelihood

__version__ = "0.1.0"

__all__ = [
    "REGISTRY",
    "Estimate",
    "Estimator",
    "Term",
    "TrajectoryBatch",
    "UpgeError",
    "algorithm",
    "compose",
    "get",
    "token_likelihood",
]
