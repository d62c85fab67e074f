"""Figures show the numbers of their CSV, for any set of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import metrics, noisy, stages, write_run
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tiny_runs import Tiny, run

from analysis.figures import components, heatmaps
from analysis.figures.catalog import FIGURES, gate_label
from analysis.figures.heatmaps import MEAN, question_accuracy
from analysis.figures.lines import spread
from analysis.figures.series import over_seeds, smoothed
from analysis.results import RESULTS, write_figure
from analysis.run import Runs
from analysis.runs import load_runs
from analysis.style import save
from upge import UpgeError
from upge.algorithms import REGISTRY
from upge.training import loop
from upge.verification.printed import PRINTED


def numbers(figure: str, *folders: Path) -> pd.DataFrame:
    return FIGURES[figure].numbers(*map(load_runs, folders))


def texts(figure: Figure) -> list[str]:
    """All text of a drawing, as it is shown."""
    figure.canvas.draw()
    found = figure.findobj(plt.Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


# ------------------------------------------------------------------------------------------ series


def test_learning_curves_are_means_over_seeds_with_students_interval(tmp_path: Path) -> None:
    ends = (0.5, 0.55, 0.65)
    for seed, accuracy in enumerate(ends):
        write_run(tmp_path, "sft", seed, accuracy=accuracy)
    frame = numbers("table2/learning_curves", tmp_path)
    assert frame["step"].tolist() == [5, 10, 15, 20]
    assert frame["flops"].tolist() == [5e9, 10e9, 15e9, 20e9]
    last = frame.iloc[-1]
    assert last["mean"] == pytest.approx(np.mean(ends))
    half = 4.303 * np.std(ends, ddof=1) / np.sqrt(3)  # t with two degrees of freedom
    assert (last["high"] - last["low"]) / 2 == pytest.approx(half, rel=0.15)


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    write_run(tmp_path, "sft", 0)
    frame = numbers("table2/learning_curves", tmp_path)
    assert frame[["low", "high"]].isna().all(axis=None) and set(frame["seeds"]) == {1}


def test_steps_that_a_seed_lacks_are_left_out() -> None:
    rows = [("a", 0, 1, 0.5), ("a", 0, 2, 0.5), ("a", 1, 1, 0.7)]
    frame = over_seeds(pd.DataFrame(rows, columns=["method", "seed", "step", "value"]), "value")
    assert frame["step"].tolist() == [1]
    assert frame["mean"].tolist() == pytest.approx([0.6])


@pytest.mark.parametrize(
    ("value", "most"), [("validation", 1), ("offline_ratio", 1), ("reward", 1), ("entropy", np.inf)]
)
def test_bands_stay_where_the_quantity_does(value: str, most: float) -> None:
    """Two seeds as far apart as they can be: Student's interval is wider than the range."""
    rows = [("a", 0, 1, 0.0), ("a", 1, 1, 1.0)]
    frame = over_seeds(pd.DataFrame(rows, columns=["method", "seed", "step", value]), value)
    assert frame["low"].item() == 0
    assert 1 <= frame["high"].item() <= most


def test_the_offline_ratio_is_a_moving_mean_of_hpt_and_luffy_alone(tmp_path: Path) -> None:
    lines = noisy(0, "offline_ratio", steps=60)
    for method, steps in (("hpt", lines), ("luffy", metrics(steps=60)), ("sft", lines)):
        write_run(tmp_path, method, 0, steps=steps)
    frame = numbers("table2/offline_ratio", tmp_path)
    assert frame["method"].unique().tolist() == ["hpt", "luffy"]
    middle = frame[(frame["method"] == "hpt") & (frame["step"] == 30)]["mean"].item()
    assert middle == pytest.approx(np.mean([line["offline_ratio"] for line in lines[19:39]]))
    short = pd.DataFrame({"method": "hpt", "seed": 0, "step": range(1, 7), "x": range(6)})
    assert smoothed(short, "x")["x"].tolist() == [2.5] * 6


