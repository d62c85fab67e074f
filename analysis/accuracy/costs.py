"""What trainings took: steps, demonstrations, tokens, compute, time, and gradients by term."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.runs import Runs
from analysis.tables import NONE, Section
from analysis.wording import millions, scientific, whole

#: What is added up over steps, with its name and its form in tables.
_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "steps": ("steps", whole),
    "demonstrations": ("demonstrations seen", whole),
    "tokens_sampled": ("tokens sampled, M", millions),
    "tokens_computed": ("tokens trained on, M", millions),
    "flops": ("FLOPs", scientific),
    "cpu_seconds": ("CPU seconds", whole),
    "seconds": ("wall seconds", whole),
}

_NOTES = [
    "Of one training, mean over seeds; for a pipeline of all its stages. Tokens trained on are "
    "those of prompts and responses that went forward and backward.",
    "FLOPs are of sampling and training, counted as 2 forward and 4 backward a parameter and "
    "token. Seconds include validations; tests are in neither. Wall seconds are those of trainings "
    "that share a machine.",
]


def costs(metrics: pd.DataFrame) -> pd.DataFrame:
    """What a training took, mean over seeds.

    Args:
        metrics: as :meth:`analysis.runs.Runs.metrics` gives them.

    Returns:
        A row a method; NaN for what was not recorded.
    """
    each = metrics.assign(steps=1).reindex(columns=["method", "seed", *_COSTS])
    return each.groupby(["method", "seed"]).sum(min_count=1).groupby("method").mean()


def took(runs: Runs, methods: Sequence[str], title: Callable[[str], str]) -> Section | None:
    """What each method took, in columns that something was recorded of."""
    found = _trained(runs, methods, costs)
    if found is None:
        return None
    names = [name for name in _COSTS if found[name].notna().any()]
    lines = []
    for method, row in found.iterrows():
        amounts = (_COSTS[name][1](row[name]) for name in names)
        lines.append([title(str(method)), _rates(runs, str(method)), *amounts])
    header = ["method", "learning rate", *(_COSTS[name][0] for name in names)]
    return Section("What it took", header, lines, notes=_NOTES)


def _trained(
    runs: Runs, methods: Sequence[str], measure: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame | None:
    """A measure of each trained method, in order; None where nothing was measured."""
    metrics = runs.metrics()
    if not len(metrics):
        return None
    found = measure(metrics)
    found = found.loc[[method for method in methods if method in found.index]]
    return found if len(found) else None


def _rates(runs: Runs, method: str) -> str:
    stages = runs.of(method)[0].config["stages"]
    return " → ".join(f"{stage['lr']:g}" for stage in stages)


def per_term_grad_norm(metrics: pd.DataFrame) -> pd.DataFrame:
    """The gradient norm of each term: median over steps, mean over seeds.

    Returns:
        A row a method and a column a term, from 1: the norms by stage, as a list, with NaN where a
        stage has no such term.
    """
    known = (
        metrics.dropna(subset="per_term_grad_norm")
        if "per_term_grad_norm" in metrics
        else metrics[:0]
    )
    if not len(known):
        return pd.DataFrame()
    by_term = [dict(enumerate(norms, 1)) for norms in known["per_term_grad_norm"]]
    terms = pd.DataFrame(by_term, index=known.index, dtype=float)
    each = known[["method", "seed", "stage"]].join(terms).groupby(["method", "seed", "stage"])
    stages = each.median().groupby(["method", "stage"]).mean()
    return stages.groupby("method").agg(list)


def gradients(runs: Runs, methods: Sequence[str], title: Callable[[str], str]) -> Section | None:
    """The gradient norm of each method's terms, where that was measured."""
    found = _trained(runs, methods, per_term_grad_norm)
    if found is None:
        return None
    lines = [[title(str(method)), *map(_by_stage, row)] for method, row in found.iterrows()]
    notes = [
        "Median over the steps at which it was measured, mean over seeds; of a pipeline, stage by "
        "stage. `upge algorithms NAME` says what each term is. A term that no sample entered has 0."
    ]
    header = ["method", *(f"Term {term}" for term in found.columns)]
    return Section("Gradient norm of each term", header, lines, notes=notes)


def _by_stage(norms: Sequence[float]) -> str:
    if all(map(pd.isna, norms)):
        return NONE
    return " → ".join(NONE if pd.isna(norm) else f"{norm:.2g}" for norm in norms)
