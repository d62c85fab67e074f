"""The registered algorithm that a loss is: its name, and the options that make it equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any

import torch

from upge.advantage import Advantage, One, Reward
from upge.algorithms import REGISTRY, Algorithm, Value, get
from upge.common.errors import UpgeError
from upge.estimator import KL_GRADIENTS, Estimator, Term
from upge.normalization import NORMALIZERS, Normalizer, QuestionMean, QuestionSum
from upge.stabilization import Correction
from upge.testing.components import PlusEpsilon, Standardized
from upge.testing.identify import Identity, comparison_batches, edge_batches, rewards_beyond_epsilon
from upge.testing.inputs import Inputs
from upge.testing.reader import Agreement, Composed, Reader, agree
from upge.testing.report import Match
from upge.testing.skeleton import numbers

#: At most this many assignments of numbers to an algorithm's options are tried.
_ASSIGNMENTS = 4000


def handed_over(estimator: Estimator) -> Estimator:
    """The same with the rollouts' Â handed in, as the batch's reward."""

    def given(term: Term) -> Term:
        kept = term.advantage.is_late or isinstance(term.advantage, One)
        return term if kept else replace(term, advantage=Reward())

    return replace(estimator, terms=tuple(map(given, estimator.terms)))


def agreement_with(reader: Reader, composed: Composed, batches: Sequence[Inputs]) -> Agreement:
    """How the loss goes with an estimator on these batches."""
    tried = [*batches, *edge_batches(reader, composed)]
    return agree([(reader.subject.weights(x), composed.weights(x)) for x in tried])


def match(reader: Reader, identity: Identity) -> Match | None:
    """The registered algorithm with the fewest options that equals the loss; None if none does."""
    if identity.composed is None:
        return _whole(reader)
    found = sorted(_matches(identity.composed), key=lambda m: (m.cost, m.order))
    by_group = bool(reader.asks & {"group"}) and not reader.subject.has_equal_groups
    for candidate in found:
        for equal in (False, True):
            if not equal and reader.subject.has_equal_groups:
                continue
            batches = comparison_batches(reader, equal=equal)
            if identity.scale is not None and identity.scale.epsilon:
                batches = rewards_beyond_epsilon(batches)
            composed = candidate.composed(identity.composed)
            try:
                agreement = agreement_with(reader, composed, batches)
            except UpgeError:
                continue
            if agreement.error <= reader.tolerance and agreement.factor > 0:
                return Match(
                    candidate.name,
                    candidate.options,
                    agreement.factor,
                    agreement.error,
                    agreement.batches,
                    _note(equal, by_group, identity),
                    tuple(
                        Match(other.name, other.options, 1.0, 0.0, 0).text
                        for other in found
                        if other.name != candidate.name and other.cost < 10 + candidate.cost
                    ),
                )
    return None


def _note(equal: bool, by_group: bool, identity: Identity) -> str:
    notes = []
    if equal:
        notes.append("where all questions have as many rollouts")
    if identity.scale is not None and identity.scale.epsilon:
        notes.append(
            f"but for ε = {identity.scale.epsilon:g} in the standard deviation, which acts on "
            "small rewards"
        )
    return ", ".join(notes)


@dataclass(frozen=True)
class _Candidate:
    name: str
    options: Mapping[str, Value]
    estimator: Estimator
    cost: int
    order: int

    def composed(self, like: Composed) -> Composed:
        estimator = handed_over(self.estimator) if like.handed else self.estimator
        return replace(like, estimator=estimator)


def _matches(composed: Composed) -> Iterator[_Candidate]:
    """Rows whose terms are the loss's, with the options that make them so."""
    wanted = composed.estimator
    common = _common_options(wanted)
    main = [t for t in wanted.terms if not t.advantage.is_late]
    for order, entry in enumerate(REGISTRY.values()):
        if len(entry.terms) != len(main):
            continue
        for options in _assignments(entry, main, composed.handed):
            for renormalized in (False, True):
                chosen: dict[str, Value] = dict(options)
                cost = sum(entry.options[n].default != v for n, v in options.items())
                if renormalized:
                    name = _normalizer_name(main[0].normalizer)
                    if name is None or any(t.normalizer != main[0].normalizer for t in main):
                        continue
                    chosen["normalizer"] = name
                    cost += 10
                try:
                    estimator = get(entry.name, **chosen)
                except UpgeError:
                    continue
                if _same_terms(estimator.terms, main, composed.handed):
                    chosen |= common
                    try:
                        estimator = get(entry.name, **chosen)
                    except UpgeError:
                        continue
                    yield _Candidate(entry.name, chosen, estimator, cost, order)
                    break
            else:
                continue
            break


