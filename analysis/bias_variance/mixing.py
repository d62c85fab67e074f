"""Figure of the study ``mixing``: the best weights of RL and SFT, and what gates make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import mean

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.bias_variance.series import caption, draw_series, letter
from analysis.style import CYCLE, DASHES, PAGE, Look, style
from experiments.bias_variance.common import Rows, chosen

_SOLID, _DASHED, _DOTDASH, _DOTTED = DASHES
_GATES = {
    "optimum": ("optimum given P", Look("#000000", "o")),
    "wiener": ("Wiener gate (ours)", Look(CYCLE[1], "D")),
    "switch": ("switch, γ = 0", Look(CYCLE[0], "s", _DASHED)),
    "fixed": ("fixed mix", Look("#7F7F7F", "P", _DOTTED)),
    "linear": ("linear: P, 1 − P", Look(CYCLE[2], "^", _DASHED)),
    "sigmoid": ("sigmoid at 1/4", Look(CYCLE[3], "v", _DOTDASH)),
    "keep rl": ("RL kept: 1, 1 − P", Look(CYCLE[4], "X", _DOTDASH)),
    "rl": ("RL alone", Look(CYCLE[5], "<", _DOTTED)),
    "sft": ("SFT alone", Look(CYCLE[7], ">", _DOTTED)),
}
_TARGETS = {
    "mu 0": ("∇E[r]", Look(CYCLE[0], "o")),
    "mu 0.125": ("∇J$_μ$, μ = 1/8", Look(CYCLE[1], "s", _DASHED)),
    "mu 1": ("∇J$_μ$, μ = 1", Look(CYCLE[2], "^", _DOTDASH)),
    "log": ("∇log E[r]", Look(CYCLE[3], "D", _DOTTED)),
}
_DEMO_LOOKS = (
    Look(CYCLE[0], "o"),
    Look(CYCLE[0], "s", _DASHED),
    Look(CYCLE[1], "^"),
    Look(CYCLE[1], "D", _DASHED),
)


#: The gates that take finite steps, by their names there and in the other panels.
_WALKED = {
    "wiener 0.5": "wiener",
    "switch 0": "switch",
    "fixed": "fixed",
    "linear": "linear",
    "keep rl": "keep rl",
    "rl": "rl",
    "sft": "sft",
}


def figure(rows: Rows) -> Figure:
    """Weights against P; what moves them; shares of the optimum's gain; γ; finite steps."""
    with style():
        drawn, panels = plt.subplots(4, 4, figsize=(PAGE, 8.4))
        places = product(("mu 0", "mu 1"), ("alpha", "beta"))
        for axes, (target, measure) in zip(panels[0], places, strict=True):
            _weights(axes, rows, target, measure)
        _demonstrators(panels[1, 0], rows, "mu 0")
        _demonstrators(panels[1, 1], rows, "mu 1")
        _room(panels[1, 1], 0.75)
        panels[1, 1].legend(
            fontsize=5,
            title="demonstrations",
            title_fontsize=5,
            loc="upper center",
        )
        _sizes(panels[1, 2], rows)
        _crossings(panels[1, 3], rows)
        for axes, target in zip(panels[2], _TARGETS, strict=True):
            _shares(axes, rows, target)
        _gammas(panels[3, 0], rows)
        _steps(panels[3, 1], rows)
        _training(panels[3, 2], rows)
        _against_mu(panels[3, 3], rows)
        letter(panels.flat)
        handles = [Line2D([], [], label=label, **look.line) for label, look in _GATES.values()]
        drawn.legend(handles=handles, loc="outside upper center", ncols=5)
        caption(drawn, _caption(rows))
    return drawn


def _caption(rows: Rows) -> str:
    step = max(
        float(r["error"]) / float(r["value"]) for r in chosen(rows, measure="step", gate="switch 0")
    )
    last = max(float(row["x"]) for row in chosen(rows, measure="training"))
    rl, sft = (_ahead(rows, gate, [last])[0] for gate in ("rl", "sft"))
    error = max(float(row["error"]) for row in chosen(rows, measure="training", gate="switch 0"))
    return (
        "Lines: medians over problems and priors, (n)–(p) means; bands: ranges. Every gate has the "
        "best factor for each of its terms.\n(i)–(l): bars and whiskers are mean and range over "
        "held-out cases, ticks means over the cases that the Wiener gate was made on.\n"
        "(e), (f), (h): successes distributed as under π$_θ$ (near) or under another, sharp policy "
        "(far). (h): where RL alone gains more than SFT alone.\n"
        f"(o): below its frame RL alone ends at {rl:.2f} and SFT alone at {sft:.2f}.\n"
        "Exact, but for (n)–(p), where all gates take the same draws: standard errors up to "
        f"{step:.0%} of a step's gain, and {error:.2g} of E[r]."
    )


