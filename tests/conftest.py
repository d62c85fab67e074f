"""Settings of every test: the same examples each time, so that a failure can be repeated."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tiers import slow_cases

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")

# Of a folder of data that isn't there, which commands refuse, tests skip what needs its files.
if (folder := os.environ.get("UPGE_DATA")) is not None and not Path(folder).is_dir():
    os.environ["UPGE_DATA"] = tempfile.mkdtemp(prefix="upge-no-data-")


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most cases of large families to the slow suite."""
    for item in slow_cases(items):
        item.add_marker("slow")


@pytest.fixture(autouse=True)
def float32_again() -> Iterator[None]:
    """Accelerate keeps the first precision of a process, which is all tests' here."""
    yield
    state = sys.modules.get("accelerate.state")
    if state and state.is_initialized() and state.AcceleratorState().mixed_precision != "no":
        state.AcceleratorState._reset_state()
