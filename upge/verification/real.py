"""The same check on a real language model: SmolLM2-135M on word problems, in float32.

The problems are GSM8K's, where they are at hand, and otherwise reasoning-gym's gsm_symbolic, which
needs no network. Rollouts are sampled from the model, demonstrations are the data's own solutions.
So small a model hardly ever names the answer, so rollouts earn partial credit: the share of the
solution's new numbers that they name. Then the weights move a small random step, so that π_θ is not
π_θold.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upge.algorithms import Algorithm
from upge.batch import TrajectoryBatch
from upge.common.errors import UpgeError
from upge.models.pretrained import SMOLLM2, load_pretrained
from upge.tasks.problem import Problem, data_folder, load_problems
from upge.tasks.reasoning_gym import load
from upge.verification.numeric import (
    Agreement,
    Case,
    agreement,
    estimator_gradient,
    published_gradient,
)

#: The shortest problems are tried until two fit; short rollouts, as every token costs time.
CANDIDATES, ROLLOUTS, LONGEST = 24, 3, 16

#: Problems of gsm_symbolic to take the shortest of.
_GENERATED = 1000

#: What reasoning-gym adds to each of its questions; a base model doesn't read it.
_INSTRUCTION = " Give the result as your final answer"

#: The step from π_θold to π_θ, relative to each weight tensor's standard deviation.
STEP = 0.02


@dataclass(frozen=True)
class _Trajectory:
    prompt: list[int]
    response: list[int]
    reward: float
    question: int
    offline: bool


def word_problems() -> list[Problem]:
    """GSM8K's training problems from the data folder; without one, those of gsm_symbolic.

    Raises:
        UpgeError: UPGE_DATA names a folder without GSM8K; reasoning-gym can't be imported.
    """
    local = data_folder() / "gsm8k_train.jsonl"
    if "UPGE_DATA" in os.environ or local.exists():
        return load_problems(local)
    generated = load("gsm_symbolic", {"size": _GENERATED}, "train")
    return [
        replace(graded.problem, prompt=graded.problem.prompt.split(_INSTRUCTION)[0])
        for graded in generated
    ]


def data_name() -> str:
    """What :func:`word_problems` are called in a table's footer."""
    local = data_folder() / "gsm8k_train.jsonl"
    return "GSM8K" if "UPGE_DATA" in os.environ or local.exists() else "gsm_symbolic"


def partial_credit(text: str, problem: Problem) -> float:
    """The share, in [0, 1], of the solution's numbers new to the problem that ``text`` names."""
    wanted = _numbers(problem.demonstration or "") - _numbers(problem.prompt)
    return len(wanted & _numbers(text)) / max(len(wanted), 1)


def _numbers(text: str) -> set[str]:
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    return {number.replace(",", "") for number in found}


def _sample(model: Any, tokenizer: Any, problem: Problem, question: int) -> list[_Trajectory]:
    prompt = tokenizer(f"Question: {problem.prompt}\nAnswer:").input_ids
    generated = model.generate(
        torch.tensor([prompt] * ROLLOUTS),
        attention_mask=torch.ones(ROLLOUTS, len(prompt), dtype=torch.long),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=LONGEST,
        pad_token_id=tokenizer.eos_token_id,
    )
    rollouts = []
    for row in generated[:, len(prompt) :].tolist():
        end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
        text = tokenizer.decode(
            row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        reward = partial_credit(text, problem)
        rollouts.append(_Trajectory(prompt, row[:end], reward, question, False))
    return rollouts


def _demonstration(tokenizer: Any, problem: Problem, question: int) -> _Trajectory:
    prompt = tokenizer(f"Question: {problem.prompt}\nAnswer:").input_ids
    response = [*tokenizer(f" {problem.demonstration}").input_ids, tokenizer.eos_token_id]
    return _Trajectory(prompt, response, 1.0, question, True)


def _trajectories(model: Any, tokenizer: Any, problems: list[Problem]) -> list[_Trajectory]:
    """One question whose rollouts earn different rewards, and one whose rollouts all earn none.

    So centred advantages don't vanish, and HPT's gate takes both of its branches. Of the second
    question one rollout is kept, as every row costs time.
    """
    wanted: dict[str, list[_Trajectory]] = {}
    demonstrated = [p for p in problems if p.demonstration]
    shortest = sorted(demonstrated, key=lambda p: len(p.prompt) + len(p.demonstration or ""))
    for i, problem in enumerate(shortest[:CANDIDATES]):
        rollouts = _sample(model, tokenizer, problem, i)
        rewards = {t.reward for t in rollouts}
        kind = "different" if len(rewards) > 1 else "none" if rewards == {0.0} else "other"
        wanted.setdefault(kind, [*rollouts, _demonstration(tokenizer, problem, i)])
        if {"different", "none"} <= wanted.keys():
            return wanted["different"] + wanted["none"][-2:]
    raise UpgeError(
        f"no two of {CANDIDATES} problems fit: one with different rewards, one with none; "
        "try another seed or model"
    )


def _logp(model: Any, tokens: Tensor, attention: Tensor) -> Tensor:
    logits = model(tokens, attention_mask=attention.long()).logits[:, :-1]
    taken: Tensor = logits.log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    return taken


def _step_away(model: Any, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += STEP * parameter.std() * noise


def real_case(name: str = SMOLLM2, seed: int = 0) -> Case:
    """A batch of word problems with rollouts and solutions, on a pretrained model.

    The critic's values that PPO reads are drawn at random, as the model has no critic.

    Raises:
        UpgeError: the model or the data are not there.
    """
    problems = word_problems()
    model, tokenizer = load_pretrained(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trajectories = _trajectories(model, tokenizer, problems)
    generator = torch.Generator().manual_seed(seed)
    length = max(len(t.prompt) + len(t.response) for t in trajectories)
    tokens = torch.full((len(trajectories), length), tokenizer.eos_token_id)
    attention = torch.zeros_like(tokens, dtype=torch.bool)
    mask = torch.zeros_like(attention)
    for i, t in enumerate(trajectories):
        end = len(t.prompt) + len(t.response)
        tokens[i, :end] = torch.tensor([*t.prompt, *t.response])
        attention[i, :end] = True
        mask[i, len(t.prompt) : end] = True
    with torch.no_grad():
        old_logp = _logp(model, tokens, attention)
    _step_away(model, generator)
    batch = TrajectoryBatch(
        mask=mask[:, 1:],
        reward=torch.tensor([t.reward for t in trajectories]),
        group=torch.tensor([t.question for t in trajectories]),
        offline=torch.tensor([t.offline for t in trajectories]),
        old_logp=old_logp,
        values=torch.rand(old_logp.shape, generator=generator),
    )
    hidden = model.base_model(tokens, attention_mask=attention.long()).last_hidden_state[:, :-1]
    parameters = tuple(model.parameters())
    return Case(batch, hidden, model.get_output_embeddings().weight, tokens[:, 1:], parameters)


def verify_real(algorithm: Algorithm, case: Case) -> Agreement:
    """Estimator against published loss over all parameters of the pretrained model."""
    return agreement(estimator_gradient(algorithm(), case), published_gradient(algorithm, case))
