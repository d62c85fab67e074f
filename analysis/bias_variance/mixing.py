"""Figure of the study ``mixing``: the best weights of RL and SFT, and what gates make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.bias_variance.panels import Panel, Series, draw, letter
from analysis.style import CYCLE, DASHES, PAGE, Look, panels, style
from experiments.bias_variance.common import Rows, chosen

_SOLID, _DASHED, _DOTDASH, _DOTTED = DASHES
GATES = {
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
_FOUR = (
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
_SMALL = {"fontsize": 5.5}


def figure(rows: Rows) -> Figure:
    """Weights against P; what moves them; shares of the optimum's gain; γ; finite steps."""
    with style():
        drawn, grid = panels(4, 4, (PAGE, 7.9))
        declared = [*_weights(rows), *_moved(rows)]
        for axes, panel in zip(
            [*grid[0], *grid[1], grid[3, 0]], [*declared, _gammas(rows)], strict=True
        ):
            draw(axes, panel)
        for axes, target in zip(grid[2], _TARGETS, strict=True):
            _shares(axes, rows, target)
        _steps(grid[3, 1], rows)
        _training(grid[3, 2], rows)
        _against_mu(grid[3, 3], rows)
        letter(grid.flat)
        handles = [Line2D([], [], label=label, **look.line) for label, look in GATES.values()]
        drawn.legend(handles=handles, loc="outside upper center", ncols=5)
    return drawn


def caption(rows: Rows) -> str:
    """What a reader has to know."""
    step = max(
        float(r["error"]) / float(r["value"]) for r in chosen(rows, measure="step", gate="switch 0")
    )
    last = max(float(row["x"]) for row in chosen(rows, measure="training"))
    rl, sft = (_ahead(rows, gate, [last])[0] for gate in ("rl", "sft"))
    error = max(float(row["error"]) for row in chosen(rows, measure="training", gate="switch 0"))
    return (
        "Lines: medians over problems and priors, in (n)–(p) means; bands: ranges. Every gate has "
        "the best factor for each of its terms. (i)–(l): bars and whiskers are mean and range over "
        "held-out cases, ticks means over the cases that the Wiener gate was fitted on. (e), (f), "
        "(h): successes distributed as under π$_θ$ (near) or under another, sharp policy (far). "
        "(h): where RL alone gains more than SFT alone. (o): below its frame, RL alone ends at "
        f"{rl:.2f} and SFT alone at {sft:.2f}. Exact, except (n)–(p), where all gates use the same "
        f"draws: standard errors up to {step:.0%} of a step's gain, and {error:.2g} of E[r]."
    )


# ------------------------------------------------------------------------------------- weights


def _case(rows: Rows) -> dict[str, float | str]:
    """The group size and the demonstrator for which gates' weights are recorded."""
    recorded = chosen(rows, gate="wiener", measure="alpha")[0]
    return {key: recorded[key] for key in ("n", "demo_success", "demo_distance")}


def _title(target: str) -> str:
    return f"target {_TARGETS[target][0]}"


def _inner(rows: Rows) -> Rows:
    """Without P = 0 and 1, where RL has no gradient and α does nothing."""
    return [row for row in rows if 0 < float(row["x"]) < 1]


def _weights(rows: Rows) -> Iterator[Panel]:
    """Each gate's weights against P, for two targets."""
    for target, (measure, symbol) in product(("mu 0", "mu 1"), (("alpha", "α"), ("beta", "β"))):
        where = {"part": "development", "target": target, "measure": measure}
        recorded = chosen(rows, **where, **_case(rows))
        recorded = _inner(recorded) if measure == "alpha" else recorded
        lines = [
            Series(
                chosen(recorded, gate=gate), "x", "value", GATES[gate][1], band=gate == "optimum"
            )
            for gate in ("optimum", "fixed", "linear", "sigmoid", "switch", "wiener")
        ]
        axes = {"xlabel": "P", "ylabel": symbol, "xlim": (-0.03, 1.03)}
        yield Panel(_title(target), lines, axes)


def _moved(rows: Rows) -> Iterator[Panel]:
    """What moves the optimal weights: the demonstrator, n, and the success rate."""
    case, made = _case(rows), chosen(rows, part="development")
    optimal = chosen(made, gate="optimum", measure="beta", n=case["n"])
    axes: dict[str, Any] = {"xlabel": "P", "ylabel": "β*"}
    yield Panel(_title("mu 0"), _by_demonstrator(chosen(optimal, target="mu 0")), axes, zero=True)
    names = {**_SMALL, "title": "demonstrations", "title_fontsize": 5.5, "loc": "upper center"}
    lines = _by_demonstrator(chosen(optimal, target="mu 1"))
    yield Panel(_title("mu 1"), lines, axes, legend=names, zero=True, headroom=0.75)
    alphas = chosen(made, target="mu 1", measure="alpha", gate="optimum")
    sizes = [
        Series(
            _inner(chosen(alphas, n=n, **{k: case[k] for k in ("demo_success", "demo_distance")})),
            *("x", "value", _FOUR[i], f"n = {n:g}"),
            band=False,
        )
        for i, n in enumerate(sorted({float(row["n"]) for row in alphas}))
    ]
    axes = {"xlabel": "P", "ylabel": "α*"}
    yield Panel(_title("mu 1"), sizes, axes, legend=_SMALL, headroom=0.25)
    crossings = chosen(made, measure="crossing", target="mu 0")
    counts = sorted({float(row["n"]) for row in crossings})
    bound: Rows = [{"x": n, "value": 1 / (n + 1), "n": n} for n in counts]
    lines = [replace(series, label="") for series in _by_demonstrator(crossings, "n")]
    lines.append(Series(bound, "n", "value", Look("#000000", "", _DOTTED), "1/(n + 1)", band=False))
    axes = {"xscale": "log", "yscale": "log", "xlabel": "n", "ylabel": "least p with RL ahead"}
    ticks = {"x": counts, "y": [0.03, 0.1, 0.3]}
    yield Panel(_title("mu 0"), lines, axes, ticks, legend=_SMALL)


