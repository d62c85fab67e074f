"""Figure of the study ``reference``: what π_ref costs in bias and buys in variance."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from analysis.bias_variance.panels import Panel, Series, draw, legend_above, letter, replicates
from analysis.style import CYCLE, PAGE, Look, panels, style
from experiments.bias_variance.common import Rows, chosen

_REFERENCES = {
    "current": ("π$_θ$", Look(CYCLE[0], "o")),
    "rollout": ("π$_{θ\\,old}$, token by token", Look(CYCLE[1], "s")),
    "sequence": ("GSPO's", Look(CYCLE[2], "^")),
    "one": ("1", Look(CYCLE[3], "D")),
    "trajectory": ("π$_{θ\\,old}$, whole trajectory (eq. 3)", Look(CYCLE[6], "v", (0, (5, 1.5)))),
}
#: Measure: its name, its axis (the same in all rows).
_MEASURES = {
    "bias_sq": ("bias² / ‖∇J‖²", (1e-4, 2e1)),
    "variance": ("tr Cov / ‖∇J‖²", (1e-2, 1e3)),
    "mse": ("MSE / ‖∇J‖²", (1e-2, 1e3)),
    "mse_scaled": ("MSE, best multiple", (0, 1)),
}
_KL = "KL(π$_{θ\\,old}$ ‖ π$_θ$) [nats]"
#: Sweep, direction, column of x, its name, and what the row is called.
_SWEEPS = (
    ("kl", "random", "kl_wanted", _KL, "π$_θ$ moved at random"),
    ("kl", "gradient", "kl_wanted", _KL, "π$_θ$ moved up ∇J"),
    ("length", "gradient", "length", "mean length [tokens]", "up ∇J, KL fixed per token"),
)


def figure(rows: Rows) -> Figure:
    """Bias², variance and MSE against KL, for two directions, and against length."""
    with style():
        drawn, grid = panels(len(_SWEEPS), len(_MEASURES), (PAGE, 5.3))
        for axes, panel in zip(grid.flat, _panels(rows), strict=True):
            draw(axes, panel)
        for axes, (*_, name) in zip(grid[:, 0], _SWEEPS, strict=True):
            axes.set_ylabel(name)
        letter(grid.flat)
        legend_above(drawn, grid[0, 1], 5, "reference policy π$_{ref}$")
    return drawn


def _panels(rows: Rows) -> Iterator[Panel]:
    for sweep, direction, x, label, _ in _SWEEPS:
        swept = chosen(rows, sweep=sweep, direction=direction)
        for measure, (title, span) in _MEASURES.items():
            series = [
                Series(chosen(swept, reference=reference), x, measure, look, name)
                for reference, (name, look) in _REFERENCES.items()
                if (measure, reference) != ("bias_sq", "trajectory")
            ]
            axes = {
                "xlabel": label,
                "xscale": "log" if sweep == "kl" else "linear",
                "yscale": "log" if span[0] else "linear",
                "ylim": span,
            }
            yield Panel(title, series, axes)


def caption(rows: Rows) -> str:
    """What a reader has to know."""
    return (
        f"Exact numbers. Lines: median of {replicates(rows)} random problems; bands: their range. "
        "One group, leave-one-out advantage, no mask. Bias 0 is not drawn: that of eq. 3, and of "
        "the other ratios at length 1. Best multiple: the estimate times its best factor."
    )
