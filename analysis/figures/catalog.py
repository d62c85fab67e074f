"""All figures: the numbers behind each, its panels, axes and labels, and its caption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import audit, components, heatmaps, pass_at_k, phases, seeds
from analysis.figures.heatmaps import HPT, PIPELINE, Heatmaps
from analysis.figures.lines import Lines, by, by_group
from analysis.figures.series import WINDOW, moving_means, seed_count, validation_curves
from analysis.methods import BASES, GROUPS, suite_title, title
from analysis.reported import published
from analysis.run import Run, Runs
from analysis.style import COLUMN, DASHES, MARKERS, PAGE, Look, look, look_of
from upge.algorithms import algorithm

#: What panels of steps show.
_AXES = {
    "validation": "validation accuracy",
    "reward": "training reward",
    "offline_ratio": "offline samples / all samples",
    "entropy": "entropy (nats)",
    "response_length": "tokens per response",
}

_OVER_SEEDS = "mean of {seeds}; bands: 95% intervals over seeds"
_MOVING = f"Moving means over {WINDOW} steps, {_OVER_SEEDS}."


@dataclass(frozen=True)
class Spec:
    """A figure.

    Args:
        name: of its files, below the folder of figures.
        numbers: its numbers, from the runs of its comparisons.
        draw: draws them.
        caption: below it; ``{seeds}`` becomes their number.
        shows: the methods that should be there.
    """

    name: str
    numbers: Callable[..., pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    caption: str
    shows: Sequence[str] = ()

    def caption_of(self, frame: pd.DataFrame) -> str:
        """The caption of these numbers."""
        return self.caption.format(seeds=seed_count(frame) if "seeds" in frame else "")


def _validations(*methods: str) -> Callable[[Runs], pd.DataFrame]:
    def numbers(runs: Runs) -> pd.DataFrame:
        frame = validation_curves(runs)
        return frame[frame["method"].isin(methods or frame["method"])].reset_index(drop=True)

    return numbers


def _quantities(
    runs: Runs, quantities: Iterable[str], methods: Sequence[str], every: int = 1
) -> pd.DataFrame:
    """``quantity, method, step, mean, low, high, seeds``: moving means of several quantities."""
    parts = [moving_means(runs, name, methods, every).assign(quantity=name) for name in quantities]
    frame = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    return frame[["quantity", *(name for name in frame if name != "quantity")]]


# ------------------------------------------------------------------------------- gates and models


def gate_label(run: Run) -> str:
    """γ of a run's last stage as the paper writes it, as ``γ = 2/8``: of rollouts, correct ones."""
    stage = run.config["stages"][-1]
    default = algorithm(stage["algorithm"]).options["gamma"].default
    rollouts = stage["group_size"]
    right = float(stage["options"].get("gamma", default)) * rollouts
    return f"γ = {right:g}/{rollouts}" if right else "γ = 0"


_GATES = ("hpt_global_token", "hpt_gamma_1", "hpt_gamma_2")


def _by_gate(runs: Runs) -> pd.DataFrame:
    """Figure 8's numbers: those of HPT at the paper's gates, γ = 0, 1/8 and 2/8."""
    gates = {method: gate_label(runs.of(method)[0]) for method in _GATES if runs.of(method)}
    frame = _quantities(runs, ("reward", "offline_ratio"), list(gates))
    frame.insert(2, "gate", frame["method"].map(gates))
    return frame


def _by_model(*comparisons: Runs) -> pd.DataFrame:
    """Figure 6's numbers: HPT of each comparison, and LUFFY, the same everywhere, of the first."""
    parts = []
    for runs in comparisons:
        for method in (HPT, "luffy") if runs is comparisons[0] else (HPT,):
            frame = moving_means(runs, "offline_ratio", [method])
            if len(frame):
                run = runs.of(method)[0]
                frame.insert(0, "gate", gate_label(run) if method == HPT else "")
                frame.insert(0, "base", run.config["model"])
                parts.append(frame)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _model_label(line: Mapping[str, Any]) -> str:
    if not line["gate"]:
        return title(line["method"])
    return f"HPT, {BASES.get(line['base'], line['base'])}, {line['gate']}"


def _model_look(line: Mapping[str, Any], index: int) -> Look:
    own = look(line["method"])
    return own._replace(dash=DASHES[index], marker=MARKERS[index]) if line["gate"] else own


def _constant() -> tuple[str, float]:
    paper = published("figure6")
    return f"{title(paper['method'])}, reported", paper["ratio"]


# ------------------------------------------------------------------------------------ the figures

_LUFFY_AND_HPT = (*GROUPS["HPT"], "luffy")
_FIGURE5 = ("grpo", "sft_grpo", "luffy", "srft", "hpt", "hpt_global_token")
_FIGURE7 = ("grpo", "luffy", "hpt", "hpt_global_token")

_ABOVE = (
    "Above: mean over the level's questions, with its 95% interval over questions (and seeds, if "
    "there are several)."
)

