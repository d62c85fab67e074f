"""Gradients of the registry's algorithms against the losses that TRL and verl ship."""

import os
import random
import socket
from typing import Any, NoReturn

import pytest
import torch

from upge import REGISTRY, UpgeError
from upge.common.optional import available
from upge.verification import parity as package
from upge.verification.parity import LIBRARIES, LibraryName, cell, compare, parity
from upge.verification.parity.common import relative_error

#: Both sides compute in float64; what their definitions differ in is aligned (see each note).
TOLERANCE = 1e-12

ROWS = [(library, name) for library, side in LIBRARIES.items() for name in side.rows]
OPTIONS = [
    (library, name, option, value)
    for library, name in ROWS
    for option, value in LIBRARIES[library].rows[name].ours.items()
    if option not in LIBRARIES[library].rows[name].shared and not isinstance(value, str)
]


def needs(library: str) -> None:
    if not available(library):
        pytest.skip(f"{library} is not installed")


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("an attempt to reach the network")


@pytest.mark.parametrize(("library", "name"), ROWS)
def test_gradient_is_that_of_the_shipped_loss(library: LibraryName, name: str) -> None:
    needs(library)
    result = cell(library, name)
    if result.error is None:
        pytest.skip(result.reason)
    assert result.error <= TOLERANCE
    assert result.function and result.reason and result.version


@pytest.mark.parametrize(("library", "name", "option", "value"), OPTIONS)
def test_another_option_on_our_side_shows(
    library: LibraryName, name: str, option: str, value: float
) -> None:
    needs(library)
    assert compare(library, name, **{option: value / 2 or 0.5}) > 1e-3


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_advantage_or_normaliser_shows(library: LibraryName) -> None:
    needs(library)
    assert compare(library, "dapo", normalizer="question_mean") > 1e-3
    estimator = REGISTRY["dr_grpo"]()
    row = LIBRARIES[library].rows["grpo"]
    with package.isolated():
        ours, theirs = LIBRARIES[library].gradients(row, estimator, 0)
    assert relative_error(ours, theirs) > 1e-3


@pytest.mark.parametrize(("library", "name"), ROWS)
def test_rows_leave_no_option_to_a_default(library: LibraryName, name: str) -> None:
    row = LIBRARIES[library].rows[name]
    assert set(row.ours) - {"normalizer"} == set(REGISTRY[name].options)
    assert set(row.shared) <= set(row.ours)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library_leaves_reasons(
    library: LibraryName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "available", lambda _: False)
    cells = parity(library)
    assert list(cells) == list(REGISTRY)
    assert all(result.error is None and result.reason for result in cells.values())
    assert "pip install" in cells["grpo"].reason
    with pytest.raises(UpgeError, match="not installed"):
        compare(library, "grpo")


@pytest.mark.parametrize("library", LIBRARIES)
def test_algorithms_without_counterpart_say_why(library: LibraryName) -> None:
    assert "rollouts and demonstrations together" in cell(library, "chord").reason
    assert "LUFFY" in cell(library, "luffy_offline").reason


@pytest.mark.parametrize("library", LIBRARIES)
def test_nothing_is_left_behind(
    library: LibraryName,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    needs(library)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def state() -> tuple[object, ...]:
        return dict(os.environ), random.getstate(), torch.random.get_rng_state().tolist()

    before = state()
    compare(library, "grpo")
    assert state() == before
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_vanishing_gradient_is_no_agreement() -> None:
    nothing = torch.zeros(2)
    assert relative_error(nothing, nothing) == float("inf")
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])) == 0.5
