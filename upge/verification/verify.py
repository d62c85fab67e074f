"""``upge verify``: every check of every algorithm, two processes at a time, as a list of findings.

A check is a generator over algorithm names; the table of checks is data, and each of them yields
one finding an algorithm: a number, a verdict, or the reason why it does not apply.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from upge.algorithms import Algorithm, algorithm
from upge.common.errors import UpgeError
from upge.common.optional import available, hint
from upge.estimator import Estimator
from upge.models.pretrained import SMOLLM2
from upge.verification.numeric import worst_of
from upge.verification.printed import PRINTED, terms_as_printed

Verdict = Literal["pass", "fail", "none", "not run"]

#: What the errors must not exceed (relative, over all parameters), and the cosine not fall below.
FLOAT64_TOLERANCE, REAL_TOLERANCE, REAL_COSINE = 1e-10, 1e-4, 0.9999


@dataclass(frozen=True)
class Finding:
    """One check of one algorithm.

    Attributes:
        verdict: ``none`` where the check does not apply, ``not run`` where something is missing;
            ``note`` then says what.
        error: relative error of the gradient, where the check is numeric.
        cosine: of the angle between the gradients, where it was taken.
        note: the reason, the counterexample, or how the comparison was set up.
    """

    check: str
    algorithm: str
    verdict: Verdict
    error: float | None = None
    cosine: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Request:
    """What to verify: algorithm names, the pretrained model and the seed of its rollouts."""

    names: tuple[str, ...]
    model: str = SMOLLM2
    seed: int = 0


def _verdict(good: bool) -> Verdict:
    return "pass" if good else "fail"


def _not_run(check: str, names: Sequence[str], why: str) -> Iterator[Finding]:
    return (Finding(check, name, "not run", note=why) for name in names)


def _found(check: str, name: str, examine: Callable[[], Finding]) -> Finding:
    """The finding; a failure with the place in the code where the row or its loss raises.

    Other algorithms are checked all the same.
    """
    try:
        return examine()
    except UpgeError as error:  # a row without a published loss, or a component without a formula
        return Finding(check, name, "not run", note=str(error))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = (str(error).splitlines() or [""])[0]
        note = f"{type(error).__name__}: {message} ({last.filename}:{last.lineno}, in {last.name})"
        return Finding(check, name, "fail", note=note)


def as_printed(entry: Algorithm) -> Estimator:
    """The row of the paper's Table 1 read literally, at default options."""
    if entry.name not in PRINTED:
        raise UpgeError(f"{entry.name} is not in the paper's Table 1")
    options = {name: option.default for name, option in entry.options.items()}
    return Estimator(terms_as_printed(entry.name, **options), entry.name)


def check_symbolic(request: Request) -> Iterator[Finding]:
    """Sympy derives the published loss's gradient and shows it equal to the row."""
    if not available("sympy"):
        yield from _not_run("symbolic", request.names, f"needs {hint('sympy', 'theory')}")
        return
    from upge.verification.symbolic import verify_symbolic

    def examine(name: str) -> Finding:
        result = verify_symbolic(algorithm(name))
        note = result.counterexample or f"{result.cells} cells of {result.instances} instances"
        return Finding("symbolic", name, _verdict(result.proved), note=note)

    for name in request.names:
        yield _found("symbolic", name, partial(examine, name))


def check_printed(request: Request) -> Iterator[Finding]:
    """The row as the paper prints it: proved by sympy, or refuted by a shrunk counterexample."""
    if not (available("sympy") and available("hypothesis")):
        yield from _not_run("printed", request.names, f"needs {hint('sympy', 'theory')}")
        return
    from upge.verification.counterexample import smallest_counterexample
    from upge.verification.symbolic import verify_symbolic

    def examine(name: str) -> Finding:
        if name not in PRINTED:
            return Finding("printed", name, "none", note="not in the paper")
        entry = algorithm(name)
        row = as_printed(entry)
        proved = verify_symbolic(entry, terms=row.terms).proved
        smallest = smallest_counterexample(entry, row)
        return Finding("printed", name, _verdict(proved and smallest is None), note=smallest or "")

    for name in request.names:
        yield _found("printed", name, partial(examine, name))


def check_float64(request: Request) -> Iterator[Finding]:
    """Estimator against autograd of the published loss on random batches, in float64."""
    from upge.verification.numeric import verify_float64

    def examine(name: str) -> Finding:
        result = verify_float64(algorithm(name))
        good = result.error <= FLOAT64_TOLERANCE and result.nonzero > 0
        note = f"{result.batches} batches, {result.nonzero} with a gradient"
        if not good:
            note = f"relative error {result.error:.3g}; {_smallest(name) or note}"
        return Finding("float64", name, _verdict(good), result.error, note=note)

    for name in request.names:
        yield _found("float64", name, partial(examine, name))


def _smallest(name: str) -> str:
    """The smallest batch on which the row is not its published loss's gradient, if one is found."""
    if not available("hypothesis"):
        return ""
    from upge.verification.counterexample import smallest_counterexample

    return smallest_counterexample(algorithm(name), algorithm(name)()) or ""


