"""What rows and columns of a table of accuracy are, a line each, beneath the table."""

from __future__ import annotations

from analysis.accuracy.table import OUT, Table

#: Facts of :mod:`upge.algorithms` and of ``experiments/recipes/base.yaml``.
_FORMS = {
    "hpt": "the paper's formulas with their own normalisers: RL sums tokens, SFT averages them, "
    "both average over questions; clip, and advantages over their standard deviation",
    "hpt_official": "the paper's code: RL divides its token sum by the length allowed, SFT "
    "averages over all gated demonstrations' tokens; no clip, no standard deviation; its entropy "
    "bonus and skipped steps",
    "hpt_global_token": "this package: both losses are token sums over the tokens of both; clip, "
    "no standard deviation",
    "hpt_sequence_mean": "one token count, but each loss is the mean of its sequences' token means",
    "hpt_wiener": "one token count, but soft weights that would estimate the gradient best in "
    "place of the gate: every question trains with its demonstration too",
}

#: Facts of :mod:`upge.tasks.synthetic`.
_SUITES = {
    "sum": "+ and −",
    "aff": "× and ± in turn",
    "perm": "reversal or rotation and ± in turn",
    "cond": "+ or − as the left digit is even or odd, mixed with ±",
    "inv": "the start that leads to a result",
    "post": "± in postfix notation",
    "mix": "all operations",
    "alt": "+ and − in turn, not written out",
}


def legend(table: Table) -> list[str]:
    """Lines on the forms of HPT that are rows, unless the table has a name for them, and suites."""
    layout = table.layout
    forms = [
        f"{layout.title(method)}: {_FORMS[method]}."
        for method in table.methods
        if method in _FORMS and method not in layout.titles
    ]
    return [*forms, *_suites(table)]


def _suites(table: Table) -> list[str]:
    told: dict[bool, list[str]] = {False: [], True: []}
    for suite, split in table.columns:
        if suite in _SUITES:
            told[split == OUT].append(f"`{suite}` ({_SUITES[suite]})")
    if not any(told.values()):
        return []
    inside, outside = (", ".join(own) for own in told.values())
    return [
        f"Suites, digit-wise modulo 10 on three digits: {inside}. Out of distribution: {outside}."
    ]
