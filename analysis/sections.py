"""Sections and notes that documents share: what is missing, and where numbers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from analysis.reported import Reported
from analysis.run import Runs
from analysis.tables import NONE, Section, code, escape
from analysis.wording import numbered

#: What is said of the smoke profile's numbers.
SMOKE = "The smoke profile shows that everything runs; its numbers support no ordering."

INTERVALS_NOTE = (
    "Intervals: 95%, by bootstrap over seeds and, in tests, over the problems of each level, "
    "widened for the small number of seeds (Student's t); `analysis/statistics.py` has the formula."
)


def missing_runs(runs: Runs, methods: Iterable[str]) -> list[str]:
    """Methods and seeds without a finished run, a note each."""
    notes = []
    for method in methods:
        seeds = runs.seeds(method)
        lacking = [seed for seed in runs.expected_seeds if seed not in seeds]
        if not seeds:
            notes.append(f"{code(method)}: no finished run")
        elif lacking:
            notes.append(f"{code(method)}: no finished run of {numbered(lacking, 'seed')}")
    return notes


def unfinished_runs(runs: Runs) -> list[str]:
    """Folders of unfinished runs, a note each."""
    return [f"{code(name)} is unfinished and not used" for name in runs.unfinished]


def missing_section(notes: Sequence[str], command: str) -> list[Section]:
    """What is missing; no section if nothing is."""
    before = f"`{command}` makes it and keeps what exists."
    return [Section("Missing", before=before, notes=notes)] if notes else []


def published(
    paper: Reported, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]
) -> Section:
    """Accuracies that a paper reports, with the names that rows and columns have here."""
    lines = [
        [escape(name), *(NONE if x is None else f"{x:.1f}" for x in values)]
        for name, values in rows.items()
    ]
    heading = f"Reported, {paper.source}, {paper.title}: {paper.base}"
    before = (
        "Another model, other problems and other compute than above: compare orders, not numbers. "
        "The paper gives neither intervals nor the number of seeds."
    )
    notes = [paper.note] if paper.note else []
    return Section(heading, ["method", *columns], lines, before, notes)


def provenance_section(runs: Runs, seeds: Sequence[int], notes: Sequence[str]) -> Section:
    """Seeds, notes, and the provenance that the runs record."""
    first = (
        f"Seeds: {', '.join(map(str, seeds)) or NONE}. A seed is one training; for the base model "
        "it is a seed of sampling."
    )
    origin = (f"{escape(name)}: {escape(value)}" for name, value in runs.provenance().items())
    return Section("Where this comes from", notes=[first, *notes, *origin])
