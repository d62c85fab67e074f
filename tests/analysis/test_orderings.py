"""Which ordering appears is decided by comparisons alone, and can come out each way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.audit.orderings import (
    APPEARS,
    CONTRADICTED,
    HOLDS,
    IN_PART,
    NO_RUNS,
    NOT_COMPARED,
    OPEN,
    REVERSED,
    UNDECIDED,
    UNTESTED,
    Order,
    Setting,
    contested,
    count_claims,
    judged,
    outcome,
    reported_averages,
    reported_orders,
    without,
)
from analysis.statistics import DRAWS, Estimate, Scores

HPT_PAPER, AUDIT = "arXiv 2509.04419", "arXiv 2604.23747"
BOTH_VARIANTS = ("hpt", "hpt_global_token")
FAULTY = ("sft_last", "sft_means", "sft_both")

#: Means under which either ordering is true.
AS_HPT_PAPER = {**dict.fromkeys(BOTH_VARIANTS, 0.8), "luffy": 0.7, "sft_grpo": 0.6, "sft": 0.5}
AS_AUDIT = {
    **{"sft_grpo": 0.8, "luffy": 0.6, "srft": 0.65, "sft": 0.7},
    **dict.fromkeys(BOTH_VARIANTS, 0.5),
    **dict.fromkeys(FAULTY, 0.4),
}


def estimates(
    means: Mapping[str, float], spread: float = 1e-3, seeds: int = 3
) -> dict[str, Estimate]:
    """With seeds evenly around the mean, and no error from problems."""
    around = spread * np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    nothing = np.zeros(DRAWS)
    return {m: Scores(mean + around, nothing, 1).estimate(m) for m, mean in means.items()}


def setting(found: Mapping[str, Estimate], orders: Sequence[Order] | None = None) -> Setting:
    return Setting("here", "in tests", found, orders or reported_orders())


def both(
    means: Mapping[str, float], spread: float = 1e-3, seeds: int = 3
) -> dict[str, tuple[str, str]]:
    """What becomes of either paper's ordering, and of its claims."""
    claims = judged(setting(estimates(means, spread, seeds)))
    return {
        source: (outcome(rows["verdict"].tolist()), count_claims(source, claims))
        for source, rows in claims.groupby("source")
    }


# ------------------------------------------------------------------------------------ each outcome


def test_the_hpt_papers_ordering_can_appear() -> None:
    found = both(AS_HPT_PAPER | {"srft": 0.45, **dict.fromkeys(FAULTY, 0.4)})
    assert found[HPT_PAPER] == (APPEARS, f"claims of {HPT_PAPER}: 9 confirmed")
    assert found[AUDIT] == (CONTRADICTED, f"claims of {AUDIT}: 4 confirmed, 3 reversed")


def test_the_audits_ordering_can_appear() -> None:
    found = both(AS_AUDIT)
    assert found[AUDIT] == (APPEARS, f"claims of {AUDIT}: 7 confirmed")
    assert found[HPT_PAPER][0] == CONTRADICTED


def test_neither_can_be_told_from_chance() -> None:
    found = both(AS_AUDIT, spread=0.5)
    assert {became for became, _ in found.values()} == {UNDECIDED}
    assert found[HPT_PAPER][1].endswith(": 9 not distinguishable (least detectable: none)")


def test_an_ordering_can_appear_in_part() -> None:
    became, claims = both(AS_AUDIT | dict.fromkeys(FAULTY, 0.7))[AUDIT]
    assert became == IN_PART and "4 confirmed" in claims
    assert re.search(r"3 not distinguishable \(least detectable: \d\.\d points\)", claims)


def test_one_seed_compares_nothing_and_missing_methods_are_counted() -> None:
    found = both(AS_AUDIT, seeds=1)
    assert {became for became, _ in found.values()} == {UNTESTED}
    assert not any("confirmed" in claims for _, claims in found.values())
    few = both({"sft": 0.5, "sft_grpo": 0.6})[HPT_PAPER]
    assert few == (IN_PART, f"claims of {HPT_PAPER}: 1 confirmed, 8 without runs")


