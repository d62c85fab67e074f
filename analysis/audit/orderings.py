"""Which of two papers' orderings appears in estimates, which comparisons decide it, and how surely.

An ordering claims that some methods are above others. Each claim is tested, all those of a setting
together with Holm's correction; it holds, is reversed, or is not distinguishable from chance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import pandas as pd

from analysis.accuracy.power import NOWHERE, detected
from analysis.methods import title
from analysis.statistics import SIGNIFICANCE, Estimate, corrected
from analysis.tables import NONE
from analysis.wording import listed
from upge.common.config import read_yaml

_FILE = Path(__file__).parents[1] / "reported_audit.yaml"

#: What an ordering means by a method's name: each of its forms.
FORMS = {"hpt": ("hpt", "hpt_global_token")}

#: What became of a claim. No runs: of one of the two methods. Not compared: one has a single seed.
HOLDS, REVERSED, OPEN = "holds", "reversed", "not distinguishable"
NOT_COMPARED, NO_RUNS = "not compared", "no runs"

#: What became of an ordering.
APPEARS, CONTRADICTED = "appears", "is contradicted"
IN_PART, UNDECIDED, UNTESTED = "appears in part", "is not decided", "was not tested"

COLUMNS = (
    "source",
    "above",
    "below",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "detectable",
    "verdict",
)


@dataclass(frozen=True)
class Order:
    """An ordering that a paper claims.

    Args:
        source: the paper.
        chains: tiers of methods, the highest first; each method is above all of later tiers.
    """

    source: str
    chains: Sequence[Sequence[Sequence[str]]]

    @property
    def claims(self) -> list[tuple[str, str]]:
        """Pairs of methods, the first above the second."""
        return list(dict.fromkeys(self._claims()))

    def _claims(self) -> Iterator[tuple[str, str]]:
        for chain in self.chains:
            for high, low in combinations(chain, 2):
                yield from product(_forms(high), _forms(low))

    @property
    def text(self) -> str:
        """As ``HPT > LUFFY / SRFT > SFT``."""
        return "; ".join(
            " > ".join(" / ".join(general(method) for method in tier) for tier in chain)
            for chain in self.chains
        )


def without(order: Order, methods: Collection[str]) -> Order:
    """The ordering of all other methods."""
    chains = [[[m for m in tier if m not in methods] for tier in chain] for chain in order.chains]
    left = [[tier for tier in chain if tier] for chain in chains]
    return Order(order.source, [chain for chain in left if len(chain) > 1])


def _forms(tier: Sequence[str]) -> list[str]:
    return [form for method in tier for form in FORMS.get(method, (method,))]


def general(method: str) -> str:
    """A method as an ordering names it, whatever its form."""
    return title(method).partition(",")[0] if method in FORMS else title(method)


@dataclass(frozen=True)
class ReportedAverages:
    """Published averages, per cent: in distribution and out of distribution."""

    source: str
    title: str
    base: str
    rows: Mapping[str, Sequence[float | None]]


def reported_orders() -> list[Order]:
    """The orderings of both papers."""
    return [Order(**given) for given in read_yaml(_FILE)["orders"]]


def reported_averages() -> list[ReportedAverages]:
    """The averages that the papers report."""
    return [ReportedAverages(**given) for given in read_yaml(_FILE)["tables"]]


@dataclass(frozen=True)
class Setting:
    """What orderings are looked for in.

    Args:
        where: as "at equal steps".
        split: which tests.
        estimates: by the methods' names in the orderings.
        orders: those looked for.
    """

    where: str
    split: str
    estimates: Mapping[str, Estimate]
    orders: Sequence[Order]


def judged(setting: Setting) -> pd.DataFrame:
    """Every claim of every ordering with its comparison: :data:`COLUMNS`.

    ``detectable`` is the least difference that as many comparisons of such runs would show. Holm's
    correction is for all comparisons of the setting; two claims of one comparison share it.
    """
    claims = [(order.source, *claim) for order in setting.orders for claim in order.claims]
    found = setting.estimates
    tested = {frozenset(pair): pair for _, *pair in claims if found.keys() >= set(pair)}
    p_values = [(found[a] - found[b]).p_value for a, b in tested.values()]
    tests = dict(zip(tested, zip(p_values, corrected(p_values), strict=True), strict=True))
    return pd.DataFrame(
        [(*claim, *_judged(found, *claim[1:], tests)) for claim in claims], columns=list(COLUMNS)
    )


def _judged(
    found: Mapping[str, Estimate],
    above: str,
    below: str,
    tests: Mapping[frozenset[str], tuple[float, float]],
) -> tuple[object, ...]:
    """A claim's comparison and what became of it."""
    pair = frozenset((above, below))
    if pair not in tests:
        return (*[float("nan")] * 6, NO_RUNS)
    difference, (p, holm) = found[above] - found[below], tests[pair]
    numbers = (difference.mean, *difference.interval, p, holm, difference.detectable(len(tests)))
    return (*numbers, _verdict(difference.mean, holm))


