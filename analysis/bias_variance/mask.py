"""Figure of the study ``mask``: variance against bias as each mask's setting varies."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.bias_variance.panels import legend_above, letter, replicates, summary
from analysis.style import CYCLE, PAGE, Look, panels, style
from experiments.bias_variance.common import Rows, chosen
from experiments.bias_variance.mask import USUAL

#: Family: its name, what its setting is called, and its look.
_FAMILIES = {
    "clip": ("clip", "ε", Look(CYCLE[1], "s")),
    "clip_higher": ("DAPO", "ε$_{high}$", Look(CYCLE[4], "D")),
    "dual_clip": ("dual clip", "bound", Look(CYCLE[3], "v")),
    "cispo": ("CISPO, both sides", "ε", Look(CYCLE[2], "^")),
    "tis": ("TIS = CISPO, capped", "cap", Look(CYCLE[0], "o")),
    "sapo": ("SAPO", "τ", Look(CYCLE[5], "P")),
}
_POINTS = {
    "none": ("no mask", Look(CYCLE[6], "*")),
    "current": ("π$_{ref}$ = π$_θ$", Look("#7F7F7F", "X")),
}
#: Families whose range over problems is shown.
_CROSSED = ("none", "clip")
_VARIANCE, _BIAS = (0.05, 30.0), (5e-4, 30.0)
_DIRECTIONS = {"random": "π$_θ$ moved at random", "gradient": "π$_θ$ moved up ∇J"}


def figure(rows: Rows) -> Figure:
    """Trade-off curves for both directions and every KL; below, the MSE of means of N groups."""
    distances = sorted({float(row["kl"]) for row in rows})
    with style():
        drawn, grid = panels(3, len(distances), (PAGE, 6.3), sharey="row")
        for axes_row, (direction, name) in zip(grid, _DIRECTIONS.items(), strict=False):
            for axes, nats in zip(axes_row, distances, strict=True):
                _trade_off(axes, chosen(rows, direction=direction, kl=nats))
                axes.set(title=f"KL {nats:g} nats", xlabel="tr Cov / ‖∇J‖², one group")
            axes_row[0].set_ylabel(f"{name}\nbias² / ‖∇J‖²")
        for axes, nats in zip(grid[2], distances, strict=True):
            _groups(axes, chosen(rows, direction="gradient", kl=nats))
            axes.set(title=f"KL {nats:g} nats", xlabel="groups N that are averaged")
        grid[2, 0].set_ylabel("π$_θ$ moved up ∇J\nMSE / ‖∇J‖² at the usual setting")
        letter(grid.flat)
        grid[2, 0].legend(loc="lower left")
        legend_above(drawn, grid[0, 0], 4)
    return drawn


def _trade_off(axes: Axes, rows: Rows) -> None:
    axes.set(xlim=_VARIANCE, ylim=_BIAS, xscale="log", yscale="log")
    for mask, (name, symbol, look) in _FAMILIES.items():
        family, usual = chosen(rows, mask=mask), USUAL[mask]
        settings = [float(row["setting"]) for row in family]
        label = f"{name}: {symbol} {min(settings):g}–{max(settings):g} ({usual:g})"
        x, y = (summary(family, "setting", column)[1] for column in ("variance", "bias_sq"))
        axes.plot(x, y, markeredgewidth=0, **(look.line | {"markersize": 2.2}))
        _mark(axes, chosen(family, setting=usual), look, label)
    for mask, (label, look) in _POINTS.items():
        _mark(axes, chosen(rows, mask=mask), look, label)
    x_line = np.geomspace(*_VARIANCE, 400)
    for mse in (0.25, 0.5, 1, 2, 4, 8, 16):
        bias_sq = np.where(x_line < mse, mse - x_line, np.nan)
        axes.plot(x_line, bias_sq, color="#CFCFCF", linewidth=0.6, zorder=0)


def _mark(axes: Axes, rows: Rows, look: Look, label: str) -> None:
    """A large mark at the medians, for some with a cross over the range of both."""
    x, y = ([float(row[column]) for row in rows] for column in ("variance", "bias_sq"))
    if not x:
        return
    if rows[0]["mask"] in _CROSSED:
        axes.hlines(median(y), min(x), max(x), color=look.color, linewidth=0.7, alpha=0.6)
        axes.vlines(median(x), min(y), max(y), color=look.color, linewidth=0.7, alpha=0.6)
    large: dict[str, Any] = {
        "markersize": 6.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
        "ls": "none",
    }
    axes.plot(median(x), median(y), look.marker, color=look.color, label=label, **large)


def _groups(axes: Axes, rows: Rows) -> None:
    """Median over problems of bias² + tr Cov/N at the usual settings."""
    counts = np.geomspace(1, 1000, 25)
    lines = {mask: look for mask, (*_, look) in (_FAMILIES | _POINTS).items()}
    lines["trajectory"] = Look("#7F7F7F", "", ":")
    for mask, look in lines.items():
        usual = chosen(rows, mask=mask, setting=USUAL[mask])
        bias, variance = (
            np.array([float(row[column]) for row in usual])[:, None]
            for column in ("bias_sq", "variance")
        )
        mse = np.median(bias + variance / counts, axis=0)
        label = "whole-trajectory ratio (eq. 3)" if mask == "trajectory" else ""
        axes.plot(counts, mse, markevery=8, label=label, **look.line)
    axes.set(xscale="log", yscale="log")


def caption(rows: Rows) -> str:
    """What a reader has to know."""
    return (
        f"Exact numbers, medians of {replicates(rows)} random problems. Large marks: the usual "
        "setting, in parentheses; small ones: other settings. Thin crosses: range over problems, "
        "for clip and no mask. Gray lines: equal MSE."
    )
