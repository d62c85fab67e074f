"""The audit of SFT→RL: ``python -m analysis.audit COMPARISON`` makes its table and figure.

SFT and SFT→GRPO with and without the faults that arXiv 2604.23747 found in this literature's
baselines, beside methods that learn from demonstrations and rollouts at once: at equal steps, and
at equal compute.
"""

from __future__ import annotations

import pandas as pd

from analysis.audit import document, figure
from analysis.audit.results import make
from analysis.runs import Runs


def texts(runs: Runs) -> dict[str, str]:
    """The text of each of the table's files."""
    return document.texts(make(runs))


def numbers(runs: Runs) -> pd.DataFrame:
    """The numbers of the figure."""
    return figure.numbers(make(runs))
