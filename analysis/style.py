"""How every figure looks: palette, sizes, fonts, and how it is saved.

A method keeps its colour, marker and dash in all figures of the project. Colours are Okabe and
Ito's, which readers with colour blindness tell apart; marker and dash carry the same distinction.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from upge.common.errors import unknown
from upge.common.files import atomic_write

#: Width of a column and of a page, in inches.
COLUMN, PAGE = 3.35, 6.9

_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PINK, _GREY = "#B8A800", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"

#: Beyond Okabe and Ito's, for the forms of one method: dark and light, so that they differ in grey.
_SLATE, _VIOLET, _LILAC, _BROWN = "#6E6E6E", "#5D3A9B", "#A587D6", "#8A5A2B"

#: For series that are no methods, in this order.
CYCLE = (_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY, _BLACK, _YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))


class Look(NamedTuple):
    """How a series is drawn."""

    color: str
    marker: str
    dash: Any = "-"

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot``."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.dash}


_DASHED, _DOTDASH, _DOTTED = DASHES[1:]

#: Every method's look, by its name in the registry or of a pipeline.
LOOKS: dict[str, Look] = {
    "base": Look(_GREY, "x", _DOTTED),
    "sft": Look(_BLUE, "o"),
    "dft": Look(_SKY, "X", _DASHED),
    "offline_reinforce": Look(_BLUE, "^", _DOTDASH),
    "reinforce": Look(_ORANGE, "^", _DOTDASH),
    "reinforce_plus_plus": Look(_ORANGE, "v", _DOTTED),
    "rloo": Look(_ORANGE, "P", _DASHED),
    "ppo": Look(_YELLOW, "o"),
    "ppo_dual_clip": Look(_YELLOW, "s", _DASHED),
    "grpo": Look(_ORANGE, "s"),
    "dr_grpo": Look(_ORANGE, "D", _DOTDASH),
    "dapo": Look(_SKY, "s"),
    "cispo": Look(_SKY, "^", _DASHED),
    "tis": Look(_SKY, "v", _DOTTED),
    "gspo": Look(_YELLOW, "D", _DOTDASH),
    "gspo_token": Look(_YELLOW, "P", _DOTTED),
    "gmpo": Look(_YELLOW, "v", _DOTTED),
    "sapo": Look(_SKY, "D", _DOTDASH),
    "sft_grpo": Look(_GREEN, "^"),
    "sft_last": Look(_BLUE, "v", _DASHED),
    "sft_means": Look(_BLUE, "s", _DOTTED),
    "sft_both": Look(_BLUE, "X", _DOTDASH),
    "sft_long": Look(_BLUE, "P"),
    "sft_grpo_last": Look(_GREEN, "v", _DASHED),
    "sft_grpo_means": Look(_GREEN, "s", _DOTTED),
    "sft_grpo_both": Look(_GREEN, "X", _DOTDASH),
    "sft_grpo_long": Look(_GREEN, ">"),
    "sft_rl": Look(_GREEN, "D", _DASHED),
    "srft": Look(_PINK, "v"),
    "srft_offline": Look(_PINK, "^", _DASHED),
    "srft_official": Look(_PINK, "s", _DOTDASH),
    "luffy": Look(_RED, "D"),
    "luffy_offline": Look(_RED, "s", _DASHED),
    "chord": Look(_GREEN, "P", _DOTDASH),
    "hpt": Look(_BLACK, "o"),
    "hpt_official": Look(_SLATE, "s", _DASHED),
    "hpt_global_token": Look(_VIOLET, "^"),
    "hpt_sequence_mean": Look(_LILAC, "v", _DASHED),
    "hpt_wiener": Look(_BROWN, "D", _DOTDASH),
    "hpt_gamma_1": Look(_GREEN, "<", _DASHED),
    "hpt_gamma_2": Look(_ORANGE, "X", _DOTDASH),
    "hpt_gamma_4": Look(_PINK, "P", _DASHED),
    "hpt_gamma_6": Look(_SKY, "P", _DOTDASH),
    "hpt_gamma_8": Look(_BLUE, "D", _DASHED),
    "rl_end": Look(_ORANGE, "o", _DOTTED),
    "off_on": Look(_GREY, "D", _DASHED),
    "mix_on": Look(_GREY, "P", _DOTDASH),
}


def look(method: str) -> Look:
    """The look of a method.

    Raises:
        UpgeError: a method that has none yet.
    """
    if method not in LOOKS:
        raise unknown("method without a look", method, LOOKS)
    return LOOKS[method]


def series(index: int) -> Look:
    """The look of the ``index``-th series that is no method."""
    return Look(CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)])


#: Share of a figure's width that is kept for the footer, upright at the right.
_FOOTER = 0.015

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures don't hang on a machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "upge",
    "figure.constrained_layout.use": True,
}


def style() -> AbstractContextManager[None]:
    """The project's style, within a ``with`` block."""
    return mpl.rc_context(_SETTINGS)  # type: ignore[arg-type]


def save(figure: Figure, path: Path, commit: str) -> list[Path]:
    """Write ``path``.pdf and ``path``.png, the commit in the footer; the same bytes every time."""
    written = []
    with style():
        if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
            engine.set(rect=(0, 0, 1 - _FOOTER, 1))
        place = {"ha": "right", "va": "bottom", "rotation": 90}
        figure.text(0.999, 0.005, commit, fontsize=4.5, color=_GREY, **place)  # type: ignore[arg-type]
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=kind, dpi=200, metadata=metadata)
            written.append(atomic_write(path.with_name(f"{path.name}.{kind}"), drawn.getvalue()))
    plt.close(figure)
    return written
