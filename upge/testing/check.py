"""Checking a loss: which row of the unified view it is, and which laws it breaks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from upge.advantage import One
from upge.algorithms import algorithm
from upge.common.errors import UpgeError, unknown
from upge.estimator import Estimator
from upge.likelihood import Unshaped
from upge.normalization import TokenSum
from upge.reference import CurrentPolicy
from upge.stabilization import NoMask
from upge.testing.call import LIMIT, AdvantageSubject, Subject, describe
from upge.testing.claim import judge, nearest, reader_of
from upge.testing.identify import Identity, compose_call, identify
from upge.testing.laws import LAWS, law_verdicts
from upge.testing.match import match, match_advantage
from upge.testing.panels import Panel, panels
from upge.testing.reader import EXACT, Reader
from upge.testing.report import Claim, Report
from upge.testing.target import Outside, Target, signature_of, target


def check(
    loss: Any,
    *,
    advantage: Any = None,
    claim: str = "",
    options: Mapping[str, float | str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    laws: Sequence[str] | None = None,
    seeds: int = 1,
    limit: float = LIMIT,
    with_panels: bool = False,
    sources: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Report:
    """What a loss computes, from its gradients on designed batches.

    Args:
        loss: any callable that returns a scalar, or terms, from tensors named as trainers name
            them; a function that gives Â alone from rewards is checked as that.
        advantage: a function whose Â is handed to the loss, as a trainer composes them.
        claim: the registered algorithm that it is said to be.
        options: of that algorithm.
        arguments: by parameter of either function, the quantity that it means, or a constant.
        laws: those to test; all by default.
        seeds: sets of random batches that the composed components are compared on.
        limit: seconds that one call may take.
        with_panels: whether to compute what a picture shows.
        sources: Python lines that get the loss and the advantage function, for scripts.

    Returns:
        Components with their errors, the nearest algorithm, laws, and the claim's verdict.

    Raises:
        UpgeError: an unknown law, algorithm or quantity; a parameter whose name says nothing.
        CallError: the callable raises, returns no loss, or does not end.
    """
    for name in laws or ():
        if name not in LAWS:
            raise unknown("law", name, LAWS)
    estimator = algorithm(claim)(**dict(options or {})) if claim else None
    try:
        subject = _subject(loss, advantage, arguments or {}, limit, sources)
        reader, identity = _identified(subject, seeds)
    except Outside as reason:
        failed = Claim(claim, dict(options or {}), False, math.inf, 0.0, (str(reason),))
        return Report(_title(loss), "", outside=str(reason), claim=failed if claim else None)
    alone = subject.target.call is _policy_gradient
    if alone:
        identity.readings = [r for r in identity.readings if r.component.startswith("advantage")]
        estimator = estimator and _advantage_of(estimator)
    assert subject.advantage is not None or not alone
    shown = subject.advantage.target if alone and subject.advantage else subject.target
    found = match_advantage(reader, identity) if alone else match(reader, identity)
    judged = None
    if estimator is not None:
        judged = judge(reader, identity, estimator, claim, dict(options or {}))
    drawn: tuple[Panel, ...] = ()
    if with_panels:
        readers = {shown.title: reader}
        if estimator is not None:
            readers[claim] = reader_of(reader, nearest(reader, identity, estimator)[0])
        drawn = panels(readers)
    return Report(
        title=shown.title,
        arguments=describe(shown.parameters),
        readings=tuple(identity.readings),
        match=found,
        compose="" if identity.composed is None or alone else compose_call(identity.composed),
        undecided=identity.undecided,
        laws=tuple(law_verdicts(reader, identity, laws)),
        claim=judged,
        notes=_notes(reader, shown),
        panels=drawn,
    )


def assert_implements(
    loss: Any,
    algorithm: str,
    /,
    *,
    advantage: Any = None,
    arguments: Mapping[str, Any] | None = None,
    **options: float | str,
) -> Report:
    """Check that a loss is a registered algorithm, up to a positive factor.

    Args:
        loss: as for :func:`check`.
        algorithm: a registered name.
        advantage: as for :func:`check`.
        arguments: as for :func:`check`.
        **options: of the algorithm.

    Raises:
        AssertionError: it is not; says by which component, and shows the smallest batch.
    """
    report = check(
        loss, advantage=advantage, claim=algorithm, options=options, arguments=arguments, laws=()
    )
    assert report.claim is not None and report.claim.holds, report.text()
    return report


def assert_laws(
    loss: Any,
    *,
    advantage: Any = None,
    arguments: Mapping[str, Any] | None = None,
    laws: Sequence[str] | None = None,
) -> Report:
    """Check that a loss keeps the laws of a policy loss.

    Args:
        loss: as for :func:`check`.
        advantage: as for :func:`check`.
        arguments: as for :func:`check`.
        laws: names of those that it has to keep; all by default.

    Raises:
        AssertionError: it breaks one; says why, and shows the smallest batch.
    """
    report = check(loss, advantage=advantage, arguments=arguments, laws=laws)
    assert report.keeps_laws, report.text()
    return report


def _policy_gradient(logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """The loss that shows what an advantage function gives: w = Â."""
    return -torch.where(mask.bool(), logp * advantage, 0.0).sum()


def _identified(subject: Subject, seeds: int) -> tuple[Reader, Identity]:
    """What a loss is in float64; if that is nothing, what it is up to float32's rounding."""
    reader = Reader(subject, seeds=seeds)
    identity = identify(reader)
    if identity.composed is None and identity.undecided and reader.tolerance == EXACT:
        rounded = Reader(subject, in_float32=True, seeds=seeds)
        again = identify(rounded)
        if again.composed is not None:
            return rounded, again
    return reader, identity


