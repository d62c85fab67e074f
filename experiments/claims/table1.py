"""Table 1: every printed row against the gradient of the published loss."""

from __future__ import annotations

from dataclasses import replace

from experiments.claims.claim import CLAIMS, Check, Result
from experiments.claims.losses import proof
from upge.algorithms import REGISTRY
from upge.estimator import Estimator
from upge.verification.counterexample import EXAMPLES, smallest_counterexample
from upge.verification.printed import PRINTED
from upge.verification.symbolic import verify_symbolic
from upge.verification.verify import as_printed


def printed_row(name: str, row: Estimator | None = None) -> Result:
    """The row as printed (or ``row``): sympy's proof, and a search for a counterexample."""
    entry = REGISTRY[name]
    row = row or as_printed(entry)
    result = proof(verify_symbolic(entry, terms=row.terms))
    smallest = smallest_counterexample(entry, row)
    if smallest is None:
        searched = f"no counterexample among {EXAMPLES} batches (hypothesis)"
        return replace(result, evidence=f"{result.evidence}; {searched}")
    evidence = f"{result.evidence}; smallest batch (hypothesis): {smallest}"
    return replace(result, verdict="fails", evidence=evidence)


def _register() -> None:
    for name, entry in REGISTRY.items():
        if entry.name not in PRINTED:
            continue

        def check(name: str = name, row: Estimator | None = None) -> Result:
            return printed_row(name, row)

        check.__module__, check.__name__ = __name__, f"printed_row({name!r})"
        (term,) = as_printed(entry).terms
        shaped = f" · {term.shaping.text}" if term.shaping.text else ""
        text = (
            f"{entry.title}: the gradient of its loss is ∇π_θ · Â {term.stabilization.text}/π_ref"
            f"{shaped} with π_ref = {term.reference.text}, Â = {term.advantage.text}, up to the "
            "normaliser."
        )
        CLAIMS[f"table1-{name}"] = Check(f"table1-{name}", text, f"Table 1, {entry.title}", check)


_register()
