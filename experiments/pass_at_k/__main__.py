"""``python -m experiments.pass_at_k runs/cpu/table2``: count right answers among many samples."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from experiments.pass_at_k.counts import Job, Policy, count, counted, find_policies, hardest
from experiments.pass_at_k.record import Record
from experiments.scheduler import outcome, worker_pool
from upge.common.errors import UpgeError
from upge.common.progress import steps_bar
from upge.training.data import load_dataset

#: The paper's Figure 2, with HPT as this package runs it and as published.
METHODS = ("base", "sft", "grpo", "sft_grpo", "luffy", "hpt_global_token", "hpt")


def main(
    comparison: Annotated[Path, typer.Argument(help="The comparison's folder: runs/cpu/table2.")],
    samples: Annotated[
        int, typer.Option(min=1, max=100_000, help="Responses to each problem.")
    ] = 2048,
    problems: Annotated[
        int | None,
        typer.Option(
            min=1, help="Problems a suite, as many of each level; as AIME up to 30 if not given."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Policies a method.")] = 1,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", "-s", help="This suite; repeatable. Default: the three hardest."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where counts go. Default: pass_at_k beside the comparison.")
    ] = None,
) -> None:
    """Sample from the trained policies; what is there already is not sampled again."""
    known = find_policies(comparison, METHODS)
    policies = [policy for policy in known if policy.config.seed < seeds]
    if not policies:
        raise UpgeError(
            f"{comparison}: has no finished run of {', '.join(METHODS)}; make them with "
            "`make reproduce-table2`"
        )
    chosen = suites or hardest(known, 3)
    counts = counted(load_dataset(policies[0].config).tests, chosen, problems)
    jobs = [Job(policy, suite, counts[suite], samples) for policy in policies for suite in chosen]
    record = Record(out or comparison.parent / "pass_at_k", settings(policies[0], samples))
    record.keep([policy.path.name for policy in policies])
    with steps_bar() as bar:
        missing = [job for job in jobs if record.lacks(job)]
        task = bar.add_task("responses", total=sum(job.responses for job in missing))
        for job, found in make(missing):
            record.add(job, found)
            bar.advance(task, job.responses)
    print(f"{record.folder}: {len(policies)} policies, {len(record.counts)} problems counted")
    for method in sorted(set(METHODS) - {policy.config.name for policy in policies}):
        print(f"missing: {method} has no finished run; `make reproduce-table2` makes it")


def settings(policy: Policy, samples: int) -> dict[str, float]:
    """What all counts have in common."""
    drawn = policy.config.evaluation.sampling(policy.config.max_tokens)
    return {"samples": samples, **vars(drawn)}


def make(jobs: Sequence[Job]) -> Iterator[tuple[Job, pd.DataFrame]]:
    """The counts of each job, as they are ready.

    Raises:
        UpgeError: see :func:`~experiments.pass_at_k.counts.count`.
    """
    with worker_pool() as pool:
        futures = {pool.submit(count, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], outcome(future)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where this one stood")
