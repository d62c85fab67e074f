"""What a loss is: its components, the estimator made of them, and how well that one stands for it.

Components are read off designed batches, one at a time; the estimator composed of them is compared
with the loss on random batches, of which nothing was read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

import torch

from upge.advantage import KLGradient, One, Reward
from upge.estimator import KL_GRADIENTS, Estimator, Term
from upge.likelihood import Unshaped
from upge.normalization import FixedLength, LengthSum, Scope
from upge.reference import ConstantOne, CurrentPolicy, RolloutPolicy, SequenceRatio
from upge.stabilization import Clip, DualClip, NoMask, WeightClip
from upge.testing.additions import read_correction, read_entropy, read_kl
from upge.testing.call import CallError
from upge.testing.components import Piecewise, Standardized
from upge.testing.curves import Curve, read_curves, snap
from upge.testing.designs import LOGP, ordinary, pairs, random_batch
from upge.testing.inputs import Inputs
from upge.testing.reader import Agreement, Composed, Reader, Side, Undecided, agree
from upge.testing.report import Reading
from upge.testing.scale import Scale, UnknownAdvantage, read_edges, read_scale, rule_of
from upge.testing.skeleton import Skeleton, numbers, read_skeleton

#: Spreads of log-ratios of the batches that an estimator is compared on.
SPREADS = (0.0, 3e-4, 0.1, 0.4, 1.2)


@dataclass
class Identity:
    """What a loss is.

    Attributes:
        readings: component by component.
        composed: an estimator with its weights, up to ``agreement.factor``.
        agreement: of the two on random batches.
        curves: of the rollouts' stabilizer, by sign of Â.
        undecided: why there is no estimator.
        scale: advantage and normalizer of the first term.
        bonus: the entropy bonus over the policy term's coefficient.
    """

    readings: list[Reading] = field(default_factory=list)
    composed: Composed | None = None
    agreement: Agreement | None = None
    curves: tuple[Curve | None, Curve | None] = (None, None)
    undecided: str = ""
    scale: Scale | None = None
    bonus: float = 0.0

    def reading(self, component: str) -> Reading | None:
        """The reading of a component."""
        return next((r for r in self.readings if r.component == component), None)


def identify(reader: Reader) -> Identity:
    """Read every component, compose them and compare with the loss.

    Raises:
        CallError: the loss can't be called.
        Outside: it is of no form that the unified view has.
    """
    identity = Identity()
    _check_answers(reader)
    sides = _sides(reader)
    if not sides:
        identity.readings.append(Reading("gradient", "none", faults=("no_gradient",)))
        identity.undecided = "no token has a gradient on any batch tried"
        return identity
    try:
        terms: list[Term] = []
        for side in sides:
            terms += _read_side(reader, side, identity, alone=len(sides) == 1)
        assert identity.scale is not None
        base = identity.scale.factor
        terms = [replace(t, coefficient=abs(t.coefficient / base)) for t in terms]
        bonus = 0.0
        if "online" in sides or reader.imitates:
            bonus = _read_additions(reader, identity, terms)
        identity.bonus = bonus
        estimator = Estimator(tuple(terms), "custom", max(bonus, 0.0))
        composed = Composed(estimator, reader.handed, identity.scale.has_length)
        if len(sides) > 1:
            composed = _settle(reader, composed)
        identity.agreement = verify(reader, composed)
        if identity.agreement.error > reader.tolerance:
            identity.undecided = (
                "the components as read don't add up to the loss: on random batches its weights "
                f"are off by {identity.agreement.error:.2g} of the largest"
            )
        else:
            identity.composed = composed
    except Undecided as reason:
        identity.undecided = str(reason)
    return identity


def _check_answers(reader: Reader) -> None:
    """What makes any reading meaningless.

    Raises:
        CallError: NaN on an ordinary batch, or another answer the second time.
    """
    title = reader.subject.target.title
    inputs = reader.sided(ordinary(), "offline" if reader.imitates else "online")
    first, second = reader.subject.measure(inputs), reader.subject.measure(inputs)
    if not (first.weights.isfinite().all() and math.isfinite(first.loss)):
        raise CallError(f"{title}: its loss or gradient is NaN or infinite on an ordinary batch")
    if not torch.equal(first.weights, second.weights):
        raise CallError(
            f"{title} gives other gradients when it is called again with the same batch: it keeps "
            "something between calls, or draws numbers of its own"
        )


def _sides(reader: Reader) -> list[Side]:
    """Rollouts, demonstrations, or both: whose tokens have a weight."""
    if reader.imitates and not reader.reads_demos:
        inputs = reader.sided(random_batch(1, equal_groups=True), "offline")
        return ["offline"] if reader.subject.weights(inputs).any() else []
    kinds: list[Side] = ["online"]
    if reader.reads_demos:
        kinds.append("offline")
    found = []
    for side in kinds:
        batches = [
            reader.sided(random_batch(1, equal_groups=True, spread=s), side) for s in (0.0, 0.1)
        ]
        try:
            if any(
                bool(reader.subject.weights(x).abs().nan_to_num(1.0).max() > 0) for x in batches
            ):
                found.append(side)
        except CallError:
            if side == "online":
                raise
    return found


def _read_side(reader: Reader, side: Side, identity: Identity, alone: bool) -> list[Term]:
    """The term over rollouts, or over demonstrations; coefficients still hold the factor."""
    which = "" if alone else {"online": " of rollouts", "offline": " of demonstrations"}[side]
    response = reader.response(side)
    curves = read_curves(response, reader.noise)
    if side == "online" or alone:
        identity.curves = curves
    _check_coupling(reader, side, identity)
    try:
        skeleton = read_skeleton(reader, side, curves)
    except Undecided as reason:
        identity.readings += describe_curves(reader, side, curves, which, str(reason))
        raise
    identity.readings += describe_skeleton(skeleton, curves, which, reader)
    try:
        scale = read_scale(reader, side, skeleton)
    except UnknownAdvantage as reason:
        text = _NORMALIZERS.get(reason.normalizer.text, reason.normalizer.text)
        identity.readings += [
            Reading(f"advantage{which}", "unknown", None, (), str(reason)),
            Reading(f"normalizer{which}", text),
        ]
        raise
    except Undecided as reason:
        both = Reading(f"advantage{which} or normalizer", "", undecided=str(reason))
        identity.readings.append(both)
        raise
    if not reader.handed and not reader.imitates:
        rule = rule_of(reader, side, scale, skeleton)
        scale = read_edges(rule, scale, reader.subject.has_equal_groups, reader.tolerance)
    identity.readings += describe_scale(scale, which, reader)
    identity.scale = identity.scale or scale
    term = Term(
        side,
        skeleton.reference,
        scale.advantage,
        scale.normalizer,
        skeleton.stabilization,
        skeleton.shaping,
        abs(scale.factor),
    )
    return [term]


def _settle(reader: Reader, composed: Composed) -> Composed:
    """What only batches of rollouts and demonstrations show: whose rewards and tokens count.

    Batches of one kind leave open whether statistics and counts are of that kind or of all.
    """
    batches = comparison_batches(reader)
    measured = [reader.subject.weights(inputs) for inputs in batches]
    best, least = composed, math.inf
    for terms in product(*map(_variants, composed.estimator.terms)):
        trial = replace(composed, estimator=replace(composed.estimator, terms=terms))
        found = agree([(w, trial.weights(x)) for w, x in zip(measured, batches, strict=True)])
        if found.error < least:
            best, least = trial, found.error
        if least <= reader.tolerance:
            break
    return best


def _variants(term: Term) -> list[Term]:
    overs = ("online", "all", "offline") if hasattr(term.advantage, "over") else ()
    try:
        rules = [replace(term.advantage, over=over) for over in overs]  # type: ignore[call-arg]
    except TypeError:
        rules = []
    scopes: tuple[Scope, ...] = ("term", "batch")
    return [
        replace(term, advantage=rule, normalizer=replace(term.normalizer, scope=scope))
        for rule in dict.fromkeys([term.advantage, *rules])
        for scope in scopes
    ]


def _check_coupling(reader: Reader, side: Side, identity: Identity) -> None:
    """Whether weights depend on log-probabilities of other rows.

    Raises:
        Undecided: they do.
    """
    inputs = reader.sided(random_batch(5, spread=0.0, equal_groups=True), side)
    before = reader.policy_weights(inputs)
    logp = inputs.logp.clone()
    logp[0] -= 0.05
    after = reader.policy_weights(inputs.with_(logp=logp))
    rest = (after - before)[1:].abs()
    scale = float(before.abs().max()) or 1.0
    if bool((rest > 1e3 * reader.noise * scale).any()) and not reader.asks & {"inputs"}:
        reason = (
            "a row's weights depend on log π_θ of other rows, as those of pairs (DPO) and of "
            "weights normalized over the batch do: no weight on single trajectories is that"
        )
        identity.readings.append(Reading("rows", "coupled", None, ("couples_rows",), reason))
        raise Undecided(reason)


def verify(reader: Reader, composed: Composed) -> Agreement:
    """How far the loss is from an estimator on random batches of every spread."""
    pairs_of = []
    for inputs in comparison_batches(reader, composed):
        pairs_of.append((reader.subject.weights(inputs), composed.weights(inputs)))
    for inputs in edge_batches(reader, composed):
        pairs_of.append((reader.subject.weights(inputs), composed.weights(inputs)))
    return agree(pairs_of)


def edge_batches(reader: Reader, composed: Composed) -> list[Inputs]:
    """Single tokens of ratios on a grid, and on both sides of each bound that the estimator has.

    Random ratios seldom fall between two bounds that are close. Of rollouts alone.
    """
    terms = composed.estimator.terms
    if reader.imitates or any(term.samples != "online" for term in terms):
        return []
    held = {
        v for t in terms for n in numbers(t.stabilization) if (v := getattr(t.stabilization, n))
    }
    ratios = {r for v in held for r in (1 + v, 1 - v, v) if 1e-3 < r < 1e3}
    near = max(1e-6, 10 * reader.rounding)
    sides = [math.log(r) + s * near for r in sorted(ratios) for s in (-1, 1)]
    x = torch.cat([torch.linspace(-1.0, 1.0, 41), torch.tensor(sides)]).double()[:, None]
    batch = reader.sided(pairs(x), "online")
    return rewards_beyond_epsilon([batch])  # the bounds are what is looked at


def comparison_batches(
    reader: Reader, composed: Composed | None = None, equal: bool | None = None
) -> list[Inputs]:
    """Random batches of every spread, with the samples that the loss tells apart."""
    equal = reader.subject.has_equal_groups if equal is None else equal
    demos = reader.reads_demos
    found = []
    for seed in range(reader.seeds):
        for i, spread in enumerate(SPREADS):
            rewards = ((0.0, 1.0), (1.0, 0.0, 0.5, -1.0))[i % 2]
            inputs = random_batch(
                100 * seed + i,
                spread=spread,
                equal_groups=equal,
                demonstrations=demos,
                rewards=rewards,
            )
            if not demos:
                inputs = reader.sided(inputs, "offline" if reader.imitates else "online")
            if composed is not None and _has_epsilon(composed):
                inputs = inputs.with_(reward=inputs.reward * 2.0)
            found.append(inputs)
    return found


def rewards_beyond_epsilon(batches: Sequence[Inputs]) -> list[Inputs]:
    """The batches with rewards so large that no ε in a standard deviation is seen."""
    return [x.with_(reward=x.reward * 2.0**40) for x in batches]


def _has_epsilon(composed: Composed) -> bool:
    rules = (term.advantage for term in composed.estimator.terms)
    return any(isinstance(rule, Standardized) and rule.epsilon for rule in rules)


def _read_additions(reader: Reader, identity: Identity, terms: list[Term]) -> float:
    """Adds corrections and KL terms to ``terms``; returns the entropy bonus."""
    assert identity.scale is not None
    scale = identity.scale
    correction, reading = read_correction(reader, scale)
    if reading is not None:
        identity.readings.append(reading)
    if correction is not None:
        terms[0] = replace(terms[0], corrections=(correction,))
    kl, reading = read_kl(reader, scale)
    if reading is not None:
        identity.readings.append(reading)
        if reading.undecided or reading.faults:
            raise Undecided(reading.undecided or "no estimator has the KL term that was read")
    if kl is not None and kl.beta >= 0:
        reference, psi = KL_GRADIENTS[kl.gradient]
        advantage = KLGradient(psi, kl.to)
        terms.append(Term("online", reference, advantage, kl.normalizer, coefficient=kl.beta))
    bonus, reading = read_entropy(reader, scale)
    if reading is not None:
        identity.readings.append(reading)
    return bonus


# ------------------------------------------------------------------------------------ in words


def describe_skeleton(
    skeleton: Skeleton, curves: Sequence[Curve | None], which: str, reader: Reader
) -> list[Reading]:
    """Reference, stabilizer and shaping in words, with the faults that they show."""
    reference = {
        CurrentPolicy: "π_θ: w does not depend on the ratio",
        RolloutPolicy: "π_θold: w ∝ r = π_θ/π_θold",
        ConstantOne: "1: w ∝ π_θ",
        SequenceRatio: "the sequence's: w ∝ s, the geometric mean of r",
    }.get(type(skeleton.reference), skeleton.reference.text)
    stabilization, faults = skeleton.stabilization, tuple[str, ...]()
    if isinstance(stabilization, Piecewise):
        faults = piecewise_faults(curves)
        reference = "as in the stabilizer, which is over π_θ"
    text = _stabilizer_text(stabilization, curves)
    readings = [
        Reading(f"stabilizer{which}", text, skeleton.error, faults),
        Reading(f"reference{which}", reference, skeleton.error),
    ]
    if not isinstance(skeleton.shaping, Unshaped):
        shaping = skeleton.shaping
        readings.append(
            Reading(f"shaping{which}", f"{shaping.text}, {shaping.label}", skeleton.error)
        )
    return readings


def _stabilizer_text(stabilization: Any, curves: Sequence[Curve | None]) -> str:
    if isinstance(stabilization, NoMask):
        return "none"
    ratio = "s" if getattr(stabilization, "level", "token") == "sequence" else "r"
    if isinstance(stabilization, DualClip):
        return (
            f"dual clip: 0 for Â > 0 above {1 + stabilization.high:.10g}, for Â < 0 below "
            f"{1 - stabilization.low:.10g} and above {stabilization.dual:.10g}"
        )
    if type(stabilization) is Clip:
        kind = "sequence clip (GSPO)" if ratio == "s" else "PPO's clip"
        lower = 1 - stabilization.low
        below = f"where {ratio} < {lower:.10g}" if lower > 0 else "never"
        return (
            f"{kind}: 0 for Â > 0 where {ratio} > {1 + stabilization.high:.10g}, for Â < 0 {below}"
        )
    if isinstance(stabilization, WeightClip):
        return (
            f"weight clip (CISPO, TIS): r is clipped to [{stabilization.low:.10g}, "
            f"{stabilization.high:.10g}], no token is dropped"
        )
    if isinstance(stabilization, Piecewise):
        sides = zip(("Â > 0", "Â < 0"), curves, strict=True)
        return "w/Â is " + "; ".join(f"for {s}: {c.text()}" for s, c in sides if c is not None)
    return f"{stabilization.text}, {stabilization.label}"


def piecewise_faults(curves: Sequence[Curve | None]) -> tuple[str, ...]:
    """What is wrong with a clip that is none of the known ones."""
    zeros = [
        (
            any(p.power is None and p.high <= 0 for p in curve.pieces),
            any(p.power is None and p.low >= 0 for p in curve.pieces),
        )
        if curve is not None
        else (False, False)
        for curve in curves
    ]
    inverted = any(
        p.power == -1 for c in curves if c is not None for p in c.pieces if p.low <= 0 <= p.high
    )
    if inverted:
        return ("ratio_upside_down",)
    (low_pos, high_pos), (low_neg, high_neg) = zeros
    if low_pos and high_pos and low_neg and high_neg:
        return ("clip_two_sided",)
    if (low_pos and not high_pos) or (high_neg and not low_neg):
        return ("clip_mirrored",)
    return ()


def describe_curves(
    reader: Reader, side: Side, curves: Sequence[Curve | None], which: str, why: str
) -> list[Reading]:
    """A skeleton that is none of the known ones: what can be seen of it."""
    faults = list(piecewise_faults(curves))
    sides = zip(("Â > 0", "Â < 0"), curves, strict=True)
    seen = "; ".join(f"for {s}: {c.text()}" for s, c in sides if c is not None)
    text = f"w/Â of single tokens against r is {seen}" if seen else "no weight at ratio 1"
    hint = _hint(reader, side)
    faults += [hint[0]] if hint else []
    if hint:
        why = f"{hint[1]}; {why}"
    return [Reading(f"stabilizer{which}", text, faults=tuple(faults), undecided=why)]


def _hint(reader: Reader, side: Side) -> tuple[str, str] | None:
    """Which known mistake the weights look like."""
    at = reader.policy_weights
    x = torch.tensor([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3], dtype=torch.float64)[:, None]
    flat = torch.zeros_like(x)
    levels = [at(reader.sided(pairs(flat, LOGP * s), side))[0, 0] for s in (1.0, 2.0, 3.0)]
    steps = [float(b - a) for a, b in pairwise(levels)]
    size = max(abs(float(v)) for v in levels) or 1.0
    if abs(steps[0]) > 1e-6 * size and abs(steps[0] - steps[1]) <= 1e-9 * size:
        return "stop_gradient", "w at ratio 1 is linear in log π_θ: a stop-gradient is missing"
    two = torch.tensor([[0.02, 0.05]], dtype=torch.float64)
    double = at(reader.sided(pairs(two), side))[0]
    one = at(reader.sided(pairs(torch.zeros_like(two)), side))[0]
    together = float(double[0] / one[0]) if one[0] else math.nan
    if abs(together - math.exp(0.07)) < 1e-9 and abs(float(double[1] / one[1]) - together) < 1e-9:
        return "sequence_sum", "w ∝ the product of the sequence's ratios, without a root of |τ|"
    return None


def describe_scale(scale: Scale, which: str, reader: Reader) -> list[Reading]:
    """Advantage and normalizer in words, with the faults that they show."""
    readings = []
    faults = list(scale.faults)
    if scale.factor < 0:
        faults.append("sign")
    if reader.subject.measure(comparison_batches(reader)[0]).kind == "terms":
        normalizer = "none: it returns terms, which the trainer reduces"
    else:
        normalizer = _normalizer_text(scale)
    if reader.handed:
        same = isinstance(scale.advantage, Reward)
        text = "handed in" if same else f"handed in, then {scale.advantage.text}"
        faults += [] if same or isinstance(scale.advantage, One) else ["whitens"]
        if isinstance(scale.advantage, One):
            text = "Â is not read: 1 for every token"
    elif reader.imitates:
        text = "1: no reward is read"
    else:
        shown = "std" in scale.advantage.text and "over n" not in scale.advantage.text
        over = ", std over n − 1" if shown else ""
        text = "; ".join([f"{scale.advantage.text}{over}", *scale.notes])
    readings.append(Reading(f"advantage{which}", text, scale.error, tuple(faults)))
    lengths = isinstance(scale.normalizer, FixedLength | LengthSum)
    padded = {FixedLength: "padded_mean", LengthSum: "padded_width"}
    shows = (padded[type(scale.normalizer)],) if lengths and not scale.has_length else ()
    readings.append(Reading(f"normalizer{which}", normalizer, scale.error, shows))
    return readings


_NORMALIZERS = {
    "token_sum": "none: a sum over tokens",
    "token_mean": "tokens: a mean over the response tokens handed in",
    "trajectory_mean": "rows: token sums, averaged over rows",
    "sequence_mean": "per row, then rows: token means, averaged over rows",
    "fixed_length": "rows × a fixed length",
    "length_sum": "a fixed length, no count of rows",
    "question_sum": "rows of a question, then questions: token sums",
    "question_mean": "per row, rows of a question, questions: means",
}


def _normalizer_text(scale: Scale) -> str:
    text = _NORMALIZERS.get(scale.normalizer.text, scale.normalizer.text)
    if isinstance(scale.normalizer, FixedLength | LengthSum):
        text += ": the longest response" if scale.has_length else ": the width of the padded batch"
    return text


def compose_call(composed: Composed) -> str:
    """The estimator as Python, with its imports."""
    terms = []
    used: dict[str, set[str]] = {"upge.estimator": {"Term", "compose"}}
    for term in composed.estimator.terms:
        parts_of = (term.reference, term.advantage, term.normalizer, term.stabilization)
        for part in (*parts_of, term.shaping, *term.corrections):
            if not isinstance(part, NoMask | Unshaped):
                used.setdefault(type(part).__module__, set()).add(type(part).__name__)
    for term in composed.estimator.terms:
        parts = [repr(term.samples), *map(_code, (term.reference, term.advantage, term.normalizer))]
        if not isinstance(term.stabilization, NoMask):
            parts.append(f"stabilization={_code(term.stabilization)}")
        if not isinstance(term.shaping, Unshaped):
            parts.append(f"shaping={_code(term.shaping)}")
        if term.coefficient != 1:
            parts.append(f"coefficient={snap(term.coefficient):.12g}")
        if term.corrections:
            inside = ", ".join(map(_code, term.corrections))
            parts.append(f"corrections=({inside},)")
        terms.append(f"Term({', '.join(parts)})")
    call = f"compose({', '.join(terms)})"
    if composed.estimator.entropy_bonus:
        used["dataclasses"] = {"replace"}
        call = f"replace({call}, entropy_bonus={composed.estimator.entropy_bonus:.12g})"
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in used.items()]
    return "\n".join([*imports, f"estimator = {call}"])


def _code(component: Any) -> str:
    return repr(component).replace("inf", "float('inf')").replace("(scope='term')", "()")