def _common_options(wanted: Estimator) -> dict[str, Value]:
    """Options of all algorithms that make KL terms, corrections and an entropy bonus."""
    options: dict[str, Value] = {}
    first = wanted.terms[0]
    if first.corrections:
        correction: Correction = first.corrections[0]
        options |= {
            "correction": f"{correction.level}-{correction.rule}",
            "correction_low": correction.low,
            "correction_high": correction.high,
        }
    for term in wanted.terms:
        if term.advantage.is_late:
            named = [
                name
                for name, (reference, psi) in KL_GRADIENTS.items()
                if (reference, psi) == (term.reference, getattr(term.advantage, "psi", None))
            ]
            options |= {"kl": term.coefficient} | ({"kl_gradient": named[0]} if named else {})
    if wanted.entropy_bonus:
        options["entropy_bonus"] = wanted.entropy_bonus
    return options


def _normalizer_name(normalizer: Normalizer) -> str | None:
    if isinstance(normalizer, PlusEpsilon):
        normalizer = normalizer.inner
    names = [name for name, kind in NORMALIZERS.items() if kind is type(normalizer)]
    return names[0] if names else None


def _assignments(
    entry: Algorithm, main: Sequence[Term], handed: bool
) -> Iterator[dict[str, Value]]:
    """Values of an entry's options, among the numbers that the loss's components hold."""
    defaults = {name: option.default for name, option in entry.options.items()}
    if not all(_kinds(own) == _kinds(term) for own, term in zip(entry.terms, main, strict=True)):
        return
    pool = {v for term in main for part in _parts(term, handed) for v in _values(part)}
    pool |= {term.coefficient for term in main} - {1.0}
    choices = []
    for name, default in defaults.items():
        own: list[Value] = [default] if isinstance(default, str) else [default, *sorted(pool)]
        choices.append([(name, value) for value in dict.fromkeys(own)])
    if math.prod(map(len, choices)) > _ASSIGNMENTS:
        choices = [c[:6] for c in choices]
    for chosen in product(*choices):
        options = dict(chosen)
        try:
            terms = get(entry.name, **options).terms
        except UpgeError:
            continue
        if _same_terms(terms, main, handed, normalizer=False):
            yield {n: v for n, v in options.items() if v != defaults[n]}


def _parts(term: Term, handed: bool) -> list[Any]:
    parts = [term.reference, term.stabilization, term.shaping]
    return parts if handed else [*parts, term.advantage]


def _kinds(term: Term) -> tuple[Any, ...]:
    """What options can't change of a term."""
    kinds = (type(term.reference), type(term.stabilization), type(term.shaping))
    return (term.samples, *kinds, term.gate is None, term.entropy_weight is None)


def _values(part: Any) -> list[float]:
    return [getattr(part, name) for name in numbers(part)]


