"""How learning rates were chosen: each method's grid, and rates borrowed from other methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from analysis.methods import BASE
from analysis.run import Runs
from analysis.tables import NONE, Section, code, escape


def learning_rates(
    runs: Runs, methods: Sequence[str], title: Callable[[str], str]
) -> list[Section]:
    """The grid of learning rates, the chosen ones in bold; no section if nothing was trained."""
    trained = [method for method in methods if method != BASE]
    notes = [note for method in trained for note in _notes(runs, method)]
    chosen = {m: runs.selection[m] for m in trained if runs.selection.get(m, {}).get("grid")}
    rates = sorted({rate for entry in chosen.values() for rate in entry["grid"]}, key=float)
    if not chosen:
        return [Section("Learning rates", notes=notes)] if notes else []
    lines = [[escape(title(method)), *_grid(entry, rates)] for method, entry in chosen.items()]
    trial = runs.trial
    which = f"a trial of {trial['steps']} steps (seed {trial['seed']})" if trial else "a trial"
    before = f"Validation accuracy in percent at the end of {which}; the chosen rate in bold."
    return [Section("Learning rates", ["method", *rates], lines, before, notes)]


def _grid(entry: Mapping[str, Any], rates: Sequence[str]) -> list[str]:
    line = []
    for rate in rates:
        value = entry["grid"].get(rate)
        chosen = float(rate) == entry["lr"]
        text = NONE if value is None else f"{100 * value:.1f}"
        text = "used without a trial" if value is None and chosen else text
        line.append(f"**{text}**" if chosen else text)
    return line


def _notes(runs: Runs, method: str) -> Iterator[str]:
    """What the grid doesn't say of a method's rate."""
    entry = runs.selection.get(method)
    if entry is None:
        yield f"{code(method)}: how its learning rate was chosen is not recorded."
        return
    if "of" in entry:
        yield f"{code(method)} takes the learning rate of {code(entry['of'])}."
    used, chosen = runs.of(method)[0].config["stages"][-1]["lr"], entry["lr"]
    if used != chosen:
        rate = "no rate" if chosen is None else f"{chosen:g}"
        yield f"{code(method)} was trained at {used:g}, though `selection.json` chose {rate}."
