"""Table 6: ``python -m analysis.table6 RUNS`` makes it, from runs or records."""

from __future__ import annotations

import typer

from analysis.accuracy import output
from analysis.accuracy.table import Layout
from analysis.runs import Runs

LAYOUT = Layout(
    name="table6",
    heading="Table 6: HPT's gate, from RL alone to SFT alone",
    comparisons=("table6",),
    rows=(
        "base",
        "rl_end",
        "hpt_global_token",
        "hpt_gamma_1",
        "hpt_gamma_2",
        "hpt_gamma_4",
        "hpt_gamma_6",
        "hpt_gamma_8",
    ),
    focus=("hpt_global_token",),
    titles={
        "rl_end": "RL alone",
        "hpt_global_token": "γ = 0",
        "hpt_gamma_1": "γ = 1/8",
        "hpt_gamma_2": "γ = 2/8",
        "hpt_gamma_4": "γ = 4/8",
        "hpt_gamma_6": "γ = 6/8",
        "hpt_gamma_8": "γ = 8/8 (SFT alone)",
    },
    note="A question is trained with its demonstration where at most a share γ of its rollouts is "
    "right, otherwise with these rollouts. γ = 0 is Table 2's HPT, one token count. RL alone has "
    "its advantage and normaliser, and no demonstrations; SFT alone samples rollouts that decide "
    "nothing.",
)


def texts(runs: Runs) -> dict[str, str]:
    """The text of each of the table's files; see :func:`analysis.accuracy.output.texts`."""
    return output.texts(LAYOUT, [runs])


if __name__ == "__main__":
    typer.run(output.command(LAYOUT))
