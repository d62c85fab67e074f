"""What a check found, as data: readings of components, laws, the nearest row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["kept", "broken", "none"]


@dataclass(frozen=True)
class Reading:
    """One component, read off the weights.

    Attributes:
        component: stabilizer, reference, advantage, normalizer, shaping, kl, entropy, correction.
        text: what it is.
        error: the largest relative difference of measured and predicted weights; None where it was
            not measured.
        faults: names of :data:`FAULTS` that the reading shows.
        undecided: why it can't be told, where it can't.
    """

    component: str
    text: str
    error: float | None = None
    faults: tuple[str, ...] = ()
    undecided: str = ""


@dataclass(frozen=True)
class Law:
    """One law.

    Attributes:
        name: of :data:`upge.testing.laws.LAWS`.
        words: what it says.
        verdict: ``none`` where it does not apply; ``cause`` then says why.
        cause: the likely cause of a breach, in words.
        fault: the name of it in :data:`FAULTS`.
        script: Python lines that show the breach on the smallest batch found.
    """

    name: str
    words: str
    verdict: Verdict
    cause: str = ""
    fault: str = ""
    script: str = ""


@dataclass(frozen=True)
class Match:
    """A registered algorithm that the loss is, up to a positive factor.

    Attributes:
        name, options: so that ``upge.get(name, **options)`` is the loss.
        factor: the loss's weights over the algorithm's.
        error: the largest relative difference, over all batches.
        batches: how many there were.
        note: under what condition.
        others: further algorithms that the same holds for, as only Â tells them apart.
    """

    name: str
    options: Mapping[str, float | str]
    factor: float
    error: float
    batches: int
    note: str = ""
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The algorithm with its options."""
        chosen = ", ".join(f"{n}={_plain(v)}" for n, v in self.options.items())
        return f"{self.name} ({chosen})" if chosen else self.name


@dataclass(frozen=True)
class Claim:
    """Whether a loss is the algorithm that it is said to be.

    Attributes:
        name, options: the claim.
        holds: the verdict.
        error: the largest relative difference of the weights.
        factor: the loss's weights over the algorithm's.
        reasons: what differs, component by component; or under what condition the claim holds.
        script: Python lines that show the smallest batch on which it fails.
        faults: names of what differs, of :data:`FAULTS`.
    """

    name: str
    options: Mapping[str, float | str]
    holds: bool
    error: float
    factor: float
    reasons: tuple[str, ...] = ()
    script: str = ""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that a check found.

    Attributes:
        title: the callable.
        arguments: what its parameters were taken for.
        readings: component by component.
        match: the registered algorithm that it is, if it is one.
        compose: Python lines with a ``compose(...)`` call that reproduces it, if one does.
        outside: why no sum of weights on tokens' own ∇log π is meant to describe it.
        undecided: why it could not be told what it is.
        laws: all that were tested.
        claim: the verdict on one, if there was one.
        notes: what else was seen.
        panels: what a picture shows, if one was asked for.
    """

    title: str
    arguments: str
    readings: tuple[Reading, ...] = ()
    match: Match | None = None
    compose: str = ""
    outside: str = ""
    undecided: str = ""
    laws: tuple[Law, ...] = ()
    claim: Claim | None = None
    notes: tuple[str, ...] = ()
    panels: tuple[Any, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of everything that is off, in the order found."""
        read = [fault for reading in self.readings for fault in reading.faults]
        broken = [law.fault for law in self.laws if law.verdict == "broken" and law.fault]
        claimed = () if self.claim is None else self.claim.faults
        return tuple(dict.fromkeys([*read, *claimed, *broken]))

    @property
    def keeps_laws(self) -> bool:
        """Whether no law is broken."""
        return all(law.verdict != "broken" for law in self.laws)

    @property
    def passes(self) -> bool:
        """Whether the claim holds; without one, whether no law is broken."""
        return self.keeps_laws if self.claim is None else self.claim.holds

    def text(self) -> str:
        """Everything in words, as ``upge check`` prints it."""
        lines = [f"{self.title} ({self.arguments})" if self.arguments else self.title]
        if self.outside:
            failed = [] if self.claim is None else [f"Claim: it is {self.claim.name}: FAILS"]
            return "\n".join([*lines, f"outside of the unified view: {self.outside}", *failed])
        for reading in self.readings:
            error = "" if reading.error is None else f"   (to {max(reading.error, 1e-16):.0e})"
            said = f"undecided: {reading.undecided}" if reading.undecided else ""
            said = "; ".join(filter(None, [reading.text, said]))
            lines.append(f"  {reading.component:<12} {said}{error}")
            lines += [f"  {'':<12} ! {FAULTS[fault]}" for fault in reading.faults]
        lines += [f"  note: {note}" for note in self.notes]
        lines += self._verdict()
        causes: list[str] = []
        for law in self.laws:
            if law.verdict == "broken":
                cause = law.cause or FAULTS[law.fault]
                again = cause in causes
                lines += [f"Broken law: {law.words}.", f"  {'as above' if again else cause}"]
                lines += [] if again else [f"    {line}" for line in law.script.splitlines()]
                causes.append(cause)
        kept = [law.words for law in self.laws if law.verdict == "kept"]
        if kept:
            lines.append(f"Laws kept: {'; '.join(kept)}")
        return "\n".join(lines)

    def _verdict(self) -> list[str]:
        lines = []
        if self.match is not None:
            under = f", {self.match.note}" if self.match.note else ""
            others = ""
            if self.match.others:
                names = [text.split(" (")[0] for text in self.match.others]
                more = f" and {len(names) - 3} more" if len(names) > 4 else ""
                shown = ", ".join(names if not more else names[:3])
                others = f"; only Â tells it from {shown}{more}"
            lines.append(
                f"It is {self.match.text}{under}{others}: weights equal to "
                f"{max(self.match.error, 1e-16):.0e} on {self.match.batches} batches, up to "
                f"the factor {self.match.factor:.10g}."
            )
        elif self.compose:
            lines.append("It is no registered algorithm, but this combination:")
            lines += [f"    {line}" for line in self.compose.splitlines()]
        else:
            lines.append(f"What it is, is undecided: {self.undecided}.")
        if self.claim is not None:
            claimed = Match(self.claim.name, self.claim.options, 1.0, 0.0, 0).text
            lines.append(f"Claim: it is {claimed}: {'holds' if self.claim.holds else 'FAILS'}")
            lines += [f"  {reason}" for reason in self.claim.reasons]
            lines += [f"    {line}" for line in self.claim.script.splitlines()]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return asdict(self) | {"faults": list(self.faults), "passes": self.passes}


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"


