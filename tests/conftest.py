"""Settings of every test: the same examples each time, so that a failure can be repeated."""

import sys
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def float32_again() -> Iterator[None]:
    """Accelerate keeps the first precision of a process, which is all tests' here."""
    yield
    state = sys.modules.get("accelerate.state")
    if state and state.is_initialized() and state.AcceleratorState().mixed_precision != "no":
        state.AcceleratorState._reset_state()
