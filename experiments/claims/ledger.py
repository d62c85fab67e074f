"""The ledger: every claim decided, and written as a table for people and one for programs."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from experiments.claims import CLAIMS, VERDICTS, Claim
from upge.common.errors import unknown
from upge.common.files import atomic_write

CSV_COLUMNS = tuple(field.name for field in fields(Claim))

_MEANING = {
    "proved": "sympy finds both sides equal, in general",
    "exact": "true of every instance enumerated (of one, where the claim is that something can be)",
    "conditional": "true under the condition stated in the evidence, not without it",
    "fails": "not true as stated",
}


def chosen(names: Sequence[str] = ()) -> list[str]:
    """The ids of the claims called ``names``, or of all, in the order of the ledger.

    Raises:
        UpgeError: an id that is not in the ledger.
    """
    for name in names:
        if name not in CLAIMS:
            raise unknown("claim", name, CLAIMS)
    return [name for name in CLAIMS if not names or name in names]


def decide(
    names: Sequence[str] = (), progress: Callable[[Claim], None] = lambda claim: None
) -> list[Claim]:
    """Decide the claims called ``names``, or all; ``progress`` is called with each as it comes."""
    decided = []
    for name in chosen(names):
        decided.append(CLAIMS[name]())
        progress(decided[-1])
    return decided


def equations(source: str) -> set[int]:
    """The numbers of the equations that a source names: "eq. 9–10" is {9, 10}."""
    found: set[int] = set()
    for part in re.findall(r"eq\. ([\d–, ]+)", source):
        for span in re.findall(r"\d+(?:–\d+)?", part):
            first, _, last = span.partition("–")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def claims_csv(claims: Sequence[Claim]) -> str:
    """One line a claim, :data:`CSV_COLUMNS`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(map(astuple, claims))
    return out.getvalue()


def claims_markdown(claims: Sequence[Claim], provenance: Mapping[str, str]) -> str:
    """The ledger as a table, with what the verdicts mean, how many there are, and provenance."""
    counts = Counter(claim.verdict for claim in claims)
    legend = [f"- **{verdict}** ({counts[verdict]}): {_MEANING[verdict]}" for verdict in VERDICTS]
    rows = [map(_cell, astuple(claim)) for claim in claims]
    body = [CSV_COLUMNS, ["---"] * len(CSV_COLUMNS), *rows]
    table = "\n".join("| " + " | ".join(row) + " |" for row in body)
    footer = "; ".join(f"{key} {value}" for key, value in provenance.items())
    return "\n".join(
        [
            "# The claims of the paper, decided\n",
            "Every row is computed by the function named in its evidence; `upge claims` decides "
            "them anew. Means and variances are exact sums over all trajectories of small "
            "autoregressive policies, not samples.\n",
            *legend,
            "",
            table + "\n",
            f"---\n\n{footer}\n",
        ]
    )


def _cell(text: str) -> str:
    """The text with what Markdown would take for the end of the cell or for emphasis escaped."""
    return re.sub(r"([|_*])", r"\\\1", text)


def write_ledger(
    claims: Sequence[Claim], provenance: Mapping[str, str], folder: Path
) -> list[Path]:
    """Write claims.md and claims.csv."""
    contents = {
        "claims.md": claims_markdown(claims, provenance),
        "claims.csv": claims_csv(claims),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [atomic_write(folder / name, text) for name, text in contents.items()]
