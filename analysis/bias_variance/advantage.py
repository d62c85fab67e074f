"""Figure of the study ``advantage``: effective weights of questions, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.bias_variance.panels import Panel, Series, draw, legend_above, letter, replicates
from analysis.style import CYCLE, PAGE, Look, panels, series, style
from experiments.bias_variance.common import Rows, chosen

_RULES = {
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
_RATE = {"xlabel": "success rate p of the question", "xscale": "logit"}
_SIZE = {"xlabel": "rollouts per group, n", "xscale": "log", "yscale": "log"}
_GRAY = "#4D4D4D"


def figure(rows: Rows) -> Figure:
    """Weights against p and n; MSE of one question, raw and rescaled; MSE of a mix of them."""
    questions, mixed = chosen(rows, sweep="question"), chosen(rows, sweep="mix")
    sizes = sorted({float(row["n"]) for row in questions})
    n = min(sizes, key=lambda size: abs(size - 8))
    at_n = chosen(questions, n=n)
    weights = {"y": [0.5, 1, 2, 4]}
    with style():
        drawn, ((a, b, c), (d, e, f)) = panels(2, 3, (PAGE, 4.3))
        axes: dict[str, Any] = {**_RATE, "yscale": "log"}
        draw(
            a,
            Panel(f"weight on ∇E[r], n = {n:g}", _by_rule(at_n, "p", "weight", ()), axes, weights),
        )
        _z_weights(b, chosen(questions, rule="z_score"), sizes)
        _shrinkage(c, questions, {**weights, "x": sizes})
        draw(d, Panel(f"MSE / ‖∇E[r]‖², n = {n:g}", _by_rule(at_n, "p", "mse"), axes))
        draw(e, Panel(f"MSE, best multiple, n = {n:g}", _by_rule(at_n, "p", "mse_scaled"), _RATE))
        floors = [
            Series(chosen(mixed, rule=rule), "n", "bias_sq_scaled", floor, name, band=False)
            for rule, name in (("z_score", ""), ("union", ""))
            for floor in [Look(_RULES[rule][1].color, "", (0, (1, 1)))]
        ]
        lines = _by_rule(mixed, "n", "mse_scaled")
        draw(
            f,
            Panel(
                "MSE of all p, one multiple",
                [*lines, *floors],
                {**_SIZE, "ylim": (3e-3, 1.1)},
                {"x": sizes},
            ),
        )
        f.legend(
            handles=f.plot([], [], color=_GRAY, ls=":", label="bias² of the two /std"),
            loc="center left",
        )
        letter((a, b, c, d, e, f))
        legend_above(drawn, a, 4, "advantage Â")
    return drawn


def _by_rule(rows: Rows, x: str, y: str, bands: tuple[str, ...] = _BANDS) -> list[Series]:
    return [
        Series(chosen(rows, rule=rule), x, y, look, name, band=rule in bands)
        for rule, (name, look) in _RULES.items()
    ]


def _z_weights(axes: Axes, rows: Rows, sizes: list[float]) -> None:
    """The z-score's weight at every n, and its limit 1/√(p(1 − p))."""
    rates = 1 / (1 + np.exp(-np.linspace(-3.9, 3.9, 200)))
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
    lines = [
        Series(
            chosen(rows, n=n),
            "p",
            "weight",
            series(i)._replace(color=to_hex(shade)),
            f"n = {n:g}",
            band=False,
        )
        for i, (n, shade) in enumerate(zip(sizes, shades, strict=True))
    ]
    axes.plot(rates, 1 / np.sqrt(rates * (1 - rates)), color="black", ls=":", label="n → ∞")
    legend = {"loc": "upper center", "ncols": 3, "columnspacing": 1.0, "handlelength": 1.5}
    where: dict[str, Any] = {**_RATE, "yscale": "log", "ylim": (None, 25)}
    draw(axes, Panel("weight of (R − mean)/std", lines, where, {"y": [1, 2, 4, 8]}, legend))


def _shrinkage(axes: Axes, rows: Rows, ticks: dict[str, list[float]]) -> None:
    """Weights against n at a middle and a low p; R − mean and R − mean of others don't read p."""
    rates = sorted({float(row["p"]) for row in rows})
    half, low = (min(rates, key=lambda p: abs(p - wanted)) for wanted in (0.5, 0.05))
    lines = [
        Series(
            chosen(rows, rule=rule, p=p),
            "n",
            "weight",
            _RULES[rule][1],
            band=False,
            hollow=p == low,
        )
        for rule in ("centered", "leave_one_out", "z_score", "union")
        for p in (half, low)
    ]
    for p, fill in ((half, "full"), (low, "none")):
        axes.plot([], [], "o", color=_GRAY, fillstyle=fill, label=f"p = {p:g}")
    legend = {"loc": "upper left", "handlelength": 1.0}
    draw(axes, Panel("weight against n", lines, _SIZE, ticks, legend))


def caption(rows: Rows) -> str:
    """What a reader has to know."""
    return (
        f"Exact numbers, on policy. Lines: median of {replicates(rows)} random problems; bands "
        "(for two rules): their range. Weights are equal in all, batch-wide ones nearly. Weight w: "
        "the estimate's mean is w ∇E[r]; 1 is unbiased. Best multiple: the estimate times its best "
        "factor; in (f) one factor for all p."
    )
