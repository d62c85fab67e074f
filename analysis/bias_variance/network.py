"""Figure of the study ``network``: which enumerated findings carry over to a trained network."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from analysis.bias_variance.mixing import GATES
from analysis.bias_variance.panels import letter
from analysis.methods import title
from analysis.style import CYCLE, DASHES, PAGE, Look, look, style
from experiments.bias_variance.common import Rows, chosen
from experiments.network.study import REGISTERED

_POINTS = ("base", "middle", "end")

_SOLID, _DASHED, _DOTDASH, _DOTTED = DASHES

#: Reference policies and masks as in the figures of the studies ``reference`` and ``mask``.
_REFERENCES = {
    "current": ("π$_θ$", Look(CYCLE[0], "o")),
    "rollout": ("π$_{θ\\,old}$", Look(CYCLE[1], "s")),
    "sequence": ("GSPO's", Look(CYCLE[2], "^")),
    "one": ("1", Look(CYCLE[3], "D")),
    "trajectory": ("π$_{θ\\,old}$(τ)", Look(CYCLE[6], "v")),
}
_MASKS = {
    "rollout": ("no mask", Look(CYCLE[1], "s")),
    "clip": ("PPO's clip", Look(CYCLE[0], "o")),
    "dual_clip": ("dual clip", Look(CYCLE[5], "P")),
    "tis": ("weight ≤ 2", Look(CYCLE[2], "^")),
    "sapo": ("SAPO's gate", Look(CYCLE[3], "D")),
}
_VERDICTS = {
    "carries over": Look("#009E73", "o"),
    "does not": Look("#D55E00", "X"),
    "not decided": Look("#B0B0B0", "D"),
}


def figure(rows: Rows) -> Figure:
    """Errors on policy, masks and reference policies off policy, gates, and the verdicts."""
    with style():
        drawn = plt.figure(figsize=(PAGE, 9.8))
        grid = drawn.add_gridspec(5, 3, height_ratios=(1.25, 1, 1, 0.85, 1.25))
        panels = [[drawn.add_subplot(grid[i, j]) for j in range(3)] for i in range(4)]
        for column, point in enumerate(_POINTS):
            own = chosen(rows, point=point)
            _errors(panels[0][column], own, point, column == 0)
            _against_kl(panels[1][column], own, "weight", _MASKS)
            _against_kl(panels[2][column], own, "variance", _REFERENCES)
            _shares(panels[3][column], own, column == 0)
        for row, text in ((1, "mean along ∇E[r] / ‖∇E[r]‖"), (2, "tr Cov / ‖∇E[r]‖²")):
            panels[row][0].set_ylabel(text)
        for row, entries in ((1, _MASKS), (2, _REFERENCES)):
            _key(panels[row][2], entries)
        last = drawn.add_subplot(grid[4, :])
        _statements(last, rows)
        letter([axes for line in panels for axes in line] + [last])
    return drawn


def caption(rows: Rows) -> str:
    """What a reader has to know."""
    return (
        "Estimates with 95% intervals (bootstrap over groups and over blocks of the reference's "
        "sample), averaged over questions. One group per question. (a)–(c): filled, against "
        "∇E[r]; open, against ∇J$_μ$. (d)–(i): filled, π$_{θ\\,old}$ some updates earlier in "
        "training; open, π$_θ$ moved from π$_{θ\\,old}$ along ∇E[r]. (m): also not decided where "
        "the ratio of eq. 3, which is unbiased, doesn't look unbiased: there π$_{θ\\,old}$ hardly "
        "samples what the ratio weighs most."
    )


def _errors(axes: Axes, rows: Rows, point: str, first: bool) -> None:
    """The error of each algorithm's best multiple."""
    errors = chosen(rows, part="on policy", level="pooled", measure="mse_scaled")
    for place, name in enumerate(reversed(REGISTERED)):
        for target, filled, shift in (("reward", True, 0.13), ("mu", False, -0.13)):
            for row in chosen(errors, estimator=name, target=target):
                _mark(axes, row, float(row["value"]), place + shift, look(name), filled)
    step = int(float(rows[0]["step"]))
    axes.set(title=f"{point}, step {step}", xlabel="MSE of the best multiple", xlim=(None, 1.02))
    _names(axes, [title(name) for name in reversed(REGISTERED)], first)


def _mark(
    axes: Axes, row: Mapping[str, float | str], x: float, y: float, looks: Look, filled: bool
) -> None:
    """A point with its interval, along x."""
    low, high = float(row["low"]), float(row["high"])
    axes.plot([low, high], [y, y], color=looks.color, linewidth=0.8)
    face = looks.color if filled else "white"
    axes.plot(x, y, looks.marker, color=looks.color, markerfacecolor=face, markersize=3.4)


