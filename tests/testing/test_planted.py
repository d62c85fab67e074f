"""Faults planted in losses are named, and nothing else is said of correct ones."""

import pytest

from experiments.conformance.planted import CORRECT, FAULTY, Planted
from upge.testing import check
from upge.testing.report import FAULTS


def test_there_are_enough_and_each_has_a_name() -> None:
    assert len(FAULTY) >= 40
    assert {case.fault for case in FAULTY} <= FAULTS.keys()


@pytest.mark.spread(3)
@pytest.mark.parametrize("case", CORRECT, ids=lambda case: case.name)
def test_a_correct_loss_is_recognized(case: Planted) -> None:
    report = check(case.make(), claim=case.claim, options=dict(case.options))
    assert report.claim is not None and report.claim.holds
    # A token mean hangs on the micro-batch by its nature, unless it is told the batch's count.
    assert set(report.faults) <= {"split"}
    assert report.match is not None and report.match.error <= 1e-9


@pytest.mark.spread(10)
@pytest.mark.parametrize("case", FAULTY, ids=lambda case: case.name)
def test_a_fault_is_named(case: Planted) -> None:
    report = check(case.make(), claim=case.claim, options=dict(case.options))
    assert case.fault in report.faults, report.text()


@pytest.mark.parametrize("case", [FAULTY[5], FAULTY[15]], ids=lambda case: case.name)
def test_a_failed_claim_shows_a_small_batch_that_runs(case: Planted) -> None:
    """The printed lines, with the loss in the place of its import, print two different tensors."""
    report = check(case.make(), claim=case.claim, options=dict(case.options), laws=())
    assert report.claim is not None and not report.claim.holds
    lines = report.claim.script.splitlines()
    assert len(lines) <= 14
    printed: list[object] = []
    names: dict[str, object] = {"loss": case.make(), "print": lambda *x: printed.append(x[-1])}
    exec("\n".join(lines), names)
    mine, claimed = printed
    assert mine.shape == claimed.shape and (mine - claimed).abs().max() > 1e-6  # type: ignore
