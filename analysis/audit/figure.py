"""Figure: accuracy against compute, correct and faulty, in stages and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis import learning_curves
from analysis.accuracy.table import IN, OUT
from analysis.audit.results import FAULTY, ROWS, Audit
from analysis.curves import draw, look_of, seed_count, write_series
from analysis.methods import BASE, title
from analysis.statistics import within
from analysis.style import PAGE, Look, style

#: What each column of panels shows; before all others, the methods that it compares them with.
_PANELS = {
    "SFT, with faults": ("sft_long", "sft", *FAULTY["sft"]),
    "SFT→GRPO, with faults": ("sft_grpo_long", "sft_grpo", *FAULTY["sft_grpo"]),
    "In stages and mixed": (
        *("sft_long", "sft_grpo_long", "luffy", "srft", "hpt", "hpt_global_token"),
    ),
}

#: Tests whose compute differs by less than this factor are drawn this factor apart.
_SAME = 1.08

_CONTEXT = "#D0D0D0"
_TEST, _VALIDATION = "test", "validation"
COLUMNS = ("kind", "split", "method", "step", "flops", "mean", "low", "high", "seeds")


def numbers(audit: Audit) -> pd.DataFrame:
    """:data:`COLUMNS`: validations over compute, and tests at its end; accuracies from 0 to 1."""
    curves = learning_curves.numbers(audit.runs).assign(kind=_VALIDATION, split=IN)
    rows = [
        (_TEST, split, method, steps, flops, e.mean, *within(e.interval), e.seeds)
        for split, tests in audit.tests.items()
        for method, e in tests.items()
        for steps, flops in [_end(audit, method)]
    ]
    tests = pd.DataFrame(rows, columns=list(COLUMNS))
    found = pd.concat([own for own in (curves, tests) if len(own)] or [tests])
    return found.loc[found["method"].isin(ROWS), list(COLUMNS)]


def _end(audit: Audit, method: str) -> tuple[float, float]:
    if method not in audit.costs.index:
        return 0.0, 0.0
    steps, flops = audit.costs.loc[method, ["steps", "flops"]]
    return float(steps), float(flops)


def figure(frame: pd.DataFrame) -> Figure:
    """A column of panels a question; in distribution above, out of distribution below."""
    with style():
        drawn, panels = plt.subplots(
            2, len(_PANELS), figsize=(PAGE, 4.9), sharex=True, sharey="row", squeeze=False
        )
        for column, (name, methods) in zip(panels.T, _PANELS.items(), strict=True):
            shown = [method for method in methods if method in set(frame["method"])]
            column[0].set_title(name, loc="left")
            for axes, split in zip(column, (IN, OUT), strict=True):
                _panel(axes, frame[frame["split"] == split], shown)
            handles, names = column[0].get_legend_handles_labels()
            place = {"loc": "upper left", "bbox_to_anchor": (-0.05, -0.28)}
            column[1].legend(handles, names, handlelength=2.6, labelspacing=0.3, **place)
            column[1].set_xlabel("compute (FLOPs)")
        for axes, split in zip(panels[:, 0], (IN, OUT), strict=True):
            axes.set_ylabel(f"accuracy, {split}")
        drawn.supxlabel(_caption(frame), fontsize=6, color="#444444")
    return drawn


def _panel(axes: Axes, frame: pd.DataFrame, shown: Sequence[str]) -> None:
    for _, own in frame[frame["kind"] == _VALIDATION].groupby("method", sort=False):
        axes.plot(own["flops"], own["mean"], color=_CONTEXT, linewidth=0.7, zorder=1)
    places = _apart(frame[(frame["kind"] == _TEST) & frame["method"].isin(shown)])
    for i, method in enumerate(shown):
        own = frame[frame["method"] == method]
        look, line = look_of(method, i), own[own["kind"] == _VALIDATION]
        draw(axes, line, "flops", look, every=max(len(line) // 8, 1))
        _test_point(
            axes, own[own["kind"] == _TEST].assign(flops=places.get(method)), look, title(method)
        )
    base = frame[(frame["method"] == BASE) & (frame["kind"] == _TEST)]
    for mean in base["mean"]:
        axes.axhline(mean, color=look_of(BASE, 0).color, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())


def _apart(tests: pd.DataFrame) -> dict[str, float]:
    """Where tests are drawn: at their compute, side by side where several took the same."""
    places: dict[str, float] = {}
    flops = dict(zip(tests["method"], tests["flops"], strict=True))
    for method, own in flops.items():
        same = [name for name, other in flops.items() if max(own / other, other / own) < _SAME]
        middle = sum(flops[name] for name in same) / len(same)
        places[method] = middle * _SAME ** (same.index(method) - (len(same) - 1) / 2)
    return places


def _test_point(axes: Axes, own: pd.DataFrame, look: Look, name: str) -> None:
    """A large open marker, with its interval; it names the method in the legend."""
    below, above = own["mean"] - own["low"], own["high"] - own["mean"]
    axes.errorbar(
        own["flops"],
        own["mean"],
        yerr=[below, above],
        **look.line,
        label=name,
        markersize=5.5,
        markerfacecolor="white",
        elinewidth=0.8,
        capsize=1.5,
        zorder=3,
    )


def _caption(frame: pd.DataFrame) -> str:
    return (
        f"Lines: validations, means over {seed_count(frame)}, bands 95 % intervals over seeds; "
        "open markers: tests of whole trainings, with 95 % intervals,\nside by side where they "
        "took the same. Grey: the other panels' methods. Dotted: the base model in tests. FLOPs: "
        "of sampling and training,\nmean over seeds."
    )


def write_figure(audit: Audit, folder: Path) -> list[Path]:
    """Write ``audit`` (.pdf, .png, .csv); nothing if no run was tested."""
    frame = numbers(audit)
    drawn = figure(frame) if len(frame) else None
    return write_series(drawn, frame, audit.runs, folder / "audit")
