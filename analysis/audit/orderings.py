"""Which of two papers' orderings appears in estimates, and how sure that is.

An ordering claims that some methods are above others. Each claim is tested, all those of a setting
together with Holm's correction; it holds, is reversed, or is not distinguishable from chance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import pandas as pd

from analysis.accuracy.power import NOWHERE, detected
from analysis.methods import short_title, title
from analysis.reported import Reported
from analysis.statistics import SIGNIFICANCE, Estimate, corrected
from analysis.tables import NONE
from upge.common.config import read_yaml

_FILE = Path(__file__).parents[1] / "reported_audit.yaml"

#: What an ordering means by a method's name: each of its variants.
VARIANTS = {"hpt": ("hpt", "hpt_global_token")}

#: What became of a claim. No runs: of one of the two methods. Not compared: one has a single seed.
HOLDS, REVERSED, OPEN = "holds", "reversed", "not distinguishable"
NOT_COMPARED, NO_RUNS = "not compared", "no runs"

#: What became of an ordering.
APPEARS, CONTRADICTED = "appears", "is contradicted"
IN_PART, UNDECIDED, UNTESTED = "appears in part", "is not decided", "was not tested"

COLUMNS = (
    *("source", "above", "below", "difference", "low", "high"),
    *("p", "p_holm", "detectable", "verdict"),
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
        pairs = (pair for chain in self.chains for pair in combinations(chain, 2))
        return list(
            dict.fromkeys(
                claim for high, low in pairs for claim in product(_variants(high), _variants(low))
            )
        )

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
    kept = [[tier for tier in chain if tier] for chain in chains]
    return Order(order.source, [chain for chain in kept if len(chain) > 1])


def _variants(tier: Sequence[str]) -> list[str]:
    return [variant for method in tier for variant in VARIANTS.get(method, (method,))]


def general(method: str) -> str:
    """A method as an ordering names it, whatever its variant."""
    return short_title(method) if method in VARIANTS else title(method)


def reported_orders() -> list[Order]:
    """The orderings of both papers."""
    return [Order(**order) for order in read_yaml(_FILE)["orders"]]


def reported_averages() -> list[Reported]:
    """The averages that the papers report."""
    return [Reported(**table) for table in read_yaml(_FILE)["tables"]]


@dataclass(frozen=True)
class Setting:
    """Where orderings are looked for.

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

    ``detectable`` is the smallest difference that as many comparisons of such runs would show.
    Holm's correction covers all comparisons of the setting; two claims of one comparison share it.
    """
    claims = [(order.source, *claim) for order in setting.orders for claim in order.claims]
    found = setting.estimates
    tested = {frozenset(pair): pair for _, *pair in claims if found.keys() >= set(pair)}
    p_values = [(found[a] - found[b]).p_value for a, b in tested.values()]
    tests = dict(zip(tested, zip(p_values, corrected(p_values), strict=True), strict=True))
    rows = [(*claim, *_judged(found, *claim[1:], tests)) for claim in claims]
    return pd.DataFrame(rows, columns=list(COLUMNS))


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
    kinds = set(verdicts)
    if REVERSED in kinds:
        return CONTRADICTED
    if kinds == {HOLDS}:
        return APPEARS
    if HOLDS in kinds:
        return IN_PART
    return UNDECIDED if OPEN in kinds else UNTESTED


def contested(orders: Sequence[Order]) -> list[tuple[str, str]]:
    """Claims of the first ordering of which another claims the reverse."""
    first, *others = orders
    against = {claim for other in others for claim in other.claims}
    return [(a, b) for a, b in first.claims if (b, a) in against]


_WORDINGS = {
    HOLDS: "confirmed",
    REVERSED: "reversed",
    OPEN: "not distinguishable",
    NOT_COMPARED: "without a second seed",
    NO_RUNS: "without runs",
}


def count_claims(source: str, claims: pd.DataFrame) -> str:
    """How many of an ordering's claims became what, from :func:`judged`."""
    parts = []
    for verdict, words in _WORDINGS.items():
        rows = claims[(claims["source"] == source) & (claims["verdict"] == verdict)]
        if len(rows):
            least = detected(rows["detectable"].min())
            unit = "" if least in (NONE, NOWHERE) else " points"
            note = f" (least detectable: {least}{unit})" if verdict == OPEN else ""
            parts.append(f"{len(rows)} {words}{note}")
    return f"claims of {source}: {', '.join(parts)}"
