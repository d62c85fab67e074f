"""The mixed loss as verl's engines call it: the package's base on its problems, on a CPU.

    python -m experiments.integrations.verl_example --algorithm hpt --steps 3

verl's engines need a GPU. What they do with a batch and a loss is a few lines, :func:`train_batch`;
everything else here is verl's own: the layout, the split into micro-batches, the metrics.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from verl.utils import tensordict_utils
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import append_to_dict
from verl.workers.utils.padding import left_right_2_no_padding

import upge
from upge.common.errors import UpgeError
from upge.integrations.verl_engine import engine_loss, mixed_batch
from upge.models.pretrained import load_pretrained
from upge.rollouts.cached import CachedSampler
from upge.rollouts.sampler import Sampling
from upge.tasks import dataset
from upge.tasks.problem import Problem

DATA = dataset.synthetic(problems=400, demonstrations=None, validation=1, test=1)
LONGEST, QUESTIONS, ROLLOUTS, MICRO_BATCH = 48, 8, 8, 6


def train_batch(
    model: Any, data: Any, loss_function: Callable[..., Any], micro_batch: int
) -> dict[str, Any]:
    """Accumulate a mini-batch's gradient as an engine of verl does, in one process."""
    data = left_right_2_no_padding(data)
    tokens = int(data["loss_mask"].sum())
    tensordict_utils.assign_non_tensor(data, batch_num_tokens=tokens, dp_size=1)
    metrics: dict[str, Any] = {}
    for part in tensordict_utils.chunk_tensordict(data, len(data) // micro_batch):
        outputs = {"log_probs": log_probs(model, part["input_ids"])}
        loss, seen = loss_function(model_output=outputs, data=part, dp_group=None)
        loss.backward()
        append_to_dict(metrics, seen)
    return reduce_metrics(metrics)


def log_probs(model: Any, input_ids: Any) -> Any:
    """Nested like ``input_ids``: log π of the token that follows each position."""
    rows = []
    for ids in input_ids.unbind():
        log_pi = model(ids[None]).logits[0].log_softmax(-1)
        rows.append(log_pi.gather(1, ids.roll(-1)[:, None])[:, 0])
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rollouts(model: Any, tokenizer: Any, problems: list[Problem], step: int) -> dict[str, Tensor]:
    """Sampled and graded responses in verl's layout."""
    sampler = CachedSampler(model, tokenizer.eos_token_id)
    prompts = [tokenizer.encode(p.prompt, add_special_tokens=False) for p in problems]
    seeds = [step * len(problems) + i for i in range(len(problems))]
    drawn = sampler(prompts, ROLLOUTS, Sampling(LONGEST), seeds)
    mask = wide(drawn.mask)
    tokens, logp = (wide(x) for x in (drawn.tokens, drawn.logp))
    left = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    repeated = {name: x.repeat_interleave(ROLLOUTS, 0) for name, x in left.items()}
    texts = tokenizer.batch_decode(torch.where(mask, tokens, 0), skip_special_tokens=True)
    reward = torch.tensor(DATA.verifier(texts, [p for p in problems for _ in range(ROLLOUTS)]))
    last = mask.cumsum(1) == mask.sum(1, keepdim=True)
    return {
        "prompts": repeated["input_ids"],
        "responses": torch.where(mask, tokens, 0),
        "attention_mask": torch.cat([repeated["attention_mask"], mask.long()], 1),
        "response_mask": mask.long(),
        "old_log_probs": torch.where(mask, logp, 0.0),
        "token_level_rewards": torch.where(mask & last, reward[:, None], 0.0),
    }


def wide(x: Tensor) -> Tensor:
    """Padded on the right to the longest response."""
    return torch.nn.functional.pad(x, (0, LONGEST - x.shape[1]))


def train(
    algorithm: str = "hpt", steps: int = 3, base: str = "tiny_weak"
) -> list[dict[str, float]]:
    """Metrics of each step."""
    model, tokenizer = load_pretrained(base)
    estimator = upge.get(algorithm)
    loss_function = engine_loss(estimator)  # what set_loss_fn would send to verl's workers
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for step in range(steps):
        problems = DATA.train[step * QUESTIONS :][:QUESTIONS]
        data = rollouts(model, tokenizer, problems, step)
        shown = {
            i: [
                *tokenizer.encode(p.demonstration, add_special_tokens=False),
                tokenizer.eos_token_id,
            ]
            for i, p in enumerate(problems)
            if p.demonstration
        }
        mixed = mixed_batch(
            data,
            estimator,
            [i for i in range(QUESTIONS) for _ in range(ROLLOUTS)],
            shown,
            {i: 1.0 for i in shown},
            max_length=LONGEST,
            multiple=MICRO_BATCH,
        )
        optimizer.zero_grad()
        seen = train_batch(model, mixed, loss_function, MICRO_BATCH)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        reward = float(data["token_level_rewards"].sum() / len(data["responses"]))
        history.append({"reward": reward, "grad_norm": float(norm), **seen})
    return history


def main() -> None:
    """Train and print what each step saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", default="hpt")
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    for step, row in enumerate(train(given.algorithm, given.steps), 1):
        seen = ", ".join(f"{name} {value:.3f}" for name, value in row.items())
        print(f"step {step}: {seen}")


if __name__ == "__main__":
    try:
        main()
    except UpgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
