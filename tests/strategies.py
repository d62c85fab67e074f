"""Batches to test on: hypothesis draws their size, a generator it seeds all that is in them.

Whatever no component may read is garbage (NaN and ±inf) in every batch drawn here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from upge import Estimate, Estimator, TrajectoryBatch

GARBAGE = torch.tensor([torch.nan, torch.inf, -torch.inf, 7.0], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A batch with the current policy's log-probabilities and entropies."""

    batch: TrajectoryBatch
    logp: Tensor
    entropy: Tensor

    def with_batch(self, **changes: Any) -> Case:
        return replace(self, batch=replace(self.batch, **changes))

    def select(self, rows: Tensor) -> Case:
        return Case(self.batch.select(rows), self.logp[rows], self.entropy[rows])


def make_batch(
    reward: list[float],
    *,
    group: list[int] | None = None,
    demos: list[int] | None = None,
    mask: list[list[int]] | None = None,
    width: int = 1,
    **fields: Any,
) -> TrajectoryBatch:
    """A float64 batch from lists, for literals: rollouts of one question, unless said otherwise."""
    rows = len(reward)
    fields = {
        name: torch.tensor(x, dtype=torch.float64) if isinstance(x, list) else x
        for name, x in fields.items()
    }
    return TrajectoryBatch(
        mask=torch.ones(rows, width, dtype=torch.bool) if mask is None else torch.tensor(mask),
        reward=torch.tensor(reward, dtype=torch.float64),
        group=torch.tensor([0] * rows if group is None else group),
        offline=torch.tensor([0] * rows if demos is None else demos).bool(),
        **fields,
    )


def noise(shape: tuple[int, ...], where: Tensor, numbers: Tensor, gen: torch.Generator) -> Tensor:
    """``numbers`` where read, garbage elsewhere."""
    garbage = GARBAGE[torch.randint(len(GARBAGE), shape, generator=gen)].to(numbers.dtype)
    return torch.where(where, numbers, garbage)


def fill(
    mask: Tensor,
    reward: Tensor,
    group: Tensor,
    offline: Tensor,
    seed: int,
    *,
    on_policy: bool = False,
    spread: float = 0.4,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """The case of a structure: log π_θ about −1.5 and log π_θold within ``spread`` of it."""
    gen = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(mask.shape, generator=gen, dtype=torch.float64)

    logp = -normal().abs() - 0.05
    old_logp = logp if on_policy else (logp + spread * normal()).clamp(max=0)
    online = mask & ~offline

    def field(where: Tensor, numbers: Tensor) -> Tensor:
        return noise(tuple(mask.shape), where, numbers, gen).to(dtype)

    batch = TrajectoryBatch(
        mask=mask,
        reward=noise(tuple(reward.shape), mask.any(1), reward, gen).to(dtype),
        group=group,
        offline=offline,
        old_logp=field(online, old_logp),
        values=field(online, normal()),
        max_length=max(mask.shape[1], 1) + 2,
    )
    batch = replace(
        batch,
        sampler_logp=field(online, (old_logp + spread / 4 * normal()).clamp(max=0)),
        ref_logp=field(mask, (logp + spread * normal()).clamp(max=0)),
        teacher_logp=field(mask, (logp + spread * normal()).clamp(max=0)),
        demo_logp=field(
            mask & offline, logp if on_policy else (logp + spread * normal()).clamp(max=0)
        ),
    )
    return Case(batch, field(mask, logp), field(mask, normal().abs()))


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    rewards: tuple[float, ...] = (0.0, 1.0),
    on_policy: bool = False,
    every_question_has_both: bool = False,
    pure_rows: bool = False,
    min_questions: int = 1,
    spread: float = 0.4,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """A batch with at least one rollout and one demonstration, gaps, padding and mixed rows.

    Args:
        rewards: what rewards are taken from.
        on_policy: whether π_θold is π_θ.
        every_question_has_both: whether each question has rollouts and demonstrations.
        pure_rows: leave out rows whose first tokens only are a demonstration's, and padding.
        min_questions: how many questions at least.
        spread: how far log π_θold is from log π_θ.
        dtype: of the numbers.
    """
    width = draw(st.integers(1, 4))
    questions = draw(st.integers(min_questions, 3))
    extra = draw(st.integers(questions, 4 * questions))
    seed = draw(st.integers(0, 2**31))
    random = Random(seed)
    kinds = ["rollout", "demo"] if pure_rows else ["rollout", "rollout", "demo", "mixed", "padding"]
    rows = [("rollout", 0), ("demo", random.randrange(questions))]
    if every_question_has_both:
        rows += [(kind, q) for q in range(questions) for kind in ("rollout", "demo")]
    rows += [(random.choice(kinds), random.randrange(questions)) for _ in range(extra)]
    random.shuffle(rows)
    mask = [[random.random() < 0.7 for _ in range(width)] for _ in rows]
    for own, (kind, _) in zip(mask, rows, strict=True):
        own[random.randrange(width)] = True
        own[:] = [kind != "padding" and here for here in own]
    cuts = [{"rollout": 0, "demo": width}.get(kind, width // 2) for kind, _ in rows]
    return fill(
        torch.tensor(mask),
        torch.tensor(random.choices(rewards, k=len(rows)), dtype=torch.float64),
        torch.tensor([q for _, q in rows]),
        torch.arange(width)[None] < torch.tensor(cuts)[:, None],
        seed,
        on_policy=on_policy,
        spread=spread,
        dtype=dtype,
    )


def estimate(estimator: Estimator, case: Case) -> Estimate:
    return estimator(case.batch, case.logp, case.entropy)


def weights(estimator: Estimator, case: Case) -> Tensor:
    return estimate(estimator, case).weights


def close(actual: Tensor, expected: Tensor | float) -> None:
    """Equal up to float64's rounding."""
    expected = torch.as_tensor(expected, dtype=actual.dtype).expand_as(actual)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def in_processes(count: int, work: Callable[[int, Callable[[Tensor], Tensor]], Any]) -> list[Any]:
    """``work(rank, all_sum)`` of ``count`` processes, as threads that wait for each other."""
    barrier = threading.Barrier(count, timeout=20)
    slots: list[Tensor | None] = [None] * count

    def run(rank: int) -> Any:
        def all_sum(x: Tensor) -> Tensor:
            slots[rank] = x
            barrier.wait()
            total = torch.stack([slot for slot in slots if slot is not None]).sum(0)
            barrier.wait()
            return total

        try:
            return work(rank, all_sum)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