def _by_demonstrator(rows: Rows, x: str = "x") -> list[Series]:
    """A line for every success rate at the least and the largest distance."""
    distances = [float(row["demo_distance"]) for row in rows]
    rates = sorted({float(row["demo_success"]) for row in rows}, reverse=True)
    ends = (("near", min(distances)), ("far", max(distances)))
    return [
        Series(
            chosen(rows, demo_success=success, demo_distance=distance),
            *(x, "value", look, f"{success:.0%} right, {kind}"),
            band=False,
        )
        for (success, (kind, distance)), look in zip(product(rates, ends), _FOUR, strict=False)
    ]


# --------------------------------------------------------------------------------------- gains


def _shares(axes: Axes, rows: Rows, target: str) -> None:
    shares = chosen(rows, measure="share", target=target)
    names = [name for name in GATES if name != "optimum"]
    for place, name in enumerate(reversed(names)):
        of_gate = [r for r in chosen(shares, gate=name) if name != "switch" or r["x"] == 0]
        held, made = (
            [float(row["value"]) for row in chosen(of_gate, part=part)]
            for part in ("held out", "development")
        )
        axes.barh(place, mean(held), color=GATES[name][1].color, alpha=0.75, height=0.7)
        axes.plot([min(held), max(held)], [place, place], color="#000000", linewidth=0.7)
        axes.plot(mean(made), place, marker="|", color="#000000", markersize=7)
    axes.set(title=_title(target), xlim=(0, 1.02), xlabel="share of the gain")
    first = target == next(iter(_TARGETS))
    labels = [GATES[name][0] if first else "" for name in reversed(names)]
    axes.set_yticks(range(len(names)), labels)
    axes.grid(axis="y", visible=False)


def _gammas(rows: Rows) -> Panel:
    switch = chosen(rows, measure="share", gate="switch", part="development")
    lines = [
        Series(chosen(switch, target=target), "x", "value", look, name, band=False)
        for target, (name, look) in _TARGETS.items()
    ]
    axes = {"xlabel": "γ", "ylabel": "share of the gain", "ylim": (0, 1)}
    return Panel("hard switch", lines, axes, legend=_SMALL)


def _steps(axes: Axes, rows: Rows) -> None:
    steps = chosen(rows, measure="step")
    norms = sorted({float(row["x"]) for row in steps})
    for gate, name in _WALKED.items():
        axes.plot(norms, [_relative(steps, x, gate) for x in norms], **GATES[name][1].line)
    _numbered(axes, "one step", "its length", "gain in E[r] / best gate's", norms)


def _numbered(axes: Axes, title: str, xlabel: str, ylabel: str, ticks: Sequence[float]) -> None:
    axes.set(title=title, xscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
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
        axes.plot(counts, _ahead(rows, gate, counts), **GATES[name][1].line)
    _numbered(axes, "many steps", "steps", "E[r] minus the switch's", counts)
    axes.set_ylim(-0.05, 0.02)


def _ahead(rows: Rows, gate: str, counts: Sequence[float]) -> list[float]:
    """E[r] after so many steps, minus the switch's; means over problems and demonstrators."""
    training = chosen(rows, measure="training")

    def reached(name: str, x: float) -> float:
        return mean(float(row["value"]) for row in chosen(training, gate=name, x=x))

    return [reached(gate, x) - reached("switch 0", x) for x in counts]


def _against_mu(axes: Axes, rows: Rows) -> None:
    steps = chosen(rows, measure="step")
    names = {str(row["gate"]) for row in steps if str(row["gate"]).startswith("wiener")}
    mus = sorted(float(name.removeprefix("wiener ")) for name in names)
    for norm, look in zip(sorted({float(row["x"]) for row in steps}), _FOUR, strict=False):
        values = [_relative(steps, norm, f"wiener {mu:g}") for mu in mus]
        axes.plot(range(len(mus)), values, label=f"step of {norm:g}", **look.line)
    axes.set_xticks(range(len(mus)), [f"{mu:g}" for mu in mus])
    axes.set(title="Wiener gate", xlabel="its μ", ylabel="gain in E[r] / best gate's")
    axes.legend(**_SMALL)
