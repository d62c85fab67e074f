"""How learning rates were chosen: each method's grid, and what was taken from another method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.methods import BASE
from analysis.runs import Runs
from analysis.tables import NONE, Section


def learning_rates(
    runs: Runs, methods: Sequence[str], title: Callable[[str], str]
) -> Section | None:
    """The grid of learning rates, the chosen ones in bold; None where nothing was trained."""
    trained = [method for method in methods if method != BASE]
    notes = [note for method in trained for note in _notes(runs, method)]
    chosen = {m: runs.selection[m] for m in trained if runs.selection.get(m, {}).get("grid")}
    rates = sorted({rate for entry in chosen.values() for rate in entry["grid"]}, key=float)
    if not chosen:
        return Section("Learning rates", notes=notes) if notes else None
    lines = [[title(method), *_grid(entry, rates)] for method, entry in chosen.items()]
    trial = runs.trial
    told = f" of {trial['steps']} steps, seed {trial['seed']}" if trial else ""
    before = f"Validation accuracy, per cent, at the end of a trial{told}; the chosen rate in bold."
    return Section("Learning rates", ["method", *rates], lines, before=before, notes=notes)


def _grid(entry: Mapping[str, Any], rates: Sequence[str]) -> list[str]:
    line = []
    for rate in rates:
        value = entry["grid"].get(rate)
        chosen = float(rate) == entry["lr"]
        text = NONE if value is None else f"{100 * value:.1f}"
        text = "taken without a trial" if value is None and chosen else text
        line.append(f"**{text}**" if chosen else text)
    return line


def _notes(runs: Runs, method: str) -> list[str]:
    """What the grid doesn't say of a method's rate."""
    entry = runs.selection.get(method)
    if entry is None:
        return [f"`{method}`: how its rate was chosen is not recorded."]
    found = []
    if "of" in entry:
        found.append(f"`{method}` takes the rate of `{entry['of']}`.")
    used, chosen = runs.of(method)[0].config["stages"][-1]["lr"], entry["lr"]
    if used != chosen:
        told = "no rate" if chosen is None else f"{chosen:g}"
        found.append(f"`{method}` was trained at {used:g}, though `selection.json` chose {told}.")
    return found
