"""The command line: ``upge verify``, ``weights``, ``algorithms``, ``train`` and the others.

Nothing here imports torch before a command needs it, so that help comes at once.
"""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec
from pathlib import Path
from runpy import run_module

import typer
from rich.console import Console

from upge.cli.algorithms import algorithms
from upge.cli.check import check
from upge.cli.doctor import doctor
from upge.cli.evaluate import evaluate, sample
from upge.cli.moments import moments
from upge.cli.plan import plan
from upge.cli.printing import plain
from upge.cli.train import train
from upge.cli.verify import verify
from upge.cli.weights import weights
from upge.common.errors import UpgeError, oom_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Every LLM post-training algorithm as one policy gradient estimator.",
)
for command in (verify, check, weights, moments, train, plan, doctor, evaluate, sample, algorithms):
    app.command()(command)


@app.command(
    hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def claims(context: typer.Context) -> None:
    """Until 0.3: ``python -m experiments.claims``, from a checkout of the repository."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if find_spec("experiments") is None:
        raise UpgeError(
            "upge claims runs from a checkout of the repository: make claims, or "
            "python -m experiments.claims"
        )
    sys.argv = ["experiments.claims", *context.args]
    run_module("experiments.claims", run_name="__main__")


def main() -> None:
    """Run the command line; a mistake of the user ends with one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # formulas, on terminals that lack the letters
    try:
        _run()
    except UpgeError as error:
        stderr = Console(stderr=True)
        text = plain(f"upge: {error}")  # names in it may hold what terminals obey
        stderr.print(text, style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


def _run() -> None:
    """Run the command; an output that can't be written, as to a full disk, is a sentence too."""
    try:
        try:
            with oom_error():
                app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        sys.stdout = None  # what it still holds would fail again at exit
        raise UpgeError(f"{error.filename or 'the output'}: {error.strerror}") from error


if __name__ == "__main__":
    main()
