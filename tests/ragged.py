"""Ragged batches and a small float64 policy to take gradients of."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from upge.algorithms import REGISTRY
from upge.batch import TrajectoryBatch
from upge.models.policy import Policy

#: Those that the loop trains: a critic it has none of.
TRAINED = sorted(name for name, entry in REGISTRY.items() if "values" not in entry().needs)


VOCABULARY, WIDTH = 11, 10


class Accelerator:
    """What the accumulator asks of Accelerate, for one process."""

    num_processes = 1
    distributed_type = "NO"

    def backward(self, loss):
        loss.backward()

    def no_sync(self, policy):
        return nullcontext()


@cache
def policy():
    """GPT-2's architecture: unlike newer ones it is float64 throughout, norms too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": WIDTH}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the uniform distribution
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    return Policy(model, temperature=0.9)


def ragged(seed=0, questions=4, rollouts=4):
    """Rollouts and a demonstration for all questions but the last, of ragged lengths; float64.

    Question 0 has no success, question 1 only successes, the others both.
    """
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    rows = []
    for question in range(questions):
        prompt = integers(1, 4)
        for i in range(rollouts):
            reward = {0: 0.0, 1: 1.0}.get(question, float(i % 2))
            rows.append((question, prompt, integers(1, WIDTH - prompt), reward, False))
    for question in range(questions - 1):
        rows.append((question, integers(1, 4), integers(1, WIDTH - 4), 1.0, True))
    mask = torch.zeros(len(rows), WIDTH, dtype=torch.bool)
    attention = torch.zeros_like(mask)
    for i, (_, prompt, length, _, _) in enumerate(rows):
        mask[i, prompt : prompt + length] = True
        attention[i, : prompt + length] = True
    tokens = torch.randint(0, VOCABULARY, mask.shape, generator=generator) * attention
    noise = torch.randn(mask.shape, generator=generator, dtype=torch.float64) * 0.3
    with torch.no_grad():
        old_logp = (policy()(tokens, mask)[0] + noise).clamp(max=0)
    return TrajectoryBatch(
        mask=mask,
        reward=torch.tensor([row[3] for row in rows]),
        group=torch.tensor([row[0] for row in rows]),
        offline=torch.tensor([row[4] for row in rows]),
        old_logp=old_logp,
        tokens=tokens,
        attention=attention,
        max_length=WIDTH,
    )


def flat(module):
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in module.parameters()]
    )
