"""The studies on tiny recipes: their form, and identities that their numbers must satisfy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from analysis.style import LOOKS, look, save, style
from experiments.bias_variance import __main__ as command
from experiments.bias_variance import advantage, demonstrations, mask, reference
from experiments.bias_variance.__main__ import STUDIES
from experiments.bias_variance.common import (
    Rows,
    chosen,
    divergence,
    drifted,
    graded,
    table_problem,
    tilted,
)
from experiments.records import read_record, write_record
from upge import REGISTRY, UpgeError
from upge.common.code import code_version
from upge.common.config import load
from upge.exact.enumeration import TabularPolicy, Tree

NETWORK: dict[str, Any] = {
    "vocab": 3,
    "horizon": 3,
    "hidden": 2,
    "scale": 0.7,
    "success": 0.3,
    "fill": 0.7,
    "group_size": 3,
    "seeds": (0, 1),
}
TINY: dict[str, Any] = {
    "reference": reference.Recipe(
        **NETWORK, kl=(0.0, 0.1, 1.0), horizons=(1, 3), kl_per_token=0.03
    ),
    "mask": mask.Recipe(
        **NETWORK,
        directions=("random", "gradient"),
        kl=(0.0, 0.5),
        clip=(0.0, 0.2),
        clip_low=0.2,
        clip_high=(0.28,),
        dual_clip=(3.0,),
        cispo=(0.0, 0.2),
        tis=(1.0, 2.0, 1e6),
        sapo=(1e-6, 1.0),
        sapo_negative=1.05,
    ),
    "advantage": advantage.Recipe(
        vocab=3,
        horizon=2,
        success=(0.05, 0.5, 0.8),
        group_sizes=(2, 5),
        demonstrations=1,
        demo_success=0.99,
        seeds=(0, 1),
    ),
    "demonstrations": demonstrations.Recipe(
        vocab=3,
        horizon=3,
        success=0.3,
        share=(0.01, 0.9),
        coverages=(0.3, 1e-3),
        coverage=(0.1, 1e-3),
        fixed_share=0.9,
        mu=0.1,
        shaping=0.1,
        group_size=3,
        seeds=(0, 1),
    ),
}
NAMES = list(TINY)


@pytest.fixture(scope="module")
def rows() -> Callable[[str], Rows]:
    results: dict[str, Rows] = {}

    def of(name: str) -> Rows:
        if name not in results:
            results[name] = STUDIES[name].run(TINY[name])
        return results[name]

    return of


def close(found: float | str, wanted: float, tolerance: float = 1e-9) -> bool:
    return math.isclose(float(found), wanted, rel_tol=tolerance, abs_tol=tolerance)


# ------------------------------------------------------------------------------- every study


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", NAMES)
def test_rows_have_one_form(rows: Callable[[str], Rows], name: str) -> None:
    own = rows(name)
    assert all(row.keys() == own[0].keys() for row in own)
    for row in own:
        assert float(row["variance"]) >= 0
        assert close(row["mse"], float(row["bias_sq"]) + float(row["variance"]))
        assert -1e-9 <= float(row["bias_sq_scaled"]) <= float(row["mse_scaled"]) + 1e-9 <= 1 + 2e-9


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", NAMES)
def test_running_twice_gives_the_same(rows: Callable[[str], Rows], name: str) -> None:
    told: list[tuple[int, int]] = []
    again = STUDIES[name].run(TINY[name], progress=lambda *steps: told.append(steps))
    assert repr(again) == repr(rows(name))
    assert told[-1][0] == told[-1][1] == len(told)


@pytest.mark.parametrize("name", NAMES)
def test_headlines_are_numbers(rows: Callable[[str], Rows], name: str) -> None:
    numbers = STUDIES[name].headlines(rows(name))
    assert numbers and all(math.isfinite(number) for number in numbers.values())


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", NAMES)
def test_figures_draw(rows: Callable[[str], Rows], name: str, tmp_path: Path) -> None:
    drawing = import_module(f"analysis.bias_variance.{name}")
    written = save(drawing.figure(rows(name)), tmp_path / name, drawing.caption(rows(name)))
    assert [path.suffix for path in written] == [".pdf", ".png"]
    assert all(path.stat().st_size > 10_000 for path in written)


def test_a_figure_is_saved_with_the_same_bytes(tmp_path: Path) -> None:
    def drawn(name: str) -> list[Path]:
        with style():
            figure, axes = plt.subplots()
            axes.plot([0, 1], [1, 0], label="π", **look("hpt").line)
        return save(figure, tmp_path / name)

    for one, other in zip(drawn("one"), drawn("other"), strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_in_the_repository_loads(name: str) -> None:
    path = command.RECIPES / f"{name}.yaml"
    assert isinstance(load(path, STUDIES[name].recipe), STUDIES[name].recipe)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("reference", {"fill": 1.5}, "fill: got 1.5, wanted a number > 0 and ≤ 1"),
        ("reference", {"kl": ()}, "kl: got an empty list"),
        ("mask", {"directions": ("radom",)}, "did you mean 'random'"),
        ("advantage", {"group_sizes": (1,)}, "group_sizes: got 1, wanted a number ≥ 2"),
        ("demonstrations", {"mu": 0.0}, "mu: got 0.0, wanted a number > 0"),
    ],
)
def test_recipes_refuse_nonsense(name: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UpgeError) as caught:
        replace(TINY[name], **wrong)
    assert message in str(caught.value)


def test_every_method_has_a_look_of_its_own() -> None:
    assert set(REGISTRY) <= set(LOOKS)
    assert len({(own.color, own.marker) for own in LOOKS.values()}) == len(LOOKS)
    with pytest.raises(UpgeError, match="did you mean 'grpo'"):
        look("gprpo")


# ------------------------------------------------------------------------------- identities


def test_on_policy_all_references_but_one_are_unbiased(rows: Callable[[str], Rows]) -> None:
    own = chosen(rows("reference"), sweep="kl", kl_wanted=0.0)
    for row in own:
        biased = row["bias_sq"] != 0
        assert biased == (row["reference"] == "one"), row


def test_the_ratio_of_whole_trajectories_is_unbiased(rows: Callable[[str], Rows]) -> None:
    for row in chosen(rows("reference"), reference="trajectory"):
        assert row["bias_sq"] == 0


def test_the_token_ratio_is_biased_but_for_one_token(rows: Callable[[str], Rows]) -> None:
    own = rows("reference")
    for row in chosen(own, sweep="length", reference="rollout"):
        assert (row["bias_sq"] == 0) == (row["horizon"] == 1)


def test_the_policy_is_as_far_as_asked(rows: Callable[[str], Rows]) -> None:
    for row in chosen(rows("reference"), sweep="kl"):
        assert close(row["kl"], float(row["kl_wanted"]), 1e-6)


def test_on_policy_no_mask_acts(rows: Callable[[str], Rows]) -> None:
    own = chosen(rows("mask"), kl=0.0)
    usual = [row for row in own if row["mask"] != "tis" or float(row["setting"]) >= 1]
    for row in usual:
        (none,) = chosen(own, mask="none", seed=row["seed"], direction=row["direction"])
        assert close(row["variance"], float(none["variance"])), row


def test_loose_masks_are_none(rows: Callable[[str], Rows]) -> None:
    own = rows("mask")
    for loose in (*chosen(own, mask="tis", setting=1e6), *chosen(own, mask="sapo", setting=1e-6)):
        where = {key: loose[key] for key in ("seed", "direction", "kl")}
        (none,) = chosen(own, mask="none", **where)
        for column in ("bias_sq", "variance", "cosine"):
            assert close(loose[column], float(none[column]), 1e-6)


def z_weight(p: float, n: int) -> float:
    """E of the z-scored group's Σ Â/n over successes and failures, per unit of ∇p, by hand."""
    total = 0.0
    for k in range(1, n):
        std = math.sqrt(k * (n - k) / (n * (n - 1)))
        chance = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        total += chance * k * (n - k) / n / std / n * (1 / p + 1 / (1 - p))
    return total


