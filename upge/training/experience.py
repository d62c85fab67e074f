"""A step's experience: prompts → rollouts → rewards → one batch of trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.rollouts.sampler import Rollouts, Sampler, Sampling
from upge.tasks.encoding import check_vocabulary, encode, encode_response, tokens_left
from upge.tasks.problem import Problem
from upge.tasks.verifier import Verifier
from upge.training.config import RunConfig


@dataclass(frozen=True)
class Question:
    """A training problem as token ids.

    Args:
        problem: as text.
        prompt: token ids of the prompt.
        demonstration: token ids of the demonstration, end of sequence included; None without one.
        reward: the verifier's reward of the demonstration.
    """

    problem: Problem
    prompt: list[int]
    demonstration: list[int] | None
    reward: float


def encode_questions(
    problems: Sequence[Problem],
    tokenizer: Any,
    verifier: Verifier,
    *,
    max_tokens: int,
    drop_long: bool,
    demonstrations: bool = True,
) -> list[Question]:
    """The problems as token ids, with the verifier's rewards of their demonstrations.

    Args:
        problems: as text.
        tokenizer: the model's.
        verifier: grades the demonstrations.
        max_tokens: the longest response.
        drop_long: whether longer demonstrations are dropped, rather than an error.
        demonstrations: whether any are read; otherwise all are dropped, unchecked.

    Raises:
        UpgeError: no problems; a character that the tokenizer lacks; a demonstration longer than
            ``max_tokens``, whose answer would be cut off, unless these are dropped; no
            demonstration is right.
    """
    if not problems:
        raise UpgeError("train: there are no problems; name a file that has some")
    texts = [(demonstrations and problem.demonstration) or "" for problem in problems]
    rewards = verifier(texts, problems)
    questions = []
    for problem, text, reward in zip(problems, texts, rewards, strict=True):
        ids = encode_response(tokenizer, text) if text else None
        if ids is not None and len(ids) > max_tokens:
            if not drop_long:
                raise UpgeError(
                    f"a demonstration has {len(ids)} tokens, but max_tokens is {max_tokens}, which "
                    f"would cut off its answer ({problem.prompt[:40]!r}); raise max_tokens, or set "
                    "long_demonstrations: drop"
                )
            ids = None
        questions.append(Question(problem, encode(tokenizer, problem.prompt), ids, reward))
    shown = [question for question in questions if question.demonstration]
    if shown and max(question.reward for question in shown) <= 0:
        first = str(shown[0].problem.demonstration)
        raise UpgeError(
            f"no demonstration passes the verifier (the first ends in {first[-40:]!r}); have "
            "'demonstration' end in marker and answer"
        )
    return questions


def check_lengths(
    trained: Sequence[list[int]], tested: Sequence[list[int]], config: RunConfig, model: Any
) -> None:
    """Check that prompts and responses fit into a micro-batch, and into the model.

    Args:
        trained: prompts that are trained on.
        tested: prompts that are only sampled from.
        config: has the longest response and the tokens of a micro-batch.
        model: the model's configuration.

    Raises:
        UpgeError: the longest prompt and response don't; the tokenizer is another model's.
    """
    check_vocabulary([*trained, *tested], model)
    prompt = max(map(len, trained))
    if prompt + config.max_tokens > config.tokens_per_microbatch:
        raise UpgeError(
            f"tokens_per_microbatch: got {config.tokens_per_microbatch}, but the longest prompt "
            f"({prompt} tokens) and a response of max_tokens {config.max_tokens} need "
            f"{prompt + config.max_tokens}; raise it"
        )
    prompt = max(map(len, [*trained, *tested]))
    positions = getattr(model, "max_position_embeddings", None)
    if positions is not None and prompt + config.max_tokens > positions:
        raise UpgeError(
            f"max_tokens: got {config.max_tokens}, which with the longest prompt ({prompt} tokens) "
            f"exceeds the model's {positions} positions; wanted {tokens_left(positions - prompt)}"
        )


def question_order(count: int, size: int, step: int, seed: int) -> list[int]:
    """Indices of a step's ``size`` questions out of ``count``; each epoch is shuffled anew."""
    places = range(step * size, (step + 1) * size)
    orders: dict[int, list[int]] = {}
    for epoch in {place // count for place in places}:
        orders[epoch] = list(range(count))
        Random(f"{seed} {epoch}").shuffle(orders[epoch])
    return [orders[place // count][place % count] for place in places]


@dataclass(frozen=True)
class Experience:
    """What a step learns from.

    Args:
        batch: rollouts, grouped by question, then demonstrations.
        solved: slot and share of solved rollouts, P, of each of the process's questions.
        finished: (rollouts,) bool, whether a rollout ended before ``max_tokens``.
        prompt_tokens: tokens of the prompts that were sampled from.
        finite: whether every rollout's log-probability is finite.
    """

    batch: TrajectoryBatch
    solved: list[tuple[int, float]]
    finished: Tensor
    prompt_tokens: int
    finite: Tensor


def collect(
    questions: Sequence[Question],
    *,
    slots: Sequence[int],
    sampler: Sampler | None,
    demonstrations: bool,
    samples: int,
    settings: Sampling,
    seeds: Sequence[int],
    verifier: Verifier,
    tokenizer: Any,
    device: torch.device,
    success: float | None = None,
    mask_truncated: bool = False,
    all_sum: Callable[[Tensor], Tensor] | None = None,
) -> Experience:
    """Sample, grade and gather the trajectories of a step.

    Args:
        questions: the process's questions; one that comes twice counts as two.
        slots: their places among the questions of all processes.
        sampler: the rollout backend; None where no term reads rollouts.
        demonstrations: whether some term reads demonstrations.
        samples: rollouts per question.
        settings: sampling parameters.
        seeds: one per question.
        verifier: grades the rollouts.
        tokenizer: decodes the rollouts.
        device: of the batch.
        success: see :class:`upge.batch.TrajectoryBatch`.
        mask_truncated: whether rollouts that didn't end get no loss.
        all_sum: sums a tensor over processes, if there are several.
    """
    rows: list[_Row] = []
    finished = torch.zeros(0, dtype=torch.bool)
    if sampler is not None:
        rollouts = sampler([q.prompt for q in questions], samples, settings, seeds)
        rows += _rollout_rows(questions, slots, rollouts, samples, verifier, tokenizer)
        finished = rollouts.finished.cpu()
    sampled = len(rows)
    if demonstrations:
        rows += [
            _Row(q.prompt, q.demonstration, q.reward, slot, None)
            for slot, q in zip(slots, questions, strict=True)
            if q.demonstration is not None
        ]
    finite = all(bool(row.logp.isfinite().all()) for row in rows if row.logp is not None)
    batch = _gather(rows, device, max_length=settings.max_tokens, success=success, all_sum=all_sum)
    solved: list[tuple[int, float]] = []
    if sampled:
        shares = batch.solved[:sampled].float().view(len(questions), -1).mean(1).tolist()
        solved = list(zip(slots, shares, strict=True))
        batch = _without_truncated(batch, finished) if mask_truncated else batch
    encoded = sum(len(q.prompt) for q in questions) if sampler is not None else 0
    return Experience(batch, solved, finished, encoded, torch.tensor(finite))


@dataclass(frozen=True)
class _Row:
    prompt: list[int]
    response: list[int]
    reward: float
    slot: int
    logp: Tensor | None


def _rollout_rows(
    questions: Sequence[Question],
    slots: Sequence[int],
    rollouts: Rollouts,
    samples: int,
    verifier: Verifier,
    tokenizer: Any,
) -> list[_Row]:
    lengths = rollouts.mask.sum(1).tolist()
    tokens, logp = rollouts.tokens.tolist(), rollouts.logp.float().cpu()
    responses = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    asked = [question for question in questions for _ in range(samples)]
    rewards = verifier(rollouts.texts(tokenizer), [question.problem for question in asked])
    return [
        _Row(question.prompt, response, reward, slots[i // samples], logp[i, : len(response)])
        for i, (question, response, reward) in enumerate(
            zip(asked, responses, rewards, strict=True)
        )
    ]


def _without_truncated(batch: TrajectoryBatch, finished: Tensor) -> TrajectoryBatch:
    """The batch without loss on rollouts that didn't end, which remain members of their groups."""
    scored = torch.ones(len(batch.mask), dtype=torch.bool, device=batch.mask.device)
    scored[: len(finished)] = finished.to(scored.device)
    mask = batch.mask & scored[:, None]
    return replace(batch, mask=mask, member=torch.ones_like(scored))


def _gather(
    rows: list[_Row],
    device: torch.device,
    *,
    max_length: int,
    success: float | None,
    all_sum: Callable[[Tensor], Tensor] | None,
) -> TrajectoryBatch:
    width = max((len(row.prompt) + len(row.response) for row in rows), default=1)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    attention = torch.zeros_like(mask)
    old_logp = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.response)
        tokens[i, :end] = torch.tensor(row.prompt + row.response)
        attention[i, :end] = True
        mask[i, start:end] = True
        if row.logp is not None:
            old_logp[i, start:end] = row.logp.clamp(max=0).nan_to_num()
    shared = {} if all_sum is None else {"all_sum": all_sum}
    return TrajectoryBatch(
        mask=mask.to(device),
        reward=torch.tensor([row.reward for row in rows], dtype=torch.float64, device=device),
        group=torch.tensor([row.slot for row in rows], dtype=torch.long, device=device),
        offline=torch.tensor([row.logp is None for row in rows], dtype=torch.bool, device=device),
        old_logp=old_logp.to(device),
        tokens=tokens.to(device),
        attention=attention.to(device),
        max_length=max_length,
        success=success,
        **shared,  # type: ignore[arg-type]
    )
