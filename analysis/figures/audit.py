"""The audit's figure: validations over compute, and tests with and without the faults."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.accuracy.table import IN, OUT
from analysis.audit.results import FAULTY, ROWS, Audit, make
from analysis.figures.lines import End, label_ends
from analysis.figures.series import validation_curves
from analysis.methods import BASE, title
from analysis.run import Runs
from analysis.statistics import within
from analysis.style import PAGE, look, style

_TEST, _VALIDATION = "test", "validation"
COLUMNS = ("kind", "split", "method", "step", "flops", "mean", "low", "high", "seeds")

#: The curves, with their names there.
_CURVES = {
    "sft_long": "SFT",
    "sft_grpo_long": "SFT→GRPO",
    "luffy": "LUFFY",
    "srft": "SRFT",
    "hpt": "HPT, as published",
    "hpt_global_token": "HPT, one token count",
}

#: The tests from top to bottom, in groups.
_GROUPS = (
    *((method, f"{method}_long", *faulty) for method, faulty in FAULTY.items()),
    ("luffy", "srft", "hpt", "hpt_global_token"),
)
_FAULTY = {method for methods in FAULTY.values() for method in methods}

#: Names of tests whose color tells the method.
_SHORT = {
    "long": "as much compute as HPT",
    "last": "last micro-batch only",
    "means": "mean of means",
    "both": "both faults",
}


def numbers(runs: Runs) -> pd.DataFrame:
    """:data:`COLUMNS`: validations over compute, and tests at its end; accuracies from 0 to 1."""
    audit = make(runs)
    curves = validation_curves(runs).assign(kind=_VALIDATION, split=IN)
    rows = [
        (_TEST, split, method, *_end(audit, method), e.mean, *within(e.interval), e.seeds)
        for split, tests in audit.tests.items()
        for method, e in tests.items()
    ]
    tests = pd.DataFrame(rows, columns=list(COLUMNS))
    frame = pd.concat([part for part in (curves, tests) if len(part)] or [tests])
    return frame.loc[frame["method"].isin(ROWS), list(COLUMNS)]


def _end(audit: Audit, method: str) -> tuple[float, float]:
    """Steps and FLOPs of the whole training."""
    steps, flops = audit.costs.reindex([method])[["steps", "flops"]].fillna(0.0).iloc[0]
    return float(steps), float(flops)


def figure(frame: pd.DataFrame) -> Figure:
    """Validations of the main methods over compute; tests of all, in and out of distribution."""
    tests = frame[frame["kind"] == _TEST]
    with style():
        drawn, (left, middle, right) = plt.subplots(
            1, 3, figsize=(PAGE, 2.9), width_ratios=(1.25, 1, 1)
        )
        _curves(left, frame[frame["kind"] == _VALIDATION])
        for axes, split in ((middle, IN), (right, OUT)):
            _tests(axes, tests[tests["split"] == split].set_index("method"))
            axes.set(title=f"Tests {split}", xlabel="accuracy")
        right.set_yticklabels([])
    return drawn


def _curves(axes: Axes, frame: pd.DataFrame) -> None:
    ends = []
    for method, name in _CURVES.items():
        line = frame[frame["method"] == method]
        if len(line):
            color = look(method).color
            axes.plot(line["flops"], line["mean"], color=color)
            last = line.iloc[-1]
            ends.append(End(name, last["flops"], last["mean"], look(method)))
    axes.set(title="Validation", xlabel="compute (FLOPs)", ylabel="accuracy", xscale="log")
    axes.xaxis.set_minor_locator(NullLocator())
    label_ends(axes, ends, gap=0.075, reach=0.04)


def _tests(axes: Axes, tests: pd.DataFrame) -> None:
    """A line a training: its mean, filled unless it has a fault, and its interval."""
    y = 0.0
    ticks: list[tuple[float, str, str]] = []
    for group in _GROUPS:
        for method in (m for m in group if m in tests.index):
            row, color = tests.loc[method], look(method).color
            axes.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1)
            face = "white" if method in _FAULTY else color
            axes.plot(row["mean"], y, "o", color=color, markerfacecolor=face, markersize=4)
            ticks.append((y, _SHORT.get(method.rpartition("_")[2], title(method)), color))
            y += 1
        y += 0.6
    if BASE in tests.index:
        base = look(BASE)
        axes.axvline(tests.loc[BASE, "mean"], color=base.color, linestyle=base.dash, linewidth=0.9)
    axes.set_yticks([y for y, *_ in ticks], [name for _, name, _ in ticks])
    for label, (*_, color) in zip(axes.get_yticklabels(), ticks, strict=True):
        label.set_color(color)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.invert_yaxis()
