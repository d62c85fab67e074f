"""The tables of shipped and official losses: what is in them, and what is said of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import Exit

from experiments.conformance import official
from experiments.conformance.__main__ import _finding
from experiments.conformance.shipped import LIBRARIES, SHIPPED
from upge.common.errors import UpgeError
from upge.common.optional import available

FAKE = """
def compute_sft_pure_loss(log_prob, eos_mask):
    return -(log_prob * eos_mask).sum() / eos_mask.sum()

def compute_token_on_off_policy_loss(
    old_log_prob, log_prob, advantages, eos_mask, cliprange, clip_upper_bound, prefix_mask,
    off_cliprange, off_policy_reshape="no_reshape", loss_remove_token_mean=False,
    loss_remove_clip=False,
):
    terms = -advantages * (log_prob - old_log_prob).exp()
    return {"pg_loss": (terms * eos_mask).sum() / eos_mask.sum()}

def compute_grpo_outcome_advantage_split(
    token_level_rewards, eos_mask, index, on_policy_mask, epsilon=1e-6, use_std=True
):
    return token_level_rewards.sum(-1, keepdim=True).expand(eos_mask.shape), None
"""


def test_every_library_has_losses_and_no_loss_is_there_twice() -> None:
    assert {loss.library for loss in SHIPPED} == {library.name for library in LIBRARIES}
    places = [(loss.library, loss.place) for loss in SHIPPED]
    assert len(set(places)) == len(places)


@pytest.mark.skipif(not available("verl"), reason="verl is not installed")
def test_a_loss_of_verls_is_found_and_one_that_cannot_be_called_is_said() -> None:
    by_place = {loss.place: loss for loss in SHIPPED if loss.library == "verl"}
    found = _finding(by_place["vanilla, seq-mean-token-mean"])
    assert found.what.startswith("ppo_dual_clip") and found.error == 0
    elsewhere = next(loss for loss in SHIPPED if loss.library == "oxRL")
    if not available("oxrl"):
        assert _finding(elsewhere).what == "could not be called: No module named 'oxrl'"


def test_official_losses_that_are_others_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UpgeError, match=r"has no mix_src/mix_core_alg\.py"):
        official.read(tmp_path)
    file = tmp_path / "verl" / official.FILE
    file.parent.mkdir(parents=True)
    file.write_text(FAKE)
    with pytest.raises(Exit) as ended:
        official.main([tmp_path], tmp_path)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert "compute_sft_pure_loss (defaults): as expected" in said
    assert "not found: 1: w ∝ π_θ; PolicyShaping(gamma=0.1)" in said
    assert "compute_sft_pure_loss" in (tmp_path / "official_code.md").read_text()
