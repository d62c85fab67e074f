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

from analysis.methods import title
from analysis.statistics import SIGNIFICANCE, Estimate, corrected
from analysis.wording import listed, p_value, points
from upge.config import read_yaml

_FILE = Path(__file__).with_name("reported_audit.yaml")

#: What an ordering means by a method's name: each of its forms.
FORMS = {"hpt": ("hpt", "hpt_global_token")}

#: What became of a claim. No runs: of one of the two methods. Not compared: one has a single seed.
HOLDS, REVERSED, OPEN = "holds", "reversed", "not distinguishable"
NOT_COMPARED, NO_RUNS = "not compared", "no runs"

#: What became of an ordering.
APPEARS, CONTRADICTED = "appears", "is contradicted"
IN_PART, UNDECIDED, UNTESTED = "appears in part", "is not decided", "was not tested"

COLUMNS = ("source", "above", "below", "difference", "low", "high", "p", "p_holm", "verdict")


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
        """As ``HPT > LUFFY > SFT``."""
        return "; ".join(
            " > ".join(", ".join(_general(method) for method in tier) for tier in chain)
            for chain in self.chains
        )


def _forms(tier: Sequence[str]) -> list[str]:
    return [form for method in tier for form in FORMS.get(method, (method,))]


def _general(method: str) -> str:
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
        name: as "at equal steps".
        estimates: by the methods' names in the orderings.
        orders: those looked for.
    """

    name: str
    estimates: Mapping[str, Estimate]
    orders: Sequence[Order]


def judged(setting: Setting) -> pd.DataFrame:
    """Every claim of every ordering with its comparison: :data:`COLUMNS`.

    Holm's correction is for all comparisons of the setting; two claims of one comparison share it.
    """
    claims = [(order.source, *claim) for order in setting.orders for claim in order.claims]
    found = setting.estimates
    there = [claim for claim in claims if found.keys() >= set(claim[1:])]
    tested = list({frozenset(pair): pair for _, *pair in there}.values())
    differences = {frozenset((a, b)): found[a] - found[b] for a, b in tested}
    p_values = {pair: difference.p_value for pair, difference in differences.items()}
    holm = dict(zip(p_values, corrected(list(p_values.values())), strict=True))
    rows = []
    for source, above, below in claims:
        pair = frozenset((above, below))
        if pair not in differences:
            rows.append((source, above, below, *[float("nan")] * 5, NO_RUNS))
            continue
        difference = found[above] - found[below]
        p, corrected_p = p_values[pair], holm[pair]
        verdict = _verdict(difference.mean, corrected_p)
        numbers = (difference.mean, *difference.interval, p, corrected_p)
        rows.append((source, above, below, *numbers, verdict))
    return pd.DataFrame(rows, columns=list(COLUMNS))


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
    where = setting.name[:1].upper() + setting.name[1:]
    appears = [source for source, found in outcomes.items() if found == APPEARS]
    others = [f"that of {s} {found}" for s, found in outcomes.items() if s not in appears]
    if not appears:
        which = "neither ordering appears" if len(outcomes) > 1 else "the ordering does not appear"
        return f"{where}, **{which}**: {listed(others)}."
    several = len(appears) > 1
    which = (
        f"the ordering{'s' if several else ''} of {listed(appears)} appear{'' if several else 's'}"
    )
    return f"{where}, **{which}**{''.join(f'; {text}' for text in others)}."


def _dispute(orders: Sequence[Order], claims: pd.DataFrame) -> list[str]:
    """What the claims come to of which one ordering is the other's reverse."""
    first, second = orders
    disputed = [(a, b) for a, b in first.claims if (b, a) in second.claims]
    rows = claims[claims["source"] == first.source].set_index(["above", "below"]).loc[disputed]
    if not len(rows):
        return []
    counts = {
        f"to {first.source}": rows["verdict"] == HOLDS,
        f"to {second.source}": rows["verdict"] == REVERSED,
        "to neither, being not distinguishable": rows["verdict"] == OPEN,
        "out for lack of runs": rows["verdict"].isin([NOT_COMPARED, NO_RUNS]),
    }
    fell = [f"{int(own.sum())} fall {where}" for where, own in counts.items() if own.any()]
    pairs = "; ".join(f"{title(a)} against {title(b)}" for a, b in disputed)
    return [f"Where the two contradict each other ({pairs}), {listed(fell)}."]


def _one(order: Order, own: pd.DataFrame) -> str:
    """An ordering's claims, by what became of them."""
    parts = []
    for verdict, wording in _WORDINGS.items():
        rows = own[own["verdict"] == verdict]
        if len(rows):
            text = "; ".join(_claim(row, verdict) for row in rows.to_dict("records"))
            parts.append(f"{len(rows)} {wording}: {text}")
    return f"{order.source} claims {order.text}. Of {len(own)} comparisons {'. '.join(parts)}."


_WORDINGS = {
    HOLDS: "hold",
    REVERSED: "are reversed",
    OPEN: "are not distinguishable",
    NOT_COMPARED: "were not made, for want of a second seed",
    NO_RUNS: "lack runs",
}


def _claim(row: Mapping[str, object], verdict: str) -> str:
    difference, low, high = (float(str(row[name])) for name in ("difference", "low", "high"))
    above, below = title(str(row["above"])), title(str(row["below"]))
    if verdict in (NOT_COMPARED, NO_RUNS):
        return f"{above} over {below}"
    if difference < 0:
        above, below, difference, low, high = below, above, -difference, -high, -low
    text = f"{points(difference, '')} points ({points(low, '')} to {points(high, '')})"
    return f"{above} over {below} by {text}, p = {p_value(float(str(row['p_holm'])))}"
