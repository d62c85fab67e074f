"""``python -m experiments.intervals``: how often the intervals of ``upge evaluate`` hold the truth.

Problems' chances of a right response are drawn from Beta distributions, k responses to each from
these chances. An interval of avg@k over the P problems should hold the distribution's mean 95 times
of 100; that of a difference, the mean difference of two policies of which a share of the problems
is drawn anew. About ten minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
import torch
import typer
from torch import Tensor
from torch.distributions import Beta, Binomial

from upge.common.errors import UpgeError
from upge.common.files import atomic_write_all, make_folder
from upge.common.progress import steps_bar
from upge.evaluation.metrics import interval, paired_interval

#: α and β of the problems' chances: mixed, all or nothing, hard, easy, rarely or nearly always
#: solved.
BETAS = (
    *((20.0, 20.0), (5.0, 5.0), (2.0, 2.0), (1.0, 1.0), (0.5, 0.5), (0.2, 0.2)),
    *((1.0, 3.0), (1.0, 9.0), (0.3, 3.0), (0.1, 2.0), (0.05, 0.5), (0.5, 8.0), (2.0, 50.0)),
    *((3.0, 1.0), (8.0, 0.5), (50.0, 2.0)),
)

#: Of two policies: the first one's chances, the second one's, and on what share of the problems
#: they differ.
PAIRS = tuple(
    product(
        ((0.2, 0.2), (1.0, 1.0), (5.0, 5.0), (0.5, 8.0)), ((2.0, 2.0), (0.2, 0.2)), (0.1, 0.3, 1.0)
    )
)

PROBLEMS = (1, 2, 3, 4, 5, 10, 30, 100)
SAMPLES = (1, 2, 4, 8, 16, 32)


class Coverage(NamedTuple):
    """How often an interval held the truth.

    Attributes:
        of: ``avg@k`` or ``difference``.
        problems: P.
        samples: k.
        chances: the distribution.
        coverage: share of the simulations.
        width: mean.
    """

    of: str
    problems: int
    samples: int
    chances: str
    coverage: float
    width: float


def simulate(problems: int, samples: int, draws: int) -> Iterator[Coverage]:
    """The coverages of both intervals, one a distribution."""
    shape = (draws, problems)
    for alpha, beta in BETAS:
        values = _shares(Beta(alpha, beta).sample(shape), samples)
        found = [tuple(interval(own)) for own in values]
        name = f"Beta({alpha:g}, {beta:g})"
        yield Coverage("avg@k", problems, samples, name, *_held(found, alpha / (alpha + beta)))
    for first, second, changed in PAIRS:
        chances = Beta(*first).sample(shape)
        anew = Beta(*second).sample(shape)
        others = torch.where(torch.rand(shape) < changed, anew, chances)
        values = _shares(chances, samples) - _shares(others, samples)
        found = [tuple(paired_interval(own)) for own in values]
        name = f"Beta{first}, of {changed:.0%} of the problems Beta{second}"
        truth = changed * (first[0] / sum(first) - second[0] / sum(second))
        yield Coverage("difference", problems, samples, name, *_held(found, truth))


def _shares(chances: Tensor, samples: int) -> Tensor:
    counts: Tensor = Binomial(samples, chances).sample()
    return counts.double() / samples


def _held(intervals: Sequence[tuple[float, ...]], truth: float) -> tuple[float, float]:
    """The share of intervals that hold the truth, and their mean width."""
    low, high = torch.tensor(intervals, dtype=torch.float64).T
    held = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
    return held.double().mean().item(), (high - low).mean().item()


def markdown(found: Sequence[Coverage], draws: int) -> str:
    """The least and the mean coverage by the number of problems, over distributions and k."""
    lines = [
        "# How often the 95 % intervals of an evaluation hold the truth",
        "",
        f"Each of {draws} simulations draws the problems' chances from a distribution "
        f"({len(BETAS)} of avg@k, {len(PAIRS)} of the difference of two policies) and k responses "
        f"to each, k = {', '.join(map(str, SAMPLES))}. The least is over distributions and k; its "
        "rounding error is about half a point. Every coverage is in intervals.csv; made by "
        "`python -m experiments.intervals`.",
        "",
        "| of | problems | least coverage | where | mean coverage | mean width |",
        "|---|---:|---:|---|---:|---:|",
    ]
    groups: dict[tuple[str, int], list[Coverage]] = {}
    for one in found:
        groups.setdefault((one.of, one.problems), []).append(one)
    for (of, problems), own in sorted(groups.items()):
        least = min(own, key=lambda one: one.coverage)
        means = [sum(values) / len(own) for values in zip(*(one[4:] for one in own), strict=True)]
        lines.append(
            f"| {of} | {problems} | {least.coverage:.1%} | {least.chances}, k = {least.samples} "
            f"| {means[0]:.1%} | {means[1]:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main(
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("paper_tables"),
    draws: Annotated[int, typer.Option(min=1, help="Simulations of each case.")] = 2000,
) -> None:
    """Simulate, and write intervals.md and intervals.csv."""
    torch.manual_seed(0)
    cases = [*product(PROBLEMS, SAMPLES)]
    found: list[Coverage] = []
    with steps_bar() as bar:
        for problems, samples in bar.track(cases, description="intervals"):
            found += simulate(problems, samples, draws)
    text, rows = markdown(found, draws), pd.DataFrame(found).round(4).to_csv(index=False)
    make_folder(out)
    atomic_write_all({out / "intervals.md": text, out / "intervals.csv": rows})
    print(text)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UpgeError as error:
        sys.exit(f"error: {error}")
