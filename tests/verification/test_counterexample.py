"""The smallest batch on which a row is not the published gradient."""

import math
import re

import pytest

from upge import REGISTRY, get
from upge.verification.counterexample import smallest_counterexample
from upge.verification.verify import as_printed

SENTENCE = re.compile(
    r"(?P<batch>.+): the published loss weighs token (?P<token>\d+) of trajectory (?P<row>\d+) "
    r"by (?P<published>\S+), the row by (?P<ours>\S+)"
)
TRAJECTORY = re.compile(r"a (rollout|demonstration) of reward ([01]) with π_θ/π_θold = (.+)")

Found = tuple[list[tuple[str, int, list[float]]], int, int, float, float]


def read(sentence: str | None) -> Found:
    """The trajectories, and which token of which has what weights."""
    assert sentence is not None
    match = SENTENCE.fullmatch(sentence)
    assert match, sentence
    trajectories = []
    for text in match["batch"].split("; "):
        parts = TRAJECTORY.fullmatch(text)
        assert parts, text
        ratios = [float(ratio) for ratio in parts[3].split(", ")]
        trajectories.append((parts[1], int(parts[2]), ratios))
    places = int(match["token"]), int(match["row"])
    return trajectories, *places, float(match["published"]), float(match["ours"])


def test_cispo_as_printed() -> None:
    entry = REGISTRY["cispo"]
    found = smallest_counterexample(entry, as_printed(entry))
    trajectories, token, row, published, ours = read(found)
    # Two rollouts of one token, as fewer have no advantage; ratio 6 is the first whole one above 5.
    assert sorted(t[:2] for t in trajectories) == [("rollout", 0), ("rollout", 1)]
    assert sorted(t[2] for t in trajectories) == [[1.0], [6.0]]
    assert token == 1 and trajectories[row - 1][2] == [6.0]
    # Â = ±1/√2 over two tokens, times the clipped ratio in the loss and all of it in the row.
    sign = 1 if trajectories[row - 1][1] else -1
    assert published == pytest.approx(sign * 5 / math.sqrt(8), rel=1e-3)
    assert ours == pytest.approx(sign * 6 / math.sqrt(8), rel=1e-3)


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", ["cispo", "gspo", "srft_offline"])
def test_a_row_that_is_right_has_none(name: str) -> None:
    assert smallest_counterexample(REGISTRY[name], get(name)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        # One demonstration of one token, π = 1/16: SFT weighs it by 1, DFT by π.
        ("sft", "dft", (["demonstration"], 1, 1 / 16)),
        # Two rollouts with rewards 0 and 1: Â = ±1/√2 with std, ±1/2 without, over two tokens.
        ("dapo", "hpt_global_token", None),
    ],
)
def test_a_row_that_is_wrong(
    name: str, row: str, expected: tuple[list[str], float, float] | None
) -> None:
    trajectories, token, number, published, ours = read(
        smallest_counterexample(REGISTRY[name], get(row))
    )
    assert token == 1 and all(len(ratios) == 1 for _, _, ratios in trajectories)
    assert 1 <= number <= len(trajectories), "the number is that of a trajectory in the sentence"
    if expected:
        kinds, theirs, own = expected
        assert [kind for kind, _, _ in trajectories] == kinds
        assert (published, ours) == pytest.approx((theirs, own), rel=1e-3)
    assert published != ours


@pytest.mark.slow
def test_the_search_is_repeatable() -> None:
    first, again = (smallest_counterexample(REGISTRY["sft"], get("dft")) for _ in range(2))
    assert first is not None and first == again


@pytest.mark.slow
def test_another_clip_is_found() -> None:
    """Ratios between 1/2 and 2, where clips of 0.2 and 0.4 differ, are among the batches tried."""
    assert smallest_counterexample(REGISTRY["grpo"], get("grpo", clip=0.4)) is not None
