"""The estimator inside verl: its registries, its ``ppo_loss``, and the contract of its engines.

Gradients are with respect to log π_θ, in float64, and compared with the library's on a batch that
is put together here. verl's engines need a GPU; what they do with a loss is done here in a loop.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import upge
from upge.algorithms import REGISTRY
from upge.verification.parity.isolation import isolated

pytest.importorskip("verl")
with isolated():
    from verl.protocol import DataProto
    from verl.trainer.ppo import core_algos
    from verl.utils import tensordict_utils
    from verl.workers.config import ActorConfig, PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss
    from verl.workers.utils.padding import left_right_2_no_padding

    from upge.integrations import verl, verl_engine

#: Questions' rollouts: (length, reward); of three prompt lengths. Question "b" solves nothing.
ROLLOUTS: dict[str, tuple[tuple[int, float], ...]] = {
    "b": ((3, 0.0), (1, 0.0), (5, 0.0)),
    "a": ((2, 1.0), (4, 0.0), (3, 1.0)),
    "c": ((5, 0.0), (2, 1.0), (4, 0.0)),
    "d": ((1, 0.0), (2, 0.0), (1, 0.0)),
}
PROMPTS = {"a": 3, "b": 1, "c": 2, "d": 3}
#: Lengths and rewards of demonstrations; "d" has none.
SHOWN = {"b": (6, 1.0), "a": (3, 1.0), "c": (2, 0.0)}
WIDTH, LONGEST = 6, 8
TOLERANCE = 1e-12


def online(name: str) -> bool:
    return [term.samples for term in REGISTRY[name].terms] == ["online"]


def mixable(name: str) -> bool:
    weights = [term.entropy_weight for term in REGISTRY[name].terms]
    batchwise = any(w is not None and w.level == "batch" for w in weights)
    return not batchwise and "values" not in upge.get(name).needs


def rows() -> list[tuple[str, int, float, bool]]:
    """Question, length, reward, whether a demonstration: rollouts, then demonstrations."""
    sampled = [(q, n, r, False) for q, all_of_it in ROLLOUTS.items() for n, r in all_of_it]
    return sampled + [(q, n, r, True) for q, (n, r) in SHOWN.items()]


def mask_of(lengths: list[int]) -> Tensor:
    """With a gap in the longest rollouts, as a tool's answer leaves it."""
    mask = torch.arange(WIDTH) < torch.tensor(lengths)[:, None]
    mask[(torch.tensor(lengths) == 5), 2] = False
    return mask


def likelihoods(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log π_θ, log π_θold and entropies, random."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, count, WIDTH, generator=generator, dtype=torch.float64)
    logp = -drawn[0].abs() - 0.1
    return logp, (logp - 0.4 * drawn[1]).clamp(max=-1e-3), drawn[2].abs()


def batch_of(kept: list[tuple[str, int, float, bool]], **given: Any) -> upge.TrajectoryBatch:
    return upge.TrajectoryBatch(
        mask=mask_of([n for _, n, _, _ in kept]),
        reward=torch.tensor([r for _, _, r, _ in kept]),
        group=torch.tensor([ord(q) for q, *_ in kept]),
        offline=torch.tensor([shown for *_, shown in kept]),
        max_length=LONGEST,
        **given,
    )


def library(name: str, kept: list[tuple[str, int, float, bool]]) -> Tensor:
    """The library's gradient by log π_θ."""
    logp, old, entropy = likelihoods(len(kept))
    logp.requires_grad_()
    values = torch.zeros_like(logp)
    upge.get(name)(batch_of(kept, old_logp=old, values=values), logp, entropy).loss.backward()
    assert logp.grad is not None and logp.grad.any()
    return logp.grad


def data(kept: list[tuple[str, int, float, bool]]) -> dict[str, Tensor]:
    """The rows in verl's layout; token ids are all 1."""
    widest = max(PROMPTS.values())
    before = torch.arange(widest) >= widest - torch.tensor([PROMPTS[q] for q, *_ in kept])[:, None]
    lengths = torch.tensor([n for _, n, _, _ in kept])
    after = torch.arange(WIDTH) < lengths[:, None]
    last = torch.arange(WIDTH) == lengths[:, None] - 1
    attention = torch.cat([before, after], 1).long()
    rewards = torch.tensor([r for _, _, r, _ in kept], dtype=torch.float64)
    return {
        "prompts": before.long(),
        "responses": after.long(),
        "input_ids": attention,
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
        "response_mask": mask_of(lengths.tolist()).long(),
        "old_log_probs": likelihoods(len(kept))[1],
        "token_level_rewards": torch.where(last, rewards[:, None], 0.0),
    }


def nested(values: Tensor, part: Any) -> Any:
    """A model's output at prompts and responses, which verl shifts by one: of responses, given."""
    widest = max(PROMPTS.values())
    mask = part["attention_mask"].bool()
    before, after = mask[:, :widest].sum(1).tolist(), mask[:, widest:].sum(1).tolist()
    zero = values.new_zeros
    pieces = [
        torch.cat([zero(p - 1), row[:n], zero(1)])
        for row, p, n in zip(values, before, after, strict=True)
    ]
    return torch.nested.as_nested_tensor(pieces, layout=torch.jagged)


def accumulated(fields: Any, loss: Any, parts: int, processes: int = 1) -> Tensor:
    """The gradient by log π_θ over micro-batches and processes, as an engine of verl takes it."""
    fields = left_right_2_no_padding(fields)
    count = len(fields)
    logp, entropy = likelihoods(count)[0].requires_grad_(), likelihoods(count)[2]
    tokens = int(fields["loss_mask"].sum())
    tensordict_utils.assign_non_tensor(
        fields, batch_num_tokens=tokens, dp_size=processes, global_batch_size=count
    )
    chunks = tensordict_utils.chunk_tensordict(fields, parts)
    size = count // parts
    for i, chunk in enumerate(chunks):
        here = slice(i * size, (i + 1) * size)
        outputs = {"log_probs": nested(logp[here], chunk), "entropy": nested(entropy[here], chunk)}
        value, _ = loss(model_output=outputs, data=chunk, dp_group=None)
        (value / processes).backward()  # processes' gradients are averaged
    assert logp.grad is not None
    return torch.where(fields["response_mask"].bool(), logp.grad, 0.0)


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def actor(name: str) -> Any:
    return ActorConfig(
        strategy="fsdp",
        rollout_n=3,
        ppo_micro_batch_size_per_gpu=1,
        loss_scale_factor=LONGEST,
        policy_loss=PolicyLossConfig(loss_mode=name),
    )


@pytest.mark.parametrize("name", sorted(filter(online, REGISTRY)))
@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (4, 1), (3, 2)])
def test_registered_loss_through_verls_ppo_loss(name: str, parts: int, processes: int) -> None:
    kept = [row for row in rows() if not row[3]]
    fields = data(kept)
    fields["advantages"] = advantages(name, kept, fields)
    config = actor(f"upge_{name}")
    taken = accumulated(
        tensordict_utils.get_tensordict(fields),
        lambda **given: ppo_loss(config, **given),
        parts,
        processes,
    )
    assert_equal(taken, library(name, kept))