def check_real(request: Request) -> Iterator[Finding]:
    """The same on a pretrained language model and word problems, in float32."""
    from upge.verification.real import real_case, verify_real

    try:
        case = real_case(request.model, request.seed)
    except UpgeError as error:
        yield from _not_run("real", request.names, str(error))
        return

    def examine(name: str) -> Finding:
        result = verify_real(algorithm(name), case)
        close = result.error <= REAL_TOLERANCE and result.cosine >= REAL_COSINE
        good = close and result.norm > 0
        note = "" if good else f"relative error {result.error:.3g}, cosine {result.cosine:.6f}"
        return Finding("real", name, _verdict(good), result.error, result.cosine, note)

    for name in request.names:
        yield _found("real", name, partial(examine, name))


def _check_library(library: Literal["trl", "verl"], request: Request) -> Iterator[Finding]:
    from upge.verification.parity import cell

    def examine(name: str) -> Finding:
        result = cell(library, name)
        if result.error is None:
            absent: Verdict = "not run" if result.function else "none"
            return Finding(library, name, absent, note=result.reason)
        good = result.error <= FLOAT64_TOLERANCE
        note = f"{result.function}; {result.reason}" if result.reason else result.function
        return Finding(library, name, _verdict(good), result.error, note=note)

    for name in request.names:
        yield _found(library, name, partial(examine, name))


def check_trl(request: Request) -> Iterator[Finding]:
    """Against TRL's own losses."""
    return _check_library("trl", request)


def check_verl(request: Request) -> Iterator[Finding]:
    """Against verl's own losses and advantages."""
    return _check_library("verl", request)


CHECKS: dict[str, Callable[[Request], Iterator[Finding]]] = {
    "real": check_real,
    "symbolic": check_symbolic,
    "printed": check_printed,
    "float64": check_float64,
    "trl": check_trl,
    "verl": check_verl,
}

#: The checks that take longest have a process of their own, so that two cores finish together.
LANES = (("real",), ("symbolic", "printed", "float64", "trl", "verl"))


def verify(
    request: Request,
    checks: Sequence[str] = tuple(CHECKS),
    progress: Callable[[Finding], None] = lambda finding: None,
) -> list[Finding]:
    """Run the checks and return their findings, in the order of checks and algorithms.

    Args:
        request: what to verify.
        checks: names of :data:`CHECKS`.
        progress: is called with each finding as it comes.

    Raises:
        RuntimeError: a check broke outside of a row; its traceback is in the message.
        UpgeError: an unknown algorithm; a process was ended from outside.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # imported by a child
        raise SystemExit('put the call of verify() under if __name__ == "__main__":')
    for name in request.names:
        algorithm(name)
    lanes = [[c for c in lane if c in checks] for lane in LANES]
    findings = list(_run_lanes(request, [lane for lane in lanes if lane], progress))
    order = {name: i for i, name in enumerate(request.names)}
    ranks = {check: i for i, check in enumerate(CHECKS)}
    return sorted(findings, key=lambda f: (ranks[f.check], order[f.algorithm]))


def _run_lanes(
    request: Request, lanes: Sequence[Sequence[str]], progress: Callable[[Finding], None]
) -> Iterator[Finding]:
    context = multiprocessing.get_context("spawn")
    inbox, running = context.Queue(), context.Value("i", len(lanes))
    workers = [
        context.Process(target=_work, args=(request, lane, running, inbox), daemon=True)
        for lane in lanes
    ]
    for worker in workers:
        worker.start()
    open_lanes = len(workers)
    try:
        while open_lanes:
            message = _next(inbox, workers)
            if message is None:
                open_lanes -= 1
            elif isinstance(message, str):
                raise RuntimeError(message)
            else:
                progress(message)
                yield message
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.join()


def _next(inbox: Any, workers: Sequence[Any]) -> Finding | str | None:
    while True:
        try:
            message: Finding | str | None = inbox.get(timeout=1)
            return message
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead:
                if all(w.exitcode == 1 for w in dead):
                    raise UpgeError(
                        "a verification process could not start; its message is above"
                    ) from None
                raise UpgeError(
                    f"a verification process was ended from outside (exit code "
                    f"{dead[0].exitcode}), perhaps for lack of memory; run the command again, or "
                    "one --check at a time"
                ) from None


def _work(request: Request, lane: Sequence[str], running: Any, outbox: Any) -> None:
    """Run a lane's checks one after another; None says that the lane is done."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for check in lane:
            _share_cores(check, running.value)
            for finding in CHECKS[check](request):
                outbox.put(finding)
                _share_cores(check, running.value)
        with running.get_lock():
            running.value -= 1
        outbox.put(None)
    except Exception:
        outbox.put(traceback.format_exc())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _share_cores(check: str, lanes: int) -> None:
    """One thread, but for the real model: it has all cores that no other lane uses.

    On tensors as small as the other checks' a second thread costs more than it does.
    """
    cores = os.cpu_count() or 1 if check == "real" else 1
    torch.set_num_threads(max(cores // max(lanes, 1), 1))


def failures(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that count against the package: a row that fails as printed is the paper's."""
    return [f for f in findings if f.verdict == "fail" and f.check != "printed"]


def largest(findings: Sequence[Finding], check: str) -> float:
    """The largest error of a check; NaN if it has none."""
    errors = [f.error for f in findings if f.check == check and f.error is not None]
    return worst_of(errors) if errors else math.nan
