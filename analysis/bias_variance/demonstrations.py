"""Figure of the study ``demonstrations``: what each rule estimates, and how well."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from analysis.bias_variance.panels import Panel, Series, draw, legend_above, letter, replicates
from analysis.style import PAGE, look, panels, style
from experiments.bias_variance.common import Row, Rows, chosen

#: Rule: its name, and the registered method whose look it has.
_RULES = {
    "sft": ("SFT", "sft"),
    "off_policy": ("off-policy RL, π$_{ref}$ ≡ 1", "srft_offline"),
    "luffy": ("LUFFY's shaping", "luffy_offline"),
    "dft": ("DFT", "dft"),
    "chord": ("CHORD", "chord"),
}
_SYMLOG = {"value": "symlog", "linthresh": 0.01, "linscale": 0.5}
#: Column of the rows, part, target, title, range and scale of the axis.
_COLUMNS: tuple[tuple[str, str, str, str, tuple[float, float], str], ...] = (
    ("weight", "alone", "kl", "weight on ∇(−KL)", (-30, 30), "symlog"),
    ("cosine", "alone", "kl", "cosine with ∇(−KL)", (-1.05, 1.05), "linear"),
    ("cosine", "alone", "reward", "cosine with ∇E[r]", (-1.05, 1.05), "linear"),
    ("mse", "with_rollouts", "mu", "RL + μ·rule: MSE", (0.2, 20), "log"),
)
_X = {
    "share": ("teacher's share of π$_β$", "logit"),
    "coverage": ("π$_θ$(teacher's token)", "log"),
}


def figure(rows: Rows) -> Figure:
    """Weight, cosines and MSE against how sharp π_β is, and against how well π_θ covers it."""
    coverages = sorted({float(r["coverage"]) for r in chosen(rows, sweep="share")}, reverse=True)
    fixed = float(chosen(rows, sweep="coverage")[0]["share"])
    where: list[tuple[Row, str, str]] = [
        ({"sweep": "share", "coverage": c}, "share", f"{_X['coverage'][0]} = {c:g}")
        for c in coverages
    ]
    where.append(({"sweep": "coverage"}, "coverage", f"{_X['share'][0]} = {fixed:g}"))
    with style():
        drawn, grid = panels(len(where), len(_COLUMNS), (PAGE, 5.5))
        for (selected, x, name), axes_row in zip(where, grid, strict=True):
            for axes, column in zip(axes_row, _COLUMNS, strict=True):
                if column[-1] == "symlog":
                    axes.set_yscale(**_SYMLOG)
                draw(axes, _panel(chosen(rows, **selected), x, *column))
            axes_row[0].set_ylabel(name)
        letter(grid.flat)
        legend_above(drawn, grid[0, 0], 5)
    return drawn


def _panel(
    rows: Rows,
    x: str,
    y: str,
    part: str,
    target: str,
    title: str,
    span: tuple[float, float],
    scale: str,
) -> Panel:
    series = [
        Series(chosen(rows, rule=rule, part=part, target=target), x, y, look(method), name)
        for rule, (name, method) in _RULES.items()
    ]
    label, xscale = _X[x]
    axes: dict[str, Any] = {"ylim": span, "xlabel": label, "xscale": xscale}
    if scale == "symlog":
        axes["yticks"] = [-10, -1, -0.1, 0, 0.1, 1, 10]
    else:
        axes["yscale"] = scale
    return Panel(title, series, axes, zero=span[0] < 0)


def caption(rows: Rows) -> str:
    """What a reader has to know."""
    return (
        f"Exact numbers. Lines: median of {replicates(rows)} random problems; bands: their range. "
        "One demonstration; last column: beside one group, as MSE/‖∇J$_μ$‖². π$_β$ takes one fixed "
        "token at each prefix, the teacher's, with the share shown, and draws from π$_θ$ "
        "otherwise. SFT decreases KL(π$_β$ ‖ π$_θ$)."
    )