def _names(axes: Axes, names: list[str], first: bool) -> None:
    axes.set_yticks(range(len(names)), names if first else [""] * len(names))
    axes.tick_params(axis="y", labelsize=5.5)


def _against_kl(axes: Axes, rows: Rows, measure: str, entries: dict[str, tuple[str, Look]]) -> None:
    """A measure of reference policies or masks against KL, for both directions."""
    measured = chosen(rows, level="pooled", measure=measure, target="reward")
    for i, (name, (_, looks)) in enumerate(entries.items()):
        shift = 1.09 ** (i - (len(entries) - 1) / 2)  # so that intervals don't hide each other
        for part, face, dash in (("path", looks.color, _SOLID), ("gradient", "white", _DOTTED)):
            line = sorted(
                chosen(measured, part=part, estimator=name), key=lambda row: float(row["kl"])
            )
            x = [float(row["kl"]) * shift for row in line]
            y, low, high = ([float(row[c]) for row in line] for c in ("value", "low", "high"))
            marks = {"marker": looks.marker, "markerfacecolor": face, "linestyle": dash}
            axes.plot(x, y, color=looks.color, linewidth=0.7, **marks)
            axes.vlines(x, low, high, color=looks.color, linewidth=0.7)
    axes.set(title=str(rows[0]["point"]), xscale="log", xlabel="KL(π$_{θ\\,old}$ ‖ π$_θ$) [nats]")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if measure == "variance" and any(float(row["value"]) > 0 for row in measured):
        axes.set_yscale("log", nonpositive="mask")
    elif measure == "weight":
        axes.axhline(0, color="#000000", linewidth=0.6)
        axes.axhline(1, color="#000000", linewidth=0.4, linestyle=_DOTTED)


def _key(axes: Axes, entries: dict[str, tuple[str, Look]]) -> None:
    handles = [
        Line2D([], [], label=label, color=looks.color, marker=looks.marker)
        for label, looks in entries.values()
    ]
    axes.legend(handles=handles, fontsize=5.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _shares(axes: Axes, rows: Rows, first: bool) -> None:
    """How much of the best gain gates achieve for ∇J_μ (bars) and for ∇E[r] (ticks)."""
    shares = chosen(rows, measure="share")
    gates = [gate for gate in reversed(GATES) if gate != "optimum"]
    for place, gate in enumerate(gates):
        (wide,) = chosen(shares, estimator=gate, target="mu")
        (thin,) = chosen(shares, estimator=gate, target="reward")
        axes.barh(place, float(wide["value"]), color=CYCLE[5], alpha=0.7, height=0.7)
        ends = [float(wide["low"]), float(wide["high"])]
        axes.plot(ends, [place, place], color="#000000", linewidth=0.8)
        axes.plot(float(thin["value"]), place, marker="|", color=CYCLE[1], markersize=7)
    axes.set(
        title=str(rows[0]["point"]), xlim=(0, 1.02), xlabel="share of the gain: ∇J$_μ$; | ∇E[r]"
    )
    _names(axes, [GATES[gate][0] for gate in gates], first)
    axes.grid(axis="y", visible=False)


def _statements(axes: Axes, rows: Rows) -> None:
    """A mark for every statement, point and distance that it was held against."""
    stated = chosen(rows, measure="statement")
    names = list(dict.fromkeys(str(row["estimator"]) for row in stated))
    kinds = [
        (str(row["part"]), float(row["kl_wanted"]))
        for row in sorted(stated, key=lambda r: (str(r["part"]), float(r["kl_wanted"])))
        if row["part"] != "on policy"
    ]
    kinds = list(dict.fromkeys(kinds))
    width = max(len(kinds), 1)
    for i, point in enumerate(_POINTS):
        for place, name in enumerate(reversed(names)):
            for row in chosen(stated, point=point, estimator=name):
                kind = (str(row["part"]), float(row["kl_wanted"]))
                shift = kinds.index(kind) if kind in kinds else (width - 1) / 2
                looks = _VERDICTS[str(row["verdict"])]
                axes.plot(i * (width + 1) + shift, place, looks.marker, color=looks.color)
    ticks, labels = [], []
    for i, point in enumerate(_POINTS):
        for j, (part, distance) in enumerate(kinds):
            unit = "updates" if part == "path" else "nats"
            ticks.append(i * (width + 1) + j)
            labels.append(f"{distance:g} {unit}")
        axes.text(i * (width + 1) + (width - 1) / 2, len(names) - 0.1, point, ha="center")
    axes.set_xticks(ticks, labels, rotation=60, ha="right", fontsize=5)
    axes.set_ylim(-0.7, len(names) + 0.7)
    axes.set_title("enumerated findings on the network")
    _names(axes, list(reversed(names)), True)
    handles = [
        Line2D([], [], label=name, color=looks.color, marker=looks.marker, linestyle="")
        for name, looks in _VERDICTS.items()
    ]
    axes.legend(handles=handles, fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
