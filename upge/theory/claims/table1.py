"""Table 1: every printed row against the gradient of the published loss."""

from __future__ import annotations

from upge.algorithms import REGISTRY
from upge.estimator import Estimator
from upge.theory.claims.claim import CLAIMS, Check, Result, Trial, rule
from upge.theory.counterexample import smallest_counterexample
from upge.theory.symbolic import verify_symbolic
from upge.theory.verify import as_printed


def printed_row(name: str, row: Estimator | None = None) -> Result:
    """The row as printed (or ``row``): sympy's proof, and a search for a counterexample."""
    entry = REGISTRY[name]
    row = row or as_printed(entry)
    result = verify_symbolic(entry, terms=row.terms)
    smallest = smallest_counterexample(entry, row)
    return rule(
        [Trial(result.proved and smallest is None, result.counterexample or "")],
        0.0 if result.proved else 1.0,
        "cells in which the row is not the gradient; the first one found ends the search",
        symbolic=True,
        unit="rows",
        counterexample=smallest,
        notes=[f"{result.cells} cells of {result.instances} batches compared by sympy"],
    )


def _register() -> None:
    for name, entry in REGISTRY.items():
        if (printed := entry.printed) is None:
            continue

        def check(name: str = name, row: Estimator | None = None) -> Result:
            return printed_row(name, row)

        check.__module__, check.__name__ = __name__, f"printed_row({name!r})"
        text = (
            f"{entry.title}: the gradient of its loss is the row printed, π_ref = {printed.reference}, "
            f"Â = {printed.advantage}, up to the normaliser."
        )
        CLAIMS[f"table1-{name}"] = Check(f"table1-{name}", text, f"Table 1, {entry.title}", check)


_register()
