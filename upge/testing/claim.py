"""Whether a loss is a registered algorithm, and if not, by which component it differs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upge.common.errors import UpgeError
from upge.estimator import Estimator
from upge.normalization import FixedLength, LengthSum, TokenSum, TrajectoryMean
from upge.testing.call import Measured, Subject
from upge.testing.components import Standardized
from upge.testing.designs import small_batches
from upge.testing.identify import (
    Identity,
    comparison_batches,
    edge_batches,
    identify,
    rewards_beyond_epsilon,
)
from upge.testing.inputs import Inputs
from upge.testing.match import handed_over, same_normalizer
from upge.testing.reader import Agreement, Composed, Reader, Side, agree
from upge.testing.report import FAULTS, Claim, Reading
from upge.testing.reproduce import script

#: A loss that knows no longest response may divide by a constant that its author chose.
_BY_A_CONSTANT = {FixedLength: TrajectoryMean, LengthSum: TokenSum}


def judge(
    reader: Reader,
    identity: Identity,
    estimator: Estimator,
    name: str,
    options: Mapping[str, float | str],
) -> Claim:
    """Compare a loss with an algorithm on random batches, up to one positive factor.

    A loss that can't tell questions apart is held to the claim where all have as many rollouts.
    """
    composed, found, notes = nearest(reader, identity, estimator)
    same_bonus = math.isclose(identity.bonus, estimator.entropy_bonus, rel_tol=1e-6, abs_tol=1e-12)
    if found.error <= reader.tolerance and found.factor > 0 and same_bonus:
        return Claim(name, options, True, found.error, found.factor, notes)
    row = reader_of(reader, composed)
    try:
        own = identify(row)
    except UpgeError:
        own = Identity()
    differing = _differences(identity, own, name)
    faults = tuple(dict.fromkeys(fault for _, fault in differing))
    reasons = tuple(text for text, _ in differing)
    if not reasons:
        reasons = (
            f"its weights differ from {name}'s by {found.error:.2g} of the largest; no single "
            "component that can be read off differs",
        )
    lines = _script(reader, composed, name)
    return Claim(name, options, False, found.error, found.factor, reasons, lines, faults)


def nearest(
    reader: Reader, identity: Identity, estimator: Estimator
) -> tuple[Composed, Agreement, tuple[str, ...]]:
    """The estimator as the claim can be read, how the loss goes with it, and if what holds."""
    estimator = handed_over(estimator) if reader.handed else estimator
    trials: list[tuple[Estimator, str]] = [(estimator, "")]
    if not reader.has_length and any(type(t.normalizer) in _BY_A_CONSTANT for t in estimator.terms):
        trials.append((_by_a_constant(estimator), "with a constant for the length"))
    found = []
    for equal in (False, True)[not reader.tells_questions :]:
        batches = comparison_batches(reader, equal=equal)
        by_question = any(t.normalizer.text.startswith("question") for t in estimator.terms)
        notes = ["where all questions have as many rollouts"] if equal and by_question else []
        if identity.scale is not None and identity.scale.epsilon:
            batches = rewards_beyond_epsilon(batches)
            notes.append(f"but for ε = {identity.scale.epsilon:g}, which acts on small rewards")
        measured = [reader.subject.weights(x) for x in batches]
        for trial, said in trials:
            composed = Composed(trial, reader.handed, reader.has_length)
            pairs = [(w, composed.weights(x)) for w, x in zip(measured, batches, strict=True)]
            edges = edge_batches(reader, composed)
            if identity.composed is not None:  # bounds that the loss has and the claim has not
                edges += edge_batches(reader, identity.composed)
            pairs += [(reader.subject.weights(x), composed.weights(x)) for x in edges]
            found.append((composed, agree(pairs), (*notes, *filter(None, [said]))))
            if found[-1][1].error <= reader.tolerance:
                return found[-1]
    return min(found, key=lambda case: case[1].error)


def _by_a_constant(estimator: Estimator) -> Estimator:
    terms = [
        replace(t, normalizer=_BY_A_CONSTANT.get(type(t.normalizer), type(t.normalizer))())
        for t in estimator.terms
    ]
    return replace(estimator, terms=tuple(terms))


@dataclass
class _Row(Subject):
    """A registered algorithm in the place of the loss, asked for what the loss is asked for."""

    composed: Composed | None = None

    @property
    def has_equal_groups(self) -> bool:
        """It is read where all questions have as many rollouts, as most claims are meant."""
        return True

    def measure(self, inputs: Inputs) -> Measured:
        """Weights by the estimator itself."""
        assert self.composed is not None
        if self.advantage is not None and self.composed.handed:
            inputs = inputs.with_(advantage=self.advantage.values(inputs))
        plan = self.composed.estimator.plan(self.composed.batch(inputs))
        bonus = None if plan.bonus is None else plan.bonus.double()
        return Measured(self.composed.weights(inputs), 0.0, bonus)


def reader_of(reader: Reader, composed: Composed) -> Reader:
    """A reader of an algorithm that is asked for what the loss is asked for."""
    subject = reader.subject
    return Reader(_Row(subject.target, subject.advantage, subject.limit, composed=composed))


# ------------------------------------------------------------------------------ what differs


def _differences(mine: Identity, row: Identity, name: str) -> list[tuple[str, str]]:
    """Each component that differs, in words, and the fault that it is."""
    found = [(FAULTS[f], f) for r in mine.readings for f in r.faults]
    theirs = {r.component: r for r in row.readings}
    seen = {r.component: r for r in mine.readings}
    unread = mine.composed is None
    for component in dict.fromkeys([*seen, *theirs]):
        a, b = seen.get(component), theirs.get(component)
        if (a is None and unread) or (a is not None and b is not None and a.text == b.text):
            continue
        told = a is not None and (a.text.startswith("as in the") or _is_told(component, a))
        if told:
            continue
        if component.startswith("advantage") and _same_rule(mine, row):
            continue
        if component.startswith("normalizer") and _same_spread(mine, row):
            continue
        here = a.undecided or a.text if a is not None else "none"
        there = b.text if b is not None else "none"
        text = f"{component}: {here}; {name} has {there}"
        found.append((text, _fault(component, a, b, mine, row)))
    return found


def _is_told(component: str, mine: Reading) -> bool:
    """Whether a reading's own faults say how it differs, whatever it is compared with."""
    return bool(mine.faults) and (
        component.split(" of ")[0] != "advantage" or "whitens" in mine.faults
    )


