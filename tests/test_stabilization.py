"""Component 1: each stabilizer by hand, and as the derivative of the surrogate it comes from."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, cases, close, make_batch
from torch import Tensor

from upge import UpgeError
from upge.advantage import GroupZScore
from upge.reference import SequenceRatio
from upge.stabilization import (
    CISMask,
    Clip,
    DualClip,
    GeometricClip,
    NoMask,
    RatioCap,
    SigmoidGate,
    Stabilization,
    WeightClip,
)

MASKS = [
    NoMask(),
    Clip(0.2, 0.2),
    Clip(0.1, 0.1, "sequence"),
    DualClip(0.2, 0.2, dual=3.0),
    CISMask(0.2, 0.2),
    WeightClip(0.5, 1.5),
    RatioCap(Clip(0.2, 0.2), 1.1),
    SigmoidGate(1.0, 1.05),
    GeometricClip(0.4, 0.4),
]


def stabilizer(mask: Stabilization, ratios: list[float], advantages: list[float]) -> list[float]:
    """Of one rollout with these token ratios and advantages."""
    old = torch.full((1, len(ratios)), -3.0, dtype=torch.float64)
    b = make_batch([1.0], width=len(ratios), old_logp=old)
    b = b.at(old + torch.tensor([ratios], dtype=torch.float64).log())
    advantage = torch.tensor([advantages], dtype=torch.float64)
    return mask(b, advantage).expand(1, len(ratios)).squeeze(0).tolist()


@pytest.mark.parametrize(
    ("mask", "ratios", "advantages", "expected"),
    [
        (NoMask(), [0.1, 9.0], [1, -1], [1, 1]),
        # Harmful is: too likely already and Â > 0, too unlikely already and Â < 0.
        (Clip(0.2, 0.3), [1.29, 1.31, 1.31], [1, 1, -1], [1, 0, 1]),
        (Clip(0.2, 0.3), [0.79, 0.79, 0.81], [-1, 1, -1], [0, 1, 1]),
        (Clip(0.2, 0.2), [1.5, 0.5], [0, 0], [1, 1]),
        # The geometric mean of 4 and 1/2 is √2 = 1.41…: one verdict for both tokens.
        (Clip(0.4, 0.4, "sequence"), [4.0, 0.5], [1, 1], [0, 0]),
        (Clip(0.5, 0.5, "sequence"), [4.0, 0.5], [1, 1], [1, 1]),
        (DualClip(0.2, 0.2, dual=3.0), [2.9, 3.1, 3.1, 0.5], [-1, -1, 1, -1], [1, 0, 0, 0]),
        (CISMask(0.2, 0.3), [1.31, 1.31, 0.79, 0.79], [1, -1, -1, 1], [0, 1, 0, 1]),
        # clip(r)/r: 1.5/3, 1, 0.5/0.25.
        (WeightClip(0.5, 1.5), [3.0, 1.0, 0.25], [1, -1, 1], [0.5, 1, 2]),
        # min(r, 1.1)/r where the clip keeps the token: 1.1/1.25 and 1, 0 beyond its 1.3.
        (RatioCap(Clip(0.2, 0.3), 1.1), [1.25, 0.9, 1.5], [1, 1, 1], [0.88, 1, 0]),
        # p = σ(ln 3 · (2 − 1)) = 3/4, 4 · 3/4 · 1/4 = 3/4; at ratio 1 it is 4 · 1/2 · 1/2 = 1.
        (SigmoidGate(1.0986122886681098, 50.0), [2.0, 1.0, 2.0], [1, 1, -1], [0.75, 1, 0]),
        # log-ratios ln 4 and 0 clipped to ln 2 for Â > 0: token 0 is masked, and the geometric mean
        # changes by (2/4)^(1/2) = √½ at the other; for Â < 0 nothing is clipped above.
        (GeometricClip(0.6931471805599453, 0.6931471805599453), [4.0, 1.0], [1, 1], [0, 0.5**0.5]),
        (GeometricClip(0.6931471805599453, 0.6931471805599453), [4.0, 1.0], [-1, -1], [1, 1]),
        (GeometricClip(0.6931471805599453, 0.6931471805599453), [0.25, 1.0], [-1, -1], [0, 2**0.5]),
    ],
)  # fmt: skip
def test_by_hand(
    mask: Stabilization, ratios: list[float], advantages: list[float], expected: list[float]
) -> None:
    assert stabilizer(mask, ratios, advantages) == pytest.approx(expected, abs=1e-9)


def minimum(ratio: Tensor, a: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * a, ratio.clamp(1 - low, 1 + high) * a)


def dual(ratio: Tensor, a: Tensor) -> Tensor:
    surrogate = minimum(ratio, a, 0.2, 0.2)
    return torch.where(a < 0, torch.maximum(surrogate, 3.0 * a), surrogate)


def sapo(ratio: Tensor, a: Tensor) -> Tensor:
    tau = 1.0 if a > 0 else 1.05
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * a


SURROGATES: list[tuple[Stabilization, Callable[[Tensor, Tensor], Tensor]]] = [
    (NoMask(), lambda ratio, a: ratio * a),
    (Clip(0.2, 0.3), lambda ratio, a: minimum(ratio, a, 0.2, 0.3)),
    (DualClip(0.2, 0.2, dual=3.0), dual),
    (SigmoidGate(1.0, 1.05), sapo),
]
KINKS = (0.8, 1.2, 1.3, 3.0)
RATIOS = st.floats(0.05, 6.0).filter(lambda r: all(abs(r - kink) > 1e-6 for kink in KINKS))


@pytest.mark.parametrize(("mask", "surrogate"), SURROGATES, ids=lambda x: getattr(x, "label", ""))
@given(ratio=RATIOS, a=st.floats(0.1, 3.0), sign=st.sampled_from([-1, 1]))
def test_it_is_the_derivative_of_the_published_surrogate(
    mask: Stabilization,
    surrogate: Callable[[Tensor, Tensor], Tensor],
    ratio: float,
    a: float,
    sign: int,
) -> None:
    """Appendix B.3: d surrogate/d ratio = 1_stable · Â."""
    r = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor(sign * a, dtype=torch.float64)
    (slope,) = torch.autograd.grad(surrogate(r, advantage), r)
    assert stabilizer(mask, [ratio], [sign * a])[0] * sign * a == pytest.approx(slope.item())


@given(case=cases(spread=1.0), advantage=st.floats(0.1, 3.0), sign=st.sampled_from([-1, 1]))
def test_geometric_clip_is_the_derivative_of_the_geometric_mean(
    case: Case, advantage: float, sign: int
) -> None:
    """GMPO's −Â ∏_t min-clip(r_t)^{1/|τ|}, differentiated trajectory by trajectory."""
    mask, b = GeometricClip(0.4, 0.3), case.batch.at(case.logp)
    a = torch.full_like(case.logp, sign * advantage)
    ratio = (case.logp - SequenceRatio()(b)).exp()
    ours = mask(b, a) * ratio * a / b.tokens_of("online").sum(1, keepdim=True)
    for i, tokens in enumerate(b.tokens_of("online")):
        if tokens.any():
            logp = case.logp[i, tokens].clone().requires_grad_()
            r = logp - b.require("old_logp", "a test")[i, tokens]
            r = r.clamp(max=0.3) if sign > 0 else r.clamp(min=-0.4)
            (sign * advantage * r.mean().exp()).backward()
            assert logp.grad is not None
            close(ours[i, tokens], logp.grad)


