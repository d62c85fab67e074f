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
    judged,
    outcome,
    paragraph,
    reported_averages,
    reported_orders,
    without,
)
from analysis.statistics import DRAWS, Estimate, Scores

HPT_PAPER, AUDIT = "arXiv 2509.04419", "arXiv 2604.23747"
BOTH_FORMS = ("hpt", "hpt_global_token")
FAULTY = ("sft_last", "sft_means", "sft_both")

#: Means under which either ordering is true.
AS_HPT_PAPER = {**dict.fromkeys(BOTH_FORMS, 0.8), "luffy": 0.7, "sft_grpo": 0.6, "sft": 0.5}
AS_AUDIT = {
    **{"sft_grpo": 0.8, "luffy": 0.6, "srft": 0.65, "sft": 0.7},
    **dict.fromkeys(BOTH_FORMS, 0.5),
    **dict.fromkeys(FAULTY, 0.4),
}


def estimates(
    means: Mapping[str, float], spread: float = 1e-3, seeds: int = 3
) -> dict[str, Estimate]:
    """With seeds evenly around the mean, and no error from problems."""
    around = spread * np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    nothing = np.zeros(DRAWS)
    return {m: Scores(mean + around, nothing, 1).estimate(m) for m, mean in means.items()}


def text(means: Mapping[str, float], spread: float = 1e-3, seeds: int = 3) -> str:
    setting = Setting(
        "at equal steps", "in tests", estimates(means, spread, seeds), reported_orders()
    )
    return " ".join(paragraph(setting, judged(setting)))


# ------------------------------------------------------------------------------------ each outcome


def test_the_hpt_papers_ordering_can_appear() -> None:
    rest = {"srft": 0.45, **dict.fromkeys(FAULTY, 0.4)}
    found = text(AS_HPT_PAPER | rest)
    assert found.startswith(
        f"At equal steps, in tests, **the ordering of {HPT_PAPER} appears**; that of {AUDIT} is "
        "contradicted."
    )
    assert f"contradict each other: 3 for {HPT_PAPER}." in found
    assert f"Claims of {HPT_PAPER}: 9 confirmed." in found
    assert f"Claims of {AUDIT}: 4 confirmed, 3 reversed." in found


def test_the_audits_ordering_can_appear() -> None:
    found = text(AS_AUDIT)
    assert f"**the ordering of {AUDIT} appears**; that of {HPT_PAPER} is contradicted." in found
    assert f"contradict each other: 3 for {AUDIT}." in found
    assert f"Claims of {AUDIT}: 7 confirmed." in found


def test_neither_can_be_told_from_chance() -> None:
    found = text(AS_AUDIT, spread=0.5)
    assert "**neither ordering appears in full**" in found
    assert f"that of {HPT_PAPER} is not decided and that of {AUDIT} is not decided" in found
    assert "3 for neither, being not distinguishable" in found
    assert f"Claims of {HPT_PAPER}: 9 not distinguishable (least detectable: none)." in found


def test_an_ordering_can_appear_in_part() -> None:
    found = text(AS_AUDIT | dict.fromkeys(FAULTY, 0.7))
    assert f"that of {AUDIT} appears in part" in found
    assert "4 confirmed" in found
    assert re.search(r"3 not distinguishable \(least detectable: \d\.\d points\)", found)


def test_one_seed_compares_nothing() -> None:
    found = text(AS_AUDIT, seeds=1)
    assert f"that of {HPT_PAPER} was not tested and that of {AUDIT} was not tested" in found
    assert "contradict each other: 3 not made." in found
    assert "confirmed" not in found


def test_missing_methods_are_told() -> None:
    found = text({"sft": 0.5, "sft_grpo": 0.6})
    assert f"Claims of {HPT_PAPER}: 1 confirmed" in found
    assert "8 without runs of this kind" in found
    assert "appears**" not in found