def test_figure_7_is_of_moving_means_over_seeds(tmp_path: Path) -> None:
    lines = [noisy(seed, "entropy", "response_length", steps=60) for seed in range(2)]
    for seed, steps in enumerate(lines):
        write_run(tmp_path, "grpo", seed, steps=steps)
    write_run(tmp_path, "sft", 0)
    frame = numbers("figure7", tmp_path)
    assert frame["method"].unique().tolist() == ["grpo"] and set(frame["seeds"]) == {2}
    assert frame["quantity"].unique().tolist() == ["entropy", "response_length"]
    for quantity, rows in frame.groupby("quantity"):
        assert rows["step"].tolist() == list(range(5, 61, 5))
        means = [np.mean([line[str(quantity)] for line in steps[19:39]]) for steps in lines]
        at_30 = rows[rows["step"] == 30].iloc[0]
        assert at_30["mean"] == pytest.approx(np.mean(means))
        half = 12.706 * np.std(means, ddof=1) / np.sqrt(2)  # t with one degree of freedom
        assert at_30["high"] - at_30["low"] > half


def test_steps_without_rollouts_have_no_entropy_and_do_not_shift_the_window(tmp_path: Path) -> None:
    lines = noisy(0, "entropy", steps=60)
    for line in lines[20:24]:
        del line["entropy"]
    write_run(tmp_path, "hpt", 0, steps=lines)
    frame = numbers("figure7", tmp_path)
    mean = frame[(frame["quantity"] == "entropy") & (frame["step"] == 30)]["mean"].item()
    measured = [line["entropy"] for line in lines[19:39] if "entropy" in line]
    assert len(measured) == 16 and mean == pytest.approx(np.mean(measured))


@pytest.mark.slow
def test_figure_5_has_the_numbers_of_the_learning_curves(table2: Path) -> None:
    frame, curves = numbers("figure5", table2), numbers("table2/learning_curves", table2)
    assert frame["method"].unique().tolist() == ["grpo", "hpt"]
    shown = curves[curves["method"] != "sft"].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, shown, check_exact=True)


@pytest.mark.slow
def test_every_training_is_shown_with_the_mean_of_its_suites(table2: Path) -> None:
    frame = numbers("table2/seeds", table2).set_index(["split", "method", "seed"])["accuracy"]
    runs = load_runs(table2)
    assert len(frame) == 2 * len(runs.finished)
    for finished in runs.finished:
        means = list(finished.suites.values())
        shown = [frame["in distribution"], frame["out of distribution"]]
        own = [split[finished.method, finished.seed] for split in shown]
        assert own == pytest.approx([np.mean(means[:6]), np.mean(means[6:])])


# --------------------------------------------------------------------------------- gates and models


def hpt(folder: Path, name: str, seed: int, gate: float, offline: float, **more: Any) -> None:
    given = {**stages("hpt_global_token", group_size=8, options={"gamma": gate}), **more}
    steps = metrics(reward=0.5, offline=offline)
    write_run(folder, name, seed, steps=steps, given=given)


def test_figure_6_has_hpt_of_each_model_and_luffy_once(tmp_path: Path) -> None:
    first, second = tmp_path / "cpu" / "table2", tmp_path / "cpu" / "table3-weak"
    for seed in range(2):
        hpt(first, "hpt_global_token", seed, 0, 0.4)
        write_run(first, "luffy", seed)
    for seed in range(3):
        hpt(second, "hpt_global_token", seed, 0.25, 0.8, model="tiny_weak")
        write_run(second, "luffy", seed, given={"model": "tiny_weak"})
    frame = numbers("figure6", first, second)
    assert frame[["base", "gate", "method"]].drop_duplicates().to_numpy().tolist() == [
        ["tiny", "γ = 0", "hpt_global_token"],
        ["tiny", "", "luffy"],
        ["tiny_weak", "γ = 2/8", "hpt_global_token"],
    ]
    by_base = frame[frame["gate"] != ""].groupby("base")
    assert by_base["seeds"].first().to_dict() == {"tiny": 2, "tiny_weak": 3}
    ratio = by_base["mean"].mean()
    assert ratio["tiny_weak"] == pytest.approx(2 * ratio["tiny"])
    shown = texts(FIGURES["figure6"].draw(frame))
    assert {"HPT, main model, γ = 0", "HPT, weak model, γ = 2/8", "LUFFY, reported"} <= {*shown}


