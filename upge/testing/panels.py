"""What ``upge check --plot`` draws: weights against ratio, length and a question's rewards."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.common.optional import require
from upge.testing.designs import build, lengths_mask
from upge.testing.reader import Reader, Side
from upge.testing.report import Report

_LONGEST, _ROLLOUTS = 8, 8


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        label: of the horizontal axis.
        x: its values.
        lines: weights at each, by what they are of; those of the claim end in the claim's name.
    """

    label: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]]


def panels(readers: Mapping[str, Reader]) -> tuple[Panel, ...]:
    """What the loss's reader, and that of the claimed row, give; each by its name."""
    mine = next(iter(readers.values()))
    made = [_ratio(readers), _length(readers)]
    return tuple(made + ([_composition(readers)] if mine.rewarded else []))


def _side(reader: Reader) -> Side:
    return "offline" if reader.imitates and not reader.reads_demos else "online"


def _ratio(readers: Mapping[str, Reader]) -> Panel:
    x = torch.linspace(-1.2, 1.2, 241, dtype=torch.float64)
    lines = {}
    for name, reader in readers.items():
        values = reader.response(_side(reader))(x)
        lines[f"Â > 0, {name}"] = values[:, 0].tolist()
        lines[f"Â < 0, {name}"] = values[:, 1].tolist()
    return Panel("ratio π_θ/π_θold", x.exp().tolist(), lines)


def _length(readers: Mapping[str, Reader]) -> Panel:
    lengths = range(1, _LONGEST + 1)
    mask = lengths_mask([n for n in lengths for _ in range(2)])
    lines = {}
    for name, reader in readers.items():
        w = reader.policy_weights(reader.sided(build(mask), _side(reader)))[::2, 0]
        lines[f"one token, {name}"] = _of_largest(w)
    return Panel("tokens of the response", list(map(float, lengths)), lines)


def _composition(readers: Mapping[str, Reader]) -> Panel:
    right = range(1, _ROLLOUTS)
    lines: dict[str, Sequence[float]] = {}
    for name, reader in readers.items():
        pairs = []
        for k in right:
            reward = (torch.arange(_ROLLOUTS) < k).double()
            group = torch.zeros(_ROLLOUTS, dtype=torch.long)
            inputs = build(lengths_mask((1,) * _ROLLOUTS), reward=reward, group=group)
            w = reader.policy_weights(reader.sided(inputs, "online"))[:, 0]
            pairs.append(torch.stack([w[0], w[-1]]))
        both = _of_largest(torch.stack(pairs))
        lines[f"right rollout, {name}"] = [pair[0] for pair in both]
        lines[f"wrong rollout, {name}"] = [pair[1] for pair in both]
    return Panel(f"right rollouts of {_ROLLOUTS}", list(map(float, right)), lines)


def _of_largest(w: Tensor) -> Any:
    return (w / w.abs().max().clamp(min=torch.finfo(w.dtype).tiny)).tolist()


def draw(report: Report, path: Path) -> dict[Path, bytes]:
    """The panels as a PNG and a PDF, by path.

    Raises:
        UpgeError: matplotlib is missing; nothing could be called; the path is no PNG's.
    """
    if path.suffix != ".png":
        raise UpgeError(f"--plot {path}: wanted a name that ends in .png")
    if not report.panels:
        raise UpgeError(f"{report.title} is {report.outside or report.undecided}: nothing to draw")
    require("matplotlib", "analysis")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(report.panels), 2.8), layout="constrained")
    axes = figure.subplots(1, len(report.panels), squeeze=False)[0]
    claimed = report.claim.name if report.claim is not None else None
    for axis, panel in zip(axes, report.panels, strict=True):
        for name, values in panel.lines.items():
            of_claim = claimed is not None and name.endswith(f", {claimed}")
            style = {"color": "0.45", "linestyle": (0, (4, 2))} if of_claim else {"linewidth": 1.6}
            axis.plot(panel.x, values, label=name, zorder=3 - of_claim, **style)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.set_xlabel(panel.label)
        axis.legend(fontsize=6, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("weight over its value at ratio 1")
    for axis in axes[1:]:
        axis.set_ylabel("weight over the largest")
    contents = {}
    for target in (path, path.with_suffix(".pdf")):
        buffer = io.BytesIO()
        metadata = {"CreationDate": None} if target.suffix == ".pdf" else {}
        figure.savefig(buffer, format=target.suffix[1:], dpi=200, metadata=metadata)
        contents[target] = buffer.getvalue()
    return contents
