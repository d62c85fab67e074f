"""Table 3: ``python -m analysis.table3 WEAK SMALL`` makes it, from runs or records of both."""

from __future__ import annotations

import typer

from analysis.accuracy import output
from analysis.accuracy.table import Layout
from analysis.runs import Runs

LAYOUT = Layout(
    name="table3",
    heading="Table 3: HPT and its baselines on two more base models",
    comparisons=("table3-weak", "table3-small"),
    rows=("base", "sft", "grpo", "sft_grpo", "luffy", "srft", "hpt", "hpt_global_token"),
    focus=("hpt", "hpt_global_token"),
    note="`tiny_weak` was pre-trained for a shorter time than Table 2's model, and HPT has the "
    "paper's gate for LLaMA; `tiny_small` has fewer parameters, and the gate of Table 2.",
)


def texts(*runs: Runs) -> dict[str, str]:
    """The text of each of the table's files; see :func:`analysis.accuracy.output.texts`."""
    return output.texts(LAYOUT, runs)


if __name__ == "__main__":
    typer.run(output.command(LAYOUT))