def test_weights_of_the_advantage_rules(rows: Callable[[str], Rows]) -> None:
    for row in chosen(rows("advantage"), sweep="question"):
        p, n = float(row["p"]), int(row["n"])
        wanted = {
            "reward": 1.0,
            "signed": 2.0,
            "leave_one_out": 1.0,
            "centered": (n - 1) / n,
            "z_score": z_weight(p, n),
        }
        assert close(row["cosine"], 1.0)
        if row["rule"] in wanted:
            assert close(row["weight"], wanted[str(row["rule"])]), row


def test_pairs_have_no_difficulty_bias(rows: Callable[[str], Rows]) -> None:
    for row in chosen(rows("advantage"), rule="z_score", sweep="mix"):
        assert (row["bias_sq_scaled"] == 0) == (row["n"] == 2)


def test_sft_estimates_the_divergence(rows: Callable[[str], Rows]) -> None:
    own = chosen(rows("demonstrations"), rule="sft")
    for row in (*chosen(own, target="kl"), *chosen(own, part="with_rollouts")):
        assert row["bias_sq"] == 0


def test_unbiased_only_over_the_current_policy(rows: Callable[[str], Rows]) -> None:
    for row in chosen(rows("demonstrations"), part="alone", target="kl"):
        assert (float(row["bias_sq"]) > 1e-6) == (row["rule"] != "sft")


