"""HPT's gate γ in runs: what it is, and how figures call it."""

from __future__ import annotations

from analysis.run import Run
from upge.algorithms import algorithm


def gamma(run: Run) -> float:
    """The γ of a run's last stage, its algorithm's default where it names none."""
    stage = run.config["stages"][-1]
    default = algorithm(stage["algorithm"]).options["gamma"].default
    return float(stage["options"].get("gamma", default))


def gate_label(run: Run) -> str:
    """γ as the paper writes it: right rollouts of all rollouts, as ``γ = 2/8``."""
    rollouts = run.config["stages"][-1]["group_size"]
    right = gamma(run) * rollouts
    return f"γ = {right:g}/{rollouts}" if right else "γ = 0"