def _weights(axes: Axes, rows: Rows, target: str, measure: str) -> None:
    own = chosen(rows, part="development", target=target, measure=measure)
    first = chosen(own, **_case(rows))
    for gate in ("optimum", "fixed", "linear", "sigmoid", "switch", "wiener"):
        label, look = _GATES[gate]
        series = chosen(first, gate=gate)
        series = _inner(series) if measure == "alpha" else series
        draw_series(axes, series, "x", "value", look, label, band=gate == "optimum")
    symbol = "α" if measure == "alpha" else "β"
    axes.set(title=f"target {_TARGETS[target][0]}", xlabel="P", ylabel=symbol, xlim=(-0.03, 1.03))


def _inner(rows: Rows) -> Rows:
    """Without P = 0 and 1, where RL has no gradient and α does nothing."""
    return [row for row in rows if 0 < float(row["x"]) < 1]


def _case(rows: Rows) -> dict[str, float | str]:
    """The group size and the demonstrator for which gates' weights are recorded."""
    drawn = chosen(rows, gate="wiener", measure="alpha")[0]
    return {key: drawn[key] for key in ("n", "demo_success", "demo_distance")}


def _by_demonstrator(rows: Rows) -> Iterator[tuple[Rows, Look, str]]:
    """The rows of every success rate at the least and the largest distance."""
    distances = [float(row["demo_distance"]) for row in rows]
    rates = sorted({float(row["demo_success"]) for row in rows}, reverse=True)
    ends = {"near": min(distances), "far": max(distances)}
    for (success, (kind, distance)), look in zip(
        product(rates, ends.items()), _DEMO_LOOKS, strict=False
    ):
        own = chosen(rows, demo_success=success, demo_distance=distance)
        yield own, look, f"{success:.0%} right, {kind}"


def _demonstrators(axes: Axes, rows: Rows, target: str) -> None:
    where: dict[str, float | str] = {"target": target, "measure": "beta", "gate": "optimum"}
    own = chosen(rows, part="development", n=_case(rows)["n"], **where)
    for series, look, label in _by_demonstrator(own):
        draw_series(axes, series, "x", "value", look, label, band=False)
    axes.axhline(0, color="#000000", linewidth=0.5)
    axes.set(title=f"target {_TARGETS[target][0]}", xlabel="P", ylabel="β*")


