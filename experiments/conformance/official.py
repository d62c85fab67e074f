"""The losses of the paper's official code and of LUFFY's, read from checkouts that the user has.

``python -m experiments.conformance.official PATH...`` finds the losses in each checkout, reads
them with the settings of the official scripts and compares with what is expected; the settings
are those of Unify-Post-Training's exp_scripts/train.sh and of LUFFY's training script.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.tables import Section, markdown
from upge.common.errors import UpgeError
from upge.common.files import atomic_write, make_folder
from upge.common.provenance import provenance
from upge.testing.check import check
from upge.testing.report import Report
from upge.testing.target import load

#: Where both repositories keep their losses; checkouts may hold it deeper.
FILE = "mix_src/mix_core_alg.py"

_SCRIPT: dict[str, Any] = {
    "cliprange": 0.2,
    "clip_upper_bound": 1.0,
    "off_cliprange": 0.2,
    "loss_remove_clip": True,
    "loss_remove_token_mean": True,
    "off_policy_reshape": "p_div_p_0.1",
}


@dataclass(frozen=True)
class Official:
    """A function of the file, its settings, and the components that it is expected to have."""

    function: str
    expected: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


LOSSES = (
    Official("compute_sft_pure_loss", ("sft",)),
    Official(
        "compute_token_on_off_policy_loss",
        (
            "π_θold: w ∝ r",
            "1: w ∝ π_θ",
            "PolicyShaping(gamma=0.1)",
            "a fixed length, no count of rows: the width of the padded batch",
        ),
        _SCRIPT,
    ),
    Official(
        "compute_token_on_off_policy_loss",
        ("PPO's clip", "PolicyShaping(gamma=0.1)", "tokens: a mean"),
        _SCRIPT | {"loss_remove_clip": False, "loss_remove_token_mean": False},
    ),
    Official("compute_grpo_outcome_advantage_split", ("R − mean_Gon",), {"use_std": False}),
    Official("compute_grpo_outcome_advantage_split", ("std over n − 1",)),
)


def read(path: Path) -> list[tuple[Official, Report]]:
    """What the losses of a checkout are.

    Raises:
        UpgeError: the checkout lacks the file.
    """
    files = sorted(path.rglob(FILE))
    if not files:
        raise UpgeError(f"{path} has no {FILE}: wanted a checkout of Unify-Post-Training or LUFFY")
    found = []
    for loss in LOSSES:
        call, source = load(f"{files[0]}:{loss.function}")
        found.append((loss, check(call, arguments=loss.arguments, sources=(source, ()))))
    return found


def main(
    checkouts: Annotated[list[Path], typer.Argument(help="Checkouts of the two repositories.")],
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("paper_tables"),
) -> None:
    """Compare official losses with what is expected of them; write official_code.md."""
    sections, wrong = [], 0
    for path in checkouts:
        lines = []
        for loss, report in read(path):
            text = report.text()
            missing = [part for part in loss.expected if part not in text]
            wrong += bool(missing)
            settings = ", ".join(f"{n}={v}" for n, v in loss.arguments.items())
            read_off = "; ".join(f"{r.component}: {r.text or r.undecided}" for r in report.readings)
            broken = "; ".join(law.words for law in report.laws if law.verdict == "broken")
            verdict = "as expected" if not missing else f"not found: {'; '.join(missing)}"
            cells = [loss.function, settings or "–", read_off, broken or "none", verdict]
            lines.append(cells)
            print(f"{loss.function} ({settings or 'defaults'}): {verdict}")
        header = ("function", "settings", "what it is", "laws broken", "verdict")
        sections.append(Section(path.resolve().name, header, lines))
    origin = [f"{name}: {value}" for name, value in provenance().items()]
    sections.append(Section("Where this comes from", notes=origin))
    make_folder(out)
    atomic_write(out / "official_code.md", markdown("What the official losses are", sections))
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        print(f"upge: {error}", file=sys.stderr)
        sys.exit(2)
