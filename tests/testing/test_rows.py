"""The published losses, which share no code with the estimator, are recognized as their rows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from upge.algorithms import REGISTRY
from upge.testing import assert_implements, check
from upge.testing.call import Subject
from upge.testing.identify import verify
from upge.testing.reader import Composed, Reader
from upge.testing.target import target
from upge.verification.numeric import TorchOps
from upge.verification.published import LOSSES, Sample

#: Rows of rollouts alone that read no critic; the mixed ones have gates and weights of the batch.
NAMES = sorted(
    name
    for name, entry in REGISTRY.items()
    if all(t.samples == "online" for t in entry().terms) and "values" not in entry().needs
)
MIXED = sorted(
    name
    for name, entry in REGISTRY.items()
    if any(t.samples != "online" for t in entry().terms) and "entropy" not in entry().needs
)


def published(name: str, **options: float) -> Callable[..., Tensor]:
    """A published loss, which reads samples, as a function of a padded batch."""

    def loss(
        logps: Tensor,
        old_logps: Tensor,
        rewards: Tensor,
        group: Tensor,
        is_demo: Tensor,
        mask: Tensor,
        max_length: int,
    ) -> Tensor:
        samples = []
        for i in range(len(mask)):
            tokens = mask[i].nonzero().flatten().tolist()
            if tokens:
                samples.append(
                    Sample(
                        [logps[i, t] for t in tokens],
                        [old_logps[i, t] for t in tokens],
                        float(rewards[i]),
                        int(group[i]),
                        bool(is_demo[i].any()),
                    )
                )
        reads = inspect.signature(LOSSES[name]).parameters
        defaults = {n: o.default for n, o in REGISTRY[name].options.items()}
        given = {n: v for n, v in (defaults | options).items() if n in reads}
        if "max_length" in reads:
            given["max_length"] = max_length
        return LOSSES[name](samples, TorchOps(), **given) + 0 * logps.sum()

    return loss


@pytest.mark.parametrize("name", NAMES)
def test_a_published_loss_is_its_row(name: str) -> None:
    report = assert_implements(published(name), name)
    assert report.claim is not None and report.claim.error <= 1e-9


@pytest.mark.parametrize("name", MIXED)
def test_a_published_mixture_is_its_row(name: str) -> None:
    report = assert_implements(published(name), name)
    assert report.claim is not None and report.claim.error <= 1e-9


def test_options_are_read_off() -> None:
    report = check(published("dapo", clip_low=0.11, clip_high=0.37), laws=(), seeds=2)
    assert report.match is not None
    assert report.match.name == "dapo"
    assert report.match.options == {"clip_low": 0.11, "clip_high": 0.37}


def test_another_row_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"it is dapo: FAILS[\s\S]*normalizer"):
        assert_implements(published("grpo"), "dapo")


def test_a_factor_is_no_difference() -> None:
    grpo = published("grpo")

    def scaled(
        logps: Tensor,
        old_logps: Tensor,
        rewards: Tensor,
        group: Tensor,
        is_demo: Tensor,
        mask: Tensor,
        max_length: int,
    ) -> Tensor:
        return 3.5 * grpo(logps, old_logps, rewards, group, is_demo, mask, max_length)

    report = assert_implements(scaled, "grpo")
    assert report.claim is not None and report.claim.factor == pytest.approx(3.5, rel=1e-9)


def test_a_combination_that_is_no_row_comes_as_code_that_runs() -> None:
    def own(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        ratio = (logps - old_logps).exp()
        kept = (ratio.detach() - 1).abs() < 0.5
        terms = torch.where(mask.bool() & kept, -advantages * ratio, 0.0)
        return terms.sum() / mask.sum().clamp(min=1)

    report = check(own, laws=())
    assert report.match is None
    names: dict[str, object] = {}
    exec(report.compose, names)
    reader = Reader(Subject(target(own)), seeds=3)
    composed = Composed(names["estimator"], handed=True, has_length=False)  # type: ignore[arg-type]
    assert verify(reader, composed).error <= 1e-9


def clipped(low: float, high: float, cap: float = math.inf) -> Callable[..., Tensor]:
    """PPO's clip to [low, high] of a ratio that ends at ``cap``, as a token mean."""

    def loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        ratio = (logps - old_logps).exp().clamp(max=cap)
        terms = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        return -torch.where(mask.bool(), terms, 0.0).sum() / mask.sum().clamp(min=1)

    return loss


@pytest.mark.parametrize(("low", "high"), [(20, 21), (20, 22), (5, 20), (17, 20), (20, 30)])
def test_bounds_are_read_to_the_digit(low: int, high: int) -> None:
    """A claim that is off by a hundredth fails, whatever ratios the random batches hold."""
    bounds = {"clip_low": low / 100, "clip_high": high / 100}
    loss = clipped(1 - low / 100, 1 + high / 100)
    report = check(loss, claim="dapo", options=bounds, laws=())
    assert report.claim is not None and report.claim.holds
    read = report.readings[0].text
    assert f"r > {1 + high / 100:.10g}," in read and f"r < {1 - low / 100:.10g}" in read
    for name, value in bounds.items():
        wrong = bounds | {name: value + 0.01}
        report = check(loss, claim="dapo", options=wrong, laws=())
        assert report.claim is not None and not report.claim.holds, wrong


@pytest.mark.parametrize("cap", [20.0, 50.0])
def test_a_cap_far_away_is_found(cap: float) -> None:
    report = check(clipped(0.8, 1.28, cap), claim="dapo", laws=())
    assert f"above {cap:g}" in report.readings[0].text
    assert report.claim is not None and not report.claim.holds


def test_an_advantage_that_is_unknown_is_told_from_its_normalizer() -> None:
    def own(
        logps: Tensor, old_logps: Tensor, rewards: Tensor, group: Tensor, mask: Tensor
    ) -> Tensor:
        a = torch.zeros_like(rewards)
        for question in group.unique():
            rows = group == question
            a[rows] = rewards[rows] - rewards[rows].median()
        terms = -(logps - old_logps).exp() * a[:, None]
        return torch.where(mask.bool(), terms, 0.0).sum() / mask.sum().clamp(min=1)

    report = check(own, claim="grpo", laws=())
    found = {reading.component: reading for reading in report.readings}
    assert found["advantage"].undecided and found["normalizer"].text.startswith("tokens: a mean")
    assert report.claim is not None and "advantage" in report.claim.faults
