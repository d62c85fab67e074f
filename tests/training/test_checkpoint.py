"""Checkpoints: whole, or passed over."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from upge.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

FILES = ("state.json", "policy.safetensors", "optimizer.pt")


def checkpoint(step, seed=0):
    generator = torch.Generator().manual_seed(seed + step)
    weight = torch.randn(3, 4, generator=generator)
    optimizer = {"state": {0: {"exp_avg": weight * 2, "step": torch.tensor(float(step))}}}
    return Checkpoint(step, {"head": weight, "embedding": weight}, optimizer, {"updates": step})


def assert_same(one, other):
    assert (one.step, one.progress) == (other.step, other.progress)
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[k], other.weights[k]) for k in one.weights)
    a, b = one.optimizer["state"][0], other.optimizer["state"][0]
    assert all(torch.equal(a[k], b[k]) for k in ("exp_avg", "step"))


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path, checkpoint(50))
    assert_same(load_checkpoint(tmp_path, 50), checkpoint(50))


def test_none_is_loaded_from_nothing(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere", 9) is None


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 10, 100, 1000):
        save_checkpoint(tmp_path, checkpoint(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000100", "step-00001000"]
    assert_same(load_checkpoint(tmp_path, 1000), checkpoint(1000))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "altered"])
def test_a_damaged_one_is_passed_over_with_a_note(tmp_path, caplog, file, how):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    path = tmp_path / "step-00000002" / file
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        path.unlink()
    else:
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:middle], "altered": altered}[how])
    with caplog.at_level(logging.WARNING):
        assert_same(load_checkpoint(tmp_path, 2), checkpoint(1))
    (record,) = caplog.records
    assert "step-00000002: is damaged" in record.getMessage()


def test_no_bit_of_the_state_can_change_unseen(tmp_path):
    save_checkpoint(tmp_path, checkpoint(7))
    path = tmp_path / "step-00000007" / "state.json"
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (0, 4):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(bytes(flipped))
            loaded = load_checkpoint(tmp_path, 7)
            assert loaded is None or loaded.progress == {"minibatches": 7}
    path.write_bytes(content)
    assert load_checkpoint(tmp_path, 7) is not None


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"own": 1}', '{"digests": []}'])
def test_a_state_that_is_none(tmp_path, text):
    save_checkpoint(tmp_path, checkpoint(7))
    (tmp_path / "step-00000007" / "state.json").write_text(text)
    assert load_checkpoint(tmp_path, 7) is None


def test_a_partial_one_is_not_loaded_and_goes_away(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000002.partial")
    assert_same(load_checkpoint(tmp_path, 2), checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_one_ahead_of_the_metrics_is_not_loaded(tmp_path, caplog):
    """As after a power cut: the metrics' last lines never reached the disk."""
    save_checkpoint(tmp_path, checkpoint(50))
    save_checkpoint(tmp_path, checkpoint(100))
    assert_same(load_checkpoint(tmp_path, 99), checkpoint(50))
    assert load_checkpoint(tmp_path, 49) is None
    assert "metrics end at step 99" in caplog.text


def test_it_is_written_again_over_a_damaged_one(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / "step-00000001" / "state.json").write_text("")
    save_checkpoint(tmp_path, checkpoint(1, seed=5))
    assert_same(load_checkpoint(tmp_path, 1), checkpoint(1, seed=5))


def test_it_says_what_it_holds(tmp_path):
    save_checkpoint(tmp_path, checkpoint(50))
    state = json.loads((tmp_path / "step-00000050" / "state.json").read_text())
    assert state["step"] == 50
    assert set(state["digests"]) == {"policy.safetensors", "optimizer.pt"}
