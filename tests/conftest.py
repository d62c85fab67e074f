"""Settings of every test: the same examples each time, so that a failure can be repeated."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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


@pytest.fixture(autouse=True)
def float32_again() -> Iterator[None]:
    """Accelerate keeps the first precision of a process, which is all tests' here."""
    yield
    state = sys.modules.get("accelerate.state")
    if state and state.is_initialized() and state.AcceleratorState().mixed_precision != "no":
        state.AcceleratorState._reset_state()