def _same_terms(
    terms: Sequence[Term], wanted: Sequence[Term], handed: bool, normalizer: bool = True
) -> bool:
    late = [t for t in terms if not t.advantage.is_late]
    if len(late) != len(wanted):
        return False
    base = late[0].coefficient / wanted[0].coefficient if wanted[0].coefficient else 1.0
    for own, other in zip(late, wanted, strict=True):
        same = own.samples == other.samples
        same &= all(
            _close(a, b) for a, b in zip(_parts(own, True), _parts(other, True), strict=True)
        )
        same &= own.gate == other.gate and own.entropy_weight == other.entropy_weight
        same &= math.isclose(own.coefficient, base * other.coefficient, rel_tol=1e-6)
        if not same or not _same_advantage(own.advantage, other.advantage, handed):
            return False
        if normalizer and not same_normalizer(own.normalizer, other.normalizer):
            return False
    return True


def _same_advantage(own: Advantage, other: Advantage, handed: bool) -> bool:
    if handed:
        # The advantage is handed in: any rule that reads rewards may have made it.
        return isinstance(own, One) == isinstance(other, One)
    if isinstance(other, Standardized) and other.epsilon:
        other = replace(other, epsilon=0.0)
    if _close(own, other):
        return True
    return _numerically(own, other)


def _numerically(own: Advantage, other: Advantage) -> bool:
    """Whether two rules give the same on batches of all kinds."""
    from upge.testing.designs import random_batch

    for seed in range(4):
        rewards = (1.0, 0.0, 0.5, -1.0)[: 2 + 2 * (seed % 2)]
        union = "all" in (getattr(own, "over", None), getattr(other, "over", None))
        batch = random_batch(seed, rewards=rewards, demonstrations=union).batch()
        rows = batch.rows_of("all")[:, None]
        try:
            a, b = (rule(batch).expand(batch.mask.shape) * rows for rule in (own, other))
        except UpgeError:
            return False
        if not torch.allclose(a, b, rtol=1e-9, atol=1e-12):
            return False
    return True


def same_normalizer(own: Normalizer, other: Normalizer) -> bool:
    """Whether two normalizers are one where all questions have as many rollouts."""
    if isinstance(other, PlusEpsilon):
        other = other.inner
    if own == other:
        return True
    # A loss that sees no questions averages over rows, which is the same for equal questions.
    by_question: dict[type[Normalizer], str] = {
        QuestionMean: "sequence_mean",
        QuestionSum: "trajectory_mean",
    }
    return by_question.get(type(own)) == _normalizer_name(other) and own.scope == other.scope


def _close(a: Any, b: Any) -> bool:
    """Whether two components are the same up to rounding of their numbers, float32's included."""
    if type(a) is not type(b):
        return False
    if not is_dataclass(a):
        return bool(a == b)
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, float) and isinstance(y, float):
            if not math.isclose(x, y, rel_tol=1e-9):
                return False
        elif is_dataclass(x):
            if not _close(x, y):
                return False
        elif x != y:
            return False
    return True


def match_advantage(reader: Reader, identity: Identity) -> Match | None:
    """The registered algorithms whose rollouts have the Â that a function gives."""
    if identity.composed is None or identity.agreement is None:
        return None
    own = identity.composed.estimator.terms[0].advantage
    names = [
        entry.name
        for entry in REGISTRY.values()
        for term in entry.terms[:1]
        if not isinstance(term.advantage, One | Reward)
        and not term.advantage.is_late
        and _same_advantage(term.advantage, own, handed=False)
    ]
    if not names:
        return None
    found, note = identity.agreement, _note(False, False, identity)
    return Match(names[0], {}, found.factor, found.error, found.batches, note, tuple(names[1:]))


def _whole(reader: Reader) -> Match | None:
    """A row that equals the loss as a whole at its defaults, where its components can't be told."""
    batches = comparison_batches(reader)
    for entry in REGISTRY.values():
        estimator = handed_over(entry()) if reader.handed else entry()
        composed = Composed(estimator, reader.handed, reader.has_length)
        try:
            found = agreement_with(reader, composed, batches)
        except UpgeError:
            continue
        if found.error <= reader.tolerance and found.factor > 0:
            return Match(entry.name, {}, found.factor, found.error, found.batches)
    return None