def advantages(name: str, kept: list[Any], fields: dict[str, Tensor]) -> Tensor:
    """By verl, called with what it passes; of PPO, which it passes no values, ours."""
    if "values" in upge.get(name).needs:
        values = torch.zeros_like(fields["old_log_probs"])
        return REGISTRY[name].terms[0].advantage(batch_of(kept, values=values))
    estimate = core_algos.get_adv_estimator_fn(f"upge_{name}")
    advantage, returns = estimate(
        token_level_rewards=fields["token_level_rewards"],
        response_mask=fields["response_mask"],
        config=None,
        index=np.array([q for q, *_ in kept], dtype=object),
    )
    assert returns is advantage and advantage.dtype == torch.float64
    return advantage


def test_rollout_weights_multiply() -> None:
    """Of verl's correction for a sampler that differs: twice the weight, twice the gradient."""
    kept = [row for row in rows() if not row[3]]
    fields = data(kept)
    fields["advantages"] = advantages("grpo", kept, fields)
    fields["rollout_is_weights"] = torch.full_like(fields["old_log_probs"], 2.0)
    config = actor("upge_grpo")
    taken = accumulated(
        tensordict_utils.get_tensordict(fields), lambda **given: ppo_loss(config, **given), 2
    )
    assert_equal(taken, 2 * library("grpo", kept))


def mixed(name: str, multiple: int = 1, without: str = "", ungraded: str = "") -> Any:
    kept = [row for row in rows() if not row[3]]
    return verl_engine.mixed_batch(
        {field: values for field, values in data(kept).items() if field != without},
        upge.get(name),
        [q for q, *_ in kept],
        {q: [1] * n for q, (n, _) in SHOWN.items()},
        {q: r for q, (_, r) in SHOWN.items() if q != ungraded},
        max_length=LONGEST,
        multiple=multiple,
    )


@pytest.mark.spread(30)
@pytest.mark.parametrize("name", sorted(filter(mixable, REGISTRY)))
@pytest.mark.parametrize(("multiple", "parts", "processes"), [(1, 1, 1), (1, 5, 1), (8, 4, 2)])
def test_mixed_loss_as_an_engine_calls_it(
    name: str, multiple: int, parts: int, processes: int
) -> None:
    loss = pickle.loads(pickle.dumps(verl_engine.engine_loss(upge.get(name))))  # sent to workers
    fields = mixed(name, multiple)
    # Random numbers of the same shape are the same; rows that fill up come last.
    fields["old_log_probs"][:15] = likelihoods(len(fields))[1][:15]
    fields = DataProto(batch=fields, meta_info={"temperature": 1.0}).to_tensordict()
    taken = accumulated(fields, loss, parts, processes)
    assert not taken[15:].any()
    logp, old, entropy = (x[:15] for x in likelihoods(len(fields)))
    logp = logp.clone().requires_grad_()
    upge.get(name)(batch_of(rows(), old_logp=old), logp, entropy).loss.backward()
    assert logp.grad is not None and logp.grad.any()
    assert_equal(taken[:15], logp.grad)


