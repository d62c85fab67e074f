"""Figure 2: pass@k of several policies, from counts of correct answers.

pass@k of a problem is estimated without bias from all of its samples
(:func:`upge.evaluation.metrics.pass_at_k_of_counts`); that of a suite is the mean over problems.
Intervals are those of Table 2: problems are resampled within levels, seeds where there are several.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.methods import ordered
from analysis.statistics import Array, Scores, problem_errors, within
from experiments.pass_at_k.record import PROVENANCE, read_counts
from experiments.records import read_record
from upge.common.errors import UpgeError
from upge.evaluation.metrics import pass_at_k_of_counts, powers_of_two


@dataclass(frozen=True)
class Counts:
    """Counts of correct answers, and where they come from.

    Args:
        frame: a row a run and problem.
        comparison: the record's name.
        profile: of the policies.
        commits: that sampled.
        methods: whose policies were sampled.
        all_seeds: of the policies.
        command: makes what is missing.
    """

    frame: pd.DataFrame
    comparison: str
    profile: str
    commits: str
    methods: list[str]
    all_seeds: list[int]
    command: str = "make pass-at-k"


def load_counts(folder: Path) -> Counts:
    """The counts in a folder.

    Raises:
        UpgeError: there are none that can be read.
    """
    frame, path = read_counts(folder), folder.resolve()
    starts = read_record(folder / PROVENANCE).get("starts", [])
    commits = ", ".join(dict.fromkeys(start.get("commit", "not recorded") for start in starts))
    seeds = sorted(frame["seed"].unique().tolist())
    methods = ordered(frame["method"])
    return Counts(frame, path.name, path.parent.name, commits or "not recorded", methods, seeds)


def numbers(counts: Counts) -> pd.DataFrame:
    """``suite, method, k, mean, low, high, seeds, problems, samples``, for k = 1, 2, 4 … n/2.

    At k = n a single draw is left, which is no estimate but what came out.

    Raises:
        UpgeError: methods that answered different problems.
    """
    by_suite = counts.frame.groupby("suite")
    return pd.concat([_suite(str(name), rows) for name, rows in by_suite])


def _suite(suite: str, counts: pd.DataFrame) -> pd.DataFrame:
    methods, samples = ordered(counts["method"]), int(counts["samples"].iloc[0])
    tables = [_table(counts[counts["method"] == method], suite) for method in methods]
    if any(not table.columns.equals(tables[0].columns) for table in tables):
        raise UpgeError(
            f"{suite}: its methods were asked different problems; delete the record of counts and "
            "run `make pass-at-k`"
        )
    ks = powers_of_two(samples)[:-1] or [1]
    chances = [_chances(table, samples, ks) for table in tables]
    levels = list(tables[0].columns.get_level_values("level"))
    by_problem = np.concatenate([chance.mean(0).T for chance in chances])  # (M·K, P)
    errors = iter(problem_errors(by_problem, levels, suite).T)
    rows = []
    for method, chance in zip(methods, chances, strict=True):
        for i, k in enumerate(ks):
            scores = Scores(chance[:, :, i].mean(1), next(errors), len(levels))
            estimate = scores.estimate(method)
            rows.append((method, k, estimate.mean, *within(estimate.interval), estimate.seeds))
    frame = pd.DataFrame(rows, columns=["method", "k", "mean", "low", "high", "seeds"])
    frame.insert(0, "suite", suite)
    return frame.assign(problems=len(levels), samples=samples)


def _table(counts: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Correct answers, seeds by problems (level, prompt)."""
    table = counts.pivot(index="seed", columns=["level", "prompt"], values="right")
    table = table.sort_index(axis=1)
    if table.isna().any(axis=None):
        raise UpgeError(
            f"{suite}: the seeds of {counts['method'].iloc[0]} were asked different problems; "
            "delete the record of counts and run `make pass-at-k`"
        )
    return table.astype(int)


def _chances(table: pd.DataFrame, samples: int, ks: list[int]) -> Array:
    """pass@k, (S, P, K)."""
    right = torch.tensor(table.to_numpy())
    return pass_at_k_of_counts(right.flatten(), samples, ks).view(*right.shape, len(ks)).numpy()
