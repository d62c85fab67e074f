"""What a claim is, how it is registered, and how instances become a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from upge.common.errors import UpgeError

#: ``proved`` symbolically; ``exact``: true of every instance enumerated; ``conditional``: true of
#: those that meet a stated condition, not of all; ``fails``: not even of those.
Verdict = Literal["proved", "exact", "conditional", "fails"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

#: Relative error up to which two float64 computations of one quantity count as equal.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Claim:
    """A row of the ledger.

    Attributes:
        id: its name in the ledger.
        claim: what is stated.
        source: where in the paper.
        verdict: one of :data:`VERDICTS`.
        value: the number that decides, and what it is.
        evidence: the function that found it, what it did, and a counterexample where there is one.
    """

    id: str
    claim: str
    source: str
    verdict: Verdict
    value: str
    evidence: str


@dataclass(frozen=True)
class Result:
    """What a check finds: the verdict, the number that decides, what it is, and the evidence."""

    verdict: Verdict
    number: float
    meaning: str
    evidence: str


@dataclass(frozen=True)
class Check:
    """A claim before it is decided; calling it with other inputs than its own decides it anew."""

    id: str
    claim: str
    source: str
    function: Callable[..., Result]

    def __call__(self, **inputs: Any) -> Claim:
        """Decide the claim."""
        result = self.function(**inputs)
        where = f"{self.function.__module__}.{self.function.__name__}"
        value = f"{result.number:.3g} ({result.meaning})"
        evidence = f"{where}: {result.evidence}"
        return Claim(self.id, self.claim, self.source, result.verdict, value, evidence)


CLAIMS: dict[str, Check] = {}


def claim(name: str, text: str, source: str) -> Callable[[Callable[..., Result]], Check]:
    """Register the decorated function, which returns a :class:`Result`, as the claim ``name``."""

    def add(function: Callable[..., Result]) -> Check:
        if name in CLAIMS:
            raise UpgeError(f"claim {name!r} is registered twice; rename one")
        CLAIMS[name] = Check(name, text, source, function)
        return CLAIMS[name]

    return add


@dataclass(frozen=True)
class Trial:
    """An instance of a claim: whether it holds there, in words, and if the condition is met."""

    holds: bool
    words: str = ""
    inside: bool = True


def judge(trials: Sequence[Trial], holding: Verdict = "exact") -> Verdict:
    """``holding`` if all trials hold, ``conditional`` if all inside the condition do.

    Raises:
        RuntimeError: no trial is inside, so nothing was compared.
    """
    inside = [trial for trial in trials if trial.inside]
    if not inside:
        raise RuntimeError("no instance meets the condition, so nothing was compared")
    if not all(trial.holds for trial in inside):
        return "fails"
    return holding if all(trial.holds for trial in trials) else "conditional"


def rule(
    trials: Iterable[Trial],
    number: float,
    meaning: str,
    *,
    symbolic: bool = False,
    unit: str = "instances",
    condition: str = "",
    counterexample: Callable[[], str | None] = lambda: None,
    notes: Sequence[str] = (),
) -> Result:
    """The result of trials.

    Args:
        trials: from small to large.
        number: that decides.
        meaning: of the number.
        symbolic: whether holding is ``proved``, not ``exact``.
        unit: what a trial is, in the plural.
        condition: that marks the trials inside, in words after "where".
        counterexample: searches the smallest, outside the condition. What it finds counts as one
            more trial; if it finds none, the first trial that fails is shown.
        notes: more evidence.
    """
    trials, found = list(trials), counterexample()
    if found:
        trials.append(Trial(False, found, inside=False))
    parts = [_tally(trials, unit, condition)]
    verdict = judge(trials, "proved" if symbolic else "exact")
    failing = next((trial.words for trial in trials if not trial.holds), None)
    if shown := found or failing:
        parts.append(f"smallest counterexample: {shown}")
    return Result(verdict, number, meaning, "; ".join([*parts, *filter(None, notes)]))


def _tally(trials: Sequence[Trial], unit: str, condition: str) -> str:
    inside = [trial.holds for trial in trials if trial.inside]
    others = [trial.holds for trial in trials if not trial.inside]
    where = f" where {condition}" if condition else ""
    text = f"holds in {sum(inside)} of {len(inside)} {unit}{where}"
    return f"{text}, and in {sum(others)} of {len(others)} others" if others else text


def below(a: float, b: float) -> bool:
    """Whether a < b by more than rounding."""
    return a < b - TOLERANCE


def spread(numbers: Sequence[float]) -> str:
    """The smallest, the middle and the largest number."""
    ordered = sorted(numbers)
    middle = ordered[len(ordered) // 2]
    return f"{ordered[0]:.3g} to {ordered[-1]:.3g}, median {middle:.3g}"


def median(numbers: Iterable[float]) -> float:
    """The middle number (the upper one of two)."""
    ordered = sorted(numbers)
    return ordered[len(ordered) // 2]