def _same_rule(mine: Identity, row: Identity) -> bool:
    """Whether advantages differ in ε alone, which acts on small rewards."""
    if mine.scale is None or row.scale is None:
        return False
    a, b = mine.scale.advantage, row.scale.advantage
    if isinstance(a, Standardized):
        a = replace(a, epsilon=0.0)
    return a == b


def _same_spread(mine: Identity, row: Identity) -> bool:
    """Whether normalizers are the same where all questions have as many rollouts."""
    if mine.scale is None or row.scale is None:
        return False
    pair = (mine.scale.normalizer, row.scale.normalizer)
    return same_normalizer(*pair) or same_normalizer(*reversed(pair))


def _fault(
    component: str, mine: Reading | None, row: Reading | None, a: Identity, b: Identity
) -> str:
    kind = component.split(" of ")[0]
    if kind == "stabilizer" and mine is not None and row is not None:
        if mine.text == "none":
            return "clip_missing"
        heads = [text.split(":")[0] for text in (mine.text, row.text)]
        if heads[0] == heads[1] and ("inf" in mine.text or "never" in mine.text):
            return "clip_one_sided"
        return "clip_bounds" if heads[0] == heads[1] != mine.text else "stabilizer"
    if kind == "advantage":
        return _advantage_fault(a, b)
    return kind


def _advantage_fault(mine: Identity, row: Identity) -> str:
    if mine.scale is None or row.scale is None:
        return "advantage"
    a, b = mine.scale.advantage, row.scale.advantage
    std = ["std" in rule.text for rule in (a, b)]
    if not a.centers and b.centers:
        return "not_centered"
    if isinstance(a, Standardized) and a.center.startswith("batch"):
        return "mean_of_batch"
    if isinstance(a, Standardized) and a.scale.startswith("batch") and std[1]:
        return "std_of_batch"
    if std == [True, True] and isinstance(a, Standardized) and a.ddof == 0:
        return "std_over_n"
    if std[0] != std[1]:
        return "std_present" if std[0] else "std_missing"
    return "advantage"


# ------------------------------------------------------------------------------ the smallest batch


def _script(reader: Reader, composed: Composed, name: str) -> str:
    """Python lines that show the first small batch on which loss and algorithm differ."""
    side: Side = "offline" if reader.imitates and not reader.reads_demos else "online"
    factor = None
    kinds = {term.samples for term in composed.estimator.terms}
    for x in small_batches(reader.rewarded):
        inputs = reader.sided(x, side)
        if len(kinds) > 1:  # the last row of each is a demonstration
            inputs = x.with_(offline=x.mask & (torch.arange(len(x.mask)) % 2 == 1)[:, None])
        if len(kinds) > 1 and len(x.mask) < 2:
            continue
        mine, row = reader.subject.weights(inputs), composed.weights(inputs)
        if factor is None and row.any():
            place = row.abs().argmax()
            factor = float(mine.flatten()[place] / row.flatten()[place])
        if factor is None or (factor > 0 and not _differ(mine, factor * row, reader.tolerance)):
            continue
        scale = abs(factor) or 1.0
        wanted = (scale * row).tolist()
        ending = ("print('the loss:', a)", f"print('{name}:', f({_short(wanted)}))")
        return script(reader.subject, {"a": inputs}, ending)
    return ""


def _short(values: object) -> str:
    if isinstance(values, list):
        return "[" + ", ".join(map(_short, values)) + "]"
    return f"{values:.9g}"


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    scale = float(torch.maximum(a.abs().max(), b.abs().max()))
    return not scale <= float("inf") or float((a - b).abs().max()) > 100 * tolerance * scale
