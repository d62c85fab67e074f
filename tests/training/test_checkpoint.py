"""Checkpoints: whole, or passed over; the newest that are whole are kept."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from upge.common.errors import UpgeError
from upge.training.checkpoint import Checkpoint, Checkpoints, Progress, _State

FILES = ("state.json", "policy.safetensors", "optimizer.safetensors", "metrics.jsonl")


class Tied(nn.Module):
    """Two names for one parameter."""

    def __init__(self, rows=3):
        super().__init__()
        self.head = nn.Linear(4, rows, bias=False)
        self.embedding = self.head


def checkpoint(step, seed=0):
    generator = torch.Generator().manual_seed(seed + step)
    weight = torch.randn(3, 4, generator=generator)
    optimizer = {"0.step": torch.tensor(float(step)), "0.exp_avg": weight * 2}
    optimizer["0.exp_avg_sq"] = optimizer["0.exp_avg"] ** 2
    lines = [{"step": i, "loss": 0.1 * i} for i in range(1, step + 1)]
    weights = {"head.weight": weight, "embedding.weight": weight}
    return Checkpoint(Progress(step, updates=step), weights, optimizer, lines)


def assert_same(one, other):
    assert one is not None
    assert (one.progress, one.metrics) == (other.progress, other.metrics)
    for own, theirs in ((one.weights, other.weights), (one.optimizer, other.optimizer)):
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[name], theirs[name]) for name in own)


def save(folder, *steps):
    """Save these steps as one process does; its object."""
    kept = Checkpoints(folder)
    for step in steps:
        kept.save(checkpoint(step))
    return kept


def load(folder):
    return Checkpoints(folder).load(Tied())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path, 50)
    assert_same(load(tmp_path), checkpoint(50))


def test_none_is_loaded_from_nothing(tmp_path):
    assert load(tmp_path / "nowhere") is None


def test_the_newest_two_are_kept(tmp_path):
    save(tmp_path, 5, 10, 30, 100)
    assert names(tmp_path) == ["step-00000030", "step-00000100"]
    assert_same(load(tmp_path), checkpoint(100))


def test_without_an_optimizer_state(tmp_path):
    """As at the start of a stage."""
    whole = checkpoint(3)
    Checkpoints(tmp_path).save(Checkpoint(whole.progress, whole.weights, {}, whole.metrics))
    assert load(tmp_path).optimizer == {}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "altered"])
def test_a_damaged_one_is_passed_over_with_a_note(tmp_path, caplog, file, how):
    save(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        path.unlink()
    else:
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:middle], "altered": altered}[how])
    with caplog.at_level(logging.WARNING):
        assert_same(load(tmp_path), checkpoint(1))
    (record,) = caplog.records
    assert "step-00000002: is damaged" in record.getMessage()
    assert "resumes" not in record.getMessage()  # it may be the only one


def test_new_ones_are_kept_beside_damaged_ones_of_later_steps(tmp_path):
    """A run that is preempted again and again has to come past them."""
    save(tmp_path, 1, 2, 3)
    for step in (2, 3):
        (tmp_path / f"step-{step:08}" / "policy.safetensors").write_bytes(b"")
    restarted = Checkpoints(tmp_path)
    assert restarted.load(Tied()) is None
    restarted.save(checkpoint(1))
    assert_same(load(tmp_path), checkpoint(1))
    assert names(tmp_path) == ["step-00000001"]


def test_the_one_that_was_loaded_is_kept_beside_the_next(tmp_path):
    save(tmp_path, 1, 4)
    (tmp_path / "step-00000004" / "state.json").write_text("")
    resumed = Checkpoints(tmp_path)
    assert_same(resumed.load(Tied()), checkpoint(1))
    resumed.save(checkpoint(2))
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_no_bit_of_the_state_can_change_unseen(tmp_path):
    save(tmp_path, 7)
    path = tmp_path / "step-00000007" / "state.json"
    content = path.read_bytes()
    seen = 0
    for place in range(len(content)):
        for bit in (0, 4):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(bytes(flipped))
            loaded = load(tmp_path)
            seen += loaded is None
            assert loaded is None or loaded.progress == Progress(7, updates=7)
    assert seen > len(content)
    path.write_bytes(content)
    assert load(tmp_path) is not None


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"own": 1}', '{"digests": []}', "[" * 10**5])
def test_a_state_that_is_none(tmp_path, text):
    save(tmp_path, 7)
    (tmp_path / "step-00000007" / "state.json").write_text(text)
    assert load(tmp_path) is None


def test_a_partial_one_is_not_loaded_and_goes_away(tmp_path):
    kept = save(tmp_path, 1, 2)
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000002.partial")
    assert_same(load(tmp_path), checkpoint(1))
    kept.save(checkpoint(3))
    assert "step-00000002.partial" not in names(tmp_path)


def test_it_is_written_again_over_a_damaged_one(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001" / "state.json").write_text("")
    Checkpoints(tmp_path).save(checkpoint(1, seed=5))
    assert_same(load(tmp_path), checkpoint(1, seed=5))


def test_what_else_lies_there_is_left_alone(tmp_path):
    others = ["note.txt", "step-1", "step-000000x1", "step-٠٠٠٠٠٠٠١", "step-" + "9" * 40]
    for name in others:
        (tmp_path / name).mkdir()
    save(tmp_path, 2)
    assert_same(load(tmp_path), checkpoint(2))
    assert names(tmp_path) == sorted([*others, "step-00000002"])


# -------------------------------------------------------------------------- what can't be read now


def refuse(patch, owner, name, places, error=PermissionError):
    """Have calls with such a place fail."""
    call = getattr(owner, name)

    def refused(place, *args, **options):
        if any(part in str(place) for part in places):
            raise error(13, "Permission denied", str(place))
        return call(place, *args, **options)

    patch.setattr(owner, name, refused)


def test_a_folder_that_cant_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    save(tmp_path / "checkpoints", 1)
    refuse(monkeypatch, os, "listdir", ["checkpoints"])
    with pytest.raises(PermissionError):
        load(tmp_path / "checkpoints")


def test_one_that_cant_be_read_now_is_not_passed_over(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    refuse(monkeypatch, type(tmp_path), "open", ["step-00000002/policy"])
    sentence = r"step-00000002: can't be read \(Permission denied\); mend that, or delete it"
    with pytest.raises(UpgeError, match=sentence):
        load(tmp_path)


# ------------------------------------------------------------------------------------ forged ones


def seal(path):
    """Make the digests fit again, as one who knows how could."""
    from upge.training.checkpoint import _FILES, _digest

    state = json.loads((path / "state.json").read_text())
    state["digests"] = {name: _digest(path / name) for name in _FILES}
    sealed = _State.model_validate_json(json.dumps(state)).sealed()
    (path / "state.json").write_text(sealed.model_dump_json())


@pytest.mark.parametrize(
    "change",
    [{"step": 6}, {"step": 8}, {"updates": 3}, {"updates": 7.0}, {"step": -7}, {"x": 1}],
)
def test_forged_counters_are_noticed(tmp_path, change):
    save(tmp_path, 7)
    path = tmp_path / "step-00000007"
    state = json.loads((path / "state.json").read_text())
    state["progress"] |= change
    (path / "state.json").write_text(json.dumps(state))
    with suppress(ValueError):  # no counters at all
        seal(path)
    assert load(tmp_path) is None


def test_a_renamed_one_is_noticed(tmp_path):
    save(tmp_path, 7)
    (tmp_path / "step-00000007").rename(tmp_path / "step-00000008")
    assert load(tmp_path) is None


@pytest.mark.parametrize("file", ["policy.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("how", ["shape", "dtype", "missing", "more"])
def test_tensors_of_another_model_are_noticed(tmp_path, file, how):
    save(tmp_path, 7)
    path = tmp_path / "step-00000007"
    tensors = load_file(path / file)
    name = next(name for name in tensors if "step" not in name)
    if how == "missing":
        del tensors[name]
    else:
        value = tensors[name].clone()
        changed = {"shape": value[:, :2].contiguous(), "dtype": value.long(), "more": value}[how]
        tensors["9.x" if how == "more" else name] = changed
    save_file({name: x.clone() for name, x in tensors.items()}, path / file)
    seal(path)
    fits = (file, how) == ("optimizer.safetensors", "dtype")  # cast to the parameter's, as always
    assert (load(tmp_path) is not None) == fits


def test_another_model_takes_none(tmp_path):
    save(tmp_path, 7)
    assert Checkpoints(tmp_path).load(Tied(rows=5)) is None


@settings(suppress_health_check=list(HealthCheck), max_examples=150)
@given(data=st.data())
def test_whatever_a_file_holds_it_is_whole_or_none(tmp_path_factory, data):
    """Digests made to fit or not."""
    folder = tmp_path_factory.mktemp("fuzz")
    save(folder, 2)
    path = folder / "step-00000002"
    file = data.draw(st.sampled_from(FILES))
    content = (path / file).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 40, len(content))))
    (path / file).write_bytes(content[:start] + data.draw(st.binary(max_size=40)) + content[end:])
    if data.draw(st.booleans()):
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # nothing to seal
            seal(path)
    loaded = load(folder)
    if loaded is not None:
        assert loaded.progress.step == 2 == len(loaded.metrics)
        assert loaded.weights.keys() == checkpoint(2).weights.keys()
