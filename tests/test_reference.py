"""Component 2: log π_ref of every token, and that it is the reference policy it says."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from strategies import Case, cases, close, make_batch

from upge import UpgeError
from upge.batch import MAX_LOG_RATIO, TrajectoryBatch
from upge.reference import ConstantOne, CurrentPolicy, Reference, RolloutPolicy, SequenceRatio

REFERENCES = [CurrentPolicy(), RolloutPolicy(), ConstantOne(), SequenceRatio()]


def one_rollout() -> TrajectoryBatch:
    """Probabilities 1/2, 1/4, 1/8 now and 1/4, 1/4, 1/4 when sampled; the third is masked."""
    new, old = [math.log(1 / 2), math.log(1 / 4), math.log(1 / 8)], [math.log(1 / 4)] * 3
    b = make_batch([1.0], mask=[[1, 1, 0]], old_logp=[old])
    return b.at(torch.tensor([new], dtype=torch.float64))


@pytest.mark.parametrize(
    ("reference", "ratios"),
    [
        (CurrentPolicy(), [1, 1]),
        (RolloutPolicy(), [2, 1]),  # (1/2)/(1/4) and (1/4)/(1/4)
        (ConstantOne(), [1 / 2, 1 / 4]),
        # s = (π_θ(τ)/π_θold(τ))^(1/2) = ((1/8)/(1/16))^(1/2) = √2 at both tokens
        (SequenceRatio(), [math.sqrt(2), math.sqrt(2)]),
    ],
    ids=lambda x: x.label if isinstance(x, Reference) else "",
)
def test_ratio_to_the_reference_by_hand(reference: Reference, ratios: list[float]) -> None:
    b = one_rollout()
    ratio = (b.require("logp", "a test") - reference(b)).exp()
    close(ratio[0, :2], torch.tensor(ratios, dtype=torch.float64))


@given(cases(spread=2.0))
def test_sequence_ratio_is_the_geometric_mean(case: Case) -> None:
    b = case.batch.at(case.logp)
    online = b.tokens_of("online")
    log_s = case.logp - SequenceRatio()(b)
    for i in range(len(b.reward)):
        tokens = [t for t in range(b.mask.shape[1]) if online[i, t]]
        log_ratios = [
            float(case.logp[i, t] - b.require("old_logp", "a test")[i, t]) for t in tokens
        ]
        for t in tokens:
            close(log_s[i, t], sum(log_ratios) / len(log_ratios))


@given(cases(on_policy=True))
def test_on_policy_all_but_one_are_the_current_policy(case: Case) -> None:
    b = case.batch.at(case.logp)
    online = b.tokens_of("online")
    for reference in (CurrentPolicy(), RolloutPolicy(), SequenceRatio()):
        close(reference(b)[online], case.logp[online])


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r.label)
def test_a_reference_is_finite_whatever_the_ratio(reference: Reference) -> None:
    for new, old in ((0.0, -1e4), (-1e4, 0.0), (-1e4, -1e4)):
        b = make_batch([1.0], width=2, old_logp=[[old, -1.0]])
        b = b.at(torch.tensor([[new, -1.0]], dtype=torch.float64))
        assert torch.isfinite(reference(b)).all()
        if isinstance(reference, SequenceRatio):
            log_s = b.require("logp", "a test") - reference(b)
            assert (log_s.abs() <= MAX_LOG_RATIO).all()


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r.label)
def test_needs_say_what_is_read(reference: Reference) -> None:
    b = one_rollout()
    needed = {name: getattr(b, name) for name in reference.needs}
    reference(TrajectoryBatch(b.mask, b.reward, b.group, b.offline, **needed))


@pytest.mark.parametrize(
    ("reference", "missing"),
    [
        (CurrentPolicy(), "logp"),
        (ConstantOne(), "logp"),
        (RolloutPolicy(), "old_logp"),
        (SequenceRatio(), "logp"),
        (SequenceRatio(), "old_logp"),
    ],
)
def test_what_is_missing_is_named(reference: Reference, missing: str) -> None:
    with pytest.raises(UpgeError, match=f"needs {missing}, which the batch lacks; pass the "):
        reference(replace(one_rollout(), **{missing: None}))
