"""Figure of the study ``demonstrations``: what each rule estimates, and how well."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.bias_variance.series import caption, draw_series, legend_above, letter, logit_axis
from analysis.style import PAGE, look, style
from experiments.bias_variance.common import Row, Rows, chosen

#: Rule: how it is named, and the registered method whose look it has.
_RULES = {
    "sft": ("SFT", "sft"),
    "off_policy": ("off-policy RL, π$_{ref}$ ≡ 1", "srft_offline"),
    "luffy": ("LUFFY's shaping", "luffy_offline"),
    "dft": ("DFT", "dft"),
    "chord": ("CHORD", "chord"),
}
#: Column of the rows, part, target, what it is called, its axis, whether in logarithms.
_PANELS = (
    ("weight", "alone", "kl", "weight on ∇(−KL)", (-30, 30), "symlog"),
    ("cosine", "alone", "kl", "cosine with ∇(−KL)", (-1.05, 1.05), "linear"),
    ("cosine", "alone", "reward", "cosine with ∇E[r]", (-1.05, 1.05), "linear"),
    ("mse", "with_rollouts", "mu", "RL + μ·rule: MSE", (0.2, 20), "log"),
)
_SHARE = "teacher's share of π$_β$"
_COVERAGE = "π$_θ$(teacher's token)"


def figure(rows: Rows) -> Figure:
    """Weight, cosines and MSE against how sharp π_β is, and against how well π_θ covers it."""
    swept = chosen(rows, sweep="share")
    coverages = sorted({float(row["coverage"]) for row in swept}, reverse=True)
    fixed = float(chosen(rows, sweep="coverage")[0]["share"])
    lines: list[tuple[Row, str, str]] = [
        ({"sweep": "share", "coverage": c}, "share", f"π$_θ$(teacher's token) = {c:g}")
        for c in coverages
    ]
    lines.append(({"sweep": "coverage"}, "coverage", f"teacher's share of π$_β$ = {fixed:g}"))
    with style():
        drawn, panels = plt.subplots(len(lines), len(_PANELS), figsize=(PAGE, 5.8), squeeze=False)
        for (where, x, place), line in zip(lines, panels, strict=True):
            for panel, axes in zip(_PANELS, line, strict=True):
                column, part, target, name, span, scale = panel
                for rule, (label, method) in _RULES.items():
                    own = chosen(rows, rule=rule, part=part, target=target, **where)
                    draw_series(axes, own, x, column, look(method), label)
                axes.set(title=name, yscale=scale)
                if scale == "symlog":
                    axes.set_yscale("symlog", linthresh=0.01, linscale=0.5)
                    axes.set_yticks([-10, -1, -0.1, 0, 0.1, 1, 10])
                axes.set_ylim(span)
                axes.set_xlabel(_SHARE if x == "share" else _COVERAGE)
                if x == "share":
                    logit_axis(axes)
                else:
                    axes.set_xscale("log")
                if span[0] < 0:
                    axes.axhline(0, color="#7F7F7F", linewidth=0.6)
            line[0].set_ylabel(place)
        letter(panels.flat)
        legend_above(drawn, panels[0, 0], 5)
        replicates = len({row["seed"] for row in rows})
        caption(
            drawn,
            f"Exact numbers. Lines: median of {replicates} random problems; bands: their range. "
            "One demonstration; last column: beside one group, as MSE/‖∇J$_μ$‖².\n"
            "π$_β$ takes one fixed token at each prefix, the teacher's, with the share shown, and "
            "else draws from π$_θ$. KL(π$_β$ ‖ π$_θ$) is what SFT lowers.",
        )
    return drawn
