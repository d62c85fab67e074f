"""TensorBoard and W&B get what the run's folder gets."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import tiny_runs
from accelerate import tracking
from tiny_runs import numbers, run

from upge.common.errors import UpgeError

TRACKERS = ("tensorboard", "wandb")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return tiny_runs.Tiny(tmp_path_factory.mktemp("tiny"))


class Recorder(tracking.GeneralTracker):
    """Stands for a tracker whose package is not installed here."""

    requires_logging_directory = False
    seen: list

    def __init__(self, run_name, **options):
        super().__init__()
        self.seen.append(("options", options))

    def start(self):
        self.seen.append(("start",))

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.seen.append(("configuration", values))

    def log(self, values, step=None, **options):
        self.seen.append(("log", step, values))

    def finish(self):
        self.seen.append(("finish",))


@pytest.fixture
def seen(monkeypatch):
    """What each tracker was told."""
    told = {name: [] for name in TRACKERS}
    for name in TRACKERS:
        kind = type(name, (Recorder,), {"name": name, "seen": told[name]})
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, kind)
    known = [*tracking._available_trackers, *map(tracking.LoggerType, TRACKERS)]
    monkeypatch.setattr(tracking, "_available_trackers", known)
    return told


def test_trackers_get_the_numbers_of_every_step(tiny, tmp_path, seen):
    config = tiny.config("hpt", trackers=list(TRACKERS))
    folder = run(config, tmp_path / "run")
    expected = [
        {key: value for key, value in line.items() if isinstance(value, int | float)}
        for line in folder.metrics()
    ]
    for name in TRACKERS:
        logged = [entry for entry in seen[name] if entry[0] == "log"]
        assert [values for _, _, values in logged] == expected
        assert [step for _, step, _ in logged] == [1, 2, 3]
        assert ("configuration", {
            "name": "hpt", "model": config.model, "seed": 0, "key": config.key,
        }) in seen[name]  # fmt: skip
        assert seen[name][-1] == ("finish",)
    assert seen["wandb"][0] == ("options", {"name": "run", "id": config.key, "resume": "allow"})


def test_they_change_nothing(tiny, tmp_path, seen):
    without, with_one = tiny.config("hpt"), tiny.config("hpt", trackers=["tensorboard"])
    assert without.key == with_one.key
    one, other = run(without, tmp_path / "one"), run(with_one, tmp_path / "other")
    assert seen["tensorboard"]
    assert numbers(one) == numbers(other)


@pytest.mark.parametrize("name", TRACKERS)
def test_one_that_is_not_installed(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UpgeError, match=f"{name} can't be imported .*; install it with pip") as e:
        run(tiny.config("hpt", trackers=[name]), tmp_path / "run")
    assert f"pip install {name}" in str(e.value)
    assert not (tmp_path / "run").exists()


def test_one_that_is_not_known(tiny):
    with pytest.raises(
        UpgeError, match=r"trackers.0: got 'mlflow', wanted 'tensorboard' or 'wandb'"
    ):
        tiny.config("hpt", trackers=["mlflow"])