def test_figure_8_has_reward_and_ratio_of_three_gates(tmp_path: Path) -> None:
    for right, offline in enumerate((0.2, 0.4, 0.6)):
        name = f"hpt_gamma_{right}" if right else "hpt_global_token"
        hpt(tmp_path, name, 0, right / 8, offline)
    hpt(tmp_path, "hpt_gamma_4", 0, 0.5, 0.7)
    assert gate_label(load_runs(tmp_path).of("hpt_gamma_2")[0]) == "γ = 2/8"
    frame = numbers("figure8", tmp_path)
    assert list(frame)[:3] == ["quantity", "method", "gate"]
    assert frame["gate"].unique().tolist() == ["γ = 0", "γ = 1/8", "γ = 2/8"]
    middle = frame[frame["step"] == 10].set_index(["quantity", "gate"])["mean"]
    assert (middle["reward"] == 0.5).all()
    ratios = np.array([0.2, 0.4, 0.6]) * np.mean([1 - step / 40 for step in range(1, 20)])
    assert middle["offline_ratio"].to_numpy() == pytest.approx(ratios, rel=0.05)


# ------------------------------------------------------------------------------- questions by epoch

QUESTIONS, PROBLEMS, EPOCHS = 30, 60, 3


@pytest.mark.slow
def test_a_steps_questions_are_those_that_the_loop_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    collect = loop.collect

    def watched(questions: Any, **options: Any) -> Any:
        asked.append([question.problem.prompt for question in questions])
        return collect(questions, **options)

    monkeypatch.setattr(loop, "collect", watched)
    tiny = Tiny(tmp_path / "tiny")
    stage = {"prompts_per_step": 13, "group_size": 2, "lr": 1e-3, "warmup": 1}
    pipeline = [
        {**stage, "algorithm": "sft", "steps": 1},
        {**stage, "algorithm": "grpo", "steps": 5},
    ]
    folder = run(tiny.config(stages=pipeline, seed=3), tmp_path / "runs" / "grpo")
    (finished,) = load_runs(tmp_path / "runs").finished
    frame = question_accuracy(finished)
    sampled, lines = asked[1:], folder.metrics()[1:]
    assert frame["epoch"].tolist() == [1] * 26 + [2] * 26  # 26 problems; the third is not whole
    assert frame["prompt"].tolist() == [prompt for step in sampled[:4] for prompt in step]
    assert frame["accuracy"].tolist() == [x for line in lines[:4] for x in line["solved"]]
    assert set(frame["accuracy"]) > {0.0}


def by_question(runs: Path, method: str, seed: int, chance: float) -> None:
    """A run of three epochs, after one step of SFT if it is a pipeline."""
    random = np.random.default_rng([seed, *method.encode()])
    before = 1 if method == "sft_grpo" else 0
    count = EPOCHS * PROBLEMS // QUESTIONS
    steps: list[dict[str, Any]] = [{"step": 1, "stage": 0, "flops": 1.0}] * before
    for step in range(count):
        solved = (random.random(QUESTIONS) < chance).astype(float).tolist()
        line = {"step": before + step + 1, "stage": before, "solved": solved, "flops": 1.0}
        steps.append(line)
    stage = {"prompts_per_step": QUESTIONS, "lr": 1e-3}
    pipeline = [{**stage, "algorithm": "sft", "steps": 1}] * before
    pipeline += [{**stage, "algorithm": "grpo", "steps": count}]
    data = {"kind": "synthetic", "supply": {"problems": PROBLEMS}, "test": 2}
    write_run(runs, method, seed, steps=steps, given={"stages": pipeline, "data": data})


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs") / "cpu" / "figure3"
    for seed in range(2):
        by_question(folder, "sft_grpo", seed, 0.4)
        by_question(folder, "hpt_global_token", seed, 0.8)
    return load_runs(folder)


