"""Which method for how many demonstrations and how much compute?

``python -m analysis.supply COMPARISON …`` makes a table and a phase diagram of the study.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.runs import Runs
from analysis.supply import document
from analysis.supply.phases import phases
from analysis.supply.study import make


def texts(given: Sequence[Runs]) -> dict[str, str]:
    """The text of each of the table's files, from the study's comparisons, at least one."""
    study = make(given)
    return document.texts(study, phases(study))


def numbers(given: Sequence[Runs]) -> pd.DataFrame:
    """The numbers of the figure."""
    return phases(make(given))
