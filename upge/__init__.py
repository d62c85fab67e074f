"""UPGE: every LLM post-training algorithm as one policy gradient estimator (arXiv 2509.04419)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upge.algorithms import REGISTRY, algorithm, get
    from upge.batch import TrajectoryBatch
    from upge.common.errors import UpgeError
    from upge.estimator import Estimate, Estimator, Term, compose
    from upge.likelihood import token_likelihood

__version__ = "0.2.0"

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

#: Where each name is defined; imported when first used, so that the command line's help needs no
#: torch.
_HOMES = {
    "upge.algorithms": ("REGISTRY", "algorithm", "get"),
    "upge.batch": ("TrajectoryBatch",),
    "upge.common.errors": ("UpgeError",),
    "upge.estimator": ("Estimate", "Estimator", "Term", "compose"),
    "upge.likelihood": ("token_likelihood",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'upge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
