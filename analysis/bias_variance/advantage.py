"""Figure of the study ``advantage``: effective weights of questions, and errors."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

from analysis.bias_variance.series import (
    caption,
    draw_series,
    legend_above,
    letter,
    logit_axis,
    summary,
)
from analysis.style import CYCLE, PAGE, Look, series, style
from experiments.bias_variance.common import Rows, chosen

_LOOKS = {
    "reward": ("R", Look("#7F7F7F", "x", (0, (1, 1)))),
    "signed": ("±1", Look(CYCLE[6], "v", (0, (1, 1)))),
    "centered": ("R − mean", Look(CYCLE[2], "^")),
    "leave_one_out": ("R − mean of others", Look(CYCLE[0], "o", (0, (5, 1.5)))),
    "z_score": ("(R − mean)/std", Look(CYCLE[1], "s")),
    "union": ("(R − mean)/std, with a demonstration", Look(CYCLE[3], "D", (0, (3, 1, 1, 1)))),
    "batch": ("(R − mean)/std, batch-wide", Look(CYCLE[4], "P")),
}
#: Rules whose range over problems is shown; the others' are as wide.
_BANDS = ("leave_one_out", "z_score")
_RATE = "success rate p of the question"


def figure(rows: Rows) -> Figure:
    """Weights against p and n; MSE of one question, raw and rescaled; MSE of a mix of them."""
    own = chosen(rows, sweep="question")
    sizes = sorted({float(row["n"]) for row in own})
    n = min(sizes, key=lambda size: abs(size - 8))
    with style():
        drawn, ((a, b, c), (d, e, f)) = plt.subplots(2, 3, figsize=(PAGE, 4.5))
        for axes, column, title in (
            (a, "weight", f"weight on ∇E[r], n = {n:g}"),
            (d, "mse", f"MSE / ‖∇E[r]‖², n = {n:g}"),
            (e, "mse_scaled", f"MSE, best multiple, n = {n:g}"),
        ):
            for rule, (label, look) in _LOOKS.items():
                band = column != "weight" and rule in _BANDS
                draw_series(axes, chosen(own, rule=rule, n=n), "p", column, look, label, band=band)
            logit_axis(axes)
            axes.set(title=title, xlabel=_RATE, yscale="linear" if axes is e else "log")
        a.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4]))
        _plain(a)
        _z_weights(b, chosen(own, rule="z_score"), sizes)
        _shrinkage(c, own)
        mixed = chosen(rows, sweep="mix")
        for rule, (_, look) in _LOOKS.items():
            band = rule in _BANDS
            draw_series(f, chosen(mixed, rule=rule), "n", "mse_scaled", look, band=band)
        for rule in ("z_score", "union"):
            floor = Look(_LOOKS[rule][1].color, "", (0, (1, 1)))
            draw_series(f, chosen(mixed, rule=rule), "n", "bias_sq_scaled", floor, band=False)
        f.set(
            title="MSE of all p, one multiple",
            xlabel="rollouts a group, n",
            yscale="log",
            ylim=(3e-3, 1.1),
        )
        _sizes(f, sizes)
        f.plot([], [], color="#4D4D4D", linestyle=":", label="bias² of the two /std")
        f.legend(loc="center left", handlelength=1.5)
        letter((a, b, c, d, e, f))
        legend_above(drawn, a, 4, "advantage Â")
        replicates = len({row["seed"] for row in rows})
        caption(
            drawn,
            f"Exact numbers, on policy. Lines: median of {replicates} random problems; bands "
            "(two rules): their range. Weights are equal in all, batch-wide ones nearly.\n"
            "Weight w: the estimate's mean is w ∇E[r]; 1 is unbiased. Best multiple: the estimate "
            "times its best factor; in (f) one factor for all p.",
        )
    return drawn


def _z_weights(axes: Axes, rows: Rows, sizes: list[float]) -> None:
    """The z-score's weight at every n, and its limit 1/√(p(1 − p))."""
    for i, n in enumerate(sizes):
        shade = to_hex(plt.get_cmap("viridis")(0.9 * i / max(len(sizes) - 1, 1)))
        look = series(i)._replace(color=shade)
        draw_series(axes, chosen(rows, n=n), "p", "weight", look, f"n = {n:g}", band=False)
    rates = 1 / (1 + np.exp(-np.linspace(-3.9, 3.9, 200)))
    limit = 1 / np.sqrt(rates * (1 - rates))
    axes.plot(rates, limit, color="black", linestyle=":", label="n → ∞")
    logit_axis(axes)
    axes.set(title="weight of (R − mean)/std", xlabel=_RATE, yscale="log")
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 4, 8]))
    _plain(axes)
    axes.legend(loc="upper center", ncols=3, columnspacing=1.0, handlelength=1.5)
    axes.set_ylim(top=25)


def _shrinkage(axes: Axes, rows: Rows) -> None:
    """Weights against n at a middle and a low p; R − mean and R − mean of others don't read p."""
    rates = sorted({float(row["p"]) for row in rows})
    half, low = (min(rates, key=lambda p: abs(p - wanted)) for wanted in (0.5, 0.05))
    for rule in ("centered", "leave_one_out", "z_score", "union"):
        look = _LOOKS[rule][1]
        for p, fill in ((half, "full"), (low, "none")):
            own = chosen(rows, rule=rule, p=p)
            x, y, *_ = summary(own, "n", "weight")
            axes.plot(x, y, fillstyle=fill, **look.line)
    axes.set(
        title="weight against n",
        xlabel="rollouts a group, n",
        yscale="log",
    )
    for p, fill in ((half, "full"), (low, "none")):
        axes.plot([], [], "o", color="#4D4D4D", fillstyle=fill, label=f"p = {p:g}")
    axes.legend(loc="upper left", handlelength=1.0)
    axes.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 4]))
    _plain(axes)
    _sizes(axes, sorted({float(row["n"]) for row in rows}))


def _plain(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _sizes(axes: Axes, sizes: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
