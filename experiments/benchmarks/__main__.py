"""``python -m experiments.benchmarks NAME``: measure speed and write a table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track

from experiments.benchmarks import rollouts as benchmark
from upge.common.errors import UpgeError
from upge.common.provenance import provenance
from upge.models.pretrained import load_pretrained

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """Measure speed; each benchmark writes one table."""


@app.command()
def rollouts(
    model: Annotated[str, typer.Option(help="A base's name, a hub id or a folder.")] = "tiny",
    repetitions: Annotated[int, typer.Option(min=1, help="Measurements of each backend.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    data: Annotated[
        str, typer.Option(help="Ask problems of this data set or file, not the package's own.")
    ] = "",
    questions: Annotated[int, typer.Option(min=1, help="How many of --data's.")] = 16,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each of these.")] = 4,
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = Path(
        "paper_tables/benchmarks"
    ),
) -> None:
    """Sampling: the package's loop against other ways to generate, about 3 minutes."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of vLLM's worker, a process of its own
    workloads = (benchmark.of_data(data, questions, samples),) if data else benchmark.WORKLOADS
    policy, tokenizer = load_pretrained(model)
    count = (repetitions + 1) * len(workloads) * len(benchmark.BACKENDS)
    ticks = iter(track(range(count), "sampling", console=Console(stderr=True)))
    found = benchmark.measure(policy, tokenizer, repetitions, lambda: next(ticks, None), workloads)
    list(ticks)
    rows = "\n".join(benchmark.markdown(found))
    made = provenance()
    text = (
        "# Sampling: time a response token\n\n"
        f"{repetitions} repetitions, backends in turn; model {Path(model).name}, "
        f"{policy.num_parameters():,} parameters, {threads} thread; responses of at most "
        f"{benchmark.MAX_TOKENS} tokens. {benchmark.OURS} and vLLM return log-probabilities "
        "too. vLLM's start is not counted; it has two processes beside the one that asks.\n\n"
        f"{rows}\n\n"
        f"Commit {made['commit']}, torch {made['torch']}, transformers {made['transformers']}, "
        f"{made['hardware']}, {made['date']}; "
        f"made by `python -m experiments.benchmarks {' '.join(sys.argv[1:])}`.\n"
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