def _room(axes: Axes, share: float) -> None:
    """Room for a legend above what is drawn, as a share of its height."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + share * (high - low))


def _sizes(axes: Axes, rows: Rows) -> None:
    case = _case(rows)
    own = chosen(rows, part="development", target="mu 1", measure="alpha", gate="optimum")
    for i, n in enumerate(sorted({float(row["n"]) for row in own})):
        series = chosen(own, n=n, **{k: case[k] for k in ("demo_success", "demo_distance")})
        draw_series(axes, _inner(series), "x", "value", _DEMO_LOOKS[i], f"n = {n:g}", band=False)
    axes.set(title=f"target {_TARGETS['mu 1'][0]}", xlabel="P", ylabel="α*")
    _room(axes, 0.25)
    axes.legend(fontsize=5.5)


def _crossings(axes: Axes, rows: Rows) -> None:
    own = chosen(rows, part="development", measure="crossing", target="mu 0")
    for series, look, _ in _by_demonstrator(own):
        draw_series(axes, series, "n", "value", look, band=False)
    sizes = sorted({float(row["n"]) for row in own})
    axes.plot(
        sizes, [1 / (n + 1) for n in sizes], color="#000000", linestyle=_DOTTED, label="1/(n + 1)"
    )
    axes.set(xscale="log", yscale="log", xlabel="n", ylabel="least p with RL ahead")
    axes.set(
        title=f"target {_TARGETS['mu 0'][0]}", xticks=sizes, xticklabels=[f"{n:g}" for n in sizes]
    )
    axes.set_yticks([0.03, 0.1, 0.3], ["0.03", "0.1", "0.3"])
    axes.minorticks_off()
    axes.legend(fontsize=5.5)


def _shares(axes: Axes, rows: Rows, target: str) -> None:
    shares = chosen(rows, measure="share", target=target)
    names = [name for name in _GATES if name != "optimum"]
    for place, name in enumerate(reversed(names)):
        look = _GATES[name][1]
        own = [r for r in chosen(shares, gate=name) if name != "switch" or r["x"] == 0]
        held, made = (
            [float(row["value"]) for row in chosen(own, part=part)]
            for part in ("held out", "development")
        )
        axes.barh(place, mean(held), color=look.color, alpha=0.75, height=0.7)
        axes.plot([min(held), max(held)], [place, place], color="#000000", linewidth=0.7)
        axes.plot(mean(made), place, marker="|", color="#000000", markersize=7)
    first = axes.get_subplotspec().is_first_col()  # type: ignore[union-attr]
    labels = [_GATES[name][0] for name in reversed(names)] if first else []
    axes.set(title=f"target {_TARGETS[target][0]}", xlim=(0, 1.02), xlabel="share of the gain")
    axes.set_yticks(range(len(names)), labels or [""] * len(names))
    axes.grid(axis="y", visible=False)


def _gammas(axes: Axes, rows: Rows) -> None:
    for target, (label, look) in _TARGETS.items():
        own = chosen(rows, measure="share", gate="switch", target=target, part="development")
        draw_series(axes, own, "x", "value", look, label, band=False)
    axes.set(title="hard switch", xlabel="γ", ylabel="share of the gain", ylim=(0, 1))
    axes.legend(fontsize=5)


def _steps(axes: Axes, rows: Rows) -> None:
    own = chosen(rows, measure="step")
    norms = sorted({float(row["x"]) for row in own})
    for gate, name in _WALKED.items():
        axes.plot(norms, [_relative(own, x, gate) for x in norms], **_GATES[name][1].line)
    axes.set(
        title="one step", xscale="log", xlabel="its length", ylabel="gain in E[r] / best gate's"
    )
    axes.set_xticks(norms, [f"{norm:g}" for norm in norms], minor=False)
    axes.minorticks_off()


def _relative(rows: Rows, norm: float, gate: str) -> float:
    """The mean over problems of a gate's gain over the best gate's."""
    shares = []
    for row in chosen(rows, x=norm, gate=gate):
        same = {key: row[key] for key in ("seed", "demo_success", "demo_distance")}
        rivals = [float(rival["value"]) for rival in chosen(rows, x=norm, **same)]
        shares.append(float(row["value"]) / max(rivals))
    return mean(shares)


def _training(axes: Axes, rows: Rows) -> None:
    counts = sorted({float(row["x"]) for row in chosen(rows, measure="training")})
    for gate, name in _WALKED.items():
        axes.plot(counts, _ahead(rows, gate, counts), **_GATES[name][1].line)
    axes.set(title="many steps", xscale="log", xlabel="steps", ylabel="E[r] less the switch's")
    axes.set_ylim(-0.05, 0.02)
    axes.set_xticks(counts, [f"{count:g}" for count in counts])
    axes.minorticks_off()


def _ahead(rows: Rows, gate: str, counts: Sequence[float]) -> list[float]:
    """E[r] after so many steps, less the switch's; means over problems and demonstrators."""
    own = chosen(rows, measure="training")

    def reached(name: str, x: float) -> float:
        return mean(float(row["value"]) for row in chosen(own, gate=name, x=x))

    return [reached(gate, x) - reached("switch 0", x) for x in counts]


def _against_mu(axes: Axes, rows: Rows) -> None:
    own = chosen(rows, measure="step")
    names = {str(row["gate"]) for row in own if str(row["gate"]).startswith("wiener")}
    mus = sorted(float(name.removeprefix("wiener ")) for name in names)
    for norm, look in zip(sorted({float(row["x"]) for row in own}), _DEMO_LOOKS, strict=False):
        values = [_relative(own, norm, f"wiener {mu:g}") for mu in mus]
        axes.plot(range(len(mus)), values, label=f"step of {norm:g}", **look.line)
    axes.set_xticks(range(len(mus)), [f"{mu:g}" for mu in mus])
    axes.set(title="Wiener gate", xlabel="its μ", ylabel="gain in E[r] / best gate's")
    axes.legend(fontsize=5)