def _subject(
    loss: Any,
    advantage: Any,
    arguments: Mapping[str, Any],
    limit: float,
    sources: tuple[Sequence[str], Sequence[str]],
) -> Subject:
    rules: dict[str, Any] = {}
    if advantage is not None:
        rules = {n: v for n, v in arguments.items() if _has(advantage, n)}
    own = {n: v for n, v in arguments.items() if n not in rules or _has(loss, n)}
    found = target(loss, arguments=own, source=sources[0])
    if advantage is None and _is_advantage(found):
        return Subject(target(_policy_gradient), AdvantageSubject(found, limit), limit)
    if advantage is None:
        return Subject(found, limit=limit)
    if "advantage" not in found.asks:
        raise UpgeError(f"{found.title} asks for no advantage that a function could give it")
    rule = target(advantage, arguments=rules, source=sources[1])
    return Subject(found, AdvantageSubject(rule, limit), limit)


def _has(call: Any, name: str) -> bool:
    return name in signature_of(call).parameters


def _is_advantage(found: Target) -> bool:
    policies = {"logp", "logits", "model", "inputs", "advantage"}
    return not found.asks & policies and bool(found.asks & {"reward", "reward_parts"})


def _advantage_of(estimator: Estimator) -> Estimator:
    """An estimator with the advantages of another, and nothing else of it."""
    plain = [
        replace(
            term,
            reference=CurrentPolicy(),
            normalizer=TokenSum(),
            stabilization=NoMask(),
            shaping=Unshaped(),
            corrections=(),
        )
        for term in estimator.terms
        if not term.advantage.is_late and not isinstance(term.advantage, One)
    ]
    if not plain:
        raise UpgeError("its rows have no advantage of rollouts that a function could give")
    return replace(estimator, terms=tuple(plain), entropy_bonus=0.0)


def _notes(reader: Reader, shown: Target) -> tuple[str, ...]:
    subject = reader.subject
    notes = []
    if subject.drew:
        notes.append("it draws random numbers; every call was given the same seed")
    if reader.noise > 1e-10:
        notes.append(
            "it computes in float32, in part at least: weights are compared to 2e-5 of the largest"
        )
    if subject.printed:
        notes.append(f"it prints ({subject.printed} lines a call), which is left out here")
    if shown.optional - set(shown.parameters):
        notes.append("some parameters keep their defaults")
    return tuple(notes)


def _title(loss: Any) -> str:
    return str(getattr(loss, "__qualname__", type(loss).__name__))
