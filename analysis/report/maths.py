"""Formulas for a page that loads nothing: matplotlib sets LaTeX, the page keeps its outlines.

Every formula is drawn once, as a symbol, and used wherever it stands; it takes the text's colour.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.path import Path
from matplotlib.textpath import TextPath

#: Units an em: coordinates are whole numbers of these.
_EM = 100

_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}

#: LaTeX as matplotlib reads it: fractions in full size, with the braces that may be left out.
_DIALECT = (
    (re.compile(r"\\t?frac"), r"\\dfrac"),
    (re.compile(r"(\\dfrac)(\w)"), r"\1{\2}"),
    (re.compile(r"(\\dfrac\{\w\})(\w)"), r"\1{\2}"),
)

_SYMBOL = Markup('<symbol id="{}" viewBox="{}"><path d="{}"/></symbol>')
_USE = Markup(
    '<svg class="maths" role="img" aria-label="{}" style="width:{}em;height:{}em;'
    'vertical-align:{}em"><use href="#{}"/></svg>'
)


class _Drawn(NamedTuple):
    symbol: Markup
    use: Markup


class Formulas:
    """The formulas of a page."""

    def __init__(self) -> None:
        self._drawn: dict[str, _Drawn] = {}

    def use(self, latex: str) -> Markup:
        """A formula within text; as LaTeX where matplotlib can't set it."""
        if latex not in self._drawn:
            try:
                self._drawn[latex] = _draw(latex, f"formula-{len(self._drawn)}")
            except ValueError:
                return Markup("<code>{}</code>").format(latex)
        return self._drawn[latex].use

    def symbols(self) -> Markup:
        """The outlines of all formulas in use, for one hidden ``<svg>``."""
        return Markup("\n").join(drawn.symbol for drawn in self._drawn.values())


def _draw(latex: str, name: str) -> _Drawn:
    outline = _outline(latex)
    box = outline.get_extents()
    view = f"{box.x0:.0f} {-box.y1:.0f} {box.width:.0f} {box.height:.0f}"
    sizes = (f"{size / _EM:.2f}" for size in (box.width, box.height, box.y0))
    return _Drawn(_SYMBOL.format(name, view, _commands(outline)), _USE.format(latex, *sizes, name))


def _outline(latex: str) -> TextPath:
    for pattern, replacement in _DIALECT:
        latex = pattern.sub(replacement, latex)
    with mpl.rc_context({"mathtext.fontset": "stix"}):
        return TextPath((0, 0), f"${latex}$", size=_EM)


def _commands(outline: TextPath) -> str:
    """The outline as SVG has it, whose y axis points down."""
    parts = []
    for points, code in outline.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        signed = (f"{-value if i % 2 else value:.0f}" for i, value in enumerate(points))
        parts.append(_LETTERS[code] + " ".join(signed))
    return "".join(parts)
