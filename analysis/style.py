"""How every figure looks: seaborn's theme and palette, each method's look, and how files are saved.

A method keeps its color, marker and dash in all figures. Colors are seaborn's "colorblind" palette;
marker and dash carry the same distinction.
"""

from __future__ import annotations

import io
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from upge.common.errors import unknown
from upge.common.files import atomic_write

#: Width of a column and of a page, in inches.
COLUMN, PAGE = 3.35, 6.9

_BLUE, _ORANGE, _GREEN, _RED, _PINK, _, _, GRAY, _, _SKY = sns.color_palette("colorblind").as_hex()
_BLACK, _YELLOW = "#000000", "#B8A800"

#: For the variants of one method: dark and light, so that they differ in gray too.
_SLATE, VIOLET, _LILAC, _BROWN = "#6E6E6E", "#5D3A9B", "#A587D6", "#8A5A2B"

#: For series that are no methods, in this order.
CYCLE = (_BLUE, _RED, _GREEN, _PINK, _ORANGE, _SKY, _BLACK, _YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_DASHED, _DOTDASH, _DOTTED = DASHES[1:]


class Look(NamedTuple):
    """How a series is drawn."""

    color: str
    marker: str
    dash: Any = "-"

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of ``Axes.plot``."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.dash}


#: Every method's look, by its name in the registry or of a pipeline.
LOOKS: dict[str, Look] = {
    "base": Look(GRAY, "x", _DOTTED),
    "sft": Look(_BLUE, "o"),
    "dft": Look(_SKY, "X", _DASHED),
    "offline_reinforce": Look(_BLUE, "^", _DOTDASH),
    "reinforce": Look(_ORANGE, "^", _DOTDASH),
    "reinforce_plus_plus": Look(_ORANGE, "v", _DOTTED),
    "rloo": Look(_ORANGE, "P", _DASHED),
    "reinforce_plus_plus_baseline": Look(_ORANGE, "<", _DOTTED),
    "w_reinforce": Look(_ORANGE, ">", _DOTDASH),
    "psr": Look(_ORANGE, "*", _DASHED),
    "nsr": Look(_ORANGE, "p", _DOTTED),
    "asymre": Look(_ORANGE, "h", _DASHED),
    "maxrl": Look(_ORANGE, "d"),
    "ppo": Look(_YELLOW, "o"),
    "ppo_dual_clip": Look(_YELLOW, "s", _DASHED),
    "grpo": Look(_ORANGE, "s"),
    "dr_grpo": Look(_ORANGE, "D", _DOTDASH),
    "dapo": Look(_SKY, "s"),
    "cispo": Look(_SKY, "^", _DASHED),
    "tis": Look(_SKY, "v", _DOTTED),
    "gspo": Look(_YELLOW, "D", _DOTDASH),
    "gspo_token": Look(_YELLOW, "P", _DOTTED),
    "luspo": Look(_YELLOW, ">", _DASHED),
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
    "hpt_global_token": Look(VIOLET, "^"),
    "hpt_sequence_mean": Look(_LILAC, "v", _DASHED),
    "hpt_wiener": Look(_BROWN, "D", _DOTDASH),
    "hpt_gamma_1": Look(_GREEN, "<", _DASHED),
    "hpt_gamma_2": Look(_ORANGE, "X", _DOTDASH),
    "hpt_gamma_4": Look(_PINK, "P", _DASHED),
    "hpt_gamma_6": Look(_SKY, "P", _DOTDASH),
    "hpt_gamma_8": Look(_BLUE, "D", _DASHED),
    "rl_end": Look(_ORANGE, "o", _DOTTED),
    "off_on": Look(GRAY, "D", _DASHED),
    "mix_on": Look(GRAY, "P", _DOTDASH),
}


def look(method: str) -> Look:
    """The look of a method.

    Raises:
        UpgeError: a method that has none yet.
    """
    if method not in LOOKS:
        raise unknown("method without a look", method, LOOKS)
    return LOOKS[method]


def look_of(method: str, index: int) -> Look:
    """A method's look; one without gets the ``index``-th of those for other series."""
    return LOOKS.get(method, series(index))


def series(index: int) -> Look:
    """The look of the ``index``-th series that is no method."""
    return Look(CYCLE[index % len(CYCLE)], MARKERS[index % len(MARKERS)])


def plain(text: str) -> str:
    """Text of runs for a figure, whose dollar signs start no formula."""
    return text.replace("$", r"\$")


_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "figure.constrained_layout.use": True,
}


def style() -> AbstractContextManager[None]:
    """The project's style, within a ``with`` block."""
    theme = {**sns.axes_style("ticks"), **sns.plotting_context("paper"), **_SETTINGS}
    return mpl.rc_context(theme)


def panels(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes (rows, columns), within the project's style."""
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


#: Characters of a caption to an inch.
_CHARACTERS = 23


def save(figure: Figure, path: Path, caption: str = "") -> list[Path]:
    """Write ``path``.pdf and ``path``.png, the same bytes every time.

    Args:
        figure: the drawing; it is closed.
        path: without a suffix.
        caption: paragraphs drawn below the panels.
    """
    written = []
    with style():
        if caption:
            width = round(_CHARACTERS * figure.get_figwidth())
            text = "\n".join(textwrap.fill(line, width) for line in caption.split("\n"))
            figure.supxlabel(text, fontsize=5.5, color="#444444")
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=kind, dpi=200, metadata=metadata)
            written.append(atomic_write(path.with_name(f"{path.name}.{kind}"), drawn.getvalue()))
    plt.close(figure)
    return written
