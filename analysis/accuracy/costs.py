"""What trainings took: steps, demonstrations, tokens, compute, time, and gradients by term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.run import Runs
from analysis.tables import NONE, Section, escape
from analysis.wording import millions, scientific, whole

#: What is added up over steps, with its name and its form in tables.
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "steps": ("steps", whole),
    "demonstrations": ("demonstrations seen", whole),
    "tokens_sampled": ("tokens sampled, M", millions),
    "tokens_computed": ("tokens trained on, M", millions),
    "flops": ("FLOPs", scientific),
    "cpu_seconds": ("CPU seconds", whole),
    "seconds": ("wall seconds", whole),
}

FLOPS_NOTE = (
    "FLOPs: of sampling and training, counted as 2 for the forward and 4 for the backward pass per "
    "parameter and token."
)

_NOTES = [
    "For one training, mean over seeds; a pipeline counts all its stages. Tokens trained on: "
    "those of prompts and responses that went through a forward and a backward pass.",
    f"{FLOPS_NOTE} Seconds include validations but no tests. Wall time is that of trainings that "
    "share a machine.",
]


def costs(metrics: pd.DataFrame) -> pd.DataFrame:
    """What a training took, mean over seeds.

    Args:
        metrics: from :meth:`analysis.runs.Runs.metrics`.

    Returns:
        A row a method; NaN for what was not recorded.
    """
    each = metrics.assign(steps=1).reindex(columns=["method", "seed", *COSTS])
    return each.groupby(["method", "seed"]).sum(min_count=1).groupby("method").mean()


def cost_cells(spent: pd.DataFrame, method: str, names: Sequence[str]) -> list[str]:
    """Some of a method's costs; dashes for one without steps."""
    row = spent.reindex([method]).iloc[0]
    return [COSTS[name][1](row[name]) for name in names]


def took(runs: Runs, methods: Sequence[str], title: Callable[[str], str]) -> list[Section]:
    """What each method took, in the columns for which something was recorded."""
    spent = _measured(runs, methods, costs)
    names = [name for name in COSTS if name in spent and spent[name].notna().any()]
    lines = [[escape(title(m)), runs.rates(m), *cost_cells(spent, m, names)] for m in spent.index]
    header = ["method", "learning rate", *(COSTS[name][0] for name in names)]
    return [Section("What it took", header, lines, notes=_NOTES)] if lines else []


def _measured(
    runs: Runs, methods: Sequence[str], measure: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """A measure of each trained method, in order; empty where nothing was measured."""
    metrics = runs.metrics()
    found = measure(metrics) if len(metrics) else metrics
    return found.loc[[method for method in methods if method in found.index]]


def per_term_grad_norm(metrics: pd.DataFrame) -> pd.DataFrame:
    """The gradient norm of each term: median over steps, mean over seeds.

    Returns:
        A row a method and a column a term, from 1: the norms by stage, as a list, with NaN where a
        stage has no such term.
    """
    if "per_term_grad_norm" not in metrics:
        return pd.DataFrame()
    known = metrics.dropna(subset="per_term_grad_norm")
    if not len(known):
        return pd.DataFrame()
    by_term = [dict(enumerate(norms, 1)) for norms in known["per_term_grad_norm"]]
    terms = pd.DataFrame(by_term, index=known.index, dtype=float)
    each = known[["method", "seed", "stage"]].join(terms).groupby(["method", "seed", "stage"])
    stages = each.median().groupby(["method", "stage"]).mean()
    return stages.groupby("method").agg(list)


def gradients(runs: Runs, methods: Sequence[str], title: Callable[[str], str]) -> list[Section]:
    """The gradient norm of each method's terms, where that was measured."""
    norms = _measured(runs, methods, per_term_grad_norm)
    lines = [[escape(title(str(m))), *map(_by_stage, row)] for m, row in norms.iterrows()]
    notes = [
        "Median over the steps at which it was measured, mean over seeds; stage by stage for a "
        "pipeline. `upge algorithms NAME` describes each term. A term that no sample entered has 0."
    ]
    header = ["method", *(f"Term {term}" for term in norms.columns)]
    heading = "Gradient norm of each term"
    return [Section(heading, header, lines, notes=notes)] if lines else []


def _by_stage(norms: Sequence[float]) -> str:
    if all(map(pd.isna, norms)):
        return NONE
    return " → ".join(NONE if pd.isna(norm) else f"{norm:.2g}" for norm in norms)
