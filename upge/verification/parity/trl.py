"""TRL's trainers: real ones around a tiny model, asked for their loss.

Each trainer is built by its own constructor, generates with its own sampler and scores with its
own ``_generate_and_score_completions`` (or reads its own data loader), so that advantages, masks
and counts are TRL's. Three things are set from outside, each as TRL itself would:

* the log-probabilities π_θold of an earlier policy, since the model takes no step here;
* ``current_gradient_accumulation_steps``, which ``Trainer.train`` sets;
* the model handed to ``_compute_loss``: it answers TRL's call for log-probabilities in float64.
  TRL's own LM head accumulates in float32 and would hide all differences below 1e-7.

The model is a GPT-2, which computes in the type of its weights throughout; the norms of Llama and
its successors go through float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from upge.batch import TrajectoryBatch
from upge.estimator import Estimator
from upge.verification.parity.common import Gradients, Library, Row, earlier_policy

WORDS = ("<pad>", "<eos>", *"abcdefghijklmn")
PROMPTS = ("a b c", "d", "e f")
COMPLETIONS = ("g h", "i", "j k l m n", "a b c d")
LONGEST = 12

#: Correct answers among the four of each question: with one or three, mean and std of 0/1 rewards
#: are exact in float32, in which TRL takes them; with four, all advantages are 0.
SOLVED = (1, 3, 4)

#: A power of 2 so large that float32 sees nothing of the ε = 1e-4 that TRL adds to the std.
SCALE = 2.0**40

_ARGUMENTS: Mapping[str, Any] = {
    "bf16": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "use_cpu": True,
}


@dataclass(frozen=True, kw_only=True)
class TrlRow(Row):
    """A trainer of TRL with its settings and data.

    Attributes:
        trainer: the trainer's class.
        settings: fields of its config.
        module: where the trainer is.
        rewards: rewards of each question's completions.
        on_policy: whether π_θold = π_θ.
    """

    trainer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    module: str = "trl"
    rewards: tuple[tuple[float, ...], ...] = tuple(
        tuple(SCALE * (i < solved) for i in range(4)) for solved in SOLVED
    )
    on_policy: bool = False
    function: str = ""

    def __post_init__(self) -> None:
        method = "compute_loss" if self.trainer == "SFTTrainer" else "_compute_loss"
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        object.__setattr__(self, "function", f"{self.trainer}.{method} ({settings or 'defaults'})")


def _unscaled(*rewards: float) -> tuple[tuple[float, ...], ...]:
    return (rewards, tuple(1 - r for r in rewards), (1.0,) * len(rewards))


_EPSILON = "Rewards of 0 and 2^40 make TRL's ε = 1e-4 in the standard deviation vanish."
_GROUPS = "Groups are equal, so that TRL's mean over sequences is the mean over questions."
_ITEMS = "num_items_in_batch is TRL's count of the one generation batch."
_NO_GAE = (
    "TRL has no PPO trainer and no GAE: its clipped surrogate takes the Â per token that "
    "subclasses may give, here ours on both sides."
)

ROWS: dict[str, TrlRow] = {
    "sft": TrlRow(
        trainer="SFTTrainer",
        settings={"loss_type": "nll"},
        ours={},
        note="One micro-batch, prompts not scored.",
    ),
    "dft": TrlRow(
        trainer="SFTTrainer",
        settings={"loss_type": "dft"},
        ours={},
        note="One micro-batch, prompts not scored.",
    ),
    "ppo": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "grpo", "epsilon": 0.2},
        ours={"clip": 0.2, "gamma": 0.9, "gae_lambda": 0.8},
        note=f"{_NO_GAE} {_GROUPS}",
        shared=("gamma", "gae_lambda"),
    ),
    "ppo_dual_clip": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "grpo", "epsilon": 0.2, "delta": 3.0},
        ours={"clip": 0.2, "dual_clip": 3.0, "gamma": 0.9, "gae_lambda": 0.8},
        note=f"{_NO_GAE} {_GROUPS}",
        shared=("gamma", "gae_lambda"),
    ),
    "grpo": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "grpo", "epsilon": 0.2},
        ours={"clip": 0.2},
        note=f"{_EPSILON} {_GROUPS}",
    ),
    "dr_grpo": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "dr_grpo", "epsilon": 0.2, "scale_rewards": "none"},
        ours={"clip": 0.2},
        note="max_length is TRL's max_completion_length.",
    ),
    "dapo": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
        ours={"clip_low": 0.2, "clip_high": 0.28},
        note=f"{_EPSILON} {_ITEMS}",
    ),
    "cispo": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "cispo", "epsilon_high": 3.5},
        ours={"ratio_min": 0.0, "ratio_max": 3.5},
        note=f"epsilon_high is the bound itself; TRL has no lower one. {_EPSILON} {_ITEMS}",
    ),
    "luspo": TrlRow(
        trainer="GRPOTrainer",
        settings={
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
        ours={"clip_low": 3e-4, "clip_high": 4e-4},
        note=f"{_EPSILON} {_GROUPS}",
        spread=1e-3,
    ),
    "gspo": TrlRow(
        trainer="GRPOTrainer",
        settings={
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
        ours={"clip_low": 3e-4, "clip_high": 4e-4},
        note=f"{_EPSILON} {_GROUPS}",
        spread=1e-3,
    ),
    "gmpo": TrlRow(
        trainer="GMPOTrainer",
        module="trl.experimental.gmpo",
        settings={"epsilon": 0.4, "epsilon_high": 0.5},
        ours={"clip_low": 0.4, "clip_high": 0.5},
        note=f"{_EPSILON} {_GROUPS}",
    ),
    "sapo": TrlRow(
        trainer="GRPOTrainer",
        settings={
            "loss_type": "sapo",
            "sapo_temperature_pos": 1.0,
            "sapo_temperature_neg": 1.125,
        },
        ours={"tau_pos": 1.0, "tau_neg": 1.125},
        note=f"Temperatures that float32 holds, to which TRL rounds them. {_EPSILON} {_GROUPS}",
    ),
    "tis": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "cispo", "epsilon_high": 2.0},
        ours={"cap": 2.0, "normalizer": "token_mean"},
        note=(
            "CISPO's weight min(r, cap) is that of truncated importance sampling, over the token "
            "mean on both sides; TRL's factor for rollouts of vLLM is part of a sampler that "
            f"needs vLLM. {_EPSILON} {_ITEMS}"
        ),
    ),
    "reinforce": TrlRow(
        trainer="GRPOTrainer",
        settings={"loss_type": "luspo", "scale_rewards": "none"},
        ours={},
        note=(
            "On-policy, where TRL's ratio is 1 and its LUSPO reduction leaves token sums averaged "
            "over trajectories; pairs of one right (+1) and one wrong answer (−1) have Â = ±1."
        ),
        rewards=((1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)),
        on_policy=True,
    ),
    "rloo": TrlRow(
        trainer="RLOOTrainer",
        ours={},
        note="On-policy, where TRL's ratio of whole sequences is 1; RLOO's paper has no ratio.",
        rewards=_unscaled(1.0, 0.0, 0.0),
        on_policy=True,
    ),
}

ABSENT = {
    "reinforce_plus_plus": (
        "TRL has no mean and std over the batch's tokens; its scale_rewards='batch' centres each "
        "group and divides by the std over trajectories"
    ),
    "gspo_token": "TRL ships GSPO at the sequence level only (row gspo)",
    "offline_reinforce": "TRL's losses of demonstrations (nll, dft) read no reward",
}


class _Case(NamedTuple):
    model: Any
    loss: Tensor
    batch: TrajectoryBatch
    logp: Tensor


def gradients(row: TrlRow, estimator: Estimator, seed: int) -> Gradients:
    """The gradients of both sides, all parameters of the model in a row."""
    with TemporaryDirectory() as folder:
        case = _SETUPS[row.trainer](row, estimator, seed, folder)
    parameters = list(case.model.parameters())
    theirs = torch.autograd.grad(case.loss, parameters)
    ours = torch.autograd.grad(estimator(case.batch, case.logp).loss, parameters)
    return Gradients(*(torch.cat([x.flatten() for x in side]) for side in (ours, theirs)))


LIBRARY = Library("TRL", ROWS, gradients, ABSENT)


def _model(seed: int) -> Any:
    transformers = import_module("transformers")
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.15,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return transformers.GPT2LMHeadModel(config).double()


def _tokenizer() -> Any:
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    words = {word: index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )


def _in_float64(model: Any) -> Callable[..., SimpleNamespace]:
    """``model`` as TRL calls it for log-probabilities of labels, without its float32 head."""

    def forward(
        *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any
    ) -> SimpleNamespace:
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
        log_pi, labels = logits.log_softmax(-1), labels[:, 1:]
        scored = labels != -100
        logp = log_pi.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
        return SimpleNamespace(
            log_probs=logp.masked_fill(~scored, 0.0),
            entropy=-(log_pi.exp() * log_pi).sum(-1).masked_fill(~scored, 0.0),
            is_top1=(logits.argmax(-1) == labels) & scored,
            label_mask=scored,
        )

    return forward


def _trainer(
    row: TrlRow,
    seed: int,
    folder: str,
    data: list[dict[str, str]],
    arguments: Mapping[str, Any],
    **extra: Any,
) -> Any:
    module = import_module(row.module)
    config = getattr(module, row.trainer.replace("Trainer", "Config"))
    trainer = getattr(module, row.trainer)(
        model=_model(seed),
        args=config(output_dir=folder, seed=seed, **_ARGUMENTS, **arguments, **row.settings),
        train_dataset=import_module("datasets").Dataset.from_list(data),
        processing_class=_tokenizer(),
        **extra,
    )
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.model.train()
    return trainer


def _rollout_case(row: TrlRow, estimator: Estimator, seed: int, folder: str) -> _Case:
    size = len(row.rewards[0])
    prompts = [{"prompt": prompt} for prompt in PROMPTS for _ in range(size)]
    rewards = [reward for question in row.rewards for reward in question]
    arguments = {
        "beta": 0.0,
        "max_completion_length": LONGEST,
        "num_generations": size,
        "per_device_train_batch_size": len(rewards),
        "steps_per_generation": 1,
    }
    trainer = _trainer(row, seed, folder, prompts, arguments, reward_funcs=lambda **_: rewards)
    inputs = trainer._generate_and_score_completions(prompts)
    logp = _completion_logp(trainer.model, inputs)
    generator = torch.Generator().manual_seed(seed)
    old_logp = logp.detach() if row.on_policy else earlier_policy(logp, row.spread, generator)
    batch = TrajectoryBatch(
        mask=inputs["completion_mask"],
        reward=torch.tensor(rewards, dtype=logp.dtype),
        group=torch.arange(len(rewards)) // size,
        offline=torch.zeros(len(rewards)),
        old_logp=old_logp,
        values=torch.randn(logp.shape, generator=generator, dtype=logp.dtype) * SCALE,
        max_length=LONGEST,
    )
    if row.shared:
        inputs["advantages"] = estimator.terms[0].advantage(batch)
    inputs["old_per_token_logps"] = old_logp
    inputs["old_logps"] = (old_logp * inputs["completion_mask"]).sum(1)
    loss = torch.as_tensor(trainer._compute_loss(_in_float64(trainer.model), inputs))
    return _Case(trainer.model, loss, batch, logp)


def _completion_logp(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    tokens = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    scored = _in_float64(model)(input_ids=tokens, attention_mask=attention, labels=tokens)
    return torch.as_tensor(scored.log_probs[:, -inputs["completion_ids"].shape[1] :])


def _demonstration_case(row: TrlRow, estimator: Estimator, seed: int, folder: str) -> _Case:
    data = [{"prompt": p, "completion": c} for p in PROMPTS for c in COMPLETIONS]
    trainer = _trainer(row, seed, folder, data, {"per_device_train_batch_size": len(data)})
    inputs = next(iter(trainer.get_train_dataloader()))
    scored = _in_float64(trainer.model)(**inputs)
    rows = len(data)
    batch = TrajectoryBatch(
        mask=scored.label_mask,
        reward=torch.ones(rows, dtype=scored.log_probs.dtype),
        group=torch.arange(rows),
        offline=torch.ones(rows),
    )
    loss = torch.as_tensor(trainer.compute_loss(_in_float64(trainer.model), dict(inputs)))
    return _Case(trainer.model, loss, batch, scored.log_probs)


_SETUPS: dict[str, Callable[[TrlRow, Estimator, int, str], _Case]] = {
    "GRPOTrainer": _rollout_case,
    "GMPOTrainer": _rollout_case,
    "RLOOTrainer": _rollout_case,
    "SFTTrainer": _demonstration_case,
}