def test_figure_3_has_each_question_once_an_epoch_and_their_mean(questions: Runs) -> None:
    frame = heatmaps.accuracy(questions)
    parts = [question_accuracy(finished) for finished in questions.of("sft_grpo")]
    long = pd.concat(parts).query("level in (3, 5)")
    wanted = long.groupby(["prompt", "epoch"])["accuracy"].mean()
    shown = frame[frame["question"] != MEAN].set_index(["question", "epoch"])["mean"]
    assert len(shown) == 2 * 12 * EPOCHS
    assert shown.sort_index().to_numpy() == pytest.approx(wanted.sort_index().to_numpy())
    for level, rows in frame.groupby("level"):
        in_order = rows[rows["question"] != MEAN].groupby("row")["mean"].mean()
        assert in_order.is_monotonic_decreasing
        means = rows[rows["question"] == MEAN]
        by_epoch = long[long["level"] == level].groupby("epoch")["accuracy"].mean()
        assert means["mean"].to_numpy() == pytest.approx(by_epoch.to_numpy())
        assert (means["low"] <= means["mean"]).all() and (means["mean"] <= means["high"]).all()
        assert means["low"].min() >= 0 and means["high"].max() <= 1


def test_figure_4_is_the_difference_in_the_order_of_figure_3(questions: Runs) -> None:
    lead, before = heatmaps.lead(questions), heatmaps.accuracy(questions)
    assert lead["question"].tolist() == before["question"].tolist()
    ours = pd.concat([question_accuracy(r) for r in questions.of("hpt_global_token")])
    wanted = ours.groupby(["prompt", "epoch"])["accuracy"].mean()
    for row, other in zip(lead.itertuples(), before.itertuples(), strict=True):
        if row.question != MEAN:
            assert row.mean == pytest.approx(wanted[row.question, row.epoch] - other.mean)
    assert (lead.loc[lead["question"] == MEAN, "low"] > 0).any()  # .8 against .4


def test_one_seed_has_an_interval_over_questions(tmp_path: Path) -> None:
    by_question(tmp_path, "sft_grpo", 0, 0.5)
    means = heatmaps.accuracy(load_runs(tmp_path)).query(f"question == '{MEAN}'")
    assert (means["high"] - means["low"] > 0.1).any() and set(means["seeds"]) == {1}


def test_methods_trained_on_other_questions_are_refused(tmp_path: Path) -> None:
    for method in ("sft_grpo", "hpt_global_token"):
        by_question(tmp_path, method, 0, 0.5)
    runs = load_runs(tmp_path)
    runs.of("hpt_global_token")[0].config["data"]["supply"]["seed"] = 7  # type: ignore[index]
    with pytest.raises(UpgeError, match="were trained on different questions"):
        heatmaps.lead(runs)


# ---------------------------------------------------------------------------------- the components


def test_algorithms_have_the_components_of_the_papers_table_1() -> None:
    frame = components.numbers()
    names = [part.name for part in components.PARTS]
    by_term = frame.set_index(["algorithm", "term"])[names]
    assert list(by_term.loc["sft", 0]) == ["1", "π_θ", "1", "1"]
    assert list(by_term.loc["grpo", 0]) == ["1_Clip", "π_θold", "(R − mean_Gon)/std_Gon", "1"]
    assert list(by_term.loc["luffy_offline", 0])[1::2] == ["1", "f'_shape"]
    assert len(frame[frame["table1"] == "yes"]) == 8
    assert set(frame["algorithm"]) == set(REGISTRY)
    hpt_terms = frame[frame["algorithm"] == "hpt"]
    assert hpt_terms["samples"].tolist() == ["online", "offline"]
    assert hpt_terms["gate"].tolist() == ["rl", "sft"]


def test_figure_1_marks_what_table_1s_rows_and_hpt_take_within_the_page() -> None:
    drawn = components.figure(components.numbers())
    (axes,) = drawn.axes
    entries = [entry for entry in REGISTRY.values() if entry.name in PRINTED or entry.name == "hpt"]
    shown = texts(drawn)
    assert {entry.title.partition(",")[0] for entry in entries} <= {*shown}
    assert {part.name for part in components.PARTS} <= {*shown}
    for text in axes.texts:
        box = text.get_window_extent()
        assert drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1, text.get_text()
        assert drawn.bbox.y0 <= box.y0 and box.y1 <= drawn.bbox.y1, text.get_text()
    marks = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    choices = {
        (entry.name, part.name, components._latex(part.of(term)), term.samples)
        for entry in entries
        for part in components.PARTS
        for term in entry.terms
    }
    assert len(marks) == len(choices) + 2  # and the legend's
    plt.close(drawn)


