"""From sampled responses to a batch: what truncation and the threshold of a success change."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import upge
from upge.common.optional import available

if not available("pydantic"):
    pytest.skip("pydantic is not installed", allow_module_level=True)

from upge.rollouts.sampler import Rollouts, Sampling
from upge.tasks.problem import Problem
from upge.training.experience import Experience, Question, collect

#: Of two questions' four responses each: reward, tokens, whether it ended by itself.
RESPONSES = (
    ((1.0, 2, True), (0.0, 3, False), (0.0, 1, True), (0.0, 3, False)),
    ((0.4, 2, True), (0.6, 2, True), (0.5, 3, False), (0.1, 1, True)),
)
ROWS = [row for rows in RESPONSES for row in rows]


class Written:
    """A sampler of written responses."""

    def __call__(self, prompts: Any, samples: int, settings: Any, seeds: Any) -> Rollouts:
        lengths = torch.tensor([size for _, size, _ in ROWS])
        mask = torch.arange(3) < lengths[:, None]
        finished = torch.tensor([end for *_, end in ROWS])
        return Rollouts(torch.ones(8, 3).long(), mask, -mask.float(), finished)

    def synchronize(self) -> None: ...


def graded(texts: Sequence[str], problems: Sequence[Problem]) -> list[float]:
    return [reward for reward, *_ in ROWS]


def experience(**options: Any) -> Experience:
    problem = Problem("1+1=", "2")
    return collect(
        [Question(problem, [1, 2], None, 0.0)] * 2,
        slots=[0, 1],
        sampler=Written(),
        demonstrations=False,
        samples=4,
        settings=Sampling(3),
        seeds=[0, 1],
        verifier=graded,
        tokenizer=SimpleNamespace(batch_decode=lambda ids, **_: [""] * len(ids)),
        device=torch.device("cpu"),
        **options,
    )


@pytest.mark.parametrize(
    ("success", "shares"),
    [(None, [0.25, 1.0]), (0.5, [0.25, 0.5]), (0.6, [0.25, 0.25]), (1.0, [0.25, 0.0])],
)
def test_the_threshold_decides_what_is_solved(success: float | None, shares: list[float]) -> None:
    found = experience(success=success)
    assert found.solved == [(0, shares[0]), (1, shares[1])]
    wanted = [r > 0 if success is None else r >= success for r, *_ in ROWS]
    assert found.batch.solved.tolist() == wanted


@pytest.mark.parametrize("masked", [False, True])
def test_truncated_responses_without_loss_stay_in_their_groups(masked: bool) -> None:
    found = experience(mask_truncated=masked)
    scored = found.batch.mask.any(1).tolist()
    assert scored == [end or not masked for *_, end in ROWS]
    assert found.solved == [(0, 0.25), (1, 1.0)]
    batch = found.batch.at(found.batch.old_logp, torch.zeros_like(found.batch.old_logp))
    advantage = upge.get("grpo").terms[0].advantage(batch)
    for question, rows in enumerate(RESPONSES):
        rewards = torch.tensor([r for r, *_ in rows], dtype=torch.float64)
        wanted = (rewards - rewards.mean()) / rewards.std()
        for i, (_, _, end) in enumerate(rows):
            if end or not masked:
                assert float(advantage[4 * question + i, 0]) == pytest.approx(
                    float(wanted[i]), rel=1e-5
                )