def test_metrics_add_up() -> None:
    fields = left_right_2_no_padding(mixed("hpt"))
    fields["old_log_probs"] = likelihoods(15)[1]
    tensordict_utils.assign_non_tensor(fields, dp_size=1)
    logp, old, _ = likelihoods(15)
    loss = verl_engine.engine_loss(upge.get("hpt"))
    whole = upge.get("hpt")(batch_of(rows(), old_logp=old), logp).metrics
    masses = [0.0, 0.0]
    for i, chunk in enumerate(tensordict_utils.chunk_tensordict(fields, 3)):
        outputs = {"log_probs": nested(logp[5 * i :][:5], chunk)}
        _, seen = loss(model_output=outputs, data=chunk)
        masses = [m + seen[f"actor/term{k}/mass"].aggregate() for k, m in enumerate(masses)]
    assert masses == pytest.approx([whole["term0/mass"], whole["term1/mass"]])


def test_prompts_and_demonstrations_are_put_together() -> None:
    fields = mixed("hpt", multiple=8)
    assert len(fields) == 16 and fields["upge_offline"].nonzero().flatten().tolist() == [12, 13, 14]
    for place, question in zip((12, 13, 14), ("b", "a", "c"), strict=True):
        length = SHOWN[question][0]
        assert fields["attention_mask"][place, :3].sum() == PROMPTS[question]
        assert fields["response_mask"][place].tolist() == [1] * length + [0] * (WIDTH - length)
    assert not fields["response_mask"][15].any()
    ends = torch.cat([fields["prompts"], fields["responses"]], 1)
    assert (fields["input_ids"] == ends).all()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: verl.register("mine", upge.get("hpt")), "hpt is more than one term over rollouts"),
        (lambda: verl.register("mine", upge.get("sft")), "sft is more than one term over rollouts"),
        (lambda: verl_engine.engine_loss(upge.get("ppo")), "ppo needs a critic's values"),
        (lambda: verl_engine.engine_loss(upge.get("srft")), "srft weighs by the whole batch's"),
        (lambda: verl_engine.engine_loss(None), "^estimator: got None, wanted an estimator"),
        (lambda: mixed("hpt", multiple=0), "^multiple: got 0, wanted a whole number from 1"),
        (lambda: mixed("hpt", multiple=-3), "^multiple: got -3, wanted a whole number from 1"),
        (lambda: mixed("hpt", without="response_mask"), "^data: has no response_mask; wanted"),
        (lambda: mixed("hpt", ungraded="a"), "^rewards: has none for the demonstration of 'a'"),
    ],
)
def test_refused_in_one_sentence(refused: Any, message: str) -> None:
    with pytest.raises(upge.UpgeError, match=message) as raised:
        refused()
    assert "\n" not in str(raised.value)


def test_a_demonstration_that_does_not_fit() -> None:
    kept = [row for row in rows() if not row[3]]
    index = [q for q, *_ in kept]
    with pytest.raises(upge.UpgeError, match="has 7 tokens, responses are 6 wide"):
        verl_engine.mixed_batch(
            data(kept), upge.get("hpt"), index, {"a": [1] * 7}, {"a": 1.0}, max_length=LONGEST
        )


@pytest.mark.slow
def test_verl_imports_it_by_name() -> None:
    """As every process of verl does with VERL_USE_EXTERNAL_MODULES."""
    code = (
        "import verl; from verl.trainer.ppo.core_algos import *; "
        "print(get_policy_loss_fn('upge_gspo'), get_adv_estimator_fn('upge_gspo'))"
    )
    code = code.replace("import *", "import get_adv_estimator_fn, get_policy_loss_fn")
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": "upge.integrations.verl"}
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert told.returncode == 0 and "_policy_loss" in told.stdout


def test_without_verl_one_sentence() -> None:
    code = "import sys; sys.modules['verl'] = None; import upge.integrations.verl_engine"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UpgeError: verl can't be imported" in told.stderr
    assert "pip install --no-deps 'verl>=" in told.stderr.splitlines()[-1]


def test_three_steps_of_hpt() -> None:
    from experiments.integrations import verl_example

    steps = verl_example.train("hpt", steps=3)
    assert len(steps) == 3
    for row in steps:
        assert 0 < row["grad_norm"] < float("inf") and row["actor/term1/mass"] > 0
