"""Figure 1: the four components of the estimator, and what algorithms take for them.

All of it is read from the registry (:data:`upge.algorithms.REGISTRY`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

from analysis.style import CYCLE, PAGE, VIOLET, look, style
from upge.algorithms import REGISTRY, Algorithm
from upge.component import Component
from upge.estimator import Term
from upge.verification.notation import latex
from upge.verification.printed import PRINTED


@dataclass(frozen=True)
class Part:
    """One of the four components.

    Args:
        name: as the paper calls it.
        latex: its place in the formula.
        of: what a term takes for it.
        color: of its name and place.
    """

    name: str
    latex: str
    of: Callable[[Term], Component]
    color: str


PARTS = (
    Part("stabilization mask", r"\mathbf{1}_{stable}", lambda term: term.stabilization, CYCLE[1]),
    Part("reference policy", r"\frac{1}{\pi_{ref}}", lambda term: term.reference, CYCLE[2]),
    Part("advantage estimate", r"\hat A", lambda term: term.advantage, CYCLE[3]),
    Part("likelihood gradient", r"\nabla\pi_\theta\,f'", lambda term: term.shaping, VIOLET),
)

#: How samples are marked: in the colors of what learns from nothing else.
_MARKS = {"online": ("rollouts", look("grpo")), "offline": ("demonstrations", look("sft"))}

#: What a component without effect is called.
_NONE = "1"


def numbers() -> pd.DataFrame:
    """A row a term of each registered algorithm, with its components in plain characters.

    ``algorithm, title, table1, term, samples``, the four components, ``normalizer, gate``.
    """
    return pd.DataFrame([row for entry in REGISTRY.values() for row in _rows(entry)])


def _rows(entry: Algorithm) -> Iterator[dict[str, object]]:
    for number, term in enumerate(entry.terms):
        yield {
            "algorithm": entry.name,
            "title": entry.title,
            "table1": "yes" if entry.name in PRINTED else "no",
            "term": number,
            "samples": term.samples,
            **{part.name: part.of(term).text or _NONE for part in PARTS},
            "normalizer": term.normalizer.text,
            "gate": "" if term.gate is None else term.gate.side,
        }


# ---------------------------------------------------------------------------------------- drawing

#: Inches: of a line, a column, the gap between components, what is at the left, and above and below
#: the lines.
_LINE, _STEP, _GAP, _LEFT, _TOP, _BOTTOM = 0.27, 0.43, 0.14, 2.75, 1.3, 0.35


def figure(frame: pd.DataFrame) -> Figure:
    """A line for each choice of a component, a column for each row of Table 1 and HPT."""
    shown = frame.loc[(frame["table1"] == "yes") | (frame["algorithm"] == "hpt"), "algorithm"]
    entries = [REGISTRY[name] for name in dict.fromkeys(shown)]
    choices = [list(dict.fromkeys(_choices(part, entries))) for part in PARTS]
    count = sum(map(len, choices))
    height = _TOP + _LINE * count + _GAP * (len(PARTS) - 1) + _BOTTOM
    with style():
        mpl.rcParams["figure.constrained_layout.w_pad"] = 0.0
        mpl.rcParams["figure.constrained_layout.h_pad"] = 0.0
        drawn, axes = plt.subplots(figsize=(PAGE, height))
        axes.set(xlim=(0, PAGE), ylim=(height, 0))
        axes.axis("off")
        _formula(axes)
        y = _TOP + _LINE / 2
        for part, names in zip(PARTS, choices, strict=True):
            end = y + _LINE * (len(names) - 1)
            axes.text(0.06, (y + end) / 2, part.name, color=part.color, fontsize=8.5, va="center")
            axes.plot([1.37, 1.37], [y - 0.09, end + 0.09], color=part.color, linewidth=2)
            for name in names:
                _choice(axes, part, name, entries, y)
                y += _LINE
            y += _GAP
        for i, entry in enumerate(entries):
            title = entry.title.partition(",")[0]
            x = _LEFT + _STEP * (i + 0.5)
            axes.text(x - 0.06, _TOP - 0.04, title, rotation=40, va="bottom", fontsize=9)
            axes.plot([x, x], [_TOP, height - _BOTTOM - 0.08], color="#EFEFEF", zorder=0)
        _legend(axes, height - _BOTTOM / 2)
    return drawn


def _choices(part: Part, entries: list[Algorithm]) -> list[str]:
    return [_latex(part.of(term)) for entry in entries for term in entry.terms]


def _latex(component: Component) -> str:
    """As matplotlib reads it."""
    return (
        (latex(component) or _NONE).replace(r"\tfrac1", r"\tfrac{1}").replace(r"\tfrac", r"\frac")
    )


def _formula(axes: Axes) -> None:
    """The estimator, each factor in its component's color."""
    texts = [r"\mathrm{grad}_{Uni}\;=\;", *(part.latex for part in PARTS)]
    colors = ["black", *(part.color for part in PARTS)]
    areas: list[Artist] = [
        TextArea(f"${text}$", textprops={"color": color, "fontsize": 17})
        for text, color in zip(texts, colors, strict=True)
    ]
    row = HPacker(children=areas, pad=0, sep=7, align="baseline")
    axes.add_artist(AnchoredOffsetbox("upper left", child=row, pad=0, frameon=False))


def _choice(axes: Axes, part: Part, name: str, entries: list[Algorithm], y: float) -> None:
    """A line: the formula of the choice, and a mark for each algorithm and kind of samples."""
    size = 12 if r"\frac" in name else 10
    axes.text(_LEFT - 0.12, y, f"${name}$", ha="right", va="center", fontsize=size)
    right = _LEFT + _STEP * len(entries)
    axes.plot([_LEFT, right], [y, y], color="#EFEFEF", zorder=0)
    for i, entry in enumerate(entries):
        kinds = [k for k in _MARKS if any(_takes(part, name, t, k) for t in entry.terms)]
        for j, kind in enumerate(kinds):
            x = _LEFT + _STEP * (i + 0.5) + 0.1 * (j - (len(kinds) - 1) / 2)
            mark = _MARKS[kind][1]
            axes.plot(x, y, mark.marker, color=mark.color, markersize=6)


def _takes(part: Part, name: str, term: Term, samples: str) -> bool:
    return term.samples == samples and _latex(part.of(term)) == name


def _legend(axes: Axes, y: float) -> None:
    for x, (name, mark) in zip((_LEFT + 0.2, _LEFT + 1.6), _MARKS.values(), strict=True):
        axes.plot(x, y, mark.marker, color=mark.color, markersize=6)
        axes.text(x + 0.13, y, name, va="center", fontsize=9)