@pytest.mark.parametrize(
    ("verdicts", "found"),
    [
        ([HOLDS, HOLDS], APPEARS),
        ([HOLDS, REVERSED, OPEN], CONTRADICTED),
        ([HOLDS, OPEN], IN_PART),
        ([HOLDS, NO_RUNS], IN_PART),
        ([OPEN, NO_RUNS], UNDECIDED),
        ([NOT_COMPARED, NO_RUNS], UNTESTED),
        ([], UNTESTED),
    ],
)
def test_outcomes(verdicts: Sequence[str], found: str) -> None:
    assert outcome(verdicts) == found


# --------------------------------------------------------------------------------------- the claims


def test_claims_are_every_pair_of_tiers_in_every_variant() -> None:
    first, second = reported_orders()
    assert (first.source, second.source) == (HPT_PAPER, AUDIT)
    assert first.text == "HPT > LUFFY > SFT→GRPO > SFT"
    wanted = [(variant, low) for variant in BOTH_VARIANTS for low in ("luffy", "sft_grpo", "sft")]
    wanted += [("luffy", "sft_grpo"), ("luffy", "sft"), ("sft_grpo", "sft")]
    assert sorted(first.claims) == sorted(wanted)
    mixed = [("sft_grpo", low) for low in ("luffy", "srft", *BOTH_VARIANTS)]
    assert sorted(second.claims) == sorted(mixed + [("sft", fault) for fault in FAULTY])
    disputed = [(method, "sft_grpo") for method in (*BOTH_VARIANTS, "luffy")]
    assert contested([first, second]) == disputed
    assert without(second, FAULTY).claims == mixed


def test_holms_correction_is_for_each_comparison_once() -> None:
    means = {"hpt": 0.51, "luffy": 0.5, "sft_grpo": 0.53}
    claims = judged(setting(estimates(means, 0.01))).dropna(subset="p")
    pairs = {frozenset((r.above, r.below)): (r.p, r.p_holm) for r in claims.itertuples()}
    assert len(claims) == 5 and len(pairs) == 3  # three of one paper, two of the other
    adjusted = 0.0
    for rank, (p, holm) in enumerate(sorted(pairs.values())):
        adjusted = max(adjusted, min(1.0, p * (3 - rank)))
        assert holm == pytest.approx(adjusted)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.sampled_from([1e-3, 0.05]))
def test_what_one_claims_and_the_other_denies_is_judged_alike(
    values: list[float], spread: float
) -> None:
    means = dict(zip((*BOTH_VARIANTS, "luffy", "sft_grpo", "srft"), values, strict=True))
    orders = reported_orders()
    claims = judged(setting(estimates(means, spread), orders))
    verdict = {(r.source, r.above, r.below): r.verdict for r in claims.itertuples()}
    opposite = {HOLDS: REVERSED, REVERSED: HOLDS, OPEN: OPEN}
    for a, b in contested(orders):
        assert verdict[AUDIT, b, a] == opposite[verdict[HPT_PAPER, a, b]]


def test_reported_numbers_are_those_of_the_sources() -> None:
    first, second, third = reported_averages()
    assert first.rows["hpt"] == [52.7, 62.3]
    assert second.rows["sft_grpo"] == [57.0, 59.9] and second.rows["sft"] == [52.2, None]
    assert third.rows == {"sft": [33.9, None], "sft_grpo": [43.7, None], "hpt": [21.5, None]}
    assert {second.source, third.source} == {AUDIT}
    for above, below in reported_orders()[0].claims:
        if above in first.rows:
            pairs = zip(first.rows[above], first.rows[below], strict=True)
            assert all(a > b for a, b in pairs if a is not None and b is not None)