def test_orderings_that_agree_can_both_appear() -> None:
    orders = [Order("one", [[["sft_grpo"], ["sft"]]]), Order("other", [[["grpo"], ["sft"]]])]
    means = {"sft": 0.1, "grpo": 0.5, "sft_grpo": 0.5}
    setting = Setting("here", "in tests", estimates(means), orders)
    assert paragraph(setting, judged(setting))[0] == "Here, in tests, **both orderings appear**."


def test_one_ordering_alone_is_told_by_itself() -> None:
    setting = Setting("here", "in tests", estimates(AS_HPT_PAPER), reported_orders()[:1])
    told = paragraph(setting, judged(setting))
    assert told[0] == f"Here, in tests, **the ordering of {HPT_PAPER} appears**."
    assert len(told) == 2


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


def test_claims_are_every_pair_of_tiers_in_every_form() -> None:
    first, second = reported_orders()
    assert (first.source, second.source) == (HPT_PAPER, AUDIT)
    assert first.text == "HPT > LUFFY > SFT→GRPO > SFT"
    wanted = [(form, low) for form in BOTH_FORMS for low in ("luffy", "sft_grpo", "sft")]
    wanted += [("luffy", "sft_grpo"), ("luffy", "sft"), ("sft_grpo", "sft")]
    assert sorted(first.claims) == sorted(wanted)
    mixed = [("sft_grpo", low) for low in ("luffy", "srft", *BOTH_FORMS)]
    assert sorted(second.claims) == sorted(mixed + [("sft", fault) for fault in FAULTY])
    assert contested([first, second]) == [
        *((f, "sft_grpo") for f in BOTH_FORMS),
        ("luffy", "sft_grpo"),
    ]
    assert without(second, FAULTY).claims == mixed


def test_holms_correction_is_for_each_comparison_once() -> None:
    means = {"hpt": 0.51, "luffy": 0.5, "sft_grpo": 0.53}
    setting = Setting("here", "in tests", estimates(means, 0.01), reported_orders())
    claims = judged(setting).dropna(subset="p")
    pairs = {frozenset((r.above, r.below)): (r.p, r.p_holm) for r in claims.itertuples()}
    assert len(claims) == 5  # three of one paper, two of the other
    assert len(pairs) == 3
    ranked = sorted(pairs.values())
    adjusted = 0.0
    for rank, (p, holm) in enumerate(ranked):
        adjusted = max(adjusted, min(1.0, p * (3 - rank)))
        assert holm == pytest.approx(adjusted)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5), st.sampled_from([1e-3, 0.05]))
def test_what_one_claims_and_the_other_denies_is_judged_alike(
    values: list[float], spread: float
) -> None:
    means = dict(zip((*BOTH_FORMS, "luffy", "sft_grpo", "srft"), values, strict=True))
    orders = reported_orders()
    claims = judged(Setting("here", "in tests", estimates(means, spread), orders))
    verdict = {(r.source, r.above, r.below): r.verdict for r in claims.itertuples()}
    opposite = {HOLDS: REVERSED, REVERSED: HOLDS, OPEN: OPEN}
    for a, b in contested(orders):
        assert verdict[AUDIT, b, a] == opposite[verdict[HPT_PAPER, a, b]]


def test_reported_numbers_are_those_of_the_sources() -> None:
    first, second, third = reported_averages()
    assert first.rows["hpt"] == [52.7, 62.3]
    assert second.rows["sft_grpo"] == [57.0, 59.9]
    assert second.rows["sft"] == [52.2, None]
    assert third.rows == {"sft": [33.9, None], "sft_grpo": [43.7, None], "hpt": [21.5, None]}
    assert {second.source, third.source} == {AUDIT}


def test_the_hpt_papers_ordering_is_that_of_its_averages() -> None:
    rows = reported_averages()[0].rows
    for above, below in reported_orders()[0].claims:
        if above in rows:
            assert all(a > b for a, b in zip(rows[above], rows[below], strict=True))
