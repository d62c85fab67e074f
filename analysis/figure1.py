"""Figure 1: ``python -m analysis.figure1``: the four components, and what algorithms take for them.

All of it is read from the registry (:data:`upge.algorithms.REGISTRY`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.curves import write_numbers
from analysis.style import PAGE, look, style
from upge.algorithms import REGISTRY, Algorithm
from upge.common.errors import UpgeError
from upge.common.provenance import provenance
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
    """

    name: str
    latex: str
    of: Callable[[Term], Component]


PARTS = (
    Part("stabilization mask", r"\mathbf{1}_{stable}", lambda term: term.stabilization),
    Part("reference policy", r"\frac{1}{\pi_{ref}}", lambda term: term.reference),
    Part("advantage estimate", r"\hat A", lambda term: term.advantage),
    Part("likelihood gradient", r"\nabla\pi_\theta\,f'", lambda term: term.shaping),
)

#: How samples are marked: in the colours of what learns from nothing else.
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

#: Inches: of a row and a column, of the names at the left, of what stands above the rows.
_ROW, _STEP, _NAMES, _ABOVE = 0.135, 0.176, 1.68, 2.3

#: Inches between two components' columns, and from the top to the boxes and the columns' names.
_EDGE = 0.62
_GAP, _FORMULA, _BOX, _LABELS = 0.12, 0.22, 0.72, 2.23


def figure() -> Figure:
    """The components around the formula, and below each its columns; a row an algorithm."""
    entries = list(REGISTRY.values())
    height = _ABOVE + _ROW * len(entries) + 0.42
    with style():
        drawn = plt.figure(figsize=(PAGE, height))
        drawn.set_layout_engine("none")
        axes = drawn.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, PAGE), ylim=(height, 0))
        axes.axis("off")
        places = _places()
        _formula(axes, places)
        _columns(axes, places)
        for row, entry in enumerate(entries):
            _algorithm(axes, places, entry, _ABOVE + _ROW * (row + 0.5), shaded=row % 2 == 0)
        printed = sum(entry.name in PRINTED for entry in entries)
        _divide(axes, _ABOVE + _ROW * printed)
        _legend(axes, height - 0.24)
    return drawn


def _places() -> list[dict[str, float]]:
    """Where each choice of each component has its column, by its formula."""
    found, x = [], _NAMES + _STEP / 2
    for part in PARTS:
        terms = (term for entry in REGISTRY.values() for term in entry.terms)
        choices = dict.fromkeys(_latex(part.of(term)) for term in terms)
        found.append({choice: x + _STEP * i for i, choice in enumerate(choices)})
        x += _STEP * len(choices) + _GAP
    return found


def _latex(component: Component) -> str:
    """As matplotlib reads it."""
    return (
        (latex(component) or _NONE).replace(r"\tfrac1", r"\tfrac{1}").replace(r"\tfrac", r"\frac")
    )


def _formula(axes: Axes, places: list[dict[str, float]]) -> None:
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "linewidth": 0.7}
    product = r"\,\cdot\,".join(part.latex for part in PARTS)
    top = axes.text(
        (_NAMES + PAGE) / 2,
        _FORMULA,
        rf"$\mathrm{{grad}}_{{Uni}}\;=\;{product}$",
        ha="center",
        va="center",
        fontsize=10,
        bbox=box,
    )
    for part, columns in zip(PARTS, places, strict=True):
        axes.annotate(
            f"{part.name}\n${part.latex}$",
            xy=(0.5, 0),
            xycoords=top,
            xytext=(min(_middle(columns), PAGE - _EDGE), _BOX),
            textcoords="data",
            ha="center",
            va="center",
            bbox=box,
            fontsize=7,
            arrowprops={"arrowstyle": "-", "linewidth": 0.7, "shrinkB": 3},
        )


def _middle(columns: dict[str, float]) -> float:
    return (min(columns.values()) + max(columns.values())) / 2


def _columns(axes: Axes, places: list[dict[str, float]]) -> None:
    for columns in places:
        for choice, x in columns.items():
            axes.text(x, _LABELS, f"${choice}$", rotation=90, ha="center", va="bottom", fontsize=7)


def _algorithm(
    axes: Axes, places: list[dict[str, float]], entry: Algorithm, y: float, shaded: bool
) -> None:
    if shaded:
        axes.axhspan(y - _ROW / 2, y + _ROW / 2, color="#F2F2F2", linewidth=0)
    axes.text(_NAMES - 0.06, y, entry.title, ha="right", va="center", fontsize=6.5)
    kinds = dict.fromkeys(term.samples for term in entry.terms)
    for part, columns in zip(PARTS, places, strict=True):
        for samples in kinds:
            own = {_latex(part.of(term)) for term in entry.terms if term.samples == samples}
            for choice in own:
                others = [t for t in entry.terms if _latex(part.of(t)) == choice]
                shared = len({t.samples for t in others}) > 1
                _mark(axes, columns[choice], y, samples, shared)


def _mark(axes: Axes, x: float, y: float, samples: str, shared: bool) -> None:
    """A mark, beside the column's middle where both kinds of samples have one."""
    aside = {"online": -1, "offline": 1}[samples] * (0.042 if shared else 0)
    _, own = _MARKS[samples]
    axes.plot(x + aside, y, color=own.color, marker=own.marker, markersize=3.4, linestyle="")


def _divide(axes: Axes, y: float) -> None:
    axes.axhline(y, color="black", linewidth=0.6)
    axes.text(0.04, y - 0.03, "Table 1", fontsize=5.5, va="bottom", color="#444444")
    axes.text(0.04, y + 0.03, "further", fontsize=5.5, va="top", color="#444444")


def _legend(axes: Axes, y: float) -> None:
    for x, (name, own) in zip((_NAMES, _NAMES + 0.85), _MARKS.values(), strict=True):
        axes.plot(x, y, color=own.color, marker=own.marker, markersize=3.4, linestyle="")
        axes.text(x + 0.07, y, name, va="center", fontsize=6.5)
    text = "A mark for what an algorithm's terms take, at their default options."
    axes.text(_NAMES + 1.95, y, text, va="center", fontsize=5.5, color="#444444")


def write_figure(folder: Path) -> list[Path]:
    """Write ``figure1`` (.pdf, .png, .csv)."""
    foot = f"{provenance()['commit']} · upge.algorithms.REGISTRY"
    return write_numbers(figure(), numbers(), foot, folder / "figure1")


def main(
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("figures"),
) -> None:
    """Draw the components and the algorithms that they make."""
    try:
        print(*write_figure(out), sep="\n")
    except UpgeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