def _verdict(difference: float, p: float) -> str:
    if pd.isna(p):
        return NOT_COMPARED
    if p >= SIGNIFICANCE:
        return OPEN
    return HOLDS if difference > 0 else REVERSED


def outcome(verdicts: Collection[str]) -> str:
    """What became of an ordering, from what became of its claims."""
    found = set(verdicts)
    if REVERSED in found:
        return CONTRADICTED
    if found == {HOLDS}:
        return APPEARS
    if HOLDS in found:
        return IN_PART
    return UNDECIDED if OPEN in found else UNTESTED


def paragraph(setting: Setting, claims: pd.DataFrame) -> list[str]:
    """What the comparisons of a setting say, in sentences.

    Args:
        setting: what was asked.
        claims: as :func:`judged` gives them.
    """
    of = {order.source: claims[claims["source"] == order.source] for order in setting.orders}
    outcomes = {source: outcome(own["verdict"].tolist()) for source, own in of.items()}
    sentences = [_headline(setting, outcomes)]
    if len(setting.orders) == 2:
        sentences += _dispute(setting.orders, claims)
    return sentences + [_one(order, of[order.source]) for order in setting.orders]


def _headline(setting: Setting, outcomes: Mapping[str, str]) -> str:
    where = f"{setting.where[:1].upper()}{setting.where[1:]}, {setting.split}"
    told = [f"that of {source} {found}" for source, found in outcomes.items()]
    appearing = [source for source, found in outcomes.items() if found == APPEARS]
    if len(told) == 1:
        return f"{where}, **the ordering {told[0].removeprefix('that ')}**."
    if not appearing:
        return f"{where}, **neither ordering appears in full**: {listed(told)}."
    if len(appearing) == len(told):
        return f"{where}, **both orderings appear**."
    others = [text for source, text in zip(outcomes, told, strict=True) if source not in appearing]
    return f"{where}, **the ordering of {listed(appearing)} appears**; {listed(others)}."


def contested(orders: Sequence[Order]) -> list[tuple[str, str]]:
    """Claims of the first ordering of which the second claims the reverse."""
    first, *others = orders
    against = {claim for other in others for claim in other.claims}
    return [(a, b) for a, b in first.claims if (b, a) in against]


def _dispute(orders: Sequence[Order], claims: pd.DataFrame) -> list[str]:
    """Whose the contested comparisons are."""
    pairs = contested(orders)
    if not pairs:
        return []
    first, second = orders
    own = claims[claims["source"] == first.source].set_index(["above", "below"]).loc[pairs]
    verdicts = own["verdict"]
    fell = {
        f"for {first.source}": verdicts == HOLDS,
        f"for {second.source}": verdicts == REVERSED,
        "for neither, being not distinguishable": verdicts == OPEN,
        "not made": verdicts.isin([NOT_COMPARED, NO_RUNS]),
    }
    counts = [f"{int(which.sum())} {where}" for where, which in fell.items() if which.any()]
    told = f"{len(pairs)} comparisons on which the two contradict each other: {listed(counts)}."
    return [told]


def _one(order: Order, own: pd.DataFrame) -> str:
    """How many of an ordering's claims became what."""
    parts = []
    for verdict, wording in _WORDINGS.items():
        rows = own[own["verdict"] == verdict]
        if len(rows):
            least = f" (least detectable: {_least(rows)})" if verdict == OPEN else ""
            parts.append(f"{len(rows)} {wording}{least}")
    return f"Claims of {order.source}: {', '.join(parts)}."


_WORDINGS = {
    HOLDS: "confirmed",
    REVERSED: "reversed",
    OPEN: "not distinguishable",
    NOT_COMPARED: "without a second seed",
    NO_RUNS: "without runs of this kind",
}


def _least(rows: pd.DataFrame) -> str:
    """The least difference that any of these comparisons would show."""
    found = detected(rows["detectable"].min())
    return found if found in (NONE, NOWHERE) else f"{found} points"
