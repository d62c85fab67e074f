"""Figures 6 and 8 show HPT's offline ratio and reward, model by model and gate by gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import metrics, write_run

from analysis import figure6, figure8
from analysis.curves import footer
from analysis.gates import gamma, gate_label
from analysis.runs import load_runs


def stages(gate: float | None = None) -> dict[str, Any]:
    """HPT at a gate, with eight rollouts."""
    options = {} if gate is None else {"gamma": gate}
    stage = {"algorithm": "hpt_global_token", "options": options, "group_size": 8}
    return {"stages": [{**stage, "steps": 20, "lr": 1e-3}]}


def write(folder: Path, method: str, seed: int, given: dict[str, Any], **lines: Any) -> None:
    write_run(folder, method, seed, steps=metrics(reward=0.5, **lines), given=given)


@pytest.fixture
def comparisons(tmp_path: Path) -> list[Path]:
    """Two base models, the second at another gate and with one seed more."""
    first, second = tmp_path / "cpu" / "table2", tmp_path / "cpu" / "table3-weak"
    for seed in range(2):
        write(first, "hpt_global_token", seed, stages(), offline=0.4)
        write(first, "luffy", seed, {})
    for seed in range(3):
        weak = stages(0.25) | {"model": "tiny_weak"}
        write(second, "hpt_global_token", seed, weak, offline=0.8)
        write(second, "luffy", seed, {"model": "tiny_weak"})
    return [first, second]


def test_a_gate_is_called_as_the_paper_calls_it(comparisons: list[Path]) -> None:
    own, weak = (load_runs(path).of("hpt_global_token")[0] for path in comparisons)
    assert (gamma(own), gate_label(own)) == (0, "γ = 0")
    assert (gamma(weak), gate_label(weak)) == (0.25, "γ = 2/8")


def test_figure_6_has_hpt_of_each_model_and_luffy_once(comparisons: list[Path]) -> None:
    frame = figure6.numbers(*map(load_runs, comparisons))
    keys = frame[["base", "gate", "method"]].drop_duplicates().to_numpy().tolist()
    assert keys == [
        ["tiny", "γ = 0", "hpt_global_token"],
        ["tiny", "", "luffy"],
        ["tiny_weak", "γ = 2/8", "hpt_global_token"],
    ]
    own = frame[frame["gate"] != ""].groupby("base")
    assert own["seeds"].first().to_dict() == {"tiny": 2, "tiny_weak": 3}
    ratio = own["mean"].mean()
    assert ratio["tiny_weak"] == pytest.approx(2 * ratio["tiny"])


def test_figure_6_is_drawn_with_the_seeds_of_both(
    comparisons: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure6.main(comparisons, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert "missing" not in capsys.readouterr().out
    foot = footer(*map(load_runs, comparisons))
    assert foot == "0123456789ab · cpu profile · 2, 3 seeds"


def test_figure_8_has_reward_and_ratio_of_three_gates(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "table6"
    for right, offline in enumerate((0.2, 0.4, 0.6)):
        name = f"hpt_gamma_{right}" if right else "hpt_global_token"
        write(folder, name, 0, stages(right / 8), offline=offline)
    write(folder, "hpt_gamma_4", 0, stages(0.5))
    frame = figure8.numbers(load_runs(folder))
    assert frame["gate"].unique().tolist() == ["γ = 0", "γ = 1/8", "γ = 2/8"]
    assert frame["quantity"].unique().tolist() == ["reward", "offline_ratio"]
    middle = frame[frame["step"] == 10].set_index(["quantity", "gate"])["mean"]
    assert (middle["reward"] == 0.5).all()
    ratios = np.array([0.2, 0.4, 0.6]) * np.mean([1 - step / 40 for step in range(1, 20)])
    assert middle["offline_ratio"].to_numpy() == pytest.approx(ratios, rel=0.05)
    assert len(figure8.write_figure(load_runs(folder), tmp_path / "out")) == 3


def test_what_is_missing_is_named_and_nothing_is_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cpu" / "table6"
    write_run(folder, "base", 0)
    figure8.main(folder, tmp_path / "out")
    told = capsys.readouterr().out
    assert "table6 has no finished run of hpt_gamma_1; `make reproduce-table6 " in told
    figure6.main([folder, tmp_path / "cpu" / "table3-weak"], tmp_path / "out")
    assert "table3-weak; `make reproduce-table3` makes it" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