# ----------------------------------------------------------------------------------------- drawing


@pytest.mark.slow
def test_figures_are_written_the_same_every_time_without_caption(
    table2: Path, tmp_path: Path
) -> None:
    runs = load_runs(table2)
    for name in RESULTS["table2"].figures:
        once, again = (write_figure(name, [runs], tmp_path / f, stamp=False) for f in "ab")
        assert [path.suffix for path in once] == [".pdf", ".png", ".csv", ".json"]
        assert all(p.read_bytes() == q.read_bytes() for p, q in zip(once, again, strict=True))
        record = json.loads(once[-1].read_text())
        assert record["made_from"] == [
            "table2, cpu profile: commits 0123456789ab; seeds 0, 1, 2",
        ]
        assert record["caption"] and "{" not in record["caption"]


@pytest.mark.slow
@pytest.mark.parametrize("stamped", [False, True])
def test_caption_and_origin_are_drawn_on_request_alone(
    table2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamped: bool
) -> None:
    drawn: list[str] = []

    def watched(figure: Figure, path: Path, caption: str = "") -> list[Path]:
        written = save(figure, path, caption)
        drawn.extend(texts(figure))
        return written

    monkeypatch.setattr("analysis.results.save", watched)
    write_figure("table2/offline_ratio", [load_runs(table2)], tmp_path, stamp=stamped)
    everything = " ".join(" ".join(drawn).split())
    assert drawn and ("0123456789ab" in everything) == stamped
    assert ("Moving means over" in everything) == stamped


@pytest.mark.parametrize(
    ("figure", "columns"),
    [
        ("figure2", {"suite": 0, "k": 1}),
        ("figure5", {}),
        ("figure6", {"method": "hpt", "base": 0, "gate": "γ = 0"}),
        ("table2/learning_curves", {"flops": 1.0}),
        ("table2/seeds", {"split": 0, "accuracy": 0.5}),
        ("supply", {"panel": "pass", "supply": 0, "budget": 1.0, "best": 0, "ties": 0}),
    ],
)
def test_a_run_called_like_a_formula_is_drawn_by_its_name(
    figure: str, columns: dict[str, Any]
) -> None:
    name = r"a $\frac{$ b_$ c$"
    named = {column: name if value == 0 else value for column, value in columns.items()}
    rows = {"method": name, "step": [1, 2], "mean": 0.5, "low": 0.4, "high": 0.6, "seeds": 2}
    frame = pd.DataFrame({**rows, **named, "distinguishable": False})
    shown = texts(FIGURES[figure].draw(frame))
    assert any(name in text.replace(r"\$", "$") for text in shown)
    plt.close("all")


def test_nothing_measured_is_nothing_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "base", 0)
    write_run(tmp_path / "runs", "grpo", 0, steps=[{"step": 1, "flops": 1.0}])
    runs = load_runs(tmp_path / "runs")
    names = ("learning_curves", "offline_ratio")
    for figure in (*(f"table2/{name}" for name in names), *(f"figure{i}" for i in range(3, 9))):
        assert write_figure(figure, [runs], tmp_path / "out", stamp=False) == []
    assert not (tmp_path / "out").exists()


def test_a_run_of_hpt_without_demonstrations_can_be_drawn(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "hpt", 0, steps=metrics(steps=12, offline=0.0))
    runs = load_runs(tmp_path / "runs")
    assert len(write_figure("table2/offline_ratio", [runs], tmp_path, stamp=False)) == 4


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12))
def test_labels_keep_order_and_distance_and_move_no_more_than_needed(places: list[float]) -> None:
    places, gap = sorted(places), 0.1
    moved = spread(places, gap)
    assert (np.diff(moved) >= gap - 1e-9).all()
    assert np.mean(moved) == pytest.approx(np.mean(places), abs=1e-9)
    if (np.diff(places) >= gap).all():
        assert moved == pytest.approx(places)
