"""All checks as one list of findings: in order, able to fail, and never hanging."""

import math
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from upge import REGISTRY, TrajectoryBatch, UpgeError
from upge.advantage import Advantage
from upge.stabilization import NoMask
from upge.verification import parity, published, real
from upge.verification import verify as module
from upge.verification.numeric import Agreement, verify_float64
from upge.verification.printed import PRINTED
from upge.verification.table1 import lost, write_tables
from upge.verification.verify import (
    CHECKS,
    FLOAT64_TOLERANCE,
    REAL_COSINE,
    REAL_TOLERANCE,
    Finding,
    Request,
    as_printed,
    check_float64,
    check_printed,
    check_real,
    check_symbolic,
    check_verl,
    failures,
    largest,
    verify,
)

#: One batch of every kind of reward with every distance of the old policy; all take four times it.
SEEDS = range(36)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes share this machine with other tests."""
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")


def ask(*names: str) -> Request:
    return Request(names)


# ----------------------------------------------------------------------------------- what must hold


def test_the_bounds_are_those_of_the_issue() -> None:
    assert (FLOAT64_TOLERANCE, REAL_TOLERANCE, REAL_COSINE) == (1e-10, 1e-4, 0.9999)
    assert list(CHECKS) == [c for lane in module.LANES for c in lane]


@pytest.mark.parametrize("name", REGISTRY)
def test_the_estimator_is_the_gradient_of_the_published_loss(name: str) -> None:
    result = verify_float64(REGISTRY[name], seeds=SEEDS)
    assert result.error <= FLOAT64_TOLERANCE
    assert result.batches == len(SEEDS) and result.nonzero >= len(SEEDS) / 4


@pytest.mark.slow
def test_of_the_printed_rows_only_cispo_is_refuted() -> None:
    findings = {f.algorithm: f for f in check_printed(ask(*REGISTRY))}
    assert list(findings) == list(REGISTRY)
    rows = set(PRINTED)
    assert len(rows) == 8
    verdicts = {name: f.verdict for name, f in findings.items()}
    assert {name for name in REGISTRY if verdicts[name] == "none"} == set(REGISTRY) - rows
    assert {name for name in REGISTRY if verdicts[name] == "fail"} == {"cispo"}
    assert "the published loss weighs token" in findings["cispo"].note
    assert not failures(list(findings.values())), "what the paper prints is no fault of ours"


def test_a_row_that_the_paper_does_not_print() -> None:
    with pytest.raises(UpgeError, match="dapo is not in the paper's Table 1"):
        as_printed(REGISTRY["dapo"])


# ------------------------------------------------------------------------------------ it can fail


@dataclass(frozen=True)
class Nonsense(Advantage):
    """Â = NaN, whatever the reward."""

    text: ClassVar[str] = "NaN"
    latex: ClassVar[str] = r"\mathrm{NaN}"

    def __call__(self, batch: TrajectoryBatch) -> Tensor:
        return torch.full_like(batch.reward, math.nan)[:, None]


@pytest.mark.slow
def test_a_broken_published_loss_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpo", "dft"):
        loss = published.LOSSES[name]
        monkeypatch.setitem(
            published.LOSSES, name, lambda *a, loss=loss, **kw: loss(*a, **kw) * (1 + 1e-9)
        )
    for check in (check_symbolic, check_float64):
        findings = list(check(ask("grpo", "sft", "dft")))
        assert [f.verdict for f in findings] == ["fail", "pass", "fail"]
        assert failures(findings) == [findings[0], findings[2]]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"coefficient": 1 + 1e-9}, {"advantage": Nonsense()}])
def test_a_broken_estimator_is_seen(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    (term,) = REGISTRY["sft"].terms
    broken = replace(REGISTRY["sft"], build=lambda: (replace(term, **change),))
    monkeypatch.setitem(REGISTRY, "sft", broken)
    (finding,) = check_float64(ask("sft"))
    assert finding.verdict == "fail" and finding.error is not None
    assert not finding.error <= FLOAT64_TOLERANCE


@pytest.mark.slow
def test_a_vanishing_gradient_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (term,) = REGISTRY["sft"].terms
    nothing = replace(REGISTRY["sft"], build=lambda: (replace(term, coefficient=0.0),))
    monkeypatch.setitem(REGISTRY, "sft", nothing)
    monkeypatch.setitem(published.LOSSES, "sft", lambda samples, ops: 0 * samples[0].logp[0])
    (finding,) = check_float64(ask("sft"))
    assert finding.error == 0 and finding.verdict == "fail"


@pytest.mark.parametrize(
    ("error", "cosine", "verdict"),
    [
        (9e-5, 0.99995, "pass"),
        (2e-4, 0.99995, "fail"),
        (9e-5, 0.9998, "fail"),
        (math.nan, 0.99995, "fail"),
        (9e-5, math.nan, "fail"),
    ],
)
def test_the_bounds_on_a_real_model(
    monkeypatch: pytest.MonkeyPatch, error: float, cosine: float, verdict: str
) -> None:
    monkeypatch.setattr(real, "real_case", lambda model, seed: None)
    monkeypatch.setattr(real, "verify_real", lambda entry, case: Agreement(error, cosine))
    (finding,) = check_real(ask("sft"))
    assert finding.verdict == verdict


@pytest.mark.parametrize(
    ("error", "verdict"), [(1e-11, "pass"), (1e-9, "fail"), (math.nan, "fail"), (None, "none")]
)
def test_the_bound_on_libraries(
    monkeypatch: pytest.MonkeyPatch, error: float | None, verdict: str
) -> None:
    function = "" if error is None else "f"
    result = SimpleNamespace(error=error, reason="aligned so", function=function, version="1")
    monkeypatch.setattr(parity, "cell", lambda library, name: result)
    (finding,) = check_verl(ask("sft"))
    assert (finding.check, finding.verdict) == ("verl", verdict)
    assert finding.note == ("aligned so" if error is None else "f; aligned so")


def test_checks_whose_packages_are_missing_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available", lambda package: False)

    def missing(model: str, seed: int) -> Any:
        raise UpgeError("no model here")

    monkeypatch.setattr(real, "real_case", missing)
    for check, note in (
        (check_symbolic, "'upge[theory]'"),
        (check_printed, "'upge[theory]'"),
        (check_real, "no model here"),
    ):
        findings = list(check(ask("sft", "grpo")))
        assert [f.algorithm for f in findings] == ["sft", "grpo"]
        assert all(f.verdict == "not run" and note in f.note for f in findings)


def test_the_largest_error() -> None:
    findings = [
        Finding("float64", "sft", "pass", 1e-12),
        Finding("float64", "grpo", "pass", 3e-12),
        Finding("float64", "ppo", "none"),
        Finding("real", "sft", "pass", 1e-5),
    ]
    assert largest(findings, "float64") == 3e-12
    assert math.isnan(largest(findings, "trl"))
    assert math.isnan(largest([*findings, Finding("real", "ppo", "fail", math.nan)], "real"))


# ------------------------------------------------------------------------------------- processes


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_findings_come_in_order() -> None:
    seen: list[Finding] = []
    checks = ("float64", "symbolic", "printed")
    findings = verify(ask("dft", "sft"), checks, seen.append)
    assert [(f.check, f.algorithm) for f in findings] == [
        (check, name) for check in ("symbolic", "printed", "float64") for name in ("dft", "sft")
    ]
    assert [f.verdict for f in findings] == ["pass", "pass", "none", "pass", "pass", "pass"]
    assert sorted(map(repr, seen)) == sorted(map(repr, findings))
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("one_thread")
def test_a_killed_process_is_reported() -> None:
    def kill(finding: Finding) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(UpgeError, match=r"from outside \(exit code -9\), perhaps for .* memory"):
        verify(ask(*REGISTRY), ["symbolic"], kill)
    assert not multiprocessing.active_children()


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_run_leaves_no_process() -> None:
    def interrupt(finding: Finding) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(ask(*REGISTRY), ["symbolic"], interrupt)
    left = multiprocessing.active_children()
    for child in left:
        child.kill()
    assert not left


def test_an_unknown_algorithm_is_said_at_once() -> None:
    with pytest.raises(UpgeError, match="unknown algorithm 'nonsense'"):
        verify(ask("sft", "nonsense"), ["symbolic"])


# ---------------------------------------------------------------------------- a row of one's own


@pytest.fixture
def own_row(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(REGISTRY, "mine", replace(REGISTRY["grpo"], name="mine"))
    yield "mine"


def test_a_row_without_a_published_loss(own_row: str) -> None:
    for check in (check_symbolic, check_float64):
        mine, other = check(ask(own_row, "sft"))
        assert mine.verdict == "not run" and other.verdict == "pass"
        assert mine.note.startswith("mine has no published loss to compare with; add one")


def test_a_component_without_a_formula(own_row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(NoMask):
        pass

    (term,) = REGISTRY["grpo"].terms
    row = replace(
        REGISTRY[own_row], build=lambda: (replace(term, stabilization=Own()),), options={}
    )
    monkeypatch.setitem(REGISTRY, own_row, row)
    monkeypatch.setitem(published.LOSSES, own_row, published.LOSSES["grpo"])
    (mine,) = check_symbolic(ask(own_row))
    assert mine.verdict == "not run" and "Own has no symbolic twin" in mine.note


def test_an_exception_in_the_code_of_a_row(own_row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(samples: Any, ops: Any, **_: Any) -> Any:
        raise IndexError("list index out of range")

    monkeypatch.setitem(published.LOSSES, own_row, broken)
    for check in (check_symbolic, check_float64):
        mine, other = check(ask(own_row, "sft"))
        assert mine.verdict == "fail" and other.verdict == "pass"
        assert (
            mine.note.startswith("IndexError: list index out of range (") and __file__ in mine.note
        )


@pytest.mark.slow
def test_a_failed_check_shows_its_smallest_batch_and_both_numbers(
    own_row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(published.LOSSES, own_row, published.LOSSES["dr_grpo"])
    (mine,) = check_float64(ask(own_row))
    assert mine.verdict == "fail"
    assert re.match(
        r"relative error \S+; a rollout of reward .* weighs token .* by \S+, the row by", mine.note
    )


@pytest.mark.slow
def test_a_script_without_its_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from upge.verification.verify import Request, verify\n"
        "print(verify(Request(('sft',)), ['symbolic']))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and done.stdout == ""
    assert 'put the call of verify() under if __name__ == "__main__":' in done.stderr


# -------------------------------------------------------------------------- what a record holds


def test_a_poorer_run_does_not_replace_a_fuller_record(tmp_path: Path) -> None:
    full = [Finding("real", "sft", "pass", 1e-7, 1.0), Finding("float64", "sft", "pass", 1e-16)]
    assert lost(full, tmp_path) == []
    write_tables(full, {"commit": "abc"}, tmp_path)
    assert lost(full, tmp_path) == []
    assert lost([full[1], Finding("real", "sft", "not run", note="no model")], tmp_path) == ["real"]
    assert lost([full[0], Finding("float64", "sft", "fail", 1.0)], tmp_path) == []
    assert lost([Finding("real", "grpo", "pass", 1e-7)], tmp_path) == ["float64", "real"]
