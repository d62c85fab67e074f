"""``python -m experiments.benchmarks NAME``: measure speed and write a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track

from experiments.benchmarks import rollouts as benchmark
from upge.errors import UpgeError
from upge.policies.pretrained import load_pretrained
from upge.provenance import provenance

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Measure speed; each benchmark writes one table."""


@app.command()
def rollouts(
    model: Annotated[str, typer.Option(help="A base's name, a hub id or a folder.")] = "tiny",
    repetitions: Annotated[int, typer.Option(min=1, help="Measurements of each backend.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path(
        "paper_tables/benchmarks"
    ),
) -> None:
    """Sampling: the package's loop against transformers' ways to generate, about 3 minutes."""
    torch.set_num_threads(threads)
    policy, tokenizer = load_pretrained(model)
    count = (repetitions + 1) * len(benchmark.WORKLOADS) * len(benchmark.BACKENDS)
    ticks = iter(track(range(count), "sampling", console=Console(stderr=True)))
    found = benchmark.measure(policy, tokenizer, repetitions, lambda: next(ticks, None))
    list(ticks)
    rows = "\n".join(benchmark.markdown(found))
    made = provenance()
    text = (
        "# Sampling: time a response token\n\n"
        f"{repetitions} repetitions, backends in turn; model {Path(model).name}, "
        f"{policy.num_parameters():,} parameters, {threads} thread; responses of at most "
        f"{benchmark.MAX_TOKENS} tokens. Only {benchmark.OURS} returns log-probabilities.\n\n"
        f"{rows}\n\n"
        f"Commit {made['commit']}, torch {made['torch']}, transformers {made['transformers']}, "
        f"{made['hardware']}, {made['date']}; "
        "made by `python -m experiments.benchmarks rollouts`.\n"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "rollouts.md").write_text(text, encoding="utf-8")
    print(rows)
    print(f"{out / 'rollouts.md'}: {len(found)} workloads, {len(benchmark.BACKENDS)} backends")


if __name__ == "__main__":
    try:
        app()
    except UpgeError as error:
        sys.exit(f"error: {error}")