#: Everything that a check calls a fault, by name.
FAULTS: dict[str, str] = {
    "sign": "the loss rises with what should be made likelier: its sign is reversed",
    "no_gradient": "no token has a gradient",
    "ratio_upside_down": "the ratio is π_θold/π_θ, upside down",
    "clip_mirrored": "the clip acts on the harmless side: a minimum and a maximum are swapped",
    "clip_two_sided": "a clipped token has no gradient whatever the sign of Â: the minimum is "
    "missing",
    "clip_missing": "nothing is clipped",
    "clip_bounds": "the bounds are other than those claimed",
    "clip_one_sided": "one side of the clip is missing",
    "stabilizer": "the stabilizer is another than the one claimed",
    "reference": "the reference policy is another than the one claimed",
    "sequence_sum": "the sequence's ratio is the product of its tokens' ratios, without the 1/|τ|",
    "length_counts_padding": "a sequence's length counts its padding",
    "stop_gradient": "a stop-gradient is missing: the weight holds log π itself",
    "couples_rows": "a row's weights depend on log-probabilities of other rows",
    "shaping": "the weight depends on π_θ in another way than claimed",
    "advantage": "the advantage is another than the one claimed",
    "std_over_n": "the standard deviation is over n, not n − 1",
    "std_missing": "nothing is divided by the standard deviation",
    "std_present": "the advantage is divided by a standard deviation",
    "std_of_batch": "the standard deviation is the batch's, not the question's",
    "mean_of_batch": "the mean is the batch's, not the question's",
    "not_centered": "no mean is taken off the rewards",
    "whitens": "the Â handed in is standardized once more, over the batch",
    "equal_rewards": "equal rewards don't give Â = 0",
    "singletons": "a question with one rollout is treated otherwise than claimed",
    "normalizer": "the normalizer is another than the one claimed",
    "padded_mean": "divides by all positions, padding included",
    "padded_width": "divides by the width of the padded batch",
    "split": "gradients depend on how the batch is split into micro-batches",
    "ranks": "gradients depend on how the batch is split over processes",
    "padding_values": "what stands at padding changes the weights of response tokens",
    "padding": "columns of padding change the weights of response tokens",
    "masked_gradient": "masked tokens have a gradient",
    "nan_padding": "NaN or ±inf at padding reaches the gradient",
    "row_order": "weights depend on the order of the rows",
    "empty_row": "a row without response tokens spoils the others",
    "empty_batch": "a batch without response tokens gives no finite loss",
    "bfloat16": "bfloat16 inputs raise, or give other weights",
    "reward_shift": "a constant added to all rewards changes the weights",
    "sampler": "equal log-probabilities of sampler and trainer change the weights",
    "old_policy": "the ratio of equal policies is not 1",
    "mutates": "changes its inputs",
    "kl": "the KL term is another than the one claimed",
    "kl_sign": "the KL term pushes away from the reference",
    "kl_reversed": "k3 of the reversed ratio: log π_θ − log π_ref where log π_ref − log π_θ "
    "belongs",
    "entropy": "the entropy term is another than the one claimed",
    "entropy_sign": "the entropy bonus lowers the entropy",
    "correction": "the sampler's correction is another than the one claimed",
    "correction_upside_down": "ρ is π_sampler/π_θold, upside down",
    "correction_gradient": "the gradient flows through the sampler's correction",
    "demonstrations": "demonstrations and rollouts are weighed otherwise than claimed",
}
