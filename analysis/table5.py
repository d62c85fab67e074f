"""Table 5: ``python -m analysis.table5 RUNS`` makes it, from runs or records."""

from __future__ import annotations

import typer

from analysis.accuracy import output
from analysis.accuracy.table import Layout
from analysis.runs import Runs

LAYOUT = Layout(
    name="table5",
    heading="Table 5: off-policy RL or SFT where HPT turns to demonstrations",
    comparisons=("table5",),
    rows=("base", "off_on", "mix_on", "hpt_official"),
    focus=("hpt_official",),
    titles={"hpt_official": "SFT/ON"},
    note="A question with no right rollout is trained with its demonstration: by off-policy RL "
    "(OFF/ON), by that and some SFT (Mix/ON) or by SFT (SFT/ON: Table 2's HPT, as coded). "
    "Normalisers, entropy bonus and skipped steps are the official code's in all three.",
)


def texts(runs: Runs) -> dict[str, str]:
    """The text of each of the table's files; see :func:`analysis.accuracy.output.texts`."""
    return output.texts(LAYOUT, [runs])


if __name__ == "__main__":
    typer.run(output.command(LAYOUT))
