"""``upge doctor``: does training under this launcher take the right steps?"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from upge.common.errors import UpgeError
from upge.common.optional import require


def doctor(
    architecture: Annotated[
        str,
        typer.Option(help="The small model's: qwen2, or llama if the launcher names its layers."),
    ] = "qwen2",
) -> None:
    """Take optimizer steps under your launcher and compare them with those of one plain process.

    Start it with the launcher's options that you train with, as in

        accelerate launch --config_file fsdp.yaml -m upge.cli doctor && accelerate launch … train …

    A small random model steps on a random batch without and with gradient accumulation, and with a
    clip. If a step isn't that of one plain process, the fault is named and the exit code is 2. Not
    covered: what shows at full size alone, and the optimizer's state over many steps.
    """
    for module in ("pydantic", "accelerate"):
        require(module, "train")
    from upge.training.launch_check import check_launch
    from upge.training.processes import main_first

    report = check_launch(architecture)
    if report.main:
        console = Console(width=100)
        console.print(f"Launcher: {report.launcher}", highlight=False)
        for name, case in report.cases.items():
            verdict = case.fault or "the step of one plain process"
            mark = "[red]✗[/]" if case.fault else "[green]✓[/]"
            console.print(f"{mark} {name}: {verdict}", highlight=False)
    if not report.sound:
        with main_first(report.main):
            raise UpgeError("don't train under this launcher: its steps are not those of the batch")