# ------------------------------------------------------------------------------- the machinery


def test_tilting_sets_the_success_rate_and_nothing_else() -> None:
    problem = table_problem(3, 3, 0.3, seed=1)
    reward, before = problem.reward, problem.policy.logp().exp()
    after = tilted(problem.policy, reward, 0.85).logp().exp()
    assert close((after @ reward).item(), 0.85)
    for outcome in (reward, 1 - reward):
        given = [(probs * outcome) / (probs @ outcome) for probs in (before, after)]
        assert torch.allclose(*given, atol=1e-12)


@pytest.mark.parametrize("direction", ["random", "gradient"])
def test_drifting_reaches_the_divergence(direction: str) -> None:
    problem = reference.Recipe(**NETWORK, kl=(0.1,), horizons=(2,), kl_per_token=0.1).problem(3)
    assert close(problem.policy.logp().exp() @ problem.policy.tree.length.double(), 0.7 * 3, 1e-6)
    new = drifted(problem, direction, 0.37, seed=3)
    assert close(divergence(problem.policy, new), 0.37, 1e-9)


def test_graded_rewards_come_close_from_below() -> None:
    policy = TabularPolicy.random(Tree(3, 0, 5), seed=0)
    reward = graded(policy, 0.3, seed=0)
    assert 0.28 < (policy.logp().exp() @ reward).item() <= 0.3
    assert set(reward.tolist()) == {0.0, 1.0}


@pytest.mark.slow
def test_a_result_is_kept_until_recipe_or_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "advantage.yaml"
    text = (
        "vocab: 3\nhorizon: 1\nsuccess: [0.1, 0.5]\ngroup_sizes: [2, 3]\ndemonstrations: 1\n"
        "demo_success: 0.9\nseeds: [0]\n"
    )
    recipe.write_text(text, encoding="utf-8")
    monkeypatch.setattr(command, "RECIPES", tmp_path)
    drawn: list[str] = []
    monkeypatch.setattr(command, "draw", lambda name, out, stamp=False: drawn.append(name))
    out = tmp_path / "out"

    def said() -> str:
        command.main(["advantage"], out=out)
        return capsys.readouterr().out

    assert "1 run, 0 already there" in said()
    record = read_record(out / "advantage.json")
    assert record["recipe"]["success"] == [0.1, 0.5]
    assert {"commit", "torch", "date"} <= set(record["provenance"])
    assert "weight_z_score_low" in record["headlines"]
    assert "0 run, 1 already there" in said()
    assert drawn == ["advantage"] * 2
    recipe.write_text(text.replace("0.9", "0.8"), encoding="utf-8")
    assert "1 run, 0 already there" in said()
    monkeypatch.setattr(command, "code_version", lambda module: "other")
    assert "1 run, 0 already there" in said()
    monkeypatch.undo()
    command.draw("advantage", out)
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".json", ".pdf", ".png"]


@pytest.mark.parametrize("name", ["result.csv", "result.json", "result.pdf", "result.png"])
def test_results_are_written_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("before")
    (tmp_path / f".{name}.{os.getpid()}.partial").mkdir()
    with pytest.raises(UpgeError, match=rf"{name}: can't be written"):
        if path.suffix == ".csv":
            command.write_table(path, [{"x": 1.0}])
        elif path.suffix == ".json":
            write_record(path, "result", "key", TINY["mask"], {}, 0.0)
        else:
            save(Figure(), tmp_path / "result", "commit")
    assert path.read_text() == "before"


def test_where_nothing_can_be_written_nothing_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UpgeError, match="can't be written to"):
        command.main(["advantage"], out=tmp_path / "file")


def test_an_unknown_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UpgeError, match="did you mean 'mask'"):
        command.main(["maks"], out=tmp_path)


def test_the_code_version_ignores_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "part.py").write_text("VALUE = 1\n", encoding="utf-8")
    source = package / "whole.py"
    monkeypatch.syspath_prepend(tmp_path)

    def version(text: str) -> str:
        source.write_text(text, encoding="utf-8")
        return code_version("toy_package.whole")

    base = version('"""Doc."""\nfrom toy_package.part import VALUE\nX = VALUE\n')
    assert base == version("from toy_package.part import VALUE  # why\n\nX  =  VALUE\n")
    assert base != version("from toy_package.part import VALUE\nX = VALUE + 1\n")
    again = version("from toy_package.part import VALUE\nX = VALUE\n")
    (package / "part.py").write_text("VALUE = 2\n", encoding="utf-8")
    assert again != code_version("toy_package.whole")
