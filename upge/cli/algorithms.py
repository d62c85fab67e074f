"""``upge algorithms``: the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from upge.estimator import Term


def algorithms(
    name: Annotated[str | None, typer.Argument(help="An algorithm, for its details.")] = None,
) -> None:
    """List the registered algorithms, or show one's terms, options and their origins."""
    from upge.algorithms import REGISTRY

    if name is not None:
        _print_algorithm(name)
        return
    table = Table("name", "title", "source")
    for entry in REGISTRY.values():
        table.add_row(entry.name, entry.title, entry.source)
    Console().print(table)


def _print_algorithm(name: str) -> None:
    from upge.algorithms import algorithm
    from upge.normalization import NORMALIZERS

    entry = algorithm(name)
    Console().print(f"[bold]{entry.title}[/] ({entry.name})", highlight=False)
    Console().print(f"Source: {entry.source}", highlight=False, markup=False)
    if entry.note:
        Console().print(entry.note, highlight=False, markup=False)
    for i, term in enumerate(entry.terms, 1):
        Console().print(f"\n[bold]Term {i}[/], over {_SAMPLES[term.samples]}", highlight=False)
        Console().print(_term_table(term))
    Console().print("\n[bold]Options[/]")
    table = Table("option", "default", "origin")
    for option, value in entry.options.items():
        table.add_row(
            option,
            f"{value.default:g}" if isinstance(value.default, float) else str(value.default),
            escape(value.origin),
        )
    table.add_row("normalizer", "each term's own", f"the source's; or {', '.join(NORMALIZERS)}")
    if any(term.gate for term in entry.terms):
        table.add_row("gate", "switch", "paper, eq. 10; linear, sigmoid and wiener are soft ones")
    if any(term.samples == "online" for term in entry.terms):
        table.add_row("is_cap", "none", "Yao et al. 2025, with 2: where another engine samples")
    Console().print(table)
    choices = dict.fromkeys(choice for term in entry.terms for choice in term.choices)
    if choices:
        Console().print("\n[bold]What the formulas leave open[/]")
        for choice in choices:
            Console().print(f"  • {choice}", highlight=False, markup=False)


_SAMPLES = {"online": "rollouts", "offline": "demonstrations", "all": "all samples"}


def _term_table(term: Term) -> Table:
    table = Table("component", "value", "as code", show_header=False)
    for label, part in (
        ("reference policy π_ref", term.reference),
        ("advantage Â", term.advantage),
        ("stabilization mask", term.stabilization),
        ("likelihood shaping f'", term.shaping),
    ):
        table.add_row(label, part.text or "–", part.label)
    table.add_row("normalizer", term.normalizer.text, term.normalizer.label)
    if term.coefficient != 1:
        table.add_row("coefficient", f"{term.coefficient:g}", "")
    if term.gate is not None:
        side = "α = f(P)" if term.gate.side == "rl" else "β = g(P)"
        table.add_row("gate", side, term.gate.feedback.label)
    if term.entropy_weight is not None:
        table.add_row("weight", term.entropy_weight.text, f"H per {term.entropy_weight.level}")
    return table