@given(case=cases(spread=1.0))
def test_ranges(case: Case) -> None:
    b = case.batch.at(case.logp)
    online = b.tokens_of("online")
    advantage = GroupZScore()(b).expand_as(case.logp)
    for mask in MASKS:
        value = mask(b, advantage).expand_as(case.logp)[online]
        assert not value.requires_grad and (value >= 0).all()
        if mask.binary:
            assert ((value == 0) | (value == 1)).all()
    ratio = b.token_log_ratio("a test").exp()
    weight = (ratio * WeightClip(0.5, 1.5)(b, advantage))[online]
    assert (weight >= 0.5 - 1e-9).all() and (weight <= 1.5 + 1e-9).all()
    assert (SigmoidGate(1.0, 1.05)(b, advantage)[online] <= 1).all()


@given(case=cases(on_policy=True))
def test_on_policy_nothing_is_changed(case: Case) -> None:
    b = case.batch.at(case.logp)
    for mask in MASKS:
        value = mask(b, GroupZScore()(b).expand_as(case.logp)).expand_as(case.logp)
        close(value[b.tokens_of("online")], 1.0)


@given(case=cases(spread=1.0), low=st.floats(0, 1), high=st.floats(0, 1))
def test_relations(case: Case, low: float, high: float) -> None:
    b = case.batch.at(case.logp)
    online = b.tokens_of("online")
    advantage = GroupZScore()(b).expand_as(case.logp)
    clip = Clip(low, high)(b, advantage)
    largest = b.token_log_ratio("a test").exp().max().item()
    assert torch.equal(DualClip(low, high, dual=max(largest, 1 + high))(b, advantage), clip)
    assert torch.equal(CISMask(low, high)(b, advantage), clip)
    close(WeightClip(0.0, torch.inf)(b, advantage)[online], 1.0)
    assert torch.equal(Clip(1.0, torch.inf)(b, advantage), torch.ones_like(clip))
    assert (Clip(low / 2, high / 2)(b, advantage) <= clip).all(), "a tighter clip masks more"


def test_only_what_is_a_mask_calls_itself_one() -> None:
    soft = {type(mask) for mask in MASKS if not mask.binary}
    assert soft == {WeightClip, RatioCap, SigmoidGate, GeometricClip}


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Clip(-0.1, 0.2), "Clip.low: got -0.1"),
        (lambda: Clip(0.1, -0.2), "Clip.high: got -0.2"),
        (lambda: Clip(float("nan"), 0.2), "Clip.low: got nan"),
        (lambda: Clip(0.2, 0.2, "word"), "unknown Clip.level 'word'"),  # type: ignore[arg-type]
        (lambda: DualClip(0.2, 0.2, dual=1.1), "DualClip.dual: got 1.1"),
        (lambda: replace(DualClip(0.2, 0.2), low=-1), "DualClip.low: got -1"),
        (lambda: CISMask(-0.1, 0.2), "CISMask.low: got -0.1"),
        (lambda: WeightClip(-1.0, 2.0), "WeightClip.low: got -1.0"),
        (lambda: WeightClip(2.0, 1.0), "WeightClip.high: got 1.0"),
        (lambda: RatioCap(NoMask(), 0.0), "RatioCap.cap: got 0.0"),
        (lambda: SigmoidGate(0.0, 1.0), "SigmoidGate.tau_pos: got 0.0"),
        (lambda: SigmoidGate(1.0, -1.0), "SigmoidGate.tau_neg: got -1.0"),
        (lambda: GeometricClip(-0.4, 0.4), "GeometricClip.low: got -0.4"),
        (lambda: GeometricClip(0.4, -0.4), "GeometricClip.high: got -0.4"),
    ],
)
def test_a_bad_option_is_named(build: Callable[[], Stabilization], name: str) -> None:
    with pytest.raises(UpgeError, match=r"wanted|known:") as error:
        build()
    assert str(error.value).startswith(name)
