"""Figure of the study ``reference``: what π_ref costs in bias and buys in variance."""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.bias_variance.series import caption, draw_series, legend_above, letter
from analysis.style import CYCLE, PAGE, Look, style
from experiments.bias_variance.common import Rows, chosen

_LABELS = {
    "current": "π$_θ$",
    "rollout": "π$_{θ\\,old}$, token by token",
    "sequence": "GSPO's",
    "one": "1",
    "trajectory": "π$_{θ\\,old}$, whole trajectory (eq. 3)",
}
_LOOKS = {
    "current": Look(CYCLE[0], "o"),
    "rollout": Look(CYCLE[1], "s"),
    "sequence": Look(CYCLE[2], "^"),
    "one": Look(CYCLE[3], "D"),
    "trajectory": Look(CYCLE[6], "v", (0, (5, 1.5))),
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
        drawn, panels = plt.subplots(3, 4, figsize=(PAGE, 5.6))
        for (sweep, direction, x, label, place), line in zip(_SWEEPS, panels, strict=True):
            own = chosen(rows, sweep=sweep, direction=direction)
            for (measure, (name, span)), axes in zip(_MEASURES.items(), line, strict=True):
                for reference, look in _LOOKS.items():
                    if (measure, reference) != ("bias_sq", "trajectory"):
                        series = chosen(own, reference=reference)
                        draw_series(axes, series, x, measure, look, _LABELS[reference])
                if span[0]:
                    axes.set_yscale("log", nonpositive="mask")
                axes.set(
                    title=name, ylim=span, xlabel=label, xscale="log" if sweep == "kl" else "linear"
                )
            line[0].set_ylabel(place)
        letter(panels.flat)
        legend_above(drawn, panels[0, 1], 5, "reference policy π$_{ref}$")
        replicates = len({row["seed"] for row in rows})
        caption(
            drawn,
            f"Exact numbers. Lines: median of {replicates} random problems; bands: their range. "
            "One group, leave-one-out advantage, no mask.\nBias 0 is not drawn: eq. 3's, and the "
            "other ratios' at length 1. Best multiple: the estimate times its best factor.",
        )
    return drawn