FIGURES = {
    spec.name: spec
    for spec in (
        Spec(
            "figure1",
            components.numbers,
            components.figure,
            "The estimator's four components, and what the rows of the paper's Table 1 and HPT "
            "take for each, at default options.",
        ),
        Spec(
            "figure2",
            pass_at_k.numbers,
            Lines(
                size=(PAGE, 2.5),
                y={"": "pass@k"},
                x={"k": "k"},
                log={"k": 2},
                panels=by("suite"),
                panel_title=suite_title,
                interval="bar",
                labels="legend",
                shared=True,
            ),
            "Unbiased estimates of pass@k; {seeds}. At the right: 95% intervals at the "
            "largest k, over problems (and seeds, if there are several). Methods answer the same "
            "problems, so that differences are surer than the bars suggest.",
        ),
        Spec(
            "figure3",
            heatmaps.accuracy,
            Heatmaps(PIPELINE, 0, 1, "cividis", "accuracy of rollouts"),
            "Share of correct rollouts to each training question in GRPO after SFT; {seeds}. "
            f"Questions: the most often solved at the top. {_ABOVE}",
            (PIPELINE,),
        ),
        Spec(
            "figure4",
            heatmaps.lead,
            Heatmaps(HPT, -1, 1, "PRGn_r", f"accuracy of HPT minus {title(PIPELINE)}"),
            f"Share of correct rollouts, {title(HPT)}, minus {title(PIPELINE)} at the same epoch "
            f"of rollouts; {{seeds}}. Rows as in Figure 3. {_ABOVE}",
            (HPT, PIPELINE),
        ),
        Spec(
            "figure5",
            _validations(*_FIGURE5),
            Lines(size=(1.1 * COLUMN, 2.3), y={"": _AXES["validation"]}),
            f"Validation accuracy, {_OVER_SEEDS}.",
            _FIGURE5,
        ),
        Spec(
            "figure6",
            _by_model,
            Lines(
                size=(1.25 * COLUMN, 2.3),
                y={"": _AXES["offline_ratio"]},
                label=_model_label,
                look=_model_look,
                constant=_constant,
            ),
            f"{_MOVING} Reported: Figure 6 of the paper, with other models and problems.",
            (HPT,),
        ),
        Spec(
            "figure7",
            partial(
                _quantities,
                quantities=("entropy", "response_length"),
                methods=_FIGURE7,
                every=5,
            ),
            Lines(size=(PAGE, 2.3), y=_AXES, panels=by("quantity")),
            f"{_MOVING} Entropy is the mean of −log π over the tokens of all rollouts.",
            _FIGURE7,
        ),
        Spec(
            "figure8",
            _by_gate,
            Lines(
                size=(PAGE, 2.3),
                y=_AXES,
                panels=by("quantity"),
                label=lambda line: str(line["gate"]),
                look=lambda line, i: look_of(line["method"], i),
            ),
            f"{_MOVING} γ: up to this share of correct rollouts, a question's demonstration is "
            "learned instead.",
            _GATES,
        ),
        Spec(
            "table2/learning_curves",
            _validations(),
            Lines(
                size=(PAGE, 3.5),
                y={"": _AXES["validation"]},
                x={"step": "step", "flops": "compute (FLOPs)"},
                log={"flops": 10},
                panels=by_group,
                panel_title=lambda group: group,
                label=lambda line: title(line["method"]).removeprefix("HPT, "),
                shared=True,
                from_zero=False,
                context=True,
            ),
            f"Validation accuracy, {_OVER_SEEDS}, which may leave the frame. Gray: the methods of "
            "the other panels. FLOPs: of sampling and training up to the step, mean over seeds.",
        ),
        Spec(
            "table2/offline_ratio",
            partial(moving_means, quantity="offline_ratio", methods=_LUFFY_AND_HPT),
            Lines(size=(1.2 * COLUMN, 2.3), y={"": _AXES["offline_ratio"]}),
            _MOVING,
        ),
        Spec(
            "table2/seeds",
            seeds.numbers,
            seeds.figure,
            "Test accuracy of each training, mean over suites. Bars: mean over trainings.",
        ),
        Spec(
            "audit",
            audit.numbers,
            audit.figure,
            "Left: validation accuracy, mean of {seeds}; SFT and SFT→GRPO are their longer "
            "trainings. Right: test accuracy with 95% intervals; open circles: trainings with a "
            "fault; dotted: the base model. FLOPs: of sampling and training, mean over seeds.",
        ),
        Spec(
            "supply",
            phases.numbers,
            phases.figure,
            "The method with the highest mean of those with a result at the budget; {seeds}. "
            "Strong color: distinguishable from each other method (paired comparisons, 5% level). "
            "Pale: not distinguishable from the method behind ≈, or the only one. Validation "
            "accuracy is interpolated between steps: at a constant learning rate, the beginning of "
            "a training is the shorter training. A pipeline counts from its full compute, and so "
            "does each training in tests. FLOPs: of sampling and training.",
        ),
    )
}
