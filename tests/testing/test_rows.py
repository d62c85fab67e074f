"""The published losses, which share no code with the estimator, are recognized as their rows."""

from __future__ import annotations

import inspect
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


@pytest.mark.parametrize("high", [0.3, 0.31, 0.4])
def test_a_bound_that_no_random_ratio_tells_apart(high: float) -> None:
    def own(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        ratio = (logps - old_logps).exp()
        terms = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages)
        return -torch.where(mask.bool(), terms, 0.0).sum() / mask.sum().clamp(min=1)

    report = check(own, claim="dapo", options={"clip_high": high}, laws=())
    assert report.claim is not None and report.claim.holds == (high == 0.3)
